"""The DRaaS server while it leads: the stream, and what goes on beside it.

Beside the stream run the status replies, the beacon, the watch over the stores' memory, the trimming of entries that
segments cover, and the filling of stores that were away. None of them can hold the stream up, and none decides
anything about what is acknowledged.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

import psutil

from threefold.kernel.clock import Clock
from threefold.kernel.errors import BadInput, Damaged, Fenced, Unavailable
from threefold.kernel.keys import Keyring
from threefold.kernel.lsn import Lsn
from threefold.kernel.report import Report
from threefold.protect import beacon
from threefold.protect.beacon import LeaderStatus, StoreLine
from threefold.protect.fill import fill
from threefold.protect.founding import Log, admit
from threefold.protect.leadership import Leadership
from threefold.protect.replacing import Joining
from threefold.protect.spooling import Spooling, SpoolPlace
from threefold.protect.stream import STATUS_PERIOD_S, Durability, Stream
from threefold.protect.where import Where
from threefold.quorum import keys
from threefold.quorum.appender import Appender, Lane
from threefold.quorum.check import counting
from threefold.quorum.driver import Driver, LogWriter
from threefold.quorum.lead import Resumed
from threefold.quorum.majority import QUORUM
from threefold.quorum.members import Format, read_roll
from threefold.quorum.membership import FOUNDED, Membership, Named
from threefold.quorum.trim import trim
from threefold.stores.health import HealthBook, Operation, StoreHealth
from threefold.stores.probe import probe
from threefold.stores.store import ABSENT, ObjectStore

_FILL_PERIOD_S = 2.0
_BETWEEN_BEACONS_S = 1.0  # Google takes no more than one overwrite of a name a second
_MEMORY_PERIOD_S = 5.0
# A change that waits longer than this for two stores is worth a line in the log and a word on `status`.
_WAITING_S = 2.0
# Segments can be pruned only behind the newest epoch's first byte (upkeep/reach.py), so epochs do not last for months.
_EPOCH_S = 24 * 3600.0
_SPOOL_LOOK_S = 0.5
_SWEEP_EVERY = 300  # rounds of filling after which every store is compared though nothing is known to be missing


class LeadAgainError(Exception):
    """The epoch is to be ended in good order and the next one begun: a new timeline, or a store to be counted in."""


class StepError(LeadAgainError):
    """And the next one begins under another membership."""

    def __init__(self, after: Membership) -> None:
        super().__init__()
        self.after = after


@dataclass(frozen=True, slots=True)
class Deployment:
    """What a leader works with."""

    stores: Mapping[str, ObjectStore]
    health: HealthBook
    keyring: Keyring
    clock: Clock
    report: Report
    host: str
    machine: str
    durability: Durability
    puts: Callable[[], Mapping[str, int]]  # requests that create or overwrite, by store, since the start
    spool: SpoolPlace | None = None  # where commits go while too few stores answer; None: they wait
    membership: Membership = FOUNDED  # by which ``stores`` were chosen
    named: Named | None = None  # what the settings ask for, where a store is to be replaced
    all_stores: Mapping[str, ObjectStore] = field(default_factory=dict)  # those that join and leave included


class Leader:
    """One epoch."""

    def __init__(
        self, with_: Deployment, log: Log, leadership: Leadership, here: Where, spooling: Spooling | None = None
    ) -> None:
        self._with = with_
        self._spooling = spooling
        self._here = here
        self._log = log
        # The appender has the recent bytes now; they are not to be held twice.
        self._leadership = replace(leadership, resumed=Resumed(leadership.resumed.begin, ()))
        self._driver = Driver(with_.stores, with_.clock)
        scope = leadership.scope
        self.appender = Appender(scope, leadership.first, leadership.resumed.recent, leadership.resumed.begin)
        self.writer = LogWriter(self._driver, self.appender, scope.codec, with_.clock, self._settled)
        if spooling is not None:
            spooling.adopt(self.appender, fits=leadership.spool_fits)
        self.stream = Stream(self.writer, with_.clock, with_.durability, spooling)
        self.reason = ""
        self._beat = 0
        self._segment = self.appender.settled // self.wal_segment_bytes  # the one that is being written
        self._segment_ended = asyncio.Event()  # one has since the last beacon
        self._filled_missing = dict.fromkeys(scope.stores, 0)
        self._filling = ""
        self._trimmed: tuple[int, int] | None = None
        self._away: set[str] = set()  # did not answer for a while: may lack what others than we have written
        self._lost: dict[str, str] = {}
        self._refused: set[str] = set()  # not asked again in this epoch
        self._process = psutil.Process(os.getpid())
        self._joining = self._who_joins()

    def _who_joins(self) -> Joining | None:
        """The store that the settings want instead of another one."""
        with_ = self._with
        after = with_.named.following(with_.membership) if with_.named else None
        if after is None:
            return None
        joint = with_.membership if with_.membership.is_joint else after
        return Joining(
            name=joint.joining,
            target=with_.all_stores[joint.joining],
            staying=[with_.all_stores[name] for name in joint.stores],
            leaving=with_.all_stores.get(joint.leaving),
            membership=joint,
            log=self._log.format,
            keyring=with_.keyring,
            codec=self._leadership.scope.codec.fork(),
            clock=with_.clock,
            report=with_.report,
        )

    def _settled(self, lsn: Lsn) -> None:
        self.stream.settled(lsn)
        segment = lsn // self.wal_segment_bytes
        if segment != self._segment:
            self._segment = segment
            self._segment_ended.set()

    @property
    def system_identifier(self) -> int:
        return self._log.format.log

    @property
    def wal_segment_bytes(self) -> int:
        return self._log.format.wal_segment_bytes

    @property
    def timeline(self) -> int:
        """The one that this epoch writes."""
        return self._leadership.first.header.timeline

    async def beside(self) -> None:
        """Everything that runs beside the stream, until one of it raises. Raises Fenced, LeadAgainError."""
        async with asyncio.TaskGroup() as group:
            for task in (self._watch_fence(), self._replies(), self._beacons(), self._memory(), self._trims()):
                group.create_task(task)
            group.create_task(self._fills())
            if self._spooling is not None:
                group.create_task(self._spools(self._spooling))
                group.create_task(self._spooling.feed(self.writer, self.stream.moving))
                group.create_task(self._spooling.declare())
            self.writer.pump()

    async def look_for_newer(self) -> bool:
        """Whether two stores show our own beacon. Raises Fenced where any tells of a higher epoch."""
        try:
            beacons = await beacon.read_leaders(self._with.stores, self._with.keyring)
        except BadInput as other:
            raise Fenced(f"another DRaaS server leads: {other.message}", hint=other.hint) from None
        newer = max(beacons, key=lambda each: each.epoch, default=None)
        if newer is not None and newer.epoch > self._leadership.epoch:
            raise Fenced(
                f"epoch {newer.epoch} has begun on {newer.host}: this DRaaS server's epoch "
                f"{self._leadership.epoch} is over",
                hint="this one has stopped and acknowledges nothing more; the other one leads now",
            )
        return sum(each.epoch == self._leadership.epoch for each in beacons) >= QUORUM

    async def settle_all(self) -> None:
        """Wait until everything received is settled. Raises Fenced where it never will be."""
        while self.appender.settled != self.appender.received:
            if self.writer.fenced.is_set():
                raise self.ended_by_another()
            await self._with.clock.sleep(0.02)

    def ended_by_another(self) -> Fenced:
        return Fenced(
            f"epoch {self._leadership.epoch} was ended by another DRaaS server: {self.appender.fenced}",
            hint="this one has stopped and acknowledges nothing more; the other one leads now",
        )

    # --- one loop each ---

    async def _watch_fence(self) -> None:
        await self.writer.fenced.wait()
        raise self.ended_by_another()

    async def _spools(self, spooling: Spooling) -> None:
        """Begin to spool when too few stores answer."""
        while True:
            await self._with.clock.sleep(_SPOOL_LOOK_S)
            if not spooling.active and self.stream.stalled:
                epoch = self._leadership.epoch
                await spooling.begin(self._log.format.log, epoch, self.timeline, self.appender)
                self.stream.tell()

    async def _replies(self) -> None:
        """PostgreSQL drops a standby that is silent for wal_sender_timeout (60 s); async needs its lag looked at."""
        lag = self._with.durability.max_lag
        period = STATUS_PERIOD_S if lag is None else min(STATUS_PERIOD_S, max(lag / 2, 0.05))
        while True:
            await self._with.clock.sleep(period)
            self.stream.tell()

    async def _beacons(self) -> None:
        waiting = False
        while True:
            began = self._with.clock.monotonic()
            await self.look_for_newer()
            self._segment_ended.clear()
            status = self.status()
            if (status.state == "waiting-for-stores") != waiting:
                waiting = not waiting
                if waiting:
                    self._with.report("commits wait: too few stores answer", level="error", reason=status.reason)
                elif status.state != "spooling":
                    self._with.report("two stores answer again: commits go on")
            await beacon.write_leader(self._with.stores, status, self._with.keyring, self._with.clock)
            # A store that hangs costs a second each time; whoever waits counts the seconds between two beats.
            took = self._with.clock.monotonic() - began
            await self._until_due(max(beacon.PERIOD_S - took, 0.1))

    async def _until_due(self, seconds: float) -> None:
        """Sleep until the next beacon is due, or sooner where a segment's end was settled.

        A base backup of the primary ends with one, and whoever takes it waits for the beacon that says so.
        """
        least = min(seconds, _BETWEEN_BEACONS_S)
        await self._with.clock.sleep(least)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds - least):
                await self._segment_ended.wait()

    async def _memory(self) -> None:
        """A store that lost its memory no longer counts: what it accepts now proves nothing (quorum/members.py)."""
        while True:
            for name in list(self.appender.lanes):
                answer = await self._with.stores[name].read(keys.FORMAT)
                why = ""
                if answer is ABSENT:
                    why = "it answers without the log's format object: it was emptied"
                elif isinstance(answer, bytes):
                    try:
                        incarnation = Format.decode(answer).incarnation
                    except Damaged as damage:
                        why = damage.message
                    else:
                        known = self._log.incarnations[name]
                        why = "" if incarnation == known else "it was filled anew by somebody else"
                if why:
                    self.appender.drop(name)
                    self._lost[name] = why
                    self._with.report("store lost", level="error", store=name, reason=why)
            await self._with.clock.sleep(_MEMORY_PERIOD_S)

    async def _trims(self) -> None:
        began = self._with.clock.monotonic()
        while True:
            await self._with.clock.sleep(1.0)
            if self._with.clock.monotonic() - began > _EPOCH_S:
                raise LeadAgainError
            covered = self.appender.covered
            if covered is None or covered == self._trimmed:
                continue
            spans = self._leadership.spans
            if self._trimmed is not None:
                # What lies below was trimmed for good; only the newest three still hold something to look at.
                spans = spans[-3:]
            self._trimmed = covered
            await self._driver.run(trim(self._leadership.scope, spans, self._leadership.epoch, covered))

    async def _fills(self) -> None:
        """Bring stores that were away up to date; let a new or emptied one vote from the next epoch on."""
        rounds = 0
        while True:
            await self._with.clock.sleep(_FILL_PERIOD_S)
            rounds += 1
            for name in self._with.stores:
                lane = self.appender.lanes.get(name)
                if lane is None:
                    await self._admit(name)
                elif lane.failures:
                    if lane.failures > 1:
                        self._away.add(name)
                elif (
                    lane.missing > self._filled_missing[name]
                    or name in self._away
                    or rounds == 1
                    or rounds % _SWEEP_EVERY == 0
                ):
                    missing = lane.missing
                    if await self._fill(name):
                        self._filled_missing[name] = missing
                        self._away.discard(name)
                        self._trimmed = None  # what was trimmed meanwhile is still there
            if self._joining is not None:
                await self._move(self._joining)

    async def _move(self, joining: Joining) -> None:
        """Fill the store that joins; once it is time, raise StepError. Not while anything else is amiss."""
        now, named = self._with.membership, self._with.named
        after = named.following(now) if named else None
        lanes = [self.appender.lanes.get(name) for name in (after.stores if after and after.is_joint else now.stores)]
        well = all(lane is not None and not lane.failures for lane in lanes)
        if after is None or not well or self.stream.spools or self.stream.oldest_waiting() > _WAITING_S:
            return
        leadership = self._leadership
        counts = counting(leadership.spans, leadership.epoch, lambda: self.appender.settled_slot)
        ready = joining.last(counts) if now.is_joint else joining.ahead(counts)
        if await ready:
            self._with.report("moving to another store", leaving=after.leaving, joining=after.joining)
            raise StepError(after)

    async def _admit(self, name: str) -> None:
        """Count in a store that does not vote: it was silent when this epoch began, or is new, or was emptied."""
        if name in self._refused:
            return
        # Asked as the next epoch will ask, so that a store that is too slow for that does not cost one after the other.
        seen = await self._driver.run(read_roll(tuple(self._with.stores)))
        store, found = self._with.stores[name], seen.members.get(name)
        if found is not None:
            if name in self._lost or not self._is_ours(name, found):
                return
            # It has its memory. Where commits wait for a second store, it is needed at once, however far behind it is.
            if self.stream.oldest_waiting() <= _WAITING_S and not await self._fill(name):
                return
        elif name not in seen.strangers or not await self._fill(name):
            return
        else:
            proof = await probe(store, self._with.clock)
            if not proof.passed:
                if proof.findings[0].passed:  # it does answer
                    self._refuse(name, proof.refusal)
                return
            try:
                await admit(store, self._log.format, self._with.clock)
            except Unavailable:
                return
        self._with.report("store counted in again from the next epoch on", store=name)
        raise LeadAgainError

    def _is_ours(self, name: str, found: Format) -> bool:
        ours = self._log.format
        if (found.log, found.key_id) == (ours.log, ours.key_id):
            return True
        self._refuse(name, f"it holds the log of another database system, {found.log}")
        return False

    def _refuse(self, name: str, why: str) -> None:
        self._refused.add(name)
        self._lost[name] = why
        self._with.report("store may not vote", level="error", store=name, reason=why)

    async def _fill(self, name: str) -> bool:
        leadership = self._leadership
        others = {other: lane for other, lane in self.appender.lanes.items() if other != name}
        sources = [self._with.stores[other] for other, lane in others.items() if not lane.failures]
        counts = counting(leadership.spans, leadership.epoch, lambda: self.appender.settled_slot)
        self._filling = name
        try:
            codec = leadership.scope.codec.fork()
            done = await fill(self._with.stores[name], sources, self._with.keyring, codec, counts)
        finally:
            self._filling = ""
        if done.objects:
            self._with.report("store filled", store=name, objects=done.objects, bytes=done.bytes)
        # A source that was not asked may be the only one that has something.
        return done.complete and bool(sources) and len(sources) == len(others)

    # --- what is said of it ---

    def status(self, state: str = "") -> LeaderStatus:
        oldest = self.stream.oldest_waiting()
        reason = self.reason
        if not state:
            state = "streaming" if self.stream.connected else "waiting-for-primary"
            if oldest > _WAITING_S:
                state = "spooling" if self.stream.spools else "waiting-for-stores"
                silent = [f"{name}: {lane.reason}" for name, lane in self.appender.lanes.items() if lane.reason]
                reason = "; ".join(silent) or "the stores take long to answer"
        self._beat += 1
        now = self._with.clock.monotonic()
        health = {line.name: line for line in self._with.health.snapshot(now)}
        return LeaderStatus(
            epoch=self._leadership.epoch,
            writer=self._leadership.scope.writer,
            host=self._with.host,
            machine=self._with.machine,
            pid=os.getpid(),
            beat=self._beat,
            at=self._with.clock.now().isoformat(timespec="milliseconds"),
            state=state,
            reason=reason,
            system_identifier=self._log.format.log,
            timeline=self._leadership.first.header.timeline,
            settled=self.appender.settled,
            received=self.stream.received,
            durability="sync" if self._with.durability.max_lag is None else "async",
            rpo_seconds=round(oldest, 3),
            puts_per_store=dict(self._with.puts()),
            stores=(*(self._line(name, health.get(name)) for name in self._with.stores), *self._joining_line()),
            memory_bytes=self._process.memory_info().rss,
            site=self._here.site,
            switch=self._here.switch,
            spool_bytes=self._spooling.spool.size if self._spooling is not None and self._spooling.spool else 0,
        )

    def _line(self, name: str, health: StoreHealth | None) -> StoreLine:
        creates = (
            next((each for each in health.latencies if each.operation is Operation.CREATE), None) if health else None
        )
        lane = self.appender.lanes.get(name)
        return StoreLine(
            name=name,
            state=self._state_of(name, lane),
            waiting_bytes=lane.waiting_bytes if lane else 0,
            missing=max(0, lane.missing - self._filled_missing[name]) if lane else 0,
            p50_ms=round(creates.p50 * 1000, 2) if creates else 0.0,
            p99_ms=round(creates.p99 * 1000, 2) if creates else 0.0,
            reason=(lane.reason if lane else "") or self._lost.get(name, "") or self._log.silent.get(name, ""),
        )

    def _joining_line(self) -> tuple[StoreLine, ...]:
        joining = self._joining
        if joining is None:
            return ()
        state = "joining" if self._with.membership.is_joint else "learner"
        return (StoreLine(joining.name, state, 0, 0, 0.0, 0.0, joining.reason),)

    def _state_of(self, name: str, lane: Lane | None) -> str:
        if lane is None:
            return "filling" if name == self._filling else "lost" if name in self._lost else "not voting"
        if lane.failures:
            return "silent"
        if lane.missing <= self._filled_missing[name]:
            return "voting"
        return "filling" if name == self._filling else "behind"
