"""Leading for one site's primary: one epoch after the other, and within an epoch one connection after the other.

The log goes on exactly where it stopped, whatever went away meanwhile: the primary, its connection, two stores. It is
over when another DRaaS server or a switch fences us, when going on would not be safe, or when it is cancelled.
"""

from __future__ import annotations

import asyncio

from threefold.kernel.errors import Fenced, ThreefoldError, Unavailable
from threefold.kernel.lsn import Lsn
from threefold.postgres.refusals import SlotInUse
from threefold.postgres.replication import ReplicationLink, StreamEnd
from threefold.postgres.timeline import parse_history
from threefold.postgres.wal import parse_size, segment_no, segment_start
from threefold.postgres.walsender import end_stream
from threefold.protect import beacon
from threefold.protect.continuity import same_bytes, same_system, still_sends
from threefold.protect.founding import Log, find_or_found
from threefold.protect.leader import Deployment, LeadAgainError, Leader, StepError
from threefold.protect.leadership import Candidate, wal_of_primary
from threefold.protect.replacing import change_membership
from threefold.protect.spooling import Spooling
from threefold.protect.turn import Patience
from threefold.protect.waiting import wait_for_turn
from threefold.protect.where import AsksWhere, Primary, Where
from threefold.quorum.driver import Driver
from threefold.quorum.membership import Membership, MovedError, Named, ReplacedError
from threefold.quorum.notices import put_notice
from threefold.quorum.reader import PATIENCE_S

RECONNECT_S = 0.5
_SETTLE_PATIENCE_S = 5.0


