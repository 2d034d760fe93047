"""A store that is watched: every request timed into the health book and counted by what it was for.

The purpose is the first part of the key (``log``, ``wal``, ``packs``, ``beacons``, ...). What the provider bills
is counted as it bills: a request that failed may have been carried out, and counts; a listing counts as many as it
took. Bytes are those of bodies. A read that nobody waited for counts as a request, and its bytes are not known.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeVar

from threefold.kernel.clock import Clock
from threefold.stores.health import SMALL, HealthBook, Operation
from threefold.stores.store import Gone, Locked, Made, ObjectStore, Page, Unknown, create_at_once
from threefold.stores.traffic import Traffic

T = TypeVar("T")
HANGS_S: Final = 0.9  # less than the second that most who ask give it
_LARGE: Final = frozenset({"packs", "wal", "snapshots"})  # may take long, and say nothing of the store by that


@dataclass(slots=True)
class _Count:
    requests: int = 0
    unknown: int = 0
    bytes_out: int = 0
    bytes_in: int = 0
    large_bytes: int = 0
    large_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Asked:
    """One request under way."""

    operation: Operation
    count: _Count
    sent: int
    began: float
    prompt: bool


class ObservedStore:
    """An ObjectStore around ``store``, which must have its name in ``health``."""

    def __init__(self, store: ObjectStore, clock: Clock, health: HealthBook) -> None:
        self._store = store
        self._clock = clock
        self._health = health
        self._counts: dict[tuple[Operation, str], _Count] = {}
        self._unanswered_since: float | None = None  # of the requests whose answer is due at once
        self._flying = 0

    @property
    def name(self) -> str:
        return self._store.name

    @property
    def hangs(self) -> bool:
        """Whether it was asked, and has answered nothing since, for `HANGS_S`: who has two others need not wait."""
        since = self._unanswered_since
        return since is not None and self._clock.monotonic() - since >= HANGS_S

    def traffic(self) -> tuple[Traffic, ...]:
        """Since the start, by operation and purpose."""
        return tuple(
            Traffic(
                self.name,
                operation,
                purpose,
                count.requests,
                count.unknown,
                count.bytes_out,
                count.bytes_in,
                count.large_bytes,
                count.large_seconds,
            )
            for (operation, purpose), count in sorted(
                self._counts.items(), key=lambda item: (item[0][0].value, item[0][1])
            )
        )

    async def create(self, key: str, body: bytes) -> Made | Unknown:
        return await self._watch(Operation.CREATE, key, self._store.create(key, body), sent=len(body))

    def create_at_once(self, key: str, body: bytes, hear: Callable[[Made | Unknown], None]) -> bool:
        """As `store.create_at_once`."""

        def answered(answer: Made | Unknown) -> None:
            self._answered(asked, answer)
            hear(answer)

        if not create_at_once(self._store, key, body, answered):
            return False
        asked = self._ask(Operation.CREATE, key, len(body))
        return True

    async def create_locked(self, key: str, body: bytes, until: datetime) -> Made | Unknown:
        return await self._watch(Operation.CREATE, key, self._store.create_locked(key, body, until), sent=len(body))

    async def lock(self, key: str, until: datetime) -> None | Unknown:
        return await self._watch(Operation.WRITE, key, self._store.lock(key, until))

    async def locked_until(self, key: str) -> datetime | None | Unknown:
        return await self._watch(Operation.READ, key, self._store.locked_until(key))

    async def write(self, key: str, body: bytes) -> None | Unknown:
        return await self._watch(Operation.WRITE, key, self._store.write(key, body), sent=len(body))

    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
        return await self._watch(Operation.READ, key, self._store.read(key, start=start, length=length))

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> Page | Unknown:
        return await self._watch(Operation.LIST, prefix, self._store.list(prefix, after=after, limit=limit))

    async def delete(self, keys: Sequence[str]) -> None | Locked | Unknown:
        return await self._watch(Operation.DELETE, keys[0] if keys else "", self._store.delete(keys))

    async def erase(self, key: str) -> None | Locked | Unknown:
        return await self._watch(Operation.DELETE, key, self._store.erase(key))

    async def close(self) -> None:
        await self._store.close()

    def _asked_at(self, now: float) -> None:
        self._flying += 1
        if self._unanswered_since is None:
            self._unanswered_since = now

    def _ended(self, now: float, *, heard: bool, soon: bool) -> None:
        """A request that was given up soon proves nothing, and where nobody asks any more silence means nothing."""
        self._flying -= 1
        since = self._unanswered_since
        if heard:
            self._unanswered_since = now if self._flying else None
        elif soon and not self._flying and since is not None and now - since < HANGS_S:
            self._unanswered_since = None

    async def _watch(self, operation: Operation, key: str, request: Awaitable[T], *, sent: int = 0) -> T:
        asked = self._ask(operation, key, sent)
        try:
            answer = await request
        except asyncio.CancelledError:
            now = self._clock.monotonic()
            self._health.given_up(self.name, operation, now - asked.began, now)
            if asked.prompt:
                self._ended(now, heard=False, soon=now - asked.began < HANGS_S)
            raise
        self._answered(asked, answer)
        return answer

    def _ask(self, operation: Operation, key: str, sent: int) -> _Asked:
        counted = (operation, key.partition("/")[0])
        count = self._counts.get(counted)
        if count is None:
            count = self._counts[counted] = _Count()
        count.requests += 1
        count.bytes_out += sent
        prompt = sent <= SMALL and counted[1] not in _LARGE  # an answer is due at once
        began = self._clock.monotonic()
        if prompt:
            self._asked_at(began)
        return _Asked(operation, count, sent, began, prompt)

    def _answered(self, asked: _Asked, answer: object) -> None:
        now = self._clock.monotonic()
        took, count = now - asked.began, asked.count
        error = answer.reason if isinstance(answer, Unknown) else None
        soon = took < HANGS_S  # a refusal that comes at once is an answer, a time-out is none
        if asked.prompt:
            self._ended(now, heard=error is None or soon, soon=soon)
        elif error is None:
            self._unanswered_since = now if self._flying else None
        received = len(answer) if isinstance(answer, bytes) else 0
        self._health.record(self.name, asked.operation, took, asked.sent + received, error, now)
        count.unknown += error is not None
        count.bytes_in += received
        if isinstance(answer, Page):
            count.requests += answer.requests - 1
        if error is None and asked.sent + received > SMALL:
            count.large_bytes += asked.sent + received
            count.large_seconds += took
