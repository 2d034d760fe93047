"""What befalls sites, leaders and the lines between them, rightly drawn or not.

Outages, stalls, crashes, contenders that do not look first, lost and cut-off sites, switches. Disks are in disks.py.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from tests.simulation.switching import Agent, Doubter
from tests.simulation.wal import Primary
from tests.simulation.world import SimStore

if TYPE_CHECKING:
    from tests.simulation.scenario import Run


class Misfortune:
    """Of one run."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._world = run.world
        self._plan = run.plan

    def outage(self) -> None:
        rng = self._world.rng
        names = rng.sample(tuple(self._world.stores), 2 if rng.random() < 0.15 else 1)
        for name in names:
            store = self._world.stores[name]
            self._world.note(f"{name} is unreachable")
            store.up = False

            def back(store: SimStore = store) -> None:
                store.up = True

            self._world.at(rng.expovariate(1 / 5), back)

    def stall(self) -> None:
        rng, living = self._world.rng, self._run.living()
        if not living:
            return
        leader = rng.choice(living)
        leader.stall(rng.expovariate(1 / self._plan.stall_seconds))
        if rng.random() < self._plan.sleepy:  # somebody thinks that it is dead
            blind = rng.random() < self._plan.blind
            if leader.primary.alive and rng.random() < 0.6:
                self._run.lead(leader.primary, looks=not blind)
            elif self._run.switches:
                self.switch()
            else:
                self._run.recover(self._run.pair())

    def crash(self) -> None:
        living = self._run.living()
        if living:
            self._world.rng.choice(living).crash()

    def contend(self) -> None:
        rng = self._world.rng
        standing = [primary for primary in self._run.primaries if primary.alive]
        if standing and len(self._run.living()) < 5:
            self._run.lead(rng.choice(standing), looks=rng.random() > self._plan.blind)

    def disaster(self) -> None:
        rng = self._world.rng
        standing = [primary for primary in self._run.primaries if primary.alive]
        if not standing or len(standing) > 3:
            return
        primary = rng.choice(standing)
        if rng.random() > self._plan.partition:
            self._world.note(f"the site of {primary.timeline} is lost")
            primary.alive = False
            for leader in self._run.living():
                if leader.primary is primary and rng.random() < 0.5:
                    leader.crash("is lost with its site")
        for _ in range(2 if rng.random() < 0.3 else 1):  # two sites may recover at once
            self._run.recover(self._run.pair())

    def switch(self) -> None:
        """Another site is made active, rightly or not; the old one may live, and others want to lead for it."""
        rng = self._world.rng
        if not self._run.checker.acks:
            return
        if not any(agent.alive for agent in self._run.agents):
            for _ in range(2 if rng.random() < 0.25 else 1):
                agent = Agent(self._run, self._run.name("agent"))
                self._run.agents.append(agent)
                if rng.random() < 0.4:
                    self._world.at(rng.random(), partial(agent.stall, rng.expovariate(1 / 4)))
                elif rng.random() < 0.2:
                    self._world.at(rng.random(), agent.crash)
        if rng.random() < 0.5:
            self._world.at(rng.random() * 2, self._doubt)
        for primary in [each for each in self._run.primaries if each.alive]:
            if rng.random() < 0.3:
                self._world.note(f"the site of {primary.timeline} is lost")
                primary.alive = False
            for _ in range(rng.choice((1, 2, 3))):
                self._world.at(rng.random() ** 2, partial(self._late_leader, primary))

    def _doubt(self) -> None:
        Doubter(self._run, self._run.name("doubter"))

    def _late_leader(self, primary: Primary) -> None:
        """Somebody who wants to lead for the site that is being left, and falls asleep on the way."""
        rng = self._world.rng
        if len(self._run.living()) < 8:
            leader = self._run.lead(primary, looks=rng.random() > self._plan.blind)
            if rng.random() < 0.8:
                self._world.at(rng.random() ** 2 / 2, partial(leader.stall, rng.expovariate(1 / 3)))
