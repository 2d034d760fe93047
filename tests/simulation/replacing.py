"""Replacing stores in the simulated world: the operator who wants it, and what the leader does for it.

The operator changes the settings of whoever starts from then on: one store more, which is to replace another. Not
everybody hears of it: instances, readers and recoveries with settings of long ago go on turning up. The store that
leaves is often gone already, and may come back with its old disk at any time. The operator may think better of it, and
another one may want something else at the same time.

What decides is production's own (quorum/membership.py, start.py, takeover.py). The store that joins is filled in two
passes, as in production: one ahead, which is allowed to miss things, and one by the leader of the middle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations
from typing import TYPE_CHECKING

from tests.simulation.checker import Violation
from tests.simulation.world import STORES, SimStore, at_once
from threefold.kernel.errors import Refused, ThreefoldError
from threefold.quorum import keys, reading
from threefold.quorum.check import counting, fits_slot
from threefold.quorum.membership import FOUNDED, Membership, MovedError, Named
from threefold.quorum.objects import SEAL_BYTES

if TYPE_CHECKING:
    from tests.simulation.leader import Leader
    from tests.simulation.scenario import Run

STALE = 0.35  # how many of those who start have settings of some earlier time


class Operator:
    """Who replaces stores."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._world = run.world
        self._settings = [run.known]  # all that were ever in use
        self.in_force = FOUNDED  # as far as anybody has led under it
        self.past = [FOUNDED]
        self.strays = 0  # how often somebody with old settings was turned away

    @contextmanager
    def settings(self) -> Iterator[None]:
        """Whoever is started in here has the newest settings, or old ones."""
        run, now, rng = self._run, self._run.known, self._world.rng
        if run.replaces and not run.is_over and rng.random() < STALE:
            run.known = rng.choice(self._settings)
            if rng.random() < 0.5:
                run.reach = tuple(sorted(rng.sample(run.known.stores, len(run.known.stores) - 1)))
        try:
            yield
        finally:
            run.known, run.reach = now, None

    def act(self) -> None:
        """Begin a replacement, go back from one, or want another one as well."""
        run, rng, known = self._run, self._world.rng, self._run.known
        standing = [primary for primary in run.primaries if primary.alive]
        if not known.joining:
            self._use(self._wish(known.stores, dead=0.6))
        elif rng.random() < 0.6 and standing:
            if rng.random() < 0.5:
                return
            if self.in_force.is_joint:
                run.lead_with(rng.choice(standing), known, back)
            else:
                self._use(Named(tuple(store for store in known.stores if store != known.joining)))
        elif standing:
            three = tuple(store for store in known.stores if store != known.joining)
            rival = self._wish(three, dead=0.0)
            run.lead_with(rng.choice(standing), rival, onward(rival))

    def _wish(self, three: tuple[str, ...], *, dead: float) -> Named:
        rng, world = self._world.rng, self._world
        leaving, joining = rng.choice(three), f"S{len(world.stores) + 1}"
        world.add(joining)
        world.note(f"{leaving} is to be replaced by {joining}")
        if rng.random() < dead:
            store = world.stores[leaving]
            store.gone = True  # its provider is; the disk may turn up again

            def returns() -> None:
                world.note(f"{leaving} is back with its old disk")
                store.gone = False

            world.at(rng.expovariate(1 / 10), returns)
        return Named((*three, joining), leaving, joining)

    def _use(self, known: Named) -> None:
        self._run.known = known
        self._settings.append(known)

    # --- what a leader does ---

    def leading(self, leader: Leader) -> None:
        """It leads now: what the settings ask for is taken up, one step with each epoch."""
        now, rng = leader.membership, self._world.rng
        if now.generation > self.in_force.generation:
            self._world.note(f"{now} is in force")
            self.in_force = now
            self.past.append(now)
            self._heard(now)
        if now.is_joint:
            leader.later(rng.expovariate(1 / 1.0), lambda: self.make_whole(leader, now))
        elif leader.known.joining:
            leader.later(rng.expovariate(1 / 1.0), lambda: self.prefill(leader))
            leader.later(rng.expovariate(1 / 1.5), lambda: self._go_on(leader, now))

    def turned_away(self, known: Named, now: Membership) -> None:
        """Somebody's settings do not fit; if they are the newest ones, the operator follows the hint."""
        self.strays += 1
        if known == self._run.known:
            self._heard(now)

    def _heard(self, now: Membership) -> None:
        """The operator sees what became of it."""
        known = self._run.known
        if now.is_joint:
            if (known.leaving, known.joining) != (now.leaving, now.joining):
                self._use(Named((*now.stores, now.leaving, now.joining), now.leaving, now.joining))
        elif not known.joining or known.joining in now.stores or now.leaving == known.joining:
            self._use(Named(now.stores))

    def _go_on(self, leader: Leader, now: Membership) -> None:
        aim = onward(leader.known)
        if aim(now) is not None:
            self._run.lead_again(leader, aim)
        elif leader.known == self._run.known:
            self._heard(now)  # it is refused: what was wanted was given up meanwhile, and the operator reads why

    def prefill(self, leader: Leader) -> None:
        """Ahead of the change, so that it is short; what is missed is no harm."""
        joining = self._world.stores[leader.known.joining]
        sources = [self._world.stores[store] for store in leader.appender.lanes]
        if not joining.gone:
            self.copy(leader, [source for source in sources if source.up and not source.gone], joining)

    def make_whole(self, leader: Leader, joint: Membership) -> None:
        """In the middle: all that the two that stay hold; then the store that joins may vote from the next epoch on."""
        world = self._world
        joining, sources = world.stores[joint.joining], [world.stores[store] for store in joint.stores]
        if not all(store.up and not store.gone for store in [joining, *sources]):
            leader.later(1.0, lambda: self.make_whole(leader, joint))
            return
        self.copy(leader, sources, joining)
        self._run.disks.format(joining)
        world.note(f"{leader.name} has {joining.name} whole")
        leader.later(world.rng.expovariate(1 / 0.5), lambda: self._run.lead_again(leader, completing(joint)))

    def copy(self, leader: Leader, sources: list[SimStore], target: SimStore) -> None:
        """What counts (protect/fill.py), in one step: in the middle it may take as long as it likes."""
        codec, now = self._run.codec, self._world.now
        counts = counting(leader.spans, leader.epoch, lambda: leader.appender.settled_slot)
        for source in sources:
            for key, body in source.objects.items():
                if (
                    key == keys.FORMAT
                    or key.startswith(f"{keys.BUNDLES}/")
                    or len(target.objects.get(key, b"")) > SEAL_BYTES
                ):
                    continue
                if key.startswith(f"{keys.LOG}/") and not fits_slot(codec.open(body), counts):
                    continue
                target.keep(key, body, now)

    # --- the end ---

    def verdict(self) -> None:
        """Whoever still goes by a membership of the past cannot read on, whichever two of its stores it reaches."""
        for past in self.past:
            three = past.stores or STORES
            for pair in combinations(three, 2) if past.generation < self.in_force.generation else ():
                scope = self._run.scope(pair, "0" * 32, past)
                try:
                    at_once(self._world, reading.read_log(scope), pair)
                except (MovedError, TimeoutError, ThreefoldError):
                    continue
                raise Violation(f"7 one membership: {pair} are believed under {past}, {self.in_force} is in force")


def onward(known: Named) -> Callable[[Membership], Membership | None]:
    """From the old three to the two that stay."""

    def aim(now: Membership) -> Membership | None:
        try:
            return None if now.is_joint else known.following(now)
        except Refused:
            return None

    return aim


def back(now: Membership) -> Membership | None:
    return now.abandoned() if now.is_joint else None


def completing(joint: Membership) -> Callable[[Membership], Membership | None]:
    """On from this middle, and from no other: in it the store that joins was made whole."""

    def aim(now: Membership) -> Membership | None:
        return now.completed() if now == joint else None

    return aim
