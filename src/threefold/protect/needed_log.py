"""The log that a snapshot needs, beside prunes: whether any of it is going, or gone.

A prune that looked before the snapshot's manifest was there knows nothing of its start: it lets the log go up to where
the oldest snapshot begins that it keeps, which may be later, if this one took longer than [retention] reaches back and
others were taken meanwhile. The order that saves a snapshot's packs saves its log as well (vault/marks.py).
"""

from __future__ import annotations

from collections.abc import Mapping

from threefold.kernel.clock import Clock
from threefold.kernel.keys import Keyring
from threefold.kernel.lsn import Lsn
from threefold.postgres.wal import segment_no, segment_start
from threefold.quorum import keys
from threefold.quorum.reader import Extent, expected_segments, read_extent
from threefold.stores.store import ObjectStore
from threefold.vault.presence import Presence, has_one, presence_of


class SnapshotLog:
    """Implements vault's NeededLog, by the extent as it was read."""

    def __init__(self, stores: Mapping[str, ObjectStore], extent: Extent, start: Lsn, stop: Lsn) -> None:
        """``start``, ``stop``: of the base backup."""
        self._stores = stores
        self._begin = segment_start(segment_no(start, extent.segment_size), extent.segment_size)
        self._segment_bytes = extent.format.segment_bytes
        self._segments = [each for each in expected_segments(extent, self._begin) if self._start_of(each[0]) < stop]

    def needs(self, key: str) -> bool:
        """Whether it holds log from the first byte on that the snapshot needs."""
        return keys.segment_of(key) is not None and self._start_of(key) + self._segment_bytes > self._begin

    async def presence(self, *, enough: int) -> Mapping[str, Presence]:
        """Of what was in segments when the extent was read. What came later is younger than any grace period."""
        found = await presence_of(self._stores, self._segments, has_one, enough=enough)
        return {each[0]: presence for each, presence in found.items()}

    def _start_of(self, key: str) -> int:
        return keys.segment_start(key, self._segment_bytes) or 0


async def snapshot_log(
    stores: Mapping[str, ObjectStore], keyring: Keyring, clock: Clock, start: Lsn, stop: Lsn
) -> SnapshotLog:
    """Raises as `read_extent` does."""
    return SnapshotLog(stores, await read_extent(stores, keyring, clock), start, stop)
