"""The stores' disks in the simulated world: lost, made anew, filled again; a copy that loses a bit.

One at a time: that is what the promise covers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.simulation.leader import LOG_ID
from tests.simulation.world import STORES, SimStore
from threefold.quorum import keys
from threefold.quorum.members import Format
from threefold.quorum.objects import SEAL_BYTES

if TYPE_CHECKING:
    from tests.simulation.scenario import Run


class Disks:
    """Of one run."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._world = run.world

    def wipe(self) -> None:
        """A store loses its disk, is made anew, and perhaps filled: never a second one before the first is whole."""
        rng, world = self._world.rng, self._world
        if self.members() != list(STORES):
            return
        store = world.stores[rng.choice(STORES)]
        world.note(f"{store.name} loses its disk")
        store.wipe()

        def made_anew() -> None:
            world.note(f"{store.name} is made anew, empty")
            store.gone = False

        world.at(rng.expovariate(1 / 4), made_anew)
        world.at(rng.uniform(4, 12), lambda: self._fill(store))

    def members(self) -> list[str]:
        return [name for name, store in self._world.stores.items() if keys.FORMAT in store.objects]

    def _fill(self, store: SimStore) -> None:
        """Repair, done by the newest leader: never one that still counts on what the store said before.

        Were a store a member again while a writer of the newest claim counts its old answers, one real copy could
        look like two.
        """
        others = [other for other in self._world.stores.values() if other is not store]
        claims = {keys.last_number(key) for other in others for key in other.objects if key.startswith(keys.EPOCHS)}
        newest = max(claims, default=0)
        ready = all(other.up and not other.gone for other in others) and not store.gone
        if not ready or not any(
            leader.alive and leader.epoch == newest and leader.appender and store.name not in leader.appender.lanes
            for leader in self._run.leaders
        ):
            if not self._run.is_over:
                self._world.at(1.0, lambda: self._fill(store))
            return
        for other in others:
            for key, body in other.objects.items():
                if key != keys.FORMAT and len(store.objects.get(key, b"")) <= SEAL_BYTES:
                    # An entry outweighs a seal: it may have been acknowledged.
                    store.keep(key, body, self._world.now)
        self.format(store)
        self._world.note(f"{store.name} is filled and a member again")

    def format(self, store: SimStore) -> None:
        store.keep(keys.FORMAT, Format(LOG_ID, "key", str(store.incarnation)).encode(), self._world.now)

    def damage(self) -> None:
        """One copy of an object loses a bit; never two copies of one object."""
        rng, stores = self._world.rng, self._world.stores
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
        self._world.note(f"{store.name} damages {key}")
