"""One run: a system, what befalls it, and the judgement at the end.

`Plan` says what may happen and how often; `plan_of(seed)` draws one, so that every seed is a different world.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from tests.simulation.checker import Checker, Violation
from tests.simulation.leader import LOG_ID, Aim, Leader, MemoCodec, Reader
from tests.simulation.replacing import Operator
from tests.simulation.switching import Agent, Doubter, promoted
from tests.simulation.wal import ORIGIN, Primary, Timeline
from tests.simulation.world import STORES, Faults, SimStore, World, at_once
from threefold.failover.deciding import Desk
from threefold.kernel.errors import Damaged, Refused, Unavailable
from threefold.kernel.keys import Keyring
from threefold.quorum import keys, reading, walk
from threefold.quorum.appender import Limits
from threefold.quorum.members import Format
from threefold.quorum.membership import FOUNDED, Membership, MovedError, Named
from threefold.quorum.objects import SEAL_BYTES
from threefold.quorum.view import Scope
from threefold.quorum.walk import Found

LIVE_WITHIN_S = 600.0


@dataclass(frozen=True)
class Plan:
    """What may happen, and how often (mean seconds between two of a kind; 0 for never)."""

    seconds: float = 60.0
    segment_bytes: int = 128
    bundle_slots: int = 4
    entry_bytes: int = 16
    write_every: float = 0.15
    fault: float = 0.03  # how likely a request meets each kind of fault
    outage_every: float = 12.0
    stall_every: float = 8.0
    stall_seconds: float = 30.0
    crash_every: float = 15.0
    contend_every: float = 10.0
    blind: float = 0.4  # contenders that do not look first
    disaster_every: float = 25.0
    partition: float = 0.5  # disasters that only cut the site off: it lives on
    read_every: float = 6.0
    wipe_every: float = 0.0
    damage_every: float = 0.0
    sleepy: float = 0.5  # stalls that begin just when somebody else takes over
    switch_every: float = 0.0  # then other sites become active by switches alone
    replace_every: float = 0.0  # stores are replaced by others


def plan_of(world: World) -> Plan:
    rng = world.rng
    plan = Plan(
        seconds=rng.choice((15.0, 25.0, 40.0)),
        segment_bytes=rng.choice((64, 64, 128, 256)),
        entry_bytes=rng.choice((6, 12, 40)),
        write_every=rng.choice((0.15, 0.3, 0.6)),
        fault=rng.choice((0.0, 0.01, 0.04, 0.1)),
        outage_every=rng.choice((6.0, 20.0)),
        stall_every=rng.choice((3.0, 8.0)),
        stall_seconds=rng.choice((4.0, 20.0, 90.0)),
        crash_every=rng.choice((6.0, 20.0)),
        contend_every=rng.choice((3.0, 10.0)),
        disaster_every=rng.choice((7.0, 25.0)),
        blind=rng.choice((0.2, 0.8)),
    )
    special = rng.random()
    if special < 0.25:
        return replace(plan, wipe_every=8.0)
    if special < 0.45:
        return replace(plan, damage_every=4.0)
    return plan


class Run:
    """A seed's world, from nothing to the verdict."""

    def __init__(self, seed: object, plan: Callable[[World], Plan] = plan_of, *, verbose: bool = False) -> None:
        self.world = World(seed, verbose=verbose)
        self.plan = plan(self.world)
        self.world.note(f"seed {seed}: {self.plan}")
        self.codec = MemoCodec()
        self.checker = Checker(self.world, self.codec)
        self.limits = Limits(entry_bytes=self.plan.entry_bytes, lag_bytes=4000, segments_waiting=3)
        self.leaders: list[Leader] = []
        self.primaries: list[Primary] = []
        self.agents: list[Agent] = []
        self.desk = Desk(STORES, Keyring(bytes(32)))
        self.ends: dict[int, Timeline] = {}  # by epoch: where switches fenced
        self.promoted: dict[int, Primary] = {}  # by switch
        self.known = Named(STORES)  # what the settings of whoever starts now name
        self.reach: tuple[str, ...] | None = None  # of who starts now
        self.operator = Operator(self)
        self.leads = 0
        self._names = 0
        self._over = False
        self._appended = False  # by the last leader, after everything healed
        for store in self.world.stores.values():
            self.format(store)
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
        plan, world = self.plan, self.world
        first = Primary(Timeline(f"{world.seed}/1", 1), ORIGIN)
        self.primaries.append(first)
        self._lead(first, looks=True)
        self._again(plan.write_every, self._write)
        self._again(plan.outage_every, self._outage)
        self._again(plan.stall_every, self._stall)
        self._again(plan.crash_every, self._crash)
        self._again(plan.contend_every, self._contend)
        self._again(0 if self.switches else plan.disaster_every, self._disaster)
        self._again(plan.switch_every, self._switch)
        self._again(plan.replace_every, self.operator.act)
        self._again(plan.read_every, self._read)
        self._again(plan.wipe_every, self._wipe)
        self._again(plan.damage_every, self._damage)
        self._again(2.0, self._watch_over)
        world.run(plan.seconds)
        self._heal()
        self._must_live()
        self._verdict()

    def _again(self, mean: float, action: Any) -> None:
        if not mean:
            return

        def happen() -> None:
            if not self._over:
                action()
                self._again(mean, action)

        self.world.at(self.world.rng.expovariate(1 / mean), happen)

    # --- what the system does by itself ---

    def _name(self, kind: str) -> str:
        self._names += 1
        return f"{kind}{self._names}"

    def _lead(self, primary: Primary, *, looks: bool, aim: Aim = None) -> Leader:
        with self.operator.settings():
            leader = Leader(self, self._name("leader"), primary, looks=looks, aim=aim)
        self.leaders.append(leader)
        return leader

    def lead_again(self, leader: Leader, aim: Aim) -> None:
        """The epoch is ended, and the next one begun with this change: in production by one process."""
        leader.crash("leads again")
        if not leader.primary.obsolete:
            again = Leader(self, self._name("leader"), leader.primary, looks=True, aim=aim)
            again.known = leader.known
            self.leaders.append(again)

    def lead_with(self, primary: Primary, known: Named, aim: Aim) -> None:
        """Somebody whose settings are these, and who wants that change."""
        leader = Leader(self, self._name("leader"), primary, looks=True, aim=aim)
        leader.known = known
        self.leaders.append(leader)

    def leading(self, leader: Leader) -> None:
        self.leads += 1
        if self.replaces:
            self.operator.leading(leader)

    def acknowledged(self, primary: Primary) -> None:
        self._appended |= isinstance(primary, _Last) and primary.acked >= primary.target

    def stopped(self, leader: Leader, error: Exception) -> None:
        """A leader gave up. Contradictions are never an answer that the protocol may give."""
        if isinstance(error, Refused | ValueError) and not isinstance(error, Unavailable):
            raise Violation(f"{leader.name} met a contradiction: {error}")

    def _living(self) -> list[Leader]:
        self.leaders = [leader for leader in self.leaders if leader.alive]
        return self.leaders

    def _write(self) -> None:
        for primary in self.primaries:
            if primary.alive and primary.flushed - primary.acked < 300:
                primary.write(self.world.rng)
                for leader in self._living():
                    if leader.primary is primary and leader.appender is not None:
                        leader.deliver(leader.offer)

    def _watch_over(self) -> None:
        """Supervision: an instance per primary is started again; a system without a primary is recovered."""
        for leader in list(self._living()):
            if leader.stuck and not leader.stalled:
                leader.crash("is stuck, and is started anew")
        self.primaries = [p for p in self.primaries if p.alive and not p.obsolete]
        for primary in self.primaries:
            if not any(leader.primary is primary for leader in self._living()):
                self._lead(primary, looks=True)
        if self.switches:
            self._watch_over_switches()
        elif not self.primaries:
            self._recover(None if self.replaces else STORES)

    def _watch_over_switches(self) -> None:
        """An agent takes up what another one left, and acts when no primary is left."""
        self.agents = [agent for agent in self.agents if agent.alive]
        lost = not any(primary.alive for primary in self.primaries)
        if not self.agents and self.checker.acks and (lost or self.world.rng.random() < 0.3):
            newest = max(self.promoted, default=0)
            if lost or newest not in self.promoted or not self.promoted[newest].alive:
                self.agents.append(Agent(self, self._name("agent")))

    def promote(self, agent: Agent, number: int, line: Timeline, end: int, *, last: bool) -> None:
        """Once for each switch, whoever carries it out."""
        if number in self.promoted:
            return
        primary = self.promoted[number] = promoted(self.world.seed, number, line, end, _Last if last else Primary)
        self.world.note(f"{agent.name} promotes {primary.timeline} at {primary.flushed}")
        self.checker.promotes(number, primary.timeline, agent.name)
        if isinstance(primary, _Last):
            self._lead_last(primary)
        else:
            self.primaries.append(primary)

    def _recover(self, stores: tuple[str, ...] | None) -> None:
        def promote(reader: Reader, found: Found, line: Timeline) -> None:
            fork = line.whole(found.end)
            name = f"{self.world.seed}/{found.timeline + 1}-{reader.name}"
            primary = Primary(Timeline(name, found.timeline + 1, line, fork), fork)
            self.world.note(f"{reader.name} promotes {name} at {fork}")
            self.primaries.append(primary)
            self._lead(primary, looks=self.world.rng.random() > self.plan.blind)

        with self.operator.settings():
            Reader(self, self._name("recovery"), stores, promote)

    # --- what befalls it ---

    def _outage(self) -> None:
        rng = self.world.rng
        names = rng.sample(tuple(self.world.stores), 2 if rng.random() < 0.15 else 1)
        for name in names:
            store = self.world.stores[name]
            self.world.note(f"{name} is unreachable")
            store.up = False

            def back(store: SimStore = store) -> None:
                store.up = True

            self.world.at(rng.expovariate(1 / 5), back)

    def _stall(self) -> None:
        rng, living = self.world.rng, self._living()
        if not living:
            return
        leader = rng.choice(living)
        leader.stall(rng.expovariate(1 / self.plan.stall_seconds))
        if rng.random() < self.plan.sleepy:  # somebody thinks that it is dead
            blind = rng.random() < self.plan.blind
            if leader.primary.alive and rng.random() < 0.6:
                self._lead(leader.primary, looks=not blind)
            elif self.switches:
                self._switch()
            else:
                self._recover(self._pair())

    def _crash(self) -> None:
        living = self._living()
        if living:
            self.world.rng.choice(living).crash()

    def _contend(self) -> None:
        rng = self.world.rng
        standing = [primary for primary in self.primaries if primary.alive]
        if standing and len(self._living()) < 5:
            self._lead(rng.choice(standing), looks=rng.random() > self.plan.blind)

    def _disaster(self) -> None:
        rng = self.world.rng
        standing = [primary for primary in self.primaries if primary.alive]
        if not standing or len(standing) > 3:
            return
        primary = rng.choice(standing)
        if rng.random() > self.plan.partition:
            self.world.note(f"the site of {primary.timeline} is lost")
            primary.alive = False
            for leader in self._living():
                if leader.primary is primary and rng.random() < 0.5:
                    leader.crash("is lost with its site")
        for _ in range(2 if rng.random() < 0.3 else 1):  # two sites may recover at once
            self._recover(self._pair())

    def _switch(self) -> None:
        """Another site is made active, rightly or not; the old one may live, and others want to lead for it."""
        rng = self.world.rng
        if not self.checker.acks:
            return
        if not any(agent.alive for agent in self.agents):
            for _ in range(2 if rng.random() < 0.25 else 1):
                agent = Agent(self, self._name("agent"))
                self.agents.append(agent)
                if rng.random() < 0.4:
                    self.world.at(rng.random(), partial(agent.stall, rng.expovariate(1 / 4)))
                elif rng.random() < 0.2:
                    self.world.at(rng.random(), agent.crash)
        if rng.random() < 0.5:
            self.world.at(rng.random() * 2, self._doubt)
        for primary in [each for each in self.primaries if each.alive]:
            if rng.random() < 0.3:
                self.world.note(f"the site of {primary.timeline} is lost")
                primary.alive = False
            for _ in range(rng.choice((1, 2, 3))):
                self.world.at(rng.random() ** 2, partial(self._late_leader, primary))

    def _doubt(self) -> None:
        Doubter(self, self._name("doubter"))

    def _late_leader(self, primary: Primary) -> None:
        """Somebody who wants to lead for the site that is being left, and falls asleep on the way."""
        rng = self.world.rng
        if len(self._living()) < 8:
            leader = self._lead(primary, looks=rng.random() > self.plan.blind)
            if rng.random() < 0.8:
                self.world.at(rng.random() ** 2 / 2, partial(leader.stall, rng.expovariate(1 / 3)))

    def _read(self) -> None:
        with self.operator.settings():
            Reader(self, self._name("reader"), self._pair())

    def _pair(self) -> tuple[str, ...]:
        """What somebody can reach of the stores that its settings name."""
        rng, named = self.world.rng, self.known.stores
        return named if rng.random() < 0.3 else tuple(sorted(rng.sample(named, len(named) - 1)))

    def _wipe(self) -> None:
        """A store loses its disk, is made anew, and perhaps filled: never a second one before the first is whole."""
        rng, world = self.world.rng, self.world
        if self._members() != list(STORES):
            return
        store = world.stores[rng.choice(STORES)]
        world.note(f"{store.name} loses its disk")
        store.wipe()

        def made_anew() -> None:
            world.note(f"{store.name} is made anew, empty")
            store.gone = False

        world.at(rng.expovariate(1 / 4), made_anew)
        world.at(rng.uniform(4, 12), lambda: self._fill(store))

    def _members(self) -> list[str]:
        return [name for name, store in self.world.stores.items() if keys.FORMAT in store.objects]

    def _fill(self, store: SimStore) -> None:
        """Repair, done by the newest leader: never one that still counts on what the store said before.

        Were a store a member again while a writer of the newest claim counts its old answers, one real copy could
        look like two.
        """
        others = [other for other in self.world.stores.values() if other is not store]
        claims = {keys.last_number(key) for other in others for key in other.objects if key.startswith(keys.EPOCHS)}
        newest = max(claims, default=0)
        ready = all(other.up and not other.gone for other in others) and not store.gone
        if not ready or not any(
            leader.alive and leader.epoch == newest and leader.appender and store.name not in leader.appender.lanes
            for leader in self.leaders
        ):
            if not self._over:
                self.world.at(1.0, lambda: self._fill(store))
            return
        for other in others:
            for key, body in other.objects.items():
                if key != keys.FORMAT and len(store.objects.get(key, b"")) <= SEAL_BYTES:
                    store.keep(key, body, self.world.now)  # an entry outweighs a seal: it may have been acknowledged
        self.format(store)
        self.world.note(f"{store.name} is filled and a member again")

    def format(self, store: SimStore) -> None:
        store.keep(keys.FORMAT, Format(LOG_ID, "key", str(store.incarnation)).encode(), self.world.now)

    def _damage(self) -> None:
        """One copy of an object loses a bit; never two copies of one object."""
        rng, stores = self.world.rng, self.world.stores
        store = stores[rng.choice(STORES)]
        whole = [
            key
            for key in store.objects
            if key.startswith((keys.LOG, keys.WAL, keys.BUNDLES))
            and not any(key in other.damaged for other in stores.values())
        ]
        if not whole:
            return
        key = rng.choice(whole[-40:])
        body = bytearray(store.objects[key])
        body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
        store.damaged[key] = bytes(body)
        self.world.note(f"{store.name} damages {key}")

    # --- the end ---

    def _heal(self) -> None:
        self._over = True
        self.world.note("everything heals")
        for store in self.world.stores.values():
            store.up, store.gone, store.faults = True, False, Faults()

    def _must_live(self) -> None:
        """4 Live: a new leader comes up and appends within bounded time."""
        world = self.world
        before = self.checker.promises()
        until = world.now + LIVE_WITHIN_S

        def appended() -> bool:
            return self._appended and not (self.replaces and self.known.joining)  # and what was wanted is done

        def promote(reader: Reader, found: Found, line: Timeline) -> None:
            fork = line.whole(found.end)
            number = found.timeline + 1
            self._lead_last(_Last(Timeline(f"{world.seed}/{number}-{reader.name}", number, line, fork), fork))

        def anew() -> None:
            first = Timeline(f"{world.seed}/1 again", 1)
            self._lead_last(_Last(first, ORIGIN))

        def supervise() -> None:
            last = [p for p in self.primaries if isinstance(p, _Last)]
            for leader in self._living():
                if leader.stuck and not leader.stalled:
                    leader.crash("is stuck, and is started anew")
            newest = max((leader.epoch for leader in self._living() if leader.appender), default=0)
            for leader in self._living():
                if leader.appender and leader.epoch < newest and not leader.stalled:
                    leader.crash("hears of a newer epoch")  # by its beacon: who has nothing to write meets no seal
            busy = [leader for leader in self._living() if leader.primary in last and not leader.stuck]
            if not busy and not any(r.alive for r in [*recovering, *self.agents]):
                standing = [p for p in last if not p.obsolete]
                if standing:
                    self._lead(standing[-1], looks=True)
                    if self.switches:
                        self.agents.append(Agent(self, self._name("agent"), orders=False))
                elif self.switches and self.checker.acks:
                    self.agents.append(Agent(self, self._name("agent"), last=True))
                else:
                    recovering.append(Reader(self, self._name("recovery"), None, promote, anew))
            world.at(1.0, supervise)

        recovering: list[Reader] = []
        supervise()
        world.run(until, appended)
        if not appended():
            raise Violation(
                f"4 live: no leader appended, or a replacement did not end, within {LIVE_WITHIN_S} s after {before}"
            )

    def _lead_last(self, last: _Last) -> None:
        for _ in range(12):
            last.timeline.grow()
        last.flushed = last.target = last.timeline.end
        self.primaries.append(last)
        self._lead(last, looks=True)

    def _verdict(self) -> None:
        """Any two members rebuild all that was acknowledged."""
        self.checker.settled_reading = True
        if self.replaces:
            self.operator.verdict()
        membership = self._in_force()
        members = [store for store in self._members() if store in (membership.stores or STORES)]
        scopes = [tuple(members)]
        if len(members) == 3:
            scopes += [(members[0], members[1]), (members[0], members[2]), (members[1], members[2])]
        acked = self.checker.promises()
        for stores in scopes:
            scope = self.scope(stores, "0" * 32, membership)
            try:
                found = at_once(self.world, reading.read_log(scope), stores)
                if found is None:
                    self.checker.never_began(acked, f"the reader of {stores}")
                else:
                    at_once(self.world, self.checker.verify(scope, found, acked, f"the reader of {stores}"), stores)
            except MovedError as moved:
                raise Violation(f"7 one membership: {stores} say that {moved}, not {membership}") from None
            except (TimeoutError, Damaged):
                # Two stores may be too few where one copy is damaged: then they say so, and do not guess.
                if not self.plan.damage_every or len(stores) == 3:
                    raise Violation(f"1 durable: {stores} cannot be read") from None

    def _in_force(self) -> Membership:
        membership = FOUNDED
        for _ in range(8 if self.replaces else 0):
            stores = membership.stores or STORES
            try:
                at_once(self.world, reading.read_log(self.scope(stores, "0" * 32, membership)), stores)
            except MovedError as moved:
                membership = moved.membership
            else:
                return membership
        if self.replaces:
            raise Violation("7 one membership: each of two says that the other one is in force")
        return membership


class _Last(Primary):
    """The primary that has to come up at the end."""

    target = 0
