"""What recovery asks of the log of WAL: how far it reaches, and its bytes. The quorum log answers it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Protocol

from threefold.kernel.clock import Clock
from threefold.kernel.keys import Keyring
from threefold.kernel.lsn import Lsn
from threefold.quorum.reader import Extent, read_extent, read_wal
from threefold.recover.remains import read_remains
from threefold.stores.store import ObjectStore
from threefold.vault.manifest import Summary


class LogExtent(Protocol):
    """What of the log is there: [start, end) along the history of ``timeline``."""

    @property
    def system_identifier(self) -> int: ...
    @property
    def segment_size(self) -> int:
        """PostgreSQL's wal_segment_size, bytes."""
        ...

    @property
    def timeline(self) -> int: ...
    @property
    def start(self) -> Lsn: ...
    @property
    def end(self) -> Lsn: ...
    @property
    def history_files(self) -> Mapping[int, bytes]:
        """Of every timeline that is known, also of those left behind."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What the reader could not be sure of: sentences for the operator."""
        ...


class OpenLog(Protocol):
    """The log as it stood when it was opened."""

    @property
    def extent(self) -> LogExtent: ...

    def read(self, start: Lsn, end: Lsn) -> AsyncIterator[tuple[int, Lsn, bytes]]:
        """(timeline, start, bytes) in order and without a gap, verified. Raises Damaged, Unavailable, NotThere."""
        ...


class OpensLog(Protocol):
    """Opens the log on all stores, or on one of them."""

    async def __call__(
        self, stores: Mapping[str, ObjectStore], keyring: Keyring, clock: Clock, note: Callable[[str], None]
    ) -> OpenLog:
        """Raises Unavailable, NotThere, BadInput, Refused."""
        ...


class _QuorumLog:
    def __init__(self, extent: LogExtent, read: Callable[[Lsn, Lsn], AsyncIterator[tuple[int, Lsn, bytes]]]) -> None:
        self.extent = extent
        self.read = read


async def open_quorum_log(
    stores: Mapping[str, ObjectStore], keyring: Keyring, clock: Clock, note: Callable[[str], None]
) -> OpenLog:
    """The real one (quorum/reader.py)."""
    return _opened(stores, keyring, clock, note, await read_extent(stores, keyring, clock, note))


async def open_log_in_a_hurry(
    stores: Mapping[str, ObjectStore], keyring: Keyring, clock: Clock, note: Callable[[str], None]
) -> OpenLog:
    """The same in the midst of a switch: what a store that hangs would warn of is not waited for."""
    return _opened(stores, keyring, clock, note, await read_extent(stores, keyring, clock, note, hurried=True))


def _opened(
    stores: Mapping[str, ObjectStore], keyring: Keyring, clock: Clock, note: Callable[[str], None], extent: Extent
) -> OpenLog:
    def read(start: Lsn, end: Lsn) -> AsyncIterator[tuple[int, Lsn, bytes]]:
        return read_wal(stores, keyring, clock, extent, start=start, end=end, note=note)

    return _QuorumLog(extent, read)


async def open_remains(
    stores: Mapping[str, ObjectStore],
    keyring: Keyring,
    clock: Clock,
    snapshots: Sequence[Summary],
    note: Callable[[str], None],
) -> OpenLog | None:
    """What is left of a log that does not read to its end (remains.py)."""
    extent = await read_remains(stores, keyring, clock, snapshots, note)
    if extent is None:
        return None

    def read(start: Lsn, end: Lsn) -> AsyncIterator[tuple[int, Lsn, bytes]]:
        return read_wal(stores, keyring, clock, extent, start=start, end=end, note=note)

    return _QuorumLog(extent, read)
