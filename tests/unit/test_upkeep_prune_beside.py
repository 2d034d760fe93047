"""Prunes beside snapshots and beside each other: whatever was reported as taken stays."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from datetime import timedelta

import pytest
from tests.stored import KEYRING, SEGMENT, T0, Leading, Stored, keys_of, stored, unaffected
from tests.unit.test_upkeep_prune import DAY, NARROW, Hand, history, prune, restorable

from threefold.kernel.errors import Damaged, NotThere, Unavailable
from threefold.kernel.lsn import Lsn
from threefold.kernel.progress import Silent
from threefold.stores.memory import MemoryStore
from threefold.stores.store import Gone, Made, Page, Unknown
from threefold.upkeep.prune import Prune
from threefold.vault.chunk_store import Vault
from threefold.vault.manifest import Summary, snapshot_key
from threefold.vault.retention import Policy, kept


async def turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def take(here: Stored, clock: Hand, *, fresh: int, share: int, pauses: Sequence[int] = (0, 0)) -> Summary:
    """As protect/snapshot.py does, without a PostgreSQL: known, sent, still there, published, unaffected."""
    begin = Lsn(max(len(here.wal) - SEGMENT - 500, 0))
    vault = Vault(here.stores, KEYRING, clock)
    summary, manifest, bodies = await here.drafted(
        at=clock.now(), start=begin, stop=Lsn(begin + 100), fresh=fresh, share=share
    )
    await turns(pauses[0])
    for key, body in bodies.items():
        for store in here.stores.values():
            await store.create(key, body)
    await turns(pauses[1])
    await vault.publish(manifest)
    await unaffected(vault, manifest)
    return summary


class Pauses(MemoryStore):
    """Stands still when the first object is to be deleted."""

    def __init__(self, of: MemoryStore, deleting: asyncio.Event, go_on: asyncio.Event) -> None:
        super().__init__(of.name)
        self.objects = of.objects
        self._deleting, self._go_on = deleting, go_on

    async def delete(self, keys: Sequence[str]) -> None | Unknown:
        self._deleting.set()
        await self._go_on.wait()
        return await super().delete(keys)


@pytest.mark.parametrize("another", [False, True], ids=["one run", "another run ends meanwhile"])
async def test_a_snapshot_that_meets_a_sentence_is_withdrawn(another: bool) -> None:
    """Another run takes its own sentence back, and the mark, and not the one by which the first still deletes."""
    here = await history()
    clock = Hand(T0 + 9 * DAY)
    old = await here.vault().manifest(here.snapshots[0].id)
    doomed = next(key for key in old.pack_keys() if key.startswith("packs/"))
    _, manifest, bodies = await here.drafted(at=clock.now(), start=Lsn(100), stop=Lsn(200), share=3)
    await prune(here, T0 + 8 * DAY)
    deleting, go_on = asyncio.Event(), asyncio.Event()
    free = dict(here.stores)
    here.stores = {name: Pauses(store, deleting, go_on) for name, store in free.items()}
    late = type(manifest)(
        manifest.summary, manifest.files, (), [*manifest.names, *old.names], [*manifest.places, *old.places]
    )
    running = asyncio.create_task(prune(here, T0 + 10 * DAY))
    await deleting.wait()
    here.stores = free
    vault = here.vault()
    for key, body in bodies.items():
        for store in here.stores.values():
            await store.create(key, body)
    await vault.publish(late)
    if another:
        assert doomed in (await prune(here, T0 + 10 * DAY)).spared
    with pytest.raises(Unavailable, match="prune"):
        await unaffected(vault, late)
    go_on.set()
    await running
    assert doomed not in here.stores["S1"].objects
    assert not any(late.summary.id in key for key in keys_of(here.stores, "snapshots/"))


async def test_a_run_that_stood_still_for_a_day_deletes_nothing_more() -> None:
    """By then its sentence may have been taken back, and a snapshot may rely on what it named."""
    here = await history()
    marked = (await prune(here, T0 + 8 * DAY)).marked
    deleting, go_on = asyncio.Event(), asyncio.Event()
    clock = Hand(T0 + 10 * DAY)
    stores = {name: Pauses(store, deleting, go_on) for name, store in here.stores.items()}
    running = asyncio.create_task(Prune(stores, KEYRING, clock, Silent(), NARROW, fork_bytes=SEGMENT).run())
    await deleting.wait()
    clock.at += DAY
    go_on.set()
    report = await running
    assert report.away.keys() == here.stores.keys()
    packs = {key for key in marked if key.startswith("packs/")}
    assert packs <= here.stores["S1"].objects.keys()
    assert (await prune(here, T0 + 11 * DAY)).deleted
    assert keys_of(here.stores, "prune/") == []


async def test_chunks_in_marked_packs_are_not_reused() -> None:
    here = await history(3)
    known = {place.pack for place in (await here.vault().known_chunks()).values()}
    orphan = max(known)
    for store in here.stores.values():
        for snapshot in here.snapshots[1:]:
            store.objects.pop(snapshot_key(snapshot.id))
    assert orphan in {place.pack for place in (await here.vault().known_chunks()).values()}
    one = await prune(here, T0 + 50 * DAY)
    assert not any(key.endswith(orphan) for key in one.marked)  # the next attempt's: not even marked


class Late(MemoryStore):
    def __init__(self, of: MemoryStore, chance: random.Random) -> None:
        super().__init__(of.name)
        self.objects = of.objects
        self._chance = chance

    async def _late(self) -> None:
        for _ in range(self._chance.randrange(5)):
            await asyncio.sleep(0)

    async def create(self, key: str, body: bytes) -> Made | Unknown:
        await self._late()
        return await super().create(key, body)

    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
        await self._late()
        return await super().read(key, start=start, length=length)

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> Page | Unknown:
        await self._late()
        if self._chance.random() < 0.01:
            return Unknown("late")
        page = await super().list(prefix, after=after, limit=limit)
        await self._late()
        return page

    async def delete(self, keys: Sequence[str]) -> None | Unknown:
        for key in keys:
            await self._late()
            await super().delete([key])
        return None


async def _beside(seed: int) -> tuple[int, int, int]:
    """Prunes without any grace period while snapshots come and go: whatever is reported as taken can be restored."""
    chance = random.Random(seed)
    here = await stored(epochs=1, each=3 * SEGMENT, snapshots=1)
    here.stores = {name: Late(store, chance) for name, store in here.stores.items()}
    clock = Hand(T0 + DAY, chance)
    policy = Policy(pitr=timedelta(hours=chance.randrange(1, 20)), daily=chance.randrange(2), grace=timedelta(0))
    counts = {"taken": 0, "withdrawn": 0, "deleted": 0}

    async def snapshots(rounds: int, slow: int) -> None:
        for _ in range(rounds):
            clock.at += timedelta(hours=chance.randrange(1, 30))
            try:
                pauses = chance.randrange(slow), chance.randrange(slow)
                fresh, share = chance.randrange(1, 3), chance.randrange(6)
                here.snapshots.append(await take(here, clock, fresh=fresh, share=share, pauses=pauses))
                counts["taken"] += 1
            except (Unavailable, NotThere, Damaged):
                counts["withdrawn"] += 1
            await turns(chance.randrange(100))

    async def prunes() -> None:
        while True:
            try:
                report = await Prune(here.stores, KEYRING, clock, Silent(), policy, fork_bytes=SEGMENT).run()
                counts["deleted"] += sum(report.deleted.values())
            except (Unavailable, NotThere):
                pass
            await asyncio.sleep(0)

    async def leads() -> None:
        while True:
            leading = await Leading(here.stores).begin()
            await here.write(leading, chance.randrange(400, 2 * SEGMENT))
            await leading.trim()
            await leading.end()
            await turns(chance.randrange(2000))

    beside = [asyncio.create_task(work) for work in (prunes(), prunes(), leads())]
    try:
        await asyncio.wait_for(asyncio.gather(snapshots(10, 50), snapshots(4, 1000), snapshots(4, 1000)), 120)
    finally:
        for task in beside:
            task.cancel()
        ended = await asyncio.gather(*beside, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ended), ended
    for name in kept(here.snapshots, policy, clock.now()):
        await restorable(here, next(each for each in here.snapshots if each.id == name))
    return counts["taken"], counts["withdrawn"], counts["deleted"]


async def test_beside_snapshots_nothing_needed_ever_goes() -> None:
    sums = [0, 0, 0]
    for seed in range(6):
        sums = [one + two for one, two in zip(sums, await _beside(seed), strict=True)]
    taken, _, deleted = sums
    assert min(taken, deleted) > 50, sums  # the world can do what is judged; few collide, and those are withdrawn
