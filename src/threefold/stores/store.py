"""What is asked of an object store, and the answers it may give.

"Unknown" is an answer (invariant 7): a time-out or an error is neither present nor absent, and a create whose
outcome is unknown may still land later. Callers decide by the type of the answer; a store never raises for what
a network or a provider does.

A create is never retried inside a store: a retry after a lost reply is told "exists" by its own object, and only
the caller can tell (by its writer id, by reading back) whose object it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Protocol


class Made(Enum):
    """Answers to a create, `Unknown` aside."""

    CREATED = "created"  # our request made it, and it is durable
    EXISTS = "exists"  # something stands there already: ours from a lost reply, or a rival's


class Gone(Enum):
    """The answer to a read of a key that definitely is not there."""

    ABSENT = "absent"


ABSENT = Gone.ABSENT


@dataclass(frozen=True, slots=True)
class Unknown:
    """Neither yes nor no. ``reason`` is for people and logs; nothing is decided by its text."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unreadable(Unknown):
    """The store itself says that what it has under this key is not what was written. Nothing else is known of it.

    For everybody who reads it is as good as no answer; only a scrub, which has the other copies, acts on it.
    """


@dataclass(frozen=True, slots=True)
class NotLocked(Unknown):
    """The store refuses the lock, and only that: its bucket, its rights or its kind do not allow one."""


@dataclass(frozen=True, slots=True)
class Locked:
    """The answer to a delete: refused, and ``key`` stays, under a retention lock ``until`` that time. Definite."""

    key: str
    until: datetime
    version: str = ""  # of a bucket that keeps old ones, where this very one was to be deleted

    @property
    def reason(self) -> str:
        return f"{self.key} is under retention lock until {self.until:%Y-%m-%d %H:%M:%S} UTC"


@dataclass(frozen=True, slots=True)
class Listed:
    """One object of a listing. A listing is a hint, never the truth (invariant 2)."""

    key: str
    size: int


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a listing, sorted by key; ``last`` says that nothing follows, its absence not that something does.

    ``requests``: how many it took, as a provider bills them.
    """

    objects: tuple[Listed, ...]
    last: bool
    requests: int = 1


class ObjectStore(Protocol):
    """One of S1, S2, S3. Keys are relative to the deployment's prefix, ASCII, ``/`` between parts."""

    @property
    def name(self) -> str:
        """``S1``, ``S2``, ``S3``."""
        ...

    async def create(self, key: str, body: bytes) -> Made | Unknown:
        """Create if absent, atomically; durable when CREATED is returned. No retries."""
        ...

    async def create_locked(self, key: str, body: bytes, until: datetime) -> Made | Unknown:
        """The same, and under a retention lock from the first moment on. NotLocked: nothing was created."""
        ...

    async def lock(self, key: str, until: datetime) -> None | Unknown:
        """Lock what stands there, or for longer. A lock is never made shorter: that is NotLocked."""
        ...

    async def locked_until(self, key: str) -> datetime | None | Unknown:
        """When its lock ends, or ended; None: it has none, or is not there."""
        ...

    async def write(self, key: str, body: bytes) -> None | Unknown:
        """Overwrite. Beacons only."""
        ...

    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
        """The whole object, or ``length`` bytes from ``start`` (a range past the end gives what there is)."""
        ...

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> Page | Unknown:
        """Keys under ``prefix`` (whole path parts, no trailing slash needed) that sort after ``after``."""
        ...

    async def delete(self, keys: Sequence[str]) -> None | Locked | Unknown:
        """Delete; what is already gone is fine. Locked names the first one that stays; the others went."""
        ...

    async def erase(self, key: str) -> None | Locked | Unknown:
        """Delete as a thief would: where the bucket keeps old versions, this very version, for good. For checks."""
        ...

    async def close(self) -> None: ...


def hangs(store: ObjectStore) -> bool:
    """Whether it answers nothing for a while already. A store that is observed (observed.py) tells; else: not known."""
    return bool(getattr(store, "hangs", False))


def create_at_once(store: ObjectStore, key: str, body: bytes, hear: Callable[[Made | Unknown], None]) -> bool:
    """Begin a create without a task of its own, where the store can; ``hear`` is told later, never from within.

    False: nothing was begun, and `create` does it. What was begun cannot be given up, only not be listened to. Raises
    nothing.
    """
    begin = getattr(store, "create_at_once", None)
    return begin is not None and bool(begin(key, body, hear))
