"""One epoch of leadership, from the claim to slot 0: the steps of docs/explanation/quorum-log.md, in that order.

Look, check the primary, claim, take over, check the primary again, put the history of its timeline,
put slot 0. The first look and check are courtesy (a good leader is not fenced for nothing); the second check and the
seals are what makes it safe.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from threefold.kernel.clock import Clock
from threefold.kernel.errors import BadInput, Refused, Unavailable
from threefold.kernel.keys import Keyring
from threefold.kernel.lsn import Lsn
from threefold.kernel.report import Report
from threefold.postgres.replication import ReplicationLink
from threefold.postgres.timeline import parse_history
from threefold.postgres.wal import first_whole_record_after
from threefold.protect.continuity import Continuation, continuation, same_system
from threefold.protect.founding import Log
from threefold.quorum import keys
from threefold.quorum.driver import Driver
from threefold.quorum.history import History as Spans
from threefold.quorum.lead import Resumed, fence, resume
from threefold.quorum.majority import QUORUM
from threefold.quorum.objects import Codec, LogObject
from threefold.quorum.reader import Extent, read_wal
from threefold.quorum.reading import read_log
from threefold.quorum.start import opening, start
from threefold.quorum.view import Scope
from threefold.quorum.walk import Found
from threefold.stores.confirm import Stored, Taken, create_confirmed
from threefold.stores.store import ObjectStore


@dataclass(frozen=True, slots=True)
class Leadership:
    """An epoch that is ours and has begun."""

    scope: Scope
    epoch: int
    first: LogObject
    spans: Spans
    resumed: Resumed


class Candidate:
    """Somebody who wants to lead this log for this primary."""

    def __init__(
        self,
        stores: Mapping[str, ObjectStore],
        log: Log,
        keyring: Keyring,
        clock: Clock,
        report: Report,
        link: ReplicationLink,
        new_log_at: Lsn,
    ) -> None:
        """``new_log_at``: where a log that holds nothing yet begins, a WAL segment's start."""
        self._stores = stores
        self._log = log
        self._keyring = keyring
        self._clock = clock
        self._report = report
        self._link = link
        self._new_log_at = new_log_at
        self._driver = Driver(stores, clock)
        self._scope = Scope(
            log.members, Codec(keyring, log.format.log), clock.new_id(), QUORUM, log.format.segment_bytes
        )

    @property
    def writer(self) -> str:
        return self._scope.writer

    async def look(self) -> None:
        """See whether the primary continues the log, without touching anything. Raises Refused."""
        await self._continuation(await self._driver.run(read_log(self._scope)))

    async def lead(self) -> Leadership:
        """Claim, take over, check again, begin. Raises Fenced, Refused, Unavailable."""
        epoch, found = await self._driver.run(fence(self._scope))
        going_on = await self._continuation(found)
        if found is not None and found.tail and going_on.timeline != found.timeline:
            # The tail belongs to the old timeline: this epoch only brings it to two stores, the next one switches.
            going_on = Continuation(found.timeline, found.end)
        await self._put_history(going_on.timeline)
        begin = opening(found, going_on.timeline, going_on.at)
        first = await self._driver.run(start(self._scope, epoch, begin))
        resumed = await self._driver.run(resume(self._scope, found, first))
        self._report("leading", epoch=epoch, timeline=begin.timeline, at=str(begin.end), writer=self.writer[:8])
        return Leadership(self._scope, epoch, first, begin.history, resumed)

    async def _continuation(self, found: Found | None) -> Continuation:
        identity = await self._link.identify()
        same_system(self._log.format.log, identity.system_id)
        if found is None:
            return Continuation(identity.timeline, self._new_log_at)
        content = await self._link.timeline_history(identity.timeline)
        history = parse_history(identity.timeline, content)
        await self._same_history(found.timeline)
        tail = await self._bytes_before_end(found)

        def whole_record_from(at: Lsn) -> Lsn | None:
            begin, data = tail
            if at < begin:
                return at  # more than a segment before the end: whole records lie between
            size = self._log.format.wal_segment_bytes
            return first_whole_record_after(data, start=begin, at=at, segment_size=size)

        return continuation(
            found.timeline, found.end, flushed=identity.flushed, history=history, whole_record_from=whole_record_from
        )

    async def _bytes_before_end(self, found: Found) -> tuple[Lsn, bytes]:
        """The log's last bytes, from the start of the WAL segment before the one that holds its end."""
        size = self._log.format.wal_segment_bytes
        begin = max(found.start, Lsn((found.end // size - 1) * size if found.end >= size else 0))
        extent = Extent(self._log.format, self._log.members, found, {}, ())
        parts = read_wal(self._stores, self._keyring, self._clock, extent, start=begin, end=found.end)
        return begin, b"".join([data async for _, _, data in parts])

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
        kept = [answer for answer in answers if isinstance(answer, bytes)]
        if not kept:
            raise Unavailable(f"no store gives the history of timeline {timeline}")
        if any(copy != ours for copy in kept):
            raise Refused(
                f"the primary's timeline {timeline} is not the log's: two nodes were promoted from the same point",
                hint="recover from the stores, and protect the recovered database",
            )

    async def _put_history(self, timeline: int) -> None:
        """The ``.history`` file goes to two stores before any WAL of its timeline."""
        content = await self._link.timeline_history(timeline)
        if content is None:
            return
        key = keys.timeline_key(timeline)
        while True:
            answers = await asyncio.gather(
                *(create_confirmed(self._stores[member], key, content) for member in self._log.members)
            )
            if any(isinstance(answer, Taken) for answer in answers):
                raise Refused(
                    f"the stores keep another history of timeline {timeline}",
                    hint="promote once more: a new timeline gets a number of its own",
                )
            if sum(isinstance(answer, Stored) for answer in answers) >= QUORUM:
                return
            await self._clock.sleep(1.0)
