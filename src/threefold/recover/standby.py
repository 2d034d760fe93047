"""The warm standby: one PostgreSQL data folder at a site that is not active, kept so that it can serve at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from threefold.kernel.clock import Clock
from threefold.kernel.errors import Refused
from threefold.kernel.keys import Keyring
from threefold.kernel.lsn import Lsn
from threefold.kernel.progress import Progress
from threefold.postgres.binaries import Binaries
from threefold.postgres.server import Server
from threefold.recover.start import Promoted
from threefold.stores.store import ObjectStore


class ForeignCopy(Refused):  # noqa: N818 - a kind of refusal
    """The copy is not of the log's history: `prepare` makes it anew from the stores."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What `prepare` did: ``kept``, ``restored`` or ``rebuilt``. The bytes are those of the snapshot's files."""

    how: str
    snapshot: str = ""
    bytes_needed: int = 0
    bytes_fetched: int = 0


@dataclass(frozen=True, slots=True)
class Position:
    """Where the copy is. ``replay_age_s``: what is read there is at most that old; None: not known."""

    received: Lsn | None
    replayed: Lsn
    timeline: int
    streaming: bool
    replay_age_s: float | None


@dataclass(frozen=True, slots=True)
class Fed:
    """The log up to ``end`` is in the copy; ``written`` bytes of it were not there before."""

    end: Lsn
    written: int


class Standby:
    """One PostgreSQL data folder at this site."""

    def __init__(
        self,
        *,
        site: str,
        stores: Mapping[str, ObjectStore],
        keyring: Keyring,
        clock: Clock,
        progress: Progress,
        data_dir: Path,
        host: str,
        port: int,
        login: str,
        find_binaries: Callable[[int], Binaries],
        run_as: str | None = None,
        socket_dir: Path | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """``login``: the conninfo of [system] dsn with its password; the role asks the copy where it is.

        ``settings`` go above every file's.
        """
        raise NotImplementedError

    @property
    def server(self) -> Server:
        """Raises NotThere before anything was prepared."""
        raise NotImplementedError

    async def prepare(self, *, rebuild: bool = False) -> Prepared: ...
    async def start(self, follow: str | None) -> None: ...
    async def follow(self, conninfo: str | None) -> None: ...
    async def position(self) -> Position: ...
    async def feed(self) -> Fed: ...
    async def complete(self, end: Lsn, timeline: int) -> None: ...
    async def promote(self, *, settings: Mapping[str, str]) -> Promoted: ...
    async def demote(self) -> Prepared: ...
    async def stop(self) -> None: ...
