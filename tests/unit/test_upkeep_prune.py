"""Prune: what goes, when, and above all what stays; beside snapshots, leaders, and stores that list half."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest
from tests.stored import CLOCK, KEYRING, NAMES, SEGMENT, T0, Leading, Stored, flip, keys_of, stored

from threefold.kernel.errors import Refused, Unavailable
from threefold.kernel.lsn import Lsn
from threefold.kernel.progress import Silent
from threefold.protect.fill import fill
from threefold.quorum.objects import Codec
from threefold.quorum.reader import read_extent, read_wal
from threefold.stores.health import HealthBook
from threefold.stores.memory import MemoryStore
from threefold.stores.store import Page, Unknown
from threefold.upkeep.loss import wal_begin
from threefold.upkeep.prune import Prune, PruneReport
from threefold.upkeep.scrub import Scrub
from threefold.vault.manifest import Summary, snapshot_key
from threefold.vault.retention import Policy

DAY = timedelta(days=1)
RUNS = itertools.count()
NARROW = Policy(pitr=2 * DAY, grace=DAY)


class Hand:
    """A clock that is set by hand."""

    def __init__(self, now: datetime = T0, chance: random.Random | None = None) -> None:
        self.at = now
        self._chance = chance or random.Random(1)

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return (self.at - T0).total_seconds()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)

    def random(self) -> float:
        return self._chance.random()

    def new_id(self) -> str:
        return f"{self._chance.getrandbits(128):032x}"


async def history(days: int = 8, *, share: int = 2) -> Stored:
    """A snapshot a day, each sharing chunks with the one before, and an epoch a day."""
    here = await stored(epochs=0)
    for day in range(days):
        leading = await Leading(here.stores).begin()
        await here.write(leading, 2 * SEGMENT)
        await leading.trim()
        await leading.end()
        begin = Lsn(day * 2 * SEGMENT + 100)
        await here.snapshot(at=T0 + day * DAY, start=begin, stop=Lsn(begin + 200), share=share if day else 0)
    return here


async def prune(
    here: Stored, at: datetime, policy: Policy = NARROW, *, dry_run: bool = False, fork_bytes: int = SEGMENT
) -> PruneReport:
    clock = Hand(at, random.Random(next(RUNS)))
    work = Prune(here.stores, KEYRING, clock, Silent(), policy, fork_bytes=fork_bytes)
    return await work.run(dry_run=dry_run)


async def restorable(here: Stored, snapshot: Summary, *, copies: int = 2) -> None:
    """Its manifest, its packs and its log, whole, on that many stores."""
    scrubbed = {name: store.objects for name, store in here.stores.items()}
    manifest = await here.vault().manifest(snapshot.id)
    for key in [snapshot_key(snapshot.id), *manifest.pack_keys()]:
        assert sum(key in objects for objects in scrubbed.values()) >= copies, (snapshot.id, key)
    plain = {name: MemoryStore(name) for name in NAMES}
    for name, store in plain.items():
        store.objects = here.stores[name].objects
    extent = await read_extent(plain, KEYRING, CLOCK, patience=5)
    begin = wal_begin(snapshot)
    read = read_wal(plain, KEYRING, CLOCK, extent, start=begin, end=extent.end)
    assert b"".join([data async for _, _, data in read]) == here.wal[begin : extent.end]
    assert extent.end >= here.settled


async def test_what_nothing_needs_is_marked_and_a_later_run_deletes_it() -> None:
    here = await history()
    end = T0 + 8 * DAY
    before = {name: set(here.objects(name)) for name in NAMES}
    looked = await prune(here, end, dry_run=True)
    assert {name: set(here.objects(name)) for name in NAMES} == before
    first = await prune(here, end)
    assert first.marked == looked.marked
    assert first.marked_bytes > 0
    assert first.deleted == {}
    assert {name: {key for key in here.objects(name) if not key.startswith("prune/")} for name in NAMES} == before
    assert (await prune(here, end + DAY / 2)).deleted == {}  # within the grace period
    looked = await prune(here, end + DAY, dry_run=True)
    assert looked.due == first.marked
    second = await prune(here, end + DAY)
    assert second.deleted == dict.fromkeys(NAMES, len(first.marked))
    assert second.freed_bytes == first.marked_bytes == looked.freed_bytes
    for name in NAMES:
        assert before[name] - set(here.objects(name)) == set(first.marked)
        assert not keys_of(here.stores, "prune/")
    # The window begins two days before the newest snapshot, on the sixth day, with the snapshot of that moment.
    assert sorted(second.kept) == sorted(each.id for each in here.snapshots[5:])
    for snapshot in here.snapshots[5:]:
        await restorable(here, snapshot, copies=3)
    assert (await prune(here, end + DAY)).marked == []


async def test_neither_seals_nor_claims_nor_timelines_nor_slots_are_ever_marked() -> None:
    here = await history()
    report = await prune(here, T0 + 100 * DAY)
    assert {key.partition("/")[0] for key in report.marked} == {"snapshots", "packs", "wal"}


async def test_the_log_is_kept_from_the_newest_epoch_on_whatever_the_snapshots_say() -> None:
    """A take-over with a stale list finds the newest segment by key from there."""
    here = await stored(epochs=1, each=10 * SEGMENT, snapshots=0)
    for day in range(3):
        begin = Lsn((7 + day) * SEGMENT)
        await here.snapshot(at=T0 + 5 * day * DAY, start=begin, stop=Lsn(begin + 100))
    report = await prune(here, T0 + 20 * DAY)
    assert not any(key.startswith("wal/") for key in report.marked)
    assert any("the DRaaS server's epoch began before them" in note for note in report.notes)
    await (await Leading(here.stores).begin()).end()
    report = await prune(here, T0 + 20 * DAY, fork_bytes=4 * SEGMENT)
    assert [key for key in report.marked if key.startswith("wal/")] == [f"wal/00000001/{n:010x}" for n in range(6)]


class Stale(MemoryStore):
    """Its list of segments is from long ago."""

    stale = False

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> Page | Unknown:
        if self.stale and prefix.startswith("wal"):
            return Page((), last=True)
        return await super().list(prefix, after=after, limit=limit)


async def test_after_a_prune_a_take_over_with_stale_lists_finds_the_whole_log() -> None:
    """The newest epoch is old: its first byte is all that leads to the newest segment."""
    here = await stored(epochs=1, each=10 * SEGMENT, snapshots=0)
    for day in range(3):
        begin = Lsn((7 + day) * SEGMENT)
        await here.snapshot(at=T0 + 5 * day * DAY, start=begin, stop=Lsn(begin + 100))
    await prune(here, T0 + 20 * DAY)
    await prune(here, T0 + 22 * DAY)
    for name, store in here.stores.items():
        here.stores[name] = stale = Stale(name)
        stale.objects, stale.stale = store.objects, True
    leading = await Leading(here.stores).begin()
    assert leading.appender.settled == len(here.wal)
    await leading.end()


async def test_a_store_that_does_not_list_everything_keeps_everything_until_it_does() -> None:
    here = await history()
    await prune(here, T0 + 8 * DAY)

    class Half(MemoryStore):
        async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> Page | Unknown:
            return Unknown("S3 broke off") if prefix == "packs" else await super().list(prefix, after=after)

    kept_aside = here.stores["S3"]
    half = Half("S3")
    half.objects = kept_aside.objects
    here.stores["S3"] = half
    before = dict(half.objects)
    report = await prune(here, T0 + 10 * DAY)
    assert set(report.deleted) == {"S1", "S2"}
    assert set(report.away) == {"S3"}
    assert before.items() <= half.objects.items()
    # What was deleted on two does not come back from the third, neither by filling nor by a scrub.
    gone = set(before) - set(here.stores["S1"].objects)
    assert gone
    await fill(here.stores["S1"], [half, here.stores["S2"]], KEYRING, Codec(KEYRING, 7), lambda _, __: False)
    here.stores["S3"] = kept_aside
    scrubbed = await Scrub(here.stores, KEYRING, CLOCK, HealthBook(NAMES), Silent()).everything()
    assert scrubbed.findings == []
    assert not gone & here.stores["S1"].objects.keys()
    report = await prune(here, T0 + 10 * DAY)
    assert set(report.deleted) == {"S3"}
    assert here.objects("S1").keys() == here.objects("S2").keys() == here.objects("S3").keys()


async def test_fewer_than_two_whole_lists_delete_nothing() -> None:
    here = await history(4)

    class Silentless(MemoryStore):
        async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> Page | Unknown:
            return Unknown("down") if prefix == "snapshots" else await super().list(prefix, after=after)

    for name in ("S1", "S2"):
        store = Silentless(name)
        store.objects = here.stores[name].objects
        here.stores[name] = store
    with pytest.raises(Unavailable, match="too few stores"):
        await prune(here, T0 + 50 * DAY)


async def test_a_list_that_leaves_out_a_snapshot_that_was_kept_is_found_out() -> None:
    here = await history()
    await prune(here, T0 + 8 * DAY)
    forgotten = snapshot_key(here.snapshots[5].id)

    class Forgets(MemoryStore):
        async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> Page | Unknown:
            page = await super().list(prefix, after=after, limit=limit)
            assert isinstance(page, Page)
            return Page(tuple(each for each in page.objects if each.key != forgotten), page.last)

    for name, store in here.stores.items():
        here.stores[name] = Forgets(name)
        here.stores[name].objects = store.objects
    with pytest.raises(Refused, match="does not list it"):
        await prune(here, T0 + 10 * DAY)


async def test_a_manifest_that_nobody_can_read_may_need_anything() -> None:
    here = await history()
    oldest = snapshot_key(here.snapshots[0].id)
    for store in here.stores.values():
        store.objects[oldest] = flip(store.objects[oldest], 40)
    report = await prune(here, T0 + 8 * DAY)
    assert {key.partition("/")[0] for key in report.marked} == {"snapshots"}
    assert oldest not in report.marked
    assert "is not known" in report.notes[0]


async def test_a_snapshot_whose_packs_are_gone_makes_no_older_one_superfluous() -> None:
    here = await history(share=0)
    for snapshot in here.snapshots[5:]:
        (pack,) = (await here.vault().manifest(snapshot.id)).pack_keys()
        for name in ("S1", "S2"):
            del here.stores[name].objects[pack]
    report = await prune(here, T0 + 8 * DAY)
    assert {each.id for each in here.snapshots[2:5]} <= report.kept.keys()
    assert {each.id for each in here.snapshots[5:]} <= report.kept.keys()


async def test_a_clock_of_ours_that_is_years_ahead_lets_nothing_go_that_the_window_keeps() -> None:
    here = await history()
    assert (await prune(here, T0 + 8 * DAY)).kept == (await prune(here, T0 + 3000 * DAY, dry_run=True)).kept


async def test_what_is_needed_again_is_spared() -> None:
    here = await history()
    marked = (await prune(here, T0 + 8 * DAY)).marked
    wider = Policy(pitr=30 * DAY, grace=DAY)
    report = await prune(here, T0 + 10 * DAY, wider)
    assert report.deleted == {}
    assert report.spared == marked
    assert keys_of(here.stores, "prune/") == []


class Locked(MemoryStore):
    """Holds some keys, and then refuses the whole request, as providers do."""

    locked: frozenset[str] = frozenset()

    async def delete(self, keys: Sequence[str]) -> None | Unknown:
        await super().delete([key for key in keys if key not in self.locked])
        return Unknown("S2 answered AccessDenied") if self.locked & set(keys) else None


async def test_what_a_lock_holds_is_reported_and_its_mark_stays() -> None:
    here = await history()
    marked = (await prune(here, T0 + 8 * DAY)).marked
    locked = Locked("S2")
    locked.objects = here.stores["S2"].objects
    here.stores["S2"] = locked
    pack = next(key for key in marked if key.startswith("packs/"))
    manifest = next(key for key in marked if key.startswith("snapshots/"))
    locked.locked = frozenset({pack})
    report = await prune(here, T0 + 10 * DAY)
    assert report.held == {"S2": [pack]}
    assert report.deleted == {"S1": len(marked), "S2": len(marked) - 1, "S3": len(marked)}
    assert keys_of(here.stores, "prune/")
    locked.locked = frozenset()
    assert (await prune(here, T0 + 10 * DAY)).deleted == {"S2": 1}
    assert all(
        key.endswith("-now") for key in keys_of(here.stores, "prune/")
    )  # the first may be at it yet, for all we know
    await prune(here, T0 + 11 * DAY)
    assert keys_of(here.stores, "prune/") == []
    del manifest


async def test_on_a_store_that_keeps_a_manifest_all_it_names_stays() -> None:
    here = await history()
    marked = (await prune(here, T0 + 8 * DAY)).marked
    locked = Locked("S2")
    locked.objects = here.stores["S2"].objects
    here.stores["S2"] = locked
    locked.locked = frozenset(key for key in marked if key.startswith("snapshots/"))
    await prune(here, T0 + 10 * DAY)
    assert set(marked) <= locked.objects.keys()


async def test_a_run_that_died_after_its_sentence_is_gone_on_with() -> None:
    here = await history()
    marked = (await prune(here, T0 + 8 * DAY)).marked

    class Dies(MemoryStore):
        async def delete(self, keys: Sequence[str]) -> None | Unknown:
            raise asyncio.CancelledError

    alive = here.stores["S2"]
    dying = Dies("S2")
    dying.objects = alive.objects
    here.stores["S2"] = dying
    with pytest.raises(asyncio.CancelledError):
        await prune(here, T0 + 10 * DAY)
    assert any(key.endswith("-now") for key in keys_of(here.stores, "prune/"))
    here.stores["S2"] = alive
    await prune(here, T0 + 11 * DAY)
    assert not set(marked) & set().union(*(here.objects(name) for name in NAMES))
    assert keys_of(here.stores, "prune/") == []
