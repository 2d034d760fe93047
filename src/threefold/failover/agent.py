"""The agent of a site: it keeps the copy, watches the active site, and carries out every switch to its own site.

Four loops beside each other, none of which can hold another up: read the journal, judge, act, tell. What they share
is what was last seen (`Sight`); what is true is asked of the journal again before anything is done.

Its end never ends a PostgreSQL that serves, nor the copy: whoever comes next adopts what runs.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from threefold.failover import switch as procedure
from threefold.failover.agent_beacon import AgentStatus, Pulse, read_agent, write_agent
from threefold.failover.deficiency import Deficiency, missing_now
from threefold.failover.journal import Journal
from threefold.failover.judgement import Patience
from threefold.failover.keeper import Keeper
from threefold.failover.policy import Action, Advice, Policy, advise
from threefold.failover.states import Event, State, after, may, state_after
from threefold.failover.steps import Active, Kind, Switch, Switches
from threefold.failover.switch import AbandonedError, Hands
from threefold.failover.verdicts import Kind as VerdictKind
from threefold.failover.verdicts import Verdict
from threefold.failover.watch import Judge, Watch
from threefold.kernel.clock import Clock
from threefold.kernel.errors import NotThere, Refused, ThreefoldError, Unavailable
from threefold.kernel.keys import Keyring
from threefold.kernel.lsn import Lsn
from threefold.kernel.report import Report
from threefold.protect.beacon import SILENCE_S as LEADER_SILENCE_S
from threefold.protect.beacon import read_leader
from threefold.quorum.reader import read_extent
from threefold.stores.store import ObjectStore

# A poll is a dozen small reads, which a provider bills; while something is going on they are worth it.
_JOURNAL_QUIET_S: Final = 0.5
_JOURNAL_S: Final = 0.1
_JUDGE_S: Final = 0.2
_ACT_S: Final = 0.2
_ACT_AGAIN_S: Final = 2.0
_BEACON_S: Final = 1.0
# For that long the journal may be unread before what was read last counts for nothing.
_BLIND_S: Final = 3.0
_SETTLE_S: Final = 10.0
_VOTING: Final = frozenset({"voting", "behind"})


@dataclass(frozen=True, slots=True)
class Place:
    """Our site, and how others reach its PostgreSQL (without the password)."""

    site: str
    dsn: str
    host: str
    machine: str


@dataclass(frozen=True, slots=True)
class Means:
    """What an agent works with."""

    place: Place
    stores: Mapping[str, ObjectStore]
    keyring: Keyring
    clock: Clock
    report: Report
    journal: Journal
    keeper: Keeper
    watch: Watch
    patience: Patience
    policy: Policy
    hands: Hands  # of a switch to us
    others: tuple[str, ...]  # the sites beside ours
    follow: Callable[[Active], str | None]  # how our copy reaches the active site's PostgreSQL


@dataclass(slots=True)
class Sight:
    """What was last seen."""

    switches: Switches | None = None
    active: Active | None = None
    read_at: float | None = None
    verdict: Verdict | None = None
    advice: Advice = field(default_factory=lambda: Advice(Action.NOTHING, "it has not looked yet"))
    state: State = State.PROTECTED
    role: str = "preparing"
    deficiency: Deficiency = field(default_factory=Deficiency)


class Agent:
    """One site's. `run` until it is cancelled."""

    def __init__(self, means: Means, *, goes_on: bool = False) -> None:
        """``goes_on``: for one that came to work before; what is refused to it is waited for, and does not end it."""
        self._with = means
        self.sight = Sight()
        self._run_id = means.clock.new_id()
        self._beat = 0
        self._moved = asyncio.Event()
        self._told: dict[str, str] = {}
        self._pulses = {site: Pulse(means.clock) for site in means.others}
        self._leader = Pulse(means.clock, LEADER_SILENCE_S)
        self._counted_at: float | None = None
        self._stopped_at: float | None = None
        self._acted = goes_on

    async def run(self) -> None:
        await self._remember()
        try:
            # The watch is left last: left first, it would stop looking as soon as the loops are started.
            async with self._with.watch, asyncio.TaskGroup() as group:
                for loop in (self._reads(), self._judges(), self._acts(), self._tells()):
                    group.create_task(loop)
        except BaseExceptionGroup as group:
            ours = [each for each in group.exceptions if isinstance(each, ThreefoldError)]
            raise (ours or group.exceptions)[0] from None
        finally:
            self.sight.role = "stopped"
            await asyncio.shield(self._tell())

    # --- read ---

    async def _reads(self) -> None:
        while True:
            await self._read()
            await self._with.clock.sleep(_JOURNAL_S if self._restless else _JOURNAL_QUIET_S)

    @property
    def between_switches(self) -> bool:
        """No switch that is known is under way: whoever ends this agent and starts another one holds nothing up."""
        newest = self.sight.switches.newest if self.sight.switches else None
        return newest is None or newest.concluded

    @property
    def had_copy(self) -> bool:
        """What lies, or lay, in the data folder was made a copy of the log: the leave to do so is used up."""
        return self._with.keeper.had_copy

    @property
    def _restless(self) -> bool:
        """A switch is not at its end, or may be ordered any moment."""
        newest = self.sight.switches.newest if self.sight.switches else None
        return self.sight.state is not State.PROTECTED or (newest is not None and not newest.concluded)

    async def _read(self) -> None:
        sight, now = self.sight, self._with.clock.monotonic
        try:
            switches = await self._with.journal.read()
        except Unavailable as error:
            if sight.read_at is None or now() - sight.read_at > _BLIND_S:
                sight.switches = sight.active = None
                self._once("journal", f"the journal of switches cannot be read: {error.message}")
            return
        sight.read_at = now()
        if switches != sight.switches:
            sight.switches, sight.active = switches, switches.active(self._with.journal.primary_site)
            self._told.pop("journal", None)
            self._moved.set()

    # --- judge ---

    async def _judges(self) -> None:
        """One judge for as long as one site is active."""
        while True:
            active = self.sight.active
            if active is None or active.site == self._with.place.site:
                self.sight.verdict = None
                self._advise()
                await self._with.clock.sleep(_JUDGE_S)
                continue
            async with Judge(self._with.watch, watched=active.site, patience=self._with.patience) as judge:
                while self.sight.active is None or self.sight.active.site == active.site:
                    position = self._with.keeper.position
                    if position is not None and position.received is not None and position.streaming:
                        judge.stream(position.received)
                    self.sight.verdict = judge.verdict()
                    self._advise()
                    if self.sight.advice.action is Action.ORDER:
                        await self._order(self.sight.verdict)
                    await self._with.clock.sleep(_JUDGE_S)

    def _advise(self) -> None:
        sight = self.sight
        verdict = sight.verdict or Verdict(VerdictKind.UNKNOWN, "nothing is watched", (), 0.0)
        before = sight.advice
        sight.advice = advise(
            policy=self._with.policy,
            site=self._with.place.site,
            switches=sight.switches,
            active=sight.active,
            verdict=verdict,
            copy=self._with.keeper.copy,
        )
        if sight.advice.action is Action.ASK and before.action is not Action.ASK:
            self._with.report(sight.advice.sentence, level="error")
        self._state(verdict)

    def _state(self, verdict: Verdict) -> None:
        sight = self.sight
        if sight.switches is None and sight.read_at is None:
            return  # not looked yet
        base = state_after(sight.switches.all) if sight.switches is not None else sight.state
        if base in {State.PROTECTED, State.ABANDONED}:
            ill = verdict.kind not in {VerdictKind.HEALTHY, VerdictKind.UNKNOWN, VerdictKind.STORE_FAILURE}
            blind = sight.switches is None or verdict.kind is VerdictKind.CUT_OFF
            event = Event.LOST_STORES if blind else Event.DOUBTED if ill else Event.CLEARED
            base = after(base, event) if may(base, event) else base
        if base is not sight.state:
            self._with.report("state", before=sight.state.value, now=base.value, sentence=verdict.sentence)
            sight.state = base

    async def _order(self, verdict: Verdict) -> None:
        try:
            switch = await self._with.journal.order(
                to=self._with.place.site, reason=verdict.sentence, evidence=verdict.evidence
            )
        except ThreefoldError as error:
            self._once("order", f"no switch was ordered: {error.message}")
            return
        self._with.report("switch: ordered", level="warning", switch=switch.number, reason=verdict.sentence)
        await self._read()

    # --- act ---

    async def _acts(self) -> None:
        while True:
            pause = _ACT_S
            try:
                await self._act()
            except ThreefoldError as error:  # a first snapshot that is not there yet as well: it is tried again
                if isinstance(error, Refused) and not self._acted:
                    raise  # a person has to decide first: a database lies there that nobody gave up
                self._with.keeper.failed(error)
                waits = isinstance(error, NotThere) and not self._acted
                self._once("act", f"waiting: {error.message}" if waits else error.message, error.hint, waits=waits)
                pause = _ACT_AGAIN_S
            else:
                self._acted = self._acted or self.sight.active is not None
                self._told.pop("act", None)
            self._moved.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._moved.wait()

    async def _act(self) -> None:
        active, site = self.sight.active, self._with.place.site
        if active is None:
            return  # we see no two stores: the copy goes on as it is
        ours = self._switch_to_us()
        if ours is not None:
            await self._switch(ours)
        elif active.site == site:
            await self._be_active(active)
        else:
            await self._be_standby(active)

    def _switch_to_us(self) -> Switch | None:
        """One that is to be carried on: to our site, and not at its end."""
        switches = self.sight.switches
        for switch in reversed(switches.all if switches else ()):
            if switch.target == self._with.place.site and not switch.concluded:
                return switch
            if switch.took_over:
                return None
        return None

    async def _switch(self, switch: Switch) -> None:
        self.sight.role = "switching"
        try:
            if switch.step(Kind.SERVING) is None:
                switch = await procedure.to_serving(self._with.hands, switch)
                await self._read()
            self.sight.role = "active"
            await self._with.keeper.serve(start=True)
            await procedure.to_protected(self._with.hands, switch)
        except AbandonedError as abandoned:
            self._with.report("switch abandoned", level="warning", switch=switch.number, why=str(abandoned))
        await self._read()

    async def _be_active(self, active: Active) -> None:
        self.sight.role = "active"
        away, site = active.switch, self._with.place.site
        ours = away is not None and away.source == site and away.planned and bool(away.order.facts.get("agent"))
        if away is not None and ours and away.under_way:
            if away.step(Kind.STOPPED) is None:
                await self._stop_for(away)
            elif self._waited_too_long(away):
                await self._with.journal.abandon(
                    away.number, f"{away.target} has not gone on, and nobody is heard there"
                )
                await self._read()
            return
        self._stopped_at = None
        # A primary that no switch made active, and that no switch of ours has stopped, is its owner's to start.
        stopped = away is not None and ours and away.abandoned
        runs = await self._with.keeper.serve(start=active.made_active > 0 or stopped)
        if not runs:
            self._once("active", "the PostgreSQL of this site, which is the active one, does not run")

    def _waited_too_long(self, away: Switch) -> bool:
        """We have stopped for a planned switch, and whoever was to go on has died: nobody serves."""
        now = self._with.clock.monotonic()
        if self._stopped_at is None:
            self._stopped_at = now
        pulse = self._pulses.get(away.target)
        return now - self._stopped_at > procedure.STOP_PATIENCE_S and (pulse is None or not pulse.alive)

    async def _stop_for(self, away: Switch) -> None:
        self._with.report("stopping for a planned switch", switch=away.number, to=away.target)
        checkpoint = await self._with.keeper.stop_source()
        await self._until_logged(checkpoint)
        await self._with.journal.propose(away, Kind.STOPPED, lsn=checkpoint)
        await self._read()

    async def _until_logged(self, checkpoint: Lsn) -> None:
        """The shutdown's last record is the log's: without it our folder would have to be rebuilt."""
        until = self._with.clock.monotonic() + _SETTLE_S
        while self._with.clock.monotonic() < until:
            try:
                extent = await read_extent(self._with.stores, self._with.keyring, self._with.clock)
                if extent.end > checkpoint:
                    return
            except ThreefoldError as error:
                self._once("settle", error.message)
            await self._with.clock.sleep(_ACT_S)
        self._with.report("the log lacks the end of the source's WAL", level="warning", checkpoint=str(checkpoint))

    async def _be_standby(self, active: Active) -> None:
        self.sight.role = "standby" if self._with.keeper.copy.ready else "preparing"
        won = next((each for each in (active.switch,) if each is not None and each.took_over), None)
        if won is not None and won.source == self._with.place.site and won.step(Kind.STOPPED) is not None:
            await self._with.keeper.demoted()
        await self._with.keeper.keep(self._with.follow(active))
        if self._with.keeper.copy.ready:
            self.sight.role = "standby"

    # --- tell ---

    async def _tells(self) -> None:
        while True:
            await self._count()
            await self._tell()
            await self._with.clock.sleep(_BEACON_S)

    async def _tell(self) -> None:
        await write_agent(self._with.stores, self.status(), self._with.keyring, self._with.clock)

    async def _count(self) -> None:
        """What is missing now, and for how long."""
        sight, now = self.sight, self._with.clock.monotonic()
        leader = await read_leader(self._with.stores, self._with.keyring)
        protected_why = "no DRaaS server protects it"
        voting = None
        if leader is not None:
            self._leader.look(leader.epoch, leader.beat)
            voting = sum(line.state in _VOTING for line in leader.stores)
            protected_why = "" if self._leader.alive and leader.state != "stopped" else "the DRaaS server is silent"
        if sight.state is State.SERVING_UNPROTECTED:
            protected_why = protected_why or "its new timeline has no snapshot yet"
        standby_ready, standby_why = await self._standby_ready()
        missing = missing_now(
            stores_voting=voting if self._leader.alive else None,
            standby_ready=standby_ready,
            standby_why=standby_why,
            protected=not protected_why,
            protected_why=protected_why,
        )
        passed = now - self._counted_at if self._counted_at is not None else 0.0
        before = sight.deficiency.deficient
        if self._leader.watched_long_enough:
            sight.deficiency = sight.deficiency.observe(passed, missing)
        self._counted_at = now
        if sight.deficiency.deficient != before:
            lacks = "; ".join(each.text for each in sight.deficiency.lacks())
            self._with.report("deficient" if not before else "redundant again", level="warning", lacks=lacks)

    async def _standby_ready(self) -> tuple[bool, str]:
        """Whether somewhere a copy is ready: ours, or, where we are active, another agent's."""
        active = self.sight.active
        if active is not None and active.site != self._with.place.site:
            copy = self._with.keeper.copy
            return copy.ready, copy.why
        for site, pulse in self._pulses.items():
            status = await read_agent(self._with.stores, site, self._with.keyring)
            if status is not None:
                pulse.look(status.run, status.beat)
                if pulse.alive and status.copy_ready and status.role == "standby":
                    return True, ""
        return False, f"nobody keeps a copy at {' or '.join(self._pulses) or 'another site'}"

    def status(self) -> AgentStatus:
        means, sight = self._with, self.sight
        self._beat += 1
        newest = sight.switches.newest if sight.switches else None
        verdict, position = sight.verdict, means.keeper.position
        seen: dict[str, Any] = {}
        if position is not None:
            seen = {
                "received": str(position.received) if position.received is not None else None,
                "replayed": str(position.replayed),
                "timeline": position.timeline,
                "streaming": position.streaming,
                "replay_age_s": position.replay_age_s,
            }
        return AgentStatus(
            site=means.place.site,
            run=self._run_id,
            beat=self._beat,
            at=means.clock.now().isoformat(timespec="milliseconds"),
            host=means.place.host,
            machine=means.place.machine,
            pid=os.getpid(),
            state=sight.state.value,
            role=sight.role,
            active=sight.active.site if sight.active else "",
            switch=newest.number if newest else 0,
            step=newest.last.kind.value if newest else "",
            step_at=newest.last.at if newest else "",
            order_at=newest.order.at if newest else "",
            target=newest.target if newest else "",
            copy_ready=means.keeper.copy.ready and sight.role == "standby",
            copy_why=means.keeper.copy.why,
            position=seen,
            verdict=verdict.kind.value if verdict else "",
            sentence=verdict.sentence if verdict else "",
            evidence=list(verdict.evidence) if verdict else [],
            verdict_s=round(verdict.lasted_s, 1) if verdict else 0.0,
            give_up=verdict.give_up if verdict else False,
            advice=sight.advice.sentence,
            action=sight.advice.action.value,
            policy=means.policy,
            deficiency=sight.deficiency.record(),
        )

    async def _remember(self) -> None:
        """The deficiency goes on over a restart; how long we were away is the difference of two wall times."""
        before = await read_agent(self._with.stores, self._with.place.site, self._with.keyring)
        if before is not None and before.deficiency:
            away = (self._with.clock.now() - datetime.fromisoformat(before.at)).total_seconds()
            self.sight.deficiency = Deficiency.from_record(before.deficiency, away_s=away)

    def _once(self, about: str, sentence: str, hint: str = "", *, waits: bool = False) -> None:
        """``waits``: for what is to come, as a first snapshot is."""
        if self._told.get(about) != sentence:
            self._told[about] = sentence
            self._with.report(sentence, level="info" if waits else "warning", **({"hint": hint} if hint else {}))