class Leading:
    """For the primary of ``here``, as long as that site is active."""

    def __init__(
        self, with_: Deployment, here: Where, primary: Primary, where: AsksWhere, wrapped_key: bytes | None
    ) -> None:
        self._with = with_
        self._here = here
        self._primary = primary
        self._where = where
        self._wrapped_key = wrapped_key
        self._leader: Leader | None = None
        self._told = ""
        # Another site is active: what was not settled in this epoch no longer can be.
        self.left = False
        self._spooling: Spooling | None = None
        self.has_streamed = False

    @property
    def leads(self) -> bool:
        """An epoch is ours."""
        return self._leader is not None

    @property
    def streams(self) -> bool:
        """And the primary's WAL comes in."""
        return self._leader is not None and self._leader.stream.connected

    async def run(self, *, our_turn: bool, patience: Patience, fenced: bool = False) -> None:
        """``our_turn``: end a living leader's epoch; ``fenced``: one that ended ours.

        Raises ElsewhereError, Fenced, Refused, BadInput.
        """
        take_over = our_turn
        self._spooling = self._open_spool()
        while True:
            link = await self._connect()
            try:
                log = await self._log(link)
                stores, keyring, clock = self._with.stores, self._with.keyring, self._with.clock
                candidate = Candidate(
                    stores,
                    log,
                    keyring,
                    clock,
                    self._with.report,
                    link,
                    self._primary.dsn,
                    self._here,
                    self._where,
                    self._spooling,
                )
                await candidate.look()
                if not our_turn:
                    our_turn = True
                    candidate.forget()
                    if await wait_for_turn(self._with, self._here, self._primary, patience, fenced=fenced):
                        continue  # stores may have lost their memory since: see again who votes
                new_log_at = await self._slot(link, log.format.wal_segment_bytes)
                leadership = await candidate.lead(new_log_at)
            except Unavailable as error:
                our_turn = take_over
                await self._later(error)
                continue
            except MovedError as moved:
                our_turn = take_over
                await self._moved(moved.membership)
                continue
            finally:
                await link.close()
            try:
                await self._lead(Leader(self._with, log, leadership, self._here, self._spooling))
            except StepError as step:
                our_turn = take_over
                await self._step(step.after)
            except LeadAgainError:
                continue
            finally:
                self._leader = None

    async def _step(self, after: Membership) -> None:
        """Go from one membership to the next. Raises ReplacedError: the stores are to be opened anew, for that one.

        Gives up after a wait where a store did not answer: whether the step was taken shows when they are looked at.
        """
        with_ = self._with
        try:
            epoch = await change_membership(with_.all_stores, with_.keyring, with_.clock, with_.membership, after)
        except MovedError as moved:
            return await self._moved(moved.membership)
        except Unavailable as error:
            return await self._later(error)
        with_.report("another membership is in force", epoch=epoch, stores=", ".join(after.stores))
        raise ReplacedError(after, ours=True)

    async def _moved(self, now: Membership) -> None:
        """The log goes by another membership: its notice may be missing, if its author died. Raises ReplacedError.

        Gives up after a wait where a store that stays did not answer: it is met again.
        """
        with_ = self._with
        every = with_.all_stores or with_.stores
        (with_.named or Named(tuple(every))).voters(now)  # or it is refused here, with what to change
        known = [store for store in now.stores if store in every and store != now.joining]
        try:
            await Driver(every, with_.clock).run(put_notice(now, with_.keyring, on=known), patience=PATIENCE_S)
        except Unavailable as error:
            return await self._later(error)
        raise ReplacedError(now)

    def _open_spool(self) -> Spooling | None:
        """What a process before us left is found, and drained or set aside, by the first epoch."""
        with_, place = self._with, self._with.spool
        if place is None:
            return None
        return Spooling(place, with_.stores, with_.keyring, with_.clock, with_.report, with_.host, self._here.switch)

    async def _log(self, link: ReplicationLink) -> Log:
        identity = await link.identify()
        wal_segment_bytes = parse_size(await link.show("wal_segment_size"))
        log = await find_or_found(
            self._with.stores,
            self._with.keyring,
            self._with.clock,
            self._with.report,
            system_identifier=identity.system_id,
            wal_segment_bytes=wal_segment_bytes,
            wrapped_key=self._wrapped_key,
            membership=self._with.membership,
            found=self._with.named is None and not self._with.membership.generation,
        )
        same_system(log.format.log, identity.system_id)
        return log

    async def _slot(self, link: ReplicationLink, wal_segment_bytes: int) -> Lsn:
        """Our slot on a primary that continues the log; where a new log begins: the start of the slot's first segment.

        Not made sooner: a slot on a primary that is refused would keep its WAL until the disk is full.
        """
        slot = await link.ensure_slot(self._primary.slot)
        if slot.created:
            self._with.report("replication slot made on the primary", slot=slot.name)
        begin = slot.restart if slot.restart is not None else (await link.identify()).flushed
        return segment_start(segment_no(begin, wal_segment_bytes), wal_segment_bytes)

    async def _lead(self, leader: Leader) -> None:
        """Stream until the epoch is over. Raises what ended it; in good order what was received is settled first."""
        self._leader = leader
        beside = asyncio.create_task(leader.beside())
        stream = asyncio.create_task(self._stream(leader))
        fenced, ended = False, "stopped"
        try:
            await asyncio.wait({beside, stream}, return_when=asyncio.FIRST_COMPLETED)
            for task in (beside, stream):
                if task.done():
                    await task
        except BaseExceptionGroup as group:
            first = _gravest(group)
            fenced = isinstance(first, Fenced)
            ended = "between-epochs" if isinstance(first, LeadAgainError) else ended
            raise first from None
        except LeadAgainError:
            ended = "between-epochs"
            raise
        except Fenced:
            fenced = True
            raise
        finally:
            await cancelled(stream)
            if not (fenced or self.left):
                fenced = await self._settle(leader)
            await cancelled(beside)
            await leader.writer.close()
            if fenced and ended == "between-epochs":
                raise leader.ended_by_another() from None  # or the next epoch would end a good leader's
            if not (fenced or self.left):
                await beacon.write_leader(self._with.stores, leader.status(ended), self._with.keyring, self._with.clock)

    async def _settle(self, leader: Leader) -> bool:
        """Leave no tail behind if it can be helped; the next leader would find it, but it would take longer.

        Whether we were fenced meanwhile.
        """
        try:
            async with asyncio.timeout(_SETTLE_PATIENCE_S):
                await leader.settle_all()
        except TimeoutError:
            self._with.report("stopped with changes that are on fewer than two stores", level="warning")
        except Fenced:
            return True
        return False

    async def _stream(self, leader: Leader) -> None:
        """Stream, over one connection after the other. Raises LeadAgainError where a new timeline begins."""
        again = False
        while True:
            link = await self._connect()
            try:
                identity = await link.identify()
                same_system(leader.system_identifier, identity.system_id)
                history = parse_history(identity.timeline, await link.timeline_history(identity.timeline))
                received = leader.stream.received
                if not still_sends(leader.timeline, received, flushed=identity.flushed, history=history):
                    raise LeadAgainError  # its checks say what this is
                if again:
                    await self._same_primary(leader)
                await link.start_streaming(slot=self._primary.slot, start=received, timeline=leader.timeline)
                self._with.report("streaming", at=str(received), timeline=leader.timeline)
                leader.reason = self._told = ""
                again = self.has_streamed = True
                end = await leader.stream.run(link)
                await self._ended(leader, end)
            except SlotInUse as error:
                leader.reason = error.message
                await self._end_other_stream(leader, error)
            except Unavailable as error:
                leader.reason = error.message
                await self._later(error)
            finally:
                await link.close()

    async def _same_primary(self, leader: Leader) -> None:
        """Who answers at the primary's address now must have what came from there last, not only its LSN.

        Raises Refused for a copy that went on by itself, LeadAgainError where it takes the stores to tell.
        """
        received = leader.stream.received
        room = received % leader.wal_segment_bytes  # its slot keeps nothing before the segment
        last = leader.stream.last[-room:] if room else b""
        if not last:
            raise LeadAgainError
        begin = Lsn(received - len(last))
        theirs = await wal_of_primary(self._primary.dsn, self._with.clock, begin, received, leader.timeline)
        same_bytes(last, theirs, begin)

    async def _end_other_stream(self, leader: Leader, error: SlotInUse) -> None:
        """The slot is taken by whom we fenced; unless somebody has fenced us.

        Who cannot see two stores does not know, and lets the other one stream: cut off from the stores but not from
        the primary, an old leader would end the new one's stream again and again.
        """
        ours = await leader.look_for_newer()
        try:
            if ours and await end_stream(self._primary.dsn, self._primary.slot):
                self._with.report("ended the stream that another DRaaS server left behind", level="warning")
                return  # at once: the other one, if it lives, comes back in a moment
        except ThreefoldError as refusal:
            self._with.report("cannot end the stream of another DRaaS server", level="warning", reason=refusal.message)
        await self._later(error)

    async def _ended(self, leader: Leader, end: StreamEnd) -> None:
        if end.next_timeline is not None:
            self._with.report("the primary's timeline ended", timeline=leader.timeline, next=end.next_timeline)
            await leader.settle_all()
            raise LeadAgainError
        leader.reason = "the primary was shut down"
        self._with.report("the primary was shut down")
        await self._with.clock.sleep(RECONNECT_S)

    async def _connect(self) -> ReplicationLink:
        """Ask until the primary answers."""
        told = ""
        while True:
            try:
                return await ReplicationLink.connect(
                    self._primary.dsn, application_name=self._primary.application_name, clock=self._with.clock
                )
            except Unavailable as error:
                if error.message != told:
                    told = error.message
                    self._with.report("waiting for the primary", level="warning", reason=error.message)
            await self._with.clock.sleep(RECONNECT_S)

    async def _later(self, error: Unavailable) -> None:
        if error.message != self._told:  # once, not twice a second
            self._told = error.message
            self._with.report("trying again", level="warning", reason=error.message, hint=error.hint)
        await self._with.clock.sleep(RECONNECT_S)


async def cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _gravest(group: BaseExceptionGroup) -> BaseException:
    """What the caller has to hear where several things ended at once."""
    leaves: list[BaseException] = []
    waiting: list[BaseException] = [group]
    while waiting:
        each = waiting.pop()
        if isinstance(each, BaseExceptionGroup):
            waiting.extend(each.exceptions)
        else:
            leaves.append(each)
    ours = [leaf for leaf in leaves if isinstance(leaf, ThreefoldError)]
    return max(ours, key=lambda leaf: leaf.exit_code) if ours else leaves[0]
