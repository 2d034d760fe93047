"""Simulated PostgreSQL: timelines of known bytes with records in them, and primaries that write them.

The bytes of a timeline come from the run's seed, so whoever reads the log can be checked byte for byte. Two nodes may
both make timeline 2: they are two `Timeline` objects with one number and different bytes.
"""

from __future__ import annotations

import random
from bisect import bisect_right

from threefold.kernel.lsn import Lsn

ORIGIN = 1000  # the log's first byte, on purpose in the middle of a segment


class Timeline:
    """The WAL of one timeline: its own bytes, and before ``fork`` its parent's."""

    def __init__(self, name: str, number: int, parent: Timeline | None = None, fork: int = ORIGIN) -> None:
        self.name = name
        self.number = number
        self.parent = parent
        self.fork = fork
        self._rng = random.Random(name)
        self._data = bytearray(parent.bytes(ORIGIN, fork)) if parent else bytearray()
        self.ends = [end for end in parent.ends if end <= fork] if parent else [ORIGIN]

    def __repr__(self) -> str:
        return self.name

    @property
    def end(self) -> int:
        return ORIGIN + len(self._data)

    def grow(self) -> None:
        """One record more."""
        self._data += self._rng.randbytes(self._rng.choice((4, 8, 12, 20, 60)))
        self.ends.append(self.end)

    def bytes(self, start: int, end: int) -> bytes:
        if end > self.end:
            raise AssertionError(f"{self.name} ends at {self.end}, before {end}")
        return bytes(self._data[start - ORIGIN : end - ORIGIN])

    def whole(self, lsn: int) -> int:
        """The end of the last whole record up to ``lsn``."""
        return self.ends[bisect_right(self.ends, lsn) - 1]

    def leaves(self, ancestor: Timeline) -> int | None:
        """Where this line parts from ``ancestor``: None where it never was on it."""
        line, fork = self, 1 << 62
        while line is not ancestor:
            if line.parent is None:
                return None
            line, fork = line.parent, min(fork, line.fork)
        return fork

    def numbered(self, number: int) -> Timeline | None:
        """This line, or its ancestor, of that number."""
        line: Timeline | None = self
        while line is not None and line.number != number:
            line = line.parent
        return line


class Primary:
    """A PostgreSQL: what it has flushed, and what it was told is safe."""

    def __init__(self, timeline: Timeline, flushed: int) -> None:
        self.timeline = timeline
        self.flushed = flushed
        self.acked = ORIGIN
        self.alive = True
        self.obsolete = False  # the log went on without it
        self.switch = 0  # the number of the switch that made its site active

    def write(self, rng: random.Random) -> None:
        """Flush one record more, or a part of it, as PostgreSQL does when a page is full."""
        if self.flushed == self.timeline.end:
            self.timeline.grow()
        end = self.timeline.end
        self.flushed = rng.randint(self.flushed + 1, end) if rng.random() < 0.3 else end

    def continues(self, timeline: Timeline, end: Lsn) -> bool:
        """Whether this primary goes on where that log ends (quorum-log: check again).

        Which timeline a number means is known here; PostgreSQL's side of it is read from the history files and bytes.
        """
        fork = self.timeline.leaves(timeline)
        if fork is None:
            return False
        if timeline is self.timeline:
            return self.flushed >= end
        return fork >= end or timeline.whole(end) <= fork
