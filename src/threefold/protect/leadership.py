"""One epoch of leadership, from the claim to slot 0: the steps of docs/explanation/quorum-log.md, in that order.

Look, check the primary, claim, take over, ask whether this site may still lead, check the primary again, put the
history of its timeline, put slot 0. The first look and check are courtesy (a good leader is not fenced for nothing);
the second check and the seals are what makes it safe.

**Why two sites never acknowledge at once.** A switch orders (the order stands on two stores), then fences: it claims an
epoch F and takes over all below, so that the log's end L is fixed; then it wins ``promoting``, and only then a
PostgreSQL is promoted at L. Let C be an epoch that somebody claims for the site that is left, at whatever moment:

- C < F: the take-over by F sealed it, or adopted what it had begun. It settles nothing beyond L.
- C > F: no number is skipped (quorum/claim.py), so whoever claimed C had seen the claim F, or one that had seen it.
  F was claimed after the order stood on two stores. So the order stands before C's owner asks, after its take-over and
  before slot 0: of any two stores one holds it, so it cannot hear "there is none", and gives C up.

So for the old site nothing is acknowledged beyond L, however slow anybody is. A permission read *before* the claim
would prove nothing: order and fence could come between. What a store without its memory says does not count, there as
here (failover/deciding.py). tests/simulation/switching.py plays all this, and breaks it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from threefold.kernel.clock import Clock
from threefold.kernel.errors import BadInput, Damaged, Refused, Unavailable
from threefold.kernel.keys import Keyring
from threefold.kernel.lsn import Lsn
from threefold.kernel.report import Report
from threefold.postgres.messages import WalData
from threefold.postgres.replication import ReplicationLink, StreamEnd
from threefold.postgres.timeline import History, fork_point, parse_history
from threefold.postgres.wal import first_whole_record_after, segment_no, segment_start
from threefold.protect.continuity import Continuation, WholeRecordFrom, continuation, same_bytes, same_system
from threefold.protect.founding import Log
from threefold.protect.spool import Spool
from threefold.protect.spooling import Spooling
from threefold.protect.where import AsksWhere, ElsewhereError, Where
from threefold.quorum import keys
from threefold.quorum.driver import Driver
from threefold.quorum.history import History as Spans
from threefold.quorum.lead import Resumed, fence, resume
from threefold.quorum.majority import QUORUM
from threefold.quorum.members import roll
from threefold.quorum.objects import Codec, LogObject
from threefold.quorum.reader import PATIENCE_S, Extent, read_wal
from threefold.quorum.reading import read_log
from threefold.quorum.start import opening, start
from threefold.quorum.timelines import open_history, seal_history
from threefold.quorum.view import Scope
from threefold.quorum.walk import Found
from threefold.stores.confirm import Stored, Taken, create_confirmed
from threefold.stores.soon import answers_soon
from threefold.stores.store import ObjectStore

# Two histories that part anywhere before differ in their last bytes: every record names the one before it, its
# transaction and, at commits, the microsecond.
_COMPARED_BYTES = 256 * 1024
# Read at once behind a fork: a record that never became whole is seldom longer.
_BEHIND_FORK_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Leadership:
    """An epoch that is ours and has begun."""

    scope: Scope
    epoch: int
    first: LogObject
    spans: Spans
    resumed: Resumed
    spool_fits: bool = False  # the log goes on in the spool that was found


class Candidate:
    """Somebody who wants to lead this log for this primary.

    Patience ends, because who votes was seen before: a store that was silent then may be the second one by now.
    """

    def __init__(
        self,
        stores: Mapping[str, ObjectStore],
        log: Log,
        keyring: Keyring,
        clock: Clock,
        report: Report,
        link: ReplicationLink,
        dsn: str,
        here: Where,
        where: AsksWhere,
        spooling: Spooling | None = None,
    ) -> None:
        """``link`` asks the primary of ``here``, ``dsn`` is for a second connection, which looks at its WAL."""
        self._stores = stores
        self._log = log
        self._keyring = keyring
        self._clock = clock
        self._report = report
        self._link = link
        self._dsn = dsn
        self._here = here
        self._where = where
        self._spooling = spooling
        self._spool_fits = False
        self._driver = Driver(stores, clock)
        self._bundles: dict[bytes, list[LogObject]] = {}
        self._scope = Scope(
            log.members,
            Codec(keyring, log.format.log),
            clock.new_id(),
            QUORUM,
            log.format.segment_bytes,
            bundles_opened=self._bundles,
            membership=log.membership,
        )

    @property
    def writer(self) -> str:
        return self._scope.writer

    async def look(self) -> None:
        """See whether the primary continues the log, without touching anything. Raises Refused."""
        identity = await self._link.identify()
        same_system(self._log.format.log, identity.system_id)
        found = await self._driver.run(read_log(self._scope), patience=PATIENCE_S)
        if found is not None:
            await self._continuation(found)

    def forget(self) -> None:
        """Somebody else leads, perhaps for long: what was read of the log is not to be held meanwhile."""
        self._bundles.clear()

    async def lead(self, new_log_at: Lsn) -> Leadership:
        """Claim, take over, check again, begin. Raises ElsewhereError, Fenced, Refused, Unavailable.

        ``new_log_at``: where a log that holds nothing yet begins, a WAL segment's start.
        """
        epoch, found = await self._driver.run(fence(self._scope), patience=PATIENCE_S)
        await self._may_still_lead(epoch)
        await self._nobody_forgot()
        if found is None:
            identity = await self._link.identify()
            same_system(self._log.format.log, identity.system_id)
            going_on = Continuation(identity.timeline, new_log_at)
        else:
            going_on = await self._continuation(found)
        if found is not None and found.tail and going_on.timeline != found.timeline:
            # The tail belongs to the old timeline: this epoch only brings it to two stores, the next one switches.
            going_on = Continuation(found.timeline, found.end)
        await self._put_history(going_on.timeline)
        begin = opening(found, going_on.timeline, going_on.at)
        first = await self._driver.run(start(self._scope, epoch, begin), patience=PATIENCE_S)
        resumed = await self._driver.run(resume(self._scope, found, first))
        scope = replace(self._scope, bundles_opened=None)
        self.forget()
        self._report("leading", epoch=epoch, timeline=begin.timeline, at=str(begin.end), writer=self.writer[:8])
        return Leadership(scope, epoch, first, begin.history, resumed, self._spool_fits)

    async def _may_still_lead(self, epoch: int) -> None:
        """A switch that fenced below us stands in the journal by now; one that is ordered later will fence us."""
        now = await self._where()
        if not now.is_still(self._here):
            self._report("epoch given up: a switch was ordered", epoch=epoch, switch=now.newest, active=now.site)
            raise ElsewhereError

    async def _nobody_forgot(self) -> None:
        """What a store said while we took over counts only if it had its memory then: so it has it now."""
        answers = await answers_soon(
            {name: self._stores[name] for name in self._log.members}, lambda store: store.read(keys.FORMAT)
        )
        now = roll(answers)
        for name, known in self._log.incarnations.items():
            member = now.members.get(name)
            if name in now.strangers or (member is not None and member.incarnation != known):
                raise Unavailable(f"{name} lost its memory while the log was taken over", hint="it is tried again")

    async def _continuation(self, found: Found) -> Continuation:
        identity = await self._link.identify()
        same_system(self._log.format.log, identity.system_id)
        content = await self._link.timeline_history(identity.timeline)
        history = parse_history(identity.timeline, content)
        spool = self._spooling.fits(self._log.format.log, found.timeline, found.end) if self._spooling else None
        # A primary on a timeline of its own has left that of the spool.
        spool = spool if identity.timeline == found.timeline and await self._goes_on_in(spool, found) else None
        self._spool_fits = spool is not None
        await self._same_history(found.timeline)
        going_on = continuation(
            found.timeline,
            found.end,
            flushed=identity.flushed,
            history=history,
            whole_record_from=await self._behind_fork(found, history),
        )
        if spool is not None and spool.end > found.end:
            await self._same_as_spool(spool)
        else:
            await self._same_bytes(found, going_on.at)
        return going_on

    async def _goes_on_in(self, spool: Spool | None, found: Found) -> bool:
        """Whether the log's last bytes are the spool's, as far as both have them."""
        if spool is None:
            return False
        end = min(found.end, spool.end)
        begin = max(spool.start, found.start, Lsn(max(end - _COMPARED_BYTES, 0)))
        return begin >= end or spool.bytes(begin, end) == await self._read(found, begin, end)

    async def _same_as_spool(self, spool: Spool) -> None:
        """What was confirmed from the spool the primary need not have any more, but for the end. Raises Refused."""
        end, size = spool.end, self._log.format.wal_segment_bytes
        begin = max(spool.start, segment_start(segment_no(end - 1, size), size), Lsn(max(end - _COMPARED_BYTES, 0)))
        if end % size and begin < end:
            theirs = await wal_of_primary(self._dsn, self._clock, begin, end, spool.declaration.timeline)
            same_bytes(spool.bytes(begin, end), theirs, begin)

    async def _behind_fork(self, found: Found, history: History) -> WholeRecordFrom:
        """Reads the log behind the primary's fork, where it forked before the log's end."""
        fork, size = fork_point(history, found.timeline), self._log.format.wal_segment_bytes
        if fork is None or not found.start <= fork < found.end:
            return lambda at: at
        begin = max(found.start, segment_start(segment_no(max(fork - 1, 0), size), size))
        room = _BEHIND_FORK_BYTES
        while True:
            end = min(found.end, Lsn(fork + room))
            data = await self._read(found, begin, end)
            record = first_whole_record_after(data, start=begin, at=fork, segment_size=size)
            if record is not None or end == found.end:
                return lambda _: record
            room *= 4  # in the middle of a very long record

    async def _same_bytes(self, found: Found, at: Lsn) -> None:
        """The primary's WAL before ``at`` must be the log's: a copy that went on by itself has the LSNs, not the bytes.

        Raises Refused.
        """
        size = self._log.format.wal_segment_bytes
        pieces = Extent(self._log.format, self._log.members, found, {}, ()).pieces()
        piece = next((each for each in reversed(pieces) if each.start < at <= each.end), None)
        if piece is None:
            return  # the log holds nothing yet
        # Not beyond the segment: the primary need not have the one before any more.
        begin = max(piece.start, segment_start(segment_no(at - 1, size), size), Lsn(max(at - _COMPARED_BYTES, 0)))
        ours = await self._read(found, begin, at)
        try:
            theirs = await wal_of_primary(self._dsn, self._clock, begin, at, piece.timeline)
        except Refused:
            if at % size:
                raise
            return  # its slot keeps WAL from ``at`` on: the segment before may be gone
        same_bytes(ours, theirs, begin)

    async def _read(self, found: Found, begin: Lsn, end: Lsn) -> bytes:
        extent = Extent(self._log.format, self._log.members, found, {}, ())
        parts = read_wal(self._stores, self._keyring, self._clock, extent, start=begin, end=end)
        return b"".join([data async for _, _, data in parts])

    async def _same_history(self, timeline: int) -> None:
        """The primary's idea of the log's timeline must be the log's own: two nodes may both make timeline 2."""
        if timeline == 1:
            return
        try:
            ours = await self._link.timeline_history(timeline)
        except (BadInput, Refused) as error:
            raise Refused(
                f"the primary knows no timeline {timeline}, which the log is on",
                hint="a newer primary may be at work: protect that one, or recover from the stores",
            ) from error
        answers = await asyncio.gather(*(self._stores[m].read(keys.timeline_key(timeline)) for m in self._log.members))
        kept = set()
        for answer in answers:
            with suppress(Damaged):
                kept |= {open_history(self._keyring, timeline, answer)} if isinstance(answer, bytes) else set()
        if not kept:
            raise Unavailable(f"no store gives the history of timeline {timeline} whole")
        if kept != {ours}:
            raise Refused(
                f"the primary's timeline {timeline} is not the log's: two nodes were promoted from the same point",
                hint="recover from the stores, and protect the recovered database",
            )

    async def _put_history(self, timeline: int) -> None:
        """The ``.history`` file goes to two stores before any WAL of its timeline."""
        content = await self._link.timeline_history(timeline)
        if content is None:
            return
        key, body = keys.timeline_key(timeline), seal_history(self._keyring, timeline, content)
        # Put before, under an older key perhaps: then those bytes are the object, and a missing copy gets them too.
        for answer in await asyncio.gather(*(self._stores[member].read(key) for member in self._log.members)):
            with suppress(Damaged):
                if isinstance(answer, bytes) and open_history(self._keyring, timeline, answer) == content:
                    body = answer
        while True:
            answers = await asyncio.gather(
                *(create_confirmed(self._stores[member], key, body) for member in self._log.members)
            )
            if any(isinstance(answer, Taken) for answer in answers):
                raise Refused(
                    f"the stores keep another history of timeline {timeline}",
                    hint="promote once more: a new timeline gets a number of its own",
                )
            if sum(isinstance(answer, Stored) for answer in answers) >= QUORUM:
                return
            await self._clock.sleep(1.0)


async def wal_of_primary(dsn: str, clock: Clock, begin: Lsn, end: Lsn, timeline: int) -> bytes:
    """The primary's own WAL. Raises Refused where it no longer has it."""
    wal = bytearray()
    async with await ReplicationLink.connect(dsn, application_name="threefold look", clock=clock) as link:
        await link.start_streaming(slot=None, start=begin, timeline=timeline)
        while len(wal) < end - begin and not isinstance(got := await link.receive(), StreamEnd):
            for message in got:
                wal += message.data if isinstance(message, WalData) else b""
    return bytes(wal[: end - begin])
