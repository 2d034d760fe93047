"""The end of a run: everything heals, a new leader must come up, and any two members tell all that was acknowledged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.simulation.checker import Violation
from tests.simulation.leader import Reader
from tests.simulation.switching import Agent
from tests.simulation.wal import ORIGIN, Primary, Timeline
from tests.simulation.world import STORES, Faults, at_once
from threefold.kernel.errors import Damaged
from threefold.quorum import reading
from threefold.quorum.membership import FOUNDED, Membership, MovedError
from threefold.quorum.walk import Found

if TYPE_CHECKING:
    from tests.simulation.scenario import Run

LIVE_WITHIN_S = 600.0


class Last(Primary):
    """The primary that has to come up at the end."""

    target = 0


class Ending:
    """Of one run."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._world = run.world
        self._plan = run.plan

    def heal(self) -> None:
        self._world.note("everything heals")
        for store in self._world.stores.values():
            store.up, store.gone, store.faults = True, False, Faults()

    def must_live(self) -> None:
        """4 Live: a new leader comes up and appends within bounded time."""
        world = self._world
        before = self._run.checker.promises()
        until = world.now + LIVE_WITHIN_S

        def appended() -> bool:  # and what was wanted is done
            return self._run.appended and not (self._run.replaces and self._run.known.joining)

        def promote(reader: Reader, found: Found, line: Timeline) -> None:
            fork = line.whole(found.end)
            number = found.timeline + 1
            self.lead_last(Last(Timeline(f"{world.seed}/{number}-{reader.name}", number, line, fork), fork))

        def anew() -> None:
            first = Timeline(f"{world.seed}/1 again", 1)
            self.lead_last(Last(first, ORIGIN))

        def supervise() -> None:
            last = [p for p in self._run.primaries if isinstance(p, Last)]
            for leader in self._run.living():
                if leader.stuck and not leader.stalled:
                    leader.crash("is stuck, and is started anew")
            newest = max((leader.epoch for leader in self._run.living() if leader.appender), default=0)
            for leader in self._run.living():
                if leader.appender and leader.epoch < newest and not leader.stalled:
                    leader.crash("hears of a newer epoch")  # by its beacon: who has nothing to write meets no seal
            busy = [leader for leader in self._run.living() if leader.primary in last and not leader.stuck]
            if not busy and not any(r.alive for r in [*recovering, *self._run.agents]):
                standing = [p for p in last if not p.obsolete]
                if standing:
                    self._run.lead(standing[-1], looks=True)
                    if self._run.switches:
                        self._run.agents.append(Agent(self._run, self._run.name("agent"), orders=False))
                elif self._run.switches and self._run.checker.acks:
                    self._run.agents.append(Agent(self._run, self._run.name("agent"), last=True))
                else:
                    recovering.append(Reader(self._run, self._run.name("recovery"), None, promote, anew))
            world.at(1.0, supervise)

        recovering: list[Reader] = []
        supervise()
        world.run(until, appended)
        if not appended():
            raise Violation(
                f"4 live: no leader appended, or a replacement did not end, within {LIVE_WITHIN_S} s after {before}"
            )

    def lead_last(self, last: Last) -> None:
        for _ in range(12):
            last.timeline.grow()
        last.flushed = last.target = last.timeline.end
        self._run.primaries.append(last)
        self._run.lead(last, looks=True)

    def verdict(self) -> None:
        """Any two members rebuild all that was acknowledged."""
        self._run.checker.settled_reading = True
        if self._run.replaces:
            self._run.operator.verdict()
        membership = self._in_force()
        members = [store for store in self._run.disks.members() if store in (membership.stores or STORES)]
        scopes = [tuple(members)]
        if len(members) == 3:
            scopes += [(members[0], members[1]), (members[0], members[2]), (members[1], members[2])]
        acked = self._run.checker.promises()
        for stores in scopes:
            scope = self._run.scope(stores, "0" * 32, membership)
            try:
                found = at_once(self._world, reading.read_log(scope), stores)
                if found is None:
                    self._run.checker.never_began(acked, f"the reader of {stores}")
                else:
                    checked = self._run.checker.verify(scope, found, acked, f"the reader of {stores}")
                    at_once(self._world, checked, stores)
            except MovedError as moved:
                raise Violation(f"7 one membership: {stores} say that {moved}, not {membership}") from None
            except (TimeoutError, Damaged):
                # Two stores may be too few where one copy is damaged: then they say so, and do not guess.
                if not self._plan.damage_every or len(stores) == 3:
                    raise Violation(f"1 durable: {stores} cannot be read") from None

    def _in_force(self) -> Membership:
        membership = FOUNDED
        for _ in range(8 if self._run.replaces else 0):
            stores = membership.stores or STORES
            try:
                at_once(self._world, reading.read_log(self._run.scope(stores, "0" * 32, membership)), stores)
            except MovedError as moved:
                membership = moved.membership
            else:
                return membership
        if self._run.replaces:
            raise Violation("7 one membership: each of two says that the other one is in force")
        return membership
