"""Kill -9 at random moments, on real processes, over many rounds; the ledger judges.

    python -m tests.acceptance.chaos --seed 7 --rounds 50

Each round people write while something dies: the primary, the DRaaS server, a storage server (with its disk, or only
stopped for a while), two things at the same instant. Every few rounds comes the disaster: the primary's folder and
one store's disk are gone at once, the recovery itself is killed as well and run again, and what comes back is compared
with what people were told. Then it is protected again, on the same log, and the rounds go on.

Two failures that nobody promises to survive are not made: a disk is lost only while the other two stores have
everything. A seed gives the same plan; moments are real time, so a failure may take several runs to come again.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from collections.abc import Awaitable, Callable

from tests.protect_process import NAMES, Process, Site, Team, site, team


class Chaos:
    def __init__(self, here: Site, people: Team, protecting: Process, seed: int, say: Callable[[str], None]) -> None:
        self._here = here
        self._people = people
        self._protecting = protecting
        self._chance = random.Random(seed)
        self._say = say

    async def round(self, number: int, *, disaster: bool) -> None:
        await asyncio.sleep(self._chance.uniform(0.1, 1.0))
        acts: list[Callable[[], Awaitable[None]]] = [
            self._kill_primary,
            self._kill_protect,
            self._kill_store,
            self._wipe_store,
            self._hang_store,
            self._kill_primary_and_protect,
            self._kill_protect_and_store,
            self._kill_two_stores,
        ]
        act = self._disaster if disaster else self._chance.choice(acts)
        self._say(
            f"round {number}: {act.__name__.strip('_').replace('_', ' ')}, {len(self._people.acked)} acked so far"
        )
        await act()
        await self._people.progress(20, within=120)

    # --- what may happen ---

    async def _kill_primary(self) -> None:
        self._here.primary.server.kill()
        await self._here.primary.server.start()

    async def _kill_protect(self) -> None:
        self._protecting.kill()
        self._protecting = self._here.begin_protecting()

    async def _kill_store(self, name: str = "") -> None:
        store = self._here.stores[name or self._chance.choice(NAMES)]
        store.kill()
        await asyncio.sleep(self._chance.uniform(0, 1.5))
        store.start()
        await store.ready()

    async def _wipe_store(self) -> None:
        await self._here.whole(120)
        store = self._here.stores[self._chance.choice(NAMES)]
        store.kill()
        store.wipe()
        store.start()
        await store.ready()
        if self._chance.random() < 0.5:
            await self._kill_protect()

    async def _hang_store(self) -> None:
        store = self._here.stores[self._chance.choice(NAMES)]
        store.stop()
        await asyncio.sleep(self._chance.uniform(0.5, 7))
        store.go_on()

    async def _kill_primary_and_protect(self) -> None:
        self._protecting.kill()
        await self._kill_primary()
        self._protecting = self._here.begin_protecting()

    async def _kill_protect_and_store(self) -> None:
        self._protecting.kill()
        await self._kill_store()
        self._protecting = self._here.begin_protecting()

    async def _kill_two_stores(self) -> None:
        first, second = self._chance.sample(NAMES, 2)
        await asyncio.gather(self._kill_store(first), self._kill_store(second))

    async def _disaster(self) -> None:
        here, people = self._here, self._people
        leader = await here.whole(120)
        await people.progress(20)
        lost = here.stores[self._chance.choice(NAMES)]
        if self._chance.random() < 0.5:
            self._protecting.kill()
        lost.kill()
        here.destroy_primary()
        lost.wipe()
        self._protecting.kill()
        people.pause()
        if self._chance.random() < 0.5:  # an empty disk in the lost one's place, or nothing at all
            lost.start()
            await lost.ready()
        result = await here.recover(kill_after=self._chance.uniform(0.5, 4))
        await people.judge()
        seconds = sum(result["seconds"].values())
        self._say(f"  {lost.name} and the primary lost; {len(people.acked)} acknowledged, 0 lost, {seconds:.1f} s")
        if lost.process is None or lost.process.code is not None:
            lost.start()
            await lost.ready()
        self._protecting = await here.protect(within=120)
        await here.sync()
        people.resume()
        again = await here.whole(120)
        assert again.epoch > leader.epoch
        await here.done("snapshot")


async def run(
    seed: int, rounds: int, *, major: int = 18, every: int = 4, say: Callable[[str], None] = lambda _: None
) -> int:
    """Acknowledged changes, none of which was lost."""
    async with site(major, settings={"wal_keep_size": "64MB"}) as here:
        protecting = await here.protect()
        async with team(here) as people:
            chaos = Chaos(here, people, protecting, seed, say)
            await people.progress(30)
            await here.done("snapshot")
            for number in range(1, rounds + 1):
                await chaos.round(number, disaster=number % every == 0 or number == rounds)
            return len(people.acked)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--major", type=int, default=18, help="of PostgreSQL")
    given = parser.parse_args()
    print(f"seed {given.seed}, {given.rounds} rounds, PostgreSQL {given.major}", flush=True)
    try:
        acked = asyncio.run(run(given.seed, given.rounds, major=given.major, say=lambda text: print(text, flush=True)))
    except BaseException:
        print(f"failed: make chaos SEED={given.seed} ROUNDS={given.rounds}", file=sys.stderr, flush=True)
        raise
    print(f"{acked} acknowledged changes, 0 lost")


if __name__ == "__main__":
    main()
