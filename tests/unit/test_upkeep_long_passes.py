"""A scrub that outlasts a grace period: what it read when it began is old."""

from __future__ import annotations

import asyncio

from tests.stored import KEYRING, T0
from tests.unit.test_upkeep_prune import DAY, Hand, history, prune
from tests.unit.test_upkeep_prune_holes import Over

from threefold.kernel.progress import Silent
from threefold.stores.health import HealthBook
from threefold.stores.memory import MemoryStore
from threefold.stores.store import Page, Unknown
from threefold.upkeep.scrub import Scrub


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


async def test_a_scrub_that_outlasts_a_grace_period_cries_loss() -> None:
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
