"""From the primary's WAL stream into the log, and the settled LSN back: the commit path.

What is said to the primary (PostgreSQL documentation, "Streaming Replication Protocol", standby status update):

- *flush* is the settled LSN, always (invariant 1): the slot follows it, and ``synchronous_commit = on`` waits for it.
- *write* is the same with durability ``sync``. With ``async`` it is what was received, as long as nothing has been
  waiting longer than ``max_lag``; ``synchronous_commit = remote_write`` waits for it. So commits are quick, and yet
  never more than ``max_lag`` of them can be lost.
- *apply* is never reported: nothing is applied here.

The one exception is chosen by a setting ([failover] without_quorum = "spool") and declared in the stores beforehand:
while fewer than two stores answer, *flush* is what lies in the spool on our own disk (spooling.py).
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from threefold.kernel.clock import Clock
from threefold.kernel.errors import Refused
from threefold.kernel.lsn import Lsn
from threefold.postgres.messages import WalData
from threefold.postgres.replication import ReplicationLink, StreamEnd
from threefold.protect.gathering import Gathering
from threefold.protect.spooling import STALLED_S, Spooling
from threefold.quorum.driver import LogWriter

# Beyond it nothing more is read from the primary: its slot keeps the rest.
BUFFER_BYTES_MAX: Final = 8 * 1024 * 1024
STATUS_PERIOD_S: Final = 5.0
# More than that at once is no small commit, and is not held up.
_BULK_BYTES: Final = 128 * 1024
# By what a primary that comes back is known: two histories that parted before differ in their last few records.
KNOWN_BY_BYTES: Final = 8192
_NOWHERE: Final = Lsn(0)
_JUST_NOW_S: Final = 0.5
_LOOK_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Durability:
    """``max_lag``: seconds that a change may wait in ``async``; None for ``sync``."""

    max_lag: float | None


class Stream:
    """One connection's worth of WAL."""

    def __init__(
        self, writer: LogWriter, clock: Clock, durability: Durability, spooling: Spooling | None = None
    ) -> None:
        self._writer = writer
        self._clock = clock
        self._durability = durability
        self._spooling = spooling
        self._moved = clock.monotonic()  # when something settled last
        self.last = b""  # what came last in this epoch, KNOWN_BY_BYTES at the most
        self._link: ReplicationLink | None = None
        self._gathering = Gathering()
        self._arrivals: deque[tuple[Lsn, float]] = deque()  # (end LSN, when it came), not settled yet

    @property
    def connected(self) -> bool:
        return self._link is not None

    def oldest_waiting(self) -> float:
        """Seconds that the oldest byte has been waiting to be settled; 0 when all are."""
        return self._clock.monotonic() - self._arrivals[0][1] if self._arrivals else 0.0

    @property
    def received(self) -> Lsn:
        """The end of all that was taken: where the primary is to go on."""
        spooling = self._spooling
        return spooling.taken if spooling is not None and spooling.active else self._writer.appender.received

    @property
    def spools(self) -> bool:
        return self._spooling is not None and self._spooling.active

    def moving(self) -> bool:
        """Something settled just now."""
        return self._clock.monotonic() - self._moved < _JUST_NOW_S

    @property
    def stalled(self) -> bool:
        """Something waits, and nothing has settled for a while: fewer than two stores answer."""
        quiet = self._clock.monotonic() - max(self._moved, self._arrivals[0][1]) if self._arrivals else 0.0
        return quiet > STALLED_S

    async def _room(self) -> None:
        """A primary that runs ahead is held back, unless the spool takes what it sends: it may begin meanwhile."""
        patience = None if self._spooling is None else _LOOK_S
        while not self.spools and self._writer.appender.buffered >= BUFFER_BYTES_MAX:
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._writer.room(BUFFER_BYTES_MAX)
                    return

    async def run(self, link: ReplicationLink) -> StreamEnd:
        """Until the primary ends the stream. Raises Unavailable when the connection is lost."""
        self._link = link
        self.tell()
        gathers = self._durability.max_lag is None  # in async nobody waits for a slot, only for what was received
        came, gather = 0, 0.0
        try:
            while True:
                await self._room()
                if gathers and came < _BULK_BYTES and not self.spools:
                    await self._writer.turn(self._gathering.apart)
                got = await link.receive(gather=gather)
                if isinstance(got, StreamEnd):
                    return got
                asked = False
                parts = []
                start = end = self.received
                for message in got:
                    if not isinstance(message, WalData):
                        asked = asked or message.reply_asked
                        continue
                    if message.start != end:
                        raise Refused(
                            f"the primary sent WAL from {message.start}, the log goes on at {end}",
                            hint="is another program changing the replication slot?",
                        )
                    parts.append(message.data)
                    end = Lsn(end + len(message.data))
                commits = len(parts)
                if parts:
                    if not self.spools or not self._arrivals:  # it would grow without end
                        self._arrivals.append((end, self._clock.monotonic()))
                    recent = parts[-1] if len(parts[-1]) >= KNOWN_BY_BYTES else b"".join(parts)
                    self.last = (self.last + recent[-KNOWN_BY_BYTES:])[-KNOWN_BY_BYTES:]
                    if self._spooling is not None and self._spooling.active:
                        parts = [await self._spooling.keep(b"".join(parts))]
                        self.tell()
                    if any(parts):
                        self._writer.offer(*parts)
                came = end - start
                gather = self._gathering.together(commits) if gathers and came < _BULK_BYTES else 0.0
                if asked or (parts and self._durability.max_lag is not None):
                    self.tell()
        finally:
            self._link = None

    def settled(self, lsn: Lsn) -> None:
        """The settled LSN moved: the primary's commits are waiting for nothing else."""
        self._moved = self._clock.monotonic()
        while self._arrivals and self._arrivals[0][0] <= lsn:
            self._gathering.settled(self._clock.monotonic() - self._arrivals.popleft()[1])
        self.tell()

    def tell(self) -> None:
        """Say where we are. Never says more than is settled once this writer is fenced: nothing settles then."""
        if self._link is None:
            return
        appender = self._writer.appender
        lag = self._durability.max_lag
        flushed = appender.settled
        if self._spooling is not None and self._spooling.kept is not None and not appender.fenced:
            flushed = max(flushed, self._spooling.kept)
        written = flushed
        if lag is not None and self.oldest_waiting() <= lag:
            written = self.received
        self._link.send_status(written=written, flushed=flushed, applied=_NOWHERE)
