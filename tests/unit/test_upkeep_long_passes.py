"""A scrub that outlasts a grace period: what it read when it began is old."""

from __future__ import annotations

import asyncio

from tests.stored import KEYRING, T0
from tests.unit.test_upkeep_prune import DAY, Hand, history, prune
from tests.unit.test_upkeep_prune_beside import Pauses
from tests.unit.test_upkeep_prune_holes import Over, on

from threefold.kernel.progress import Silent
from threefold.stores.health import HealthBook
from threefold.stores.memory import MemoryStore
from threefold.stores.store import Gone, Listed, Page, Unknown
from threefold.upkeep.scrub import Scrub
from threefold.vault.manifest import snapshot_key


class Stops(Over):
    """Stands still at the first list of packs."""

    def __init__(self, of: MemoryStore, reached: asyncio.Event, go_on: asyncio.Event) -> None:
        super().__init__(of)
        self._reached, self._go_on = reached, go_on

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> Page | Unknown:
        page = await super().list(prefix, after=after, limit=limit)
        if prefix == "packs":
            self._reached.set()
            await self._go_on.wait()
        return page


async def test_a_scrub_that_outlasts_a_grace_period_does_not_cry_loss() -> None:
    """What prune has let go in order, from every store, is said to be lost, and a recovery point to be given up."""
    here = await history()
    reached, go_on = asyncio.Event(), asyncio.Event()
    stores = {name: Stops(store, reached, go_on) for name, store in here.stores.items()}
    clock = Hand(T0 + 8 * DAY)
    running = asyncio.create_task(Scrub(stores, KEYRING, clock, HealthBook(list(stores)), Silent()).everything())
    await reached.wait()  # it is at the packs, and has read which there have to be
    await prune(here, T0 + 8 * DAY)
    assert (await prune(here, T0 + 10 * DAY)).deleted
    clock.at += 2 * DAY
    go_on.set()
    report = await running
    assert report.lost == []
    assert report.unmended == []


async def test_a_manifest_that_is_listed_and_that_nobody_gives_is_lost() -> None:
    here = await history(3)
    key = snapshot_key(here.snapshots[1].id)

    class Lists(Over):
        async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> Page | Unknown:
            page = await super().list(prefix, after=after, limit=limit)
            if prefix != "snapshots" or not isinstance(page, Page):
                return page
            return Page(tuple(sorted((*page.objects, Listed(key, 400)), key=lambda each: each.key)), last=page.last)

    for store in here.stores.values():
        del store.objects[key]
    stores = {name: Lists(store) if name == "S1" else store for name, store in here.stores.items()}
    report = await Scrub(stores, KEYRING, Hand(), HealthBook(list(stores)), Silent()).everything()
    assert report.lost == [key]


async def test_a_pack_whose_manifest_is_not_given_any_more_is_lost_as_well() -> None:
    here = await history(3)
    pack = (await here.vault().manifest(here.snapshots[2].id)).pack_keys()[-1]
    reached, go_on = asyncio.Event(), asyncio.Event()

    class Deaf(Stops):
        async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
            if self._reached.is_set() and key.startswith("snapshots/"):
                return Unknown("timed out")
            return await super().read(key, start=start, length=length)

    stores = {name: Deaf(store, reached, go_on) for name, store in here.stores.items()}
    for store in here.stores.values():
        del store.objects[pack]
    running = asyncio.create_task(Scrub(stores, KEYRING, Hand(), HealthBook(list(stores)), Silent()).everything())
    await reached.wait()
    go_on.set()
    assert pack in (await running).lost


async def test_a_scrub_beside_a_prune_brings_nothing_back() -> None:
    """It began while the packs were only marked."""
    here = await history()
    packs = [key for key in (await prune(here, T0 + 8 * DAY)).marked if key.startswith("packs/")]
    reached, go_on = asyncio.Event(), asyncio.Event()
    stores = {name: Stops(store, reached, go_on) for name, store in here.stores.items()}
    clock = Hand(T0 + 8 * DAY)
    running = asyncio.create_task(Scrub(stores, KEYRING, clock, HealthBook(list(stores)), Silent()).everything())
    await reached.wait()
    deleting, resume = asyncio.Event(), asyncio.Event()
    free = dict(here.stores)
    here.stores = {**free, "S2": Pauses(free["S2"], deleting, resume)}
    pruning = asyncio.create_task(prune(here, T0 + 10 * DAY))
    await deleting.wait()
    clock.at += 2 * DAY
    go_on.set()
    await running
    resume.set()
    await pruning
    assert all(on(free, key) == [] for key in packs)
