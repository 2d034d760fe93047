"""Retention locks over the upkeep: prune waits for them, the renewal keeps them, a mended copy has one."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import pytest
from tests.stored import KEYRING, LOG, NAMES, SEGMENT, T0, Leading, Stored, flip, found, stored
from tests.unit.test_upkeep_prune import DAY, NARROW, Hand

from threefold.kernel.lsn import Lsn
from threefold.kernel.progress import Silent
from threefold.protect.fill import fill
from threefold.quorum.objects import Codec
from threefold.stores.health import HealthBook
from threefold.stores.locking import LockingStore
from threefold.stores.memory import MemoryStore
from threefold.stores.store import Locked, Made, NotLocked, ObjectStore, Unknown
from threefold.upkeep.prune import Prune, PruneReport
from threefold.upkeep.renew import AT_CREATION, Renewal, Renewed
from threefold.upkeep.scrub import Scrub
from threefold.upkeep.survey import Surveyor
from threefold.vault.chunk_store import Vault
from threefold.vault.manifest import snapshot_key

LOCKED = ("keys/", "timelines/", "wal/", "packs/", "snapshots/")


class World:
    """A snapshot a day on stores that lock for ``period``; a thief with our own keys."""

    def __init__(self, period: timedelta) -> None:
        self.clock = Hand(T0, random.Random(7))
        self.period = period
        self.here = Stored({name: MemoryStore(name, self.clock) for name in NAMES})
        self.stores: dict[str, ObjectStore] = {
            name: LockingStore(store, self.clock, period, AT_CREATION) for name, store in self.here.stores.items()
        }

    async def day(self, number: int) -> None:
        self.clock.at = T0 + number * DAY
        leading = await Leading(self.stores).begin()
        await self.here.write(leading, 2 * SEGMENT)
        await leading.trim()
        await leading.end()
        begin = Lsn(number * 2 * SEGMENT + 100)
        summary = await self.here.snapshot(
            at=self.clock.at, start=begin, stop=Lsn(begin + 200), share=2 if number else 0, stores=self.stores
        )
        await self.renewal().snapshot(Vault(self.stores, KEYRING, self.clock), summary.id)

    def renewal(self, stores: Mapping[str, ObjectStore] | None = None) -> Renewal:
        return Renewal(stores or self.stores, NAMES, KEYRING, self.clock, NARROW, self.period)

    async def renew(self) -> Renewed:
        return await self.renewal().everything()

    async def prune(self, *, dry_run: bool = False) -> PruneReport:
        work = Prune(self.stores, KEYRING, self.clock, Silent(), NARROW, fork_bytes=SEGMENT)
        return await work.run(dry_run=dry_run)

    async def steal(self) -> None:
        for store in self.here.stores.values():
            for key in list(store.objects):
                await store.delete([key])


async def world(period: timedelta, days: int = 8) -> World:
    made = World(period)
    await found(made.stores)
    for number in range(days):
        await made.day(number)
    return made


async def test_a_thief_leaves_what_is_locked_and_after_the_time_prune_takes_it() -> None:
    here = await world(30 * DAY)
    before = {name: set(store.objects) for name, store in here.here.stores.items()}
    await here.steal()
    for name, store in here.here.stores.items():
        kept = {key for key in before[name] if key.startswith(LOCKED)}
        assert set(store.objects) == kept
        assert any(key.startswith("packs/") for key in kept)


async def test_prune_waits_for_the_locks_says_until_when_and_then_goes_on() -> None:
    here = await world(30 * DAY)
    here.clock.at = T0 + 8 * DAY
    first = await here.prune()
    assert first.marked
    before = {name: dict(store.objects) for name, store in here.here.stores.items()}
    here.clock.at += DAY
    looked = await here.prune(dry_run=True)
    second = await here.prune()
    assert second.deleted == {} == second.held
    assert looked.due == []
    assert second.locked
    assert looked.locked == second.locked
    assert set(first.marked) == set(second.locked) | (set(first.marked) - set(second.locked))
    assert max(second.locked.values()) <= here.clock.at + 30 * DAY
    assert second.spared == []
    for name, store in here.here.stores.items():
        for key, body in before[name].items():
            assert store.objects[key] == body
    here.clock.at = max(second.locked.values()) + timedelta(seconds=1)
    third = await here.prune()
    assert third.deleted == dict.fromkeys(NAMES, len(first.marked))
    assert third.locked == {}
    assert not any(key in store.objects for store in here.here.stores.values() for key in first.marked)


async def test_packs_that_came_free_stay_while_a_manifest_that_names_them_is_locked() -> None:
    here = await world(30 * DAY)
    here.clock.at = T0 + 8 * DAY
    marked = (await here.prune()).marked
    gone = here.here.snapshots[0]
    manifest = await here.here.vault().manifest(gone.id)
    for store in here.here.stores.values():
        for key in marked:
            store.locks.pop(key, None)
        store.locks[snapshot_key(gone.id)] = T0 + 40 * DAY
    here.clock.at += DAY
    report = await here.prune()
    assert report.deleted
    assert set(report.locked) == {snapshot_key(gone.id)}
    assert report.waits_for_locked > 0
    for key in [snapshot_key(gone.id), *manifest.pack_keys(), "wal/00000001/0000000000"]:
        assert all(key in store.objects for store in here.here.stores.values()), key
    here.clock.at = T0 + 41 * DAY
    report = await here.prune()
    assert not any(snapshot_key(gone.id) in store.objects for store in here.here.stores.values())
    assert report.locked == {}


async def test_a_lock_on_one_store_that_only_the_delete_tells_of_holds_nothing_else_up() -> None:
    here = await world(timedelta(seconds=1))
    here.clock.at = T0 + 8 * DAY
    marked = (await here.prune()).marked
    pack = next(key for key in marked if key.startswith("packs/"))

    class DoesNotTell(LockingStore):
        async def locked_until(self, key: str) -> datetime | None | Unknown:
            return Unknown("S2 does not tell")

    here.stores["S2"] = DoesNotTell(here.here.stores["S2"], here.clock, timedelta(seconds=1), AT_CREATION)
    here.here.stores["S2"].locks[pack] = T0 + 20 * DAY
    here.clock.at += DAY
    report = await here.prune()
    assert report.locked == {pack: T0 + 20 * DAY}
    assert report.held == {}
    assert report.deleted == {"S1": len(marked), "S2": len(marked) - 1, "S3": len(marked)}
    assert pack in here.here.stores["S2"].objects
    here.clock.at = T0 + 21 * DAY
    assert (await here.prune()).deleted == {"S2": 1}


async def test_what_is_needed_never_comes_free_and_what_is_not_does() -> None:
    here = await world(4 * DAY)
    for hour in range(8 * 24, 20 * 24, 6):
        here.clock.at = T0 + timedelta(hours=hour)
        done = await here.renew()
        assert done.failed == {}
        seen = await Surveyor(here.stores, KEYRING, here.clock, Silent(), NARROW).look()
        needed = {key for keys in seen.survey.listed.values() for key in keys} - seen.verdict.keys
        assert needed
        for store in here.here.stores.values():
            for key in needed | {key for key in store.objects if key.startswith(("keys/", "timelines/"))}:
                assert store.locks[key] >= here.clock.at + here.period / 3, key
    free = seen.verdict.keys
    assert free
    assert all(store.locks[key] < here.clock.at for store in here.here.stores.values() for key in free)


async def test_a_pack_that_a_new_snapshot_shares_is_locked_as_long_as_the_snapshot() -> None:
    here = await world(10 * DAY, days=1)
    await here.day(9)
    summary = here.here.snapshots[-1]
    shared = set((await here.here.vault().manifest(summary.id)).pack_keys())
    assert len(shared) > 1
    for store in here.here.stores.values():
        for key in shared | {snapshot_key(summary.id)}:
            assert store.locks[key] >= here.clock.at + 5 * DAY


async def test_where_the_log_does_not_read_everything_counts_as_needed() -> None:
    here = await world(4 * DAY)
    await here.steal()
    here.clock.at = T0 + 9 * DAY
    assert any(store.locks[key] < here.clock.at + 2 * DAY for store in here.here.stores.values() for key in store.locks)
    done = await here.renew()
    assert any("everything counts as needed" in note for note in done.notes)
    for store in here.here.stores.values():
        assert all(store.locks[key] >= here.clock.at + 2 * DAY for key in store.objects)


async def test_a_snapshot_that_may_still_be_withdrawn_is_not_locked_by_the_renewal() -> None:
    here = await world(30 * DAY, days=3)
    young = here.here.snapshots[-1]
    for store in here.here.stores.values():
        store.locks.pop(snapshot_key(young.id))
    here.clock.at += timedelta(hours=2)  # since its backup's end: its packs may have taken that long
    renewal = here.renewal(here.stores)
    await renewal.everything()
    assert not any(snapshot_key(young.id) in store.locks for store in here.here.stores.values())
    here.clock.at += timedelta(hours=1)
    await renewal.everything()
    assert all(snapshot_key(young.id) in store.locks for store in here.here.stores.values())


async def test_a_store_that_does_not_lock_is_named_and_the_others_are_locked() -> None:
    here = await world(4 * DAY, days=3)

    class Refuses(LockingStore):
        async def lock(self, key: str, until: datetime) -> None | Unknown:
            return NotLocked("S2 answered 400 InvalidRequest")

    refusing = Refuses(here.here.stores["S2"], here.clock, here.period, AT_CREATION)
    here.clock.at += 3 * DAY
    done = await here.renewal({**here.stores, "S2": refusing}).everything()
    assert done.why == {"S2": "S2 answered 400 InvalidRequest"}
    assert len(done.failed["S2"]) == done.longer["S1"] == done.longer["S3"] > 0


async def test_a_store_that_takes_no_locks_gets_the_objects_all_the_same() -> None:
    class NoBucketLock(MemoryStore):
        async def create_locked(self, key: str, body: bytes, until: datetime) -> Made | Unknown:
            return NotLocked("S1 answered 400 InvalidRequest")

    here = World(30 * DAY)
    plain = NoBucketLock("S1")
    store = LockingStore(plain, here.clock, 30 * DAY, AT_CREATION)
    assert await store.create("wal/1/1", b"x") is Made.CREATED
    assert plain.objects == {"wal/1/1": b"x"}


@pytest.mark.parametrize("prefix", LOCKED[:-1])
async def test_a_copy_that_scrub_or_filling_makes_is_locked(prefix: str) -> None:
    here = await world(30 * DAY, days=3)
    raw = here.here.stores["S2"]
    for key in [key for key in raw.objects if key.startswith(prefix)]:
        del raw.objects[key], raw.locks[key]
    report = await Scrub(here.stores, KEYRING, here.clock, HealthBook(NAMES), Silent()).everything()
    assert report.findings
    assert all(finding.mended for finding in report.findings)
    keys = [key for key in raw.objects if key.startswith(prefix)]
    assert keys
    assert all(raw.locks[key] == here.clock.at + 30 * DAY for key in keys)
    if prefix == "wal/":
        return  # filling knows segments of one size, and these are smaller
    for key in keys:
        del raw.objects[key], raw.locks[key]
    sources = [here.stores["S1"], here.stores["S3"]]
    await fill(here.stores["S2"], sources, KEYRING, Codec(KEYRING, LOG), lambda *_: True)
    assert all(raw.locks[key] == here.clock.at + 30 * DAY for key in keys)


async def test_a_damaged_copy_under_a_lock_is_mended_when_it_ends() -> None:
    here = await world(30 * DAY, days=3)
    raw = here.here.stores["S3"]
    key = next(key for key in raw.objects if key.startswith("wal/"))
    raw.objects[key] = flip(raw.objects[key], 200)

    async def scrub() -> Sequence[object]:
        return (
            await Scrub(here.stores, KEYRING, here.clock, HealthBook(NAMES), Silent()).everything(fresh=True)
        ).findings

    (finding,) = await scrub()
    assert not finding.mended
    assert f"retention lock ends, at {raw.locks[key]:%Y-%m-%d}" in finding.why
    here.clock.at = raw.locks[key] + timedelta(seconds=1)
    (finding,) = await scrub()
    assert finding.mended
    assert isinstance(await raw.delete([key]), Locked)  # the new copy is locked anew


async def test_stored_without_locks_is_pruned_as_ever() -> None:
    here = await stored()
    report = await Prune(here.stores, KEYRING, Hand(T0 + 9 * DAY), Silent(), NARROW).run()
    assert report.locked == {}
