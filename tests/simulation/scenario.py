"""One run: a system, what befalls it, and the judgement at the end.

`plan.py` says what may happen and how often. What happens to sites, leaders and lines is in misfortune.py, what to the
stores' disks in disks.py, how it ends and is judged in ending.py; here is what the system does by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.simulation.checker import Checker, Violation
from tests.simulation.disks import Disks
from tests.simulation.ending import Ending, Last
from tests.simulation.leader import Aim, Leader, MemoCodec, Reader
from tests.simulation.misfortune import Misfortune
from tests.simulation.plan import Plan, plan_of
from tests.simulation.replacing import Operator
from tests.simulation.switching import Agent, promoted
from tests.simulation.wal import ORIGIN, Primary, Timeline
from tests.simulation.world import STORES, Faults, World
from threefold.failover.deciding import Desk
from threefold.kernel.errors import Refused, Unavailable
from threefold.kernel.keys import Keyring
from threefold.quorum import walk
from threefold.quorum.appender import Limits
from threefold.quorum.membership import FOUNDED, Membership, Named
from threefold.quorum.view import Scope
from threefold.quorum.walk import Found


class Run:
    """A seed's world, from nothing to the verdict."""

    def __init__(self, seed: object, plan: Callable[[World], Plan] = plan_of, *, verbose: bool = False) -> None:
        self.world = World(seed, verbose=verbose)
        self.plan = plan(self.world)
        self.world.note(f"seed {seed}: {self.plan}")
        self.codec = MemoCodec()
        self.checker = Checker(self.world, self.codec)
        self.limits = Limits(
            entry_bytes=self.plan.entry_bytes,
            lag_bytes=4000,
            flying_bytes=500 if self.plan.entry_bytes == 40 else 4000,  # three or four entries; never reached
            large_bytes=8,
            segments_waiting=3,
        )
        self.leaders: list[Leader] = []
        self.primaries: list[Primary] = []
        self.agents: list[Agent] = []
        self.desk = Desk(STORES, Keyring(bytes(32)))
        self.ends: dict[int, Timeline] = {}  # by epoch: where switches fenced
        self.promoted: dict[int, Primary] = {}  # by switch
        self.known = Named(STORES)  # what the settings of whoever starts now name
        self.reach: tuple[str, ...] | None = None  # of who starts now
        self.disks = Disks(self)
        self._ending = Ending(self)
        self.operator = Operator(self)
        self.leads = 0
        self._names = 0
        self._over = False
        self.appended = False  # by the last leader, after everything healed
        for store in self.world.stores.values():
            self.disks.format(store)
            f = self.plan.fault
            store.faults = Faults(lost=f, refused=f, late=f / 2, reply_lost=f, stale_lists=3 * f)

    @property
    def wipes(self) -> bool:
        return self.plan.wipe_every > 0

    @property
    def switches(self) -> bool:
        return self.plan.switch_every > 0

    @property
    def is_over(self) -> bool:
        """Everything healed."""
        return self._over

    @property
    def replaces(self) -> bool:
        return self.plan.replace_every > 0

    def scope(self, stores: tuple[str, ...], writer: str, membership: Membership = FOUNDED) -> Scope:
        return Scope(
            stores,
            self.codec,
            writer,
            segment_bytes=self.plan.segment_bytes,
            bundle_slots=self.plan.bundle_slots,
            membership=membership,
        )

    # --- the run ---

    def go(self) -> Run:
        """Run, heal, and judge. Raises Violation."""
        stride, walk._STRIDE = walk._STRIDE, 6  # a matter of speed alone
        try:
            self._go()
        finally:
            walk._STRIDE = stride
        return self

    def _go(self) -> None:
        plan, world, bad, end = self.plan, self.world, Misfortune(self), self._ending
        first = Primary(Timeline(f"{world.seed}/1", 1), ORIGIN)
        self.primaries.append(first)
        self.lead(first, looks=True)
        self._again(plan.write_every, self._write)
        self._again(plan.outage_every, bad.outage)
        self._again(plan.stall_every, bad.stall)
        self._again(plan.crash_every, bad.crash)
        self._again(plan.contend_every, bad.contend)
        self._again(0 if self.switches else plan.disaster_every, bad.disaster)
        self._again(plan.switch_every, bad.switch)
        self._again(plan.replace_every, self.operator.act)
        self._again(plan.read_every, self._read)
        self._again(plan.wipe_every, self.disks.wipe)
        self._again(plan.damage_every, self.disks.damage)
        self._again(2.0, self._watch_over)
        world.run(plan.seconds)
        self._over = True
        end.heal()
        end.must_live()
        end.verdict()

    def _again(self, mean: float, action: Any) -> None:
        if not mean:
            return

        def happen() -> None:
            if not self._over:
                action()
                self._again(mean, action)

        self.world.at(self.world.rng.expovariate(1 / mean), happen)

    # --- what the system does by itself ---

    def name(self, kind: str) -> str:
        self._names += 1
        return f"{kind}{self._names}"

    def lead(self, primary: Primary, *, looks: bool, aim: Aim = None) -> Leader:
        with self.operator.settings():
            leader = Leader(self, self.name("leader"), primary, looks=looks, aim=aim)
        self.leaders.append(leader)
        return leader

    def lead_again(self, leader: Leader, aim: Aim) -> None:
        """The epoch is ended, and the next one begun with this change: in production by one process."""
        leader.crash("leads again")
        if not leader.primary.obsolete:
            again = Leader(self, self.name("leader"), leader.primary, looks=True, aim=aim)
            again.known = leader.known
            self.leaders.append(again)

    def lead_with(self, primary: Primary, known: Named, aim: Aim) -> None:
        """Somebody whose settings are these, and who wants that change."""
        leader = Leader(self, self.name("leader"), primary, looks=True, aim=aim)
        leader.known = known
        self.leaders.append(leader)

    def leading(self, leader: Leader) -> None:
        self.leads += 1
        if self.replaces:
            self.operator.leading(leader)

    def acknowledged(self, primary: Primary) -> None:
        self.appended |= isinstance(primary, Last) and primary.acked >= primary.target

    def stopped(self, leader: Leader, error: Exception) -> None:
        """A leader gave up. Contradictions are never an answer that the protocol may give."""
        if isinstance(error, Refused | ValueError) and not isinstance(error, Unavailable):
            raise Violation(f"{leader.name} met a contradiction: {error}")

    def living(self) -> list[Leader]:
        self.leaders = [leader for leader in self.leaders if leader.alive]
        return self.leaders

    def _write(self) -> None:
        for primary in self.primaries:
            if primary.alive and primary.flushed - primary.acked < 300:
                primary.write(self.world.rng)
                for leader in self.living():
                    if leader.primary is primary and leader.appender is not None:
                        leader.deliver(leader.offer)

    def _watch_over(self) -> None:
        """Supervision: an instance per primary is started again; a system without a primary is recovered."""
        for leader in list(self.living()):
            if leader.stuck and not leader.stalled:
                leader.crash("is stuck, and is started anew")
        self.primaries = [p for p in self.primaries if p.alive and not p.obsolete]
        for primary in self.primaries:
            if not any(leader.primary is primary for leader in self.living()):
                self.lead(primary, looks=True)
        if self.switches:
            self._watch_over_switches()
        elif not self.primaries:
            self.recover(None if self.replaces else STORES)

    def _watch_over_switches(self) -> None:
        """An agent takes up what another one left, and acts when no primary is left."""
        self.agents = [agent for agent in self.agents if agent.alive]
        lost = not any(primary.alive for primary in self.primaries)
        if not self.agents and self.checker.acks and (lost or self.world.rng.random() < 0.3):
            newest = max(self.promoted, default=0)
            if lost or newest not in self.promoted or not self.promoted[newest].alive:
                self.agents.append(Agent(self, self.name("agent")))

    def promote(self, agent: Agent, number: int, line: Timeline, end: int, *, last: bool) -> None:
        """Once for each switch, whoever carries it out."""
        if number in self.promoted:
            return
        primary = self.promoted[number] = promoted(self.world.seed, number, line, end, Last if last else Primary)
        self.world.note(f"{agent.name} promotes {primary.timeline} at {primary.flushed}")
        self.checker.promotes(number, primary.timeline, agent.name)
        if isinstance(primary, Last):
            self._ending.lead_last(primary)
        else:
            self.primaries.append(primary)

    def recover(self, stores: tuple[str, ...] | None) -> None:
        def promote(reader: Reader, found: Found, line: Timeline) -> None:
            fork = line.whole(found.end)
            name = f"{self.world.seed}/{found.timeline + 1}-{reader.name}"
            primary = Primary(Timeline(name, found.timeline + 1, line, fork), fork)
            self.world.note(f"{reader.name} promotes {name} at {fork}")
            self.primaries.append(primary)
            self.lead(primary, looks=self.world.rng.random() > self.plan.blind)

        with self.operator.settings():
            Reader(self, self.name("recovery"), stores, promote)

    def _read(self) -> None:
        with self.operator.settings():
            Reader(self, self.name("reader"), self.pair())

    def pair(self) -> tuple[str, ...]:
        """What somebody can reach of the stores that its settings name."""
        rng, named = self.world.rng, self.known.stores
        return named if rng.random() < 0.3 else tuple(sorted(rng.sample(named, len(named) - 1)))
