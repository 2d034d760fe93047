"""Making segments of settled bytes: pure bookkeeping of which bytes are whole, and where a reader goes on.

A segment is closed by the first entry behind it: only then is it known which slot holds the byte after its end. The
bytes before a fork belong to the first segment of the new timeline as well, as PostgreSQL itself does it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from threefold.kernel.lsn import Lsn
from threefold.quorum.history import wal_of
from threefold.quorum.objects import Frame, LogObject

# Parts from there on are kept as they are, compressed if they come so; what is smaller compresses better together.
LARGE_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Settled:
    """Settled bytes from ``start`` on and the slot they lie in; ``compressed``: all of ``data``, by the `Codec`."""

    timeline: int
    start: Lsn
    data: bytes
    epoch: int
    slot: int
    compressed: bytes | None = None


@dataclass(frozen=True, slots=True)
class WholeSegment:
    """A segment to be written: its bytes in parts, and the slot that holds the byte after its end."""

    timeline: int
    start: Lsn
    end: Lsn
    parts: tuple[bytes | Frame, ...]
    next_epoch: int
    next_slot: int


class SegmentBuilder:
    """Takes settled bytes in order; gives whole segments in order."""

    def __init__(self, start: Lsn, segment_bytes: int, large_bytes: int = LARGE_BYTES) -> None:
        """``start``: the first byte that is not in a segment yet; the log's own first byte or a segment's start."""
        self._segment_bytes = segment_bytes
        self._large_bytes = large_bytes
        self._start = start
        self._parts: list[bytes | Frame] = []  # large ones as they came
        self._small = bytearray()  # what came behind them
        self._size = 0
        self._timeline = 0
        self.whole: deque[WholeSegment] = deque()

    @property
    def end(self) -> Lsn:
        return Lsn(self._start + self._size)

    def feed(self, settled: Settled) -> None:
        """The bytes behind those that are known; what is known already is passed over."""
        self._timeline, data = settled.timeline, settled.data
        skip = self.end - settled.start
        if skip < 0:
            raise ValueError(f"bytes {self.end} to {settled.start} are missing")
        place = skip
        while place < len(data):
            boundary = Lsn((self._start // self._segment_bytes + 1) * self._segment_bytes)
            if self.end == boundary:
                self._close(settled.epoch, settled.slot)
                continue
            part = data[place : place + (boundary - self.end)]
            self._size += len(part)
            place += len(part)
            if len(part) < self._large_bytes:
                self._small += part
            else:
                self._gather_small()
                compressed = settled.compressed if len(part) == len(data) else None
                # Copied: what zstandard returns still occupies all that it was given to compress into.
                self._parts.append(part if compressed is None else Frame(bytes(memoryview(compressed))))

    def _gather_small(self) -> None:
        if self._small:
            self._parts.append(bytes(self._small))
            self._small.clear()

    def _close(self, epoch: int, slot: int) -> None:
        # Compressed and joined elsewhere: the primary's commits wait meanwhile.
        self._gather_small()
        self.whole.append(WholeSegment(self._timeline, self._start, self.end, tuple(self._parts), epoch, slot))
        self._start = self.end
        self._parts, self._size = [], 0


def lineage(recent: Sequence[LogObject]) -> list[Settled]:
    """The bytes of these entries as they count: what a later fork overrode is cut off."""
    line: list[Settled] = []
    for entry in recent:
        header = entry.header
        while line and line[-1].timeline != header.timeline and line[-1].start >= header.start:
            line.pop()
        if line and line[-1].timeline != header.timeline:
            last = line[-1]
            line[-1] = replace(last, data=last.data[: header.start - last.start], compressed=None)
        line.append(Settled(header.timeline, header.start, wal_of(entry), header.epoch, header.slot))
    return line
