"""Scrub and repair: what is found, what is mended, and above all what is left alone."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tests.stored import CLOCK, KEYRING, NAMES, SEGMENT, T0, Leading, Stored, flip, keys_of, stored

from threefold.kernel.errors import Damaged
from threefold.kernel.lsn import Lsn
from threefold.kernel.progress import Silent
from threefold.quorum import keys
from threefold.quorum.objects import SEAL_BYTES, Codec
from threefold.stores.health import HealthBook
from threefold.stores.memory import MemoryStore
from threefold.stores.store import Gone, Made, Unknown, Unreadable
from threefold.upkeep.inventory import take_inventory
from threefold.upkeep.mend import Finding
from threefold.upkeep.pace import Pace
from threefold.upkeep.score import Tally, scores
from threefold.upkeep.scrub import Scrub, ScrubReport


async def scrub(here: Stored, *, only: str | None = None, fresh: bool = False, **more: Any) -> ScrubReport:
    work = Scrub(here.stores, KEYRING, CLOCK, HealthBook(NAMES), Silent(), **more)
    return await (work.everything(fresh=fresh) if only is None else work.repair(only))


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "removed": lambda _: None,
    "first byte": lambda body: flip(body, 0),
    "middle byte": lambda body: flip(body, len(body) // 2),
    "last byte": lambda body: flip(body, len(body) - 1),
    "cut": lambda body: body[: len(body) // 2],
    "emptied": lambda _: b"",
    "longer": lambda body: body + b"!",
}


def damage(store: MemoryStore, key: str, how: str) -> None:
    body = DAMAGES[how](store.objects[key])
    if body is None:
        del store.objects[key]
    else:
        store.objects[key] = body


def reads_as_a_claim(body: bytes) -> bool:
    try:
        return "writer" in json.loads(body)
    except ValueError:
        return False


def is_seal(body: bytes) -> bool:
    return len(body) == SEAL_BYTES


@pytest.mark.parametrize("how", DAMAGES)
async def test_whatever_happens_to_any_object_of_one_store_is_mended_and_seals_and_claims_are_left(how: str) -> None:
    here = await stored()
    whole = here.objects("S2")
    for key, body in whole.items():
        damage(here.stores["S2"], key, how)
        damaged = dict(here.stores["S2"].objects)
        report = await scrub(here)
        # A claim that is readable is as good as it was: nobody can tell whose it should have been.
        quiet = key.startswith("epochs/") and reads_as_a_claim(damaged.get(key, b""))
        assert [(each.store, each.key) for each in report.findings] == ([] if quiet else [("S2", key)]), report
        cut_to_a_seal = key.startswith("log/") and len(damaged.get(key, b"")) <= SEAL_BYTES
        if how != "removed" and (key.startswith("epochs/") or is_seal(body) or cut_to_a_seal):
            assert quiet or not report.findings[0].mended
            assert here.stores["S2"].objects[key] == damaged[key]
            here.stores["S2"].objects[key] = body
        else:
            assert report.findings[0].mended, (key, report.findings)
            assert here.objects("S2") == whole
        assert here.objects("S1") == here.objects("S3") == whole
        await here.same_log()
    assert (await scrub(here)).findings == []


async def test_a_copy_is_deleted_only_while_two_others_hold_it_whole() -> None:
    here = await stored()
    (pack, *_) = keys_of(here.stores, "packs/")
    for name in ("S1", "S2"):
        damage(here.stores[name], pack, "last byte")
    before = {name: dict(here.objects(name)) for name in NAMES}
    report = await scrub(here)
    assert not report.lost
    assert [finding.mended for finding in report.findings] == [False, False]
    assert "once two others have it" in report.findings[0].why
    assert {name: here.objects(name) for name in NAMES} == before
    del here.stores["S2"].objects[pack]
    report = await scrub(here, fresh=True)  # the one that lacks it gets it, and then the damaged one
    assert {(each.store, each.what, each.mended) for each in report.findings} == {
        ("S1", "damaged", True),
        ("S2", "missing", True),
    }
    assert here.objects("S1") == here.objects("S2") == here.objects("S3")


async def test_what_is_whole_on_no_store_is_named_with_the_newest_point_that_can_be_had() -> None:
    here = await stored(epochs=3, snapshots=3)
    newest = here.snapshots[-1]
    (pack,) = (
        set((await here.vault().manifest(newest.id)).pack_keys())
        - set((await here.vault().manifest(here.snapshots[0].id)).pack_keys())
        - set((await here.vault().manifest(here.snapshots[1].id)).pack_keys())
    )
    for name, how in zip(NAMES, ("last byte", "cut", "removed"), strict=True):
        damage(here.stores[name], pack, how)
    report = await scrub(here)
    assert report.lost == [pack]
    assert report.newest_point is not None
    assert report.newest_point.snapshot == here.snapshots[1].id
    assert report.newest_point.lsn == len(here.wal)
    segment = keys.segment_key(1, 6)
    for name in NAMES:
        damage(here.stores[name], segment, "removed")
    report = await scrub(here, fresh=True)
    assert set(report.lost) == {pack, segment}
    assert report.newest_point is not None
    assert (report.newest_point.snapshot, report.newest_point.lsn) == (here.snapshots[1].id, 6 * SEGMENT)


async def test_a_log_whose_end_is_lost_is_said_with_what_its_segments_still_give() -> None:
    """A slot that the history promises, whole nowhere: the log does not read any more, its segments do."""
    here = await stored()
    (*_, promised) = keys_of(here.stores, "log/00000002/")
    await (await Leading(here.stores).begin()).end()
    for name in NAMES:
        damage(here.stores[name], promised, "last byte")
    report = await scrub(here)
    assert promised in report.lost[0]
    assert {each.key for each in report.findings} == {promised}
    assert not any(each.mended for each in report.findings)
    assert report.newest_point is not None
    assert (report.newest_point.snapshot, report.newest_point.lsn) == (here.snapshots[1].id, 6 * SEGMENT)


class Locked(MemoryStore):
    """Refuses to delete, or says that it did."""

    def __init__(self, name: str, *, lies: bool) -> None:
        super().__init__(name)
        self.lies = lies

    async def delete(self, keys: Sequence[str]) -> None | Unknown:
        return None if self.lies else Unknown("S2 answered 403 AccessDenied")


@pytest.mark.parametrize("lies", [False, True])
async def test_a_copy_under_a_retention_lock_is_reported(lies: bool) -> None:
    here = await stored()
    locked = Locked("S2", lies=lies)
    locked.objects = here.stores["S2"].objects
    here.stores["S2"] = locked
    key = keys.segment_key(1, 1)
    damage(locked, key, "middle byte")
    (finding,) = (await scrub(here)).findings
    assert not finding.mended
    assert "retention lock" in finding.why


class Hasty(MemoryStore):
    """Spoils the bytes of one key on their way, a number of times; or says that it cannot read them."""

    spoils: str = ""
    times = 1
    deleted = 0
    unreadable = False

    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
        body = await super().read(key, start=start, length=length)
        if key == self.spoils and isinstance(body, bytes):
            if self.unreadable:
                return Unreadable("S2 answered 500 ObjectDamaged")
            if self.times > 0:
                self.times -= 1
                return flip(body, len(body) - 1)
        return body

    async def delete(self, keys: Sequence[str]) -> None | Unknown:
        self.deleted += len(keys)
        self.unreadable = False
        return await super().delete(keys)


def hasty(here: Stored) -> Hasty:
    store = Hasty("S2")
    store.objects = here.stores["S2"].objects
    here.stores["S2"] = store
    return store


async def test_bytes_that_were_spoilt_on_their_way_are_no_reason_to_delete() -> None:
    here = await stored()
    store = hasty(here)
    store.spoils = keys.segment_key(1, 1)
    (finding,) = (await scrub(here)).findings
    assert "reads whole now" in finding.why
    assert store.deleted == 0


async def test_a_store_that_says_itself_that_it_is_damaged_is_believed() -> None:
    here = await stored()
    store = hasty(here)
    store.spoils, store.unreadable = keys.segment_key(1, 1), True
    (finding,) = (await scrub(here)).findings
    assert finding.mended
    assert store.deleted == 1


class BreaksOff(MemoryStore):
    """As our server on a rotten disk: a bad block shows in the status only where it is the first one asked for."""

    key, block = "", 4096

    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
        body = await super().read(key, start=start, length=length)
        bad = len(self.objects.get(key, b"")) * 2 // 3 // self.block
        if key != self.key or not isinstance(body, bytes) or not body:
            return body
        blocks = range(start // self.block, (start + len(body) - 1) // self.block + 1)
        if blocks[0] == bad:
            return Unreadable("S2 answered 500 ObjectDamaged")
        return Unknown("S2 sent half an answer") if bad in blocks else body

    async def delete(self, keys: Sequence[str]) -> None | Unknown:
        self.key = ""
        return await super().delete(keys)


async def test_a_large_object_that_breaks_off_in_its_middle_is_asked_where() -> None:
    here = await stored(snapshots=0)
    await here.snapshot(at=T0, start=Lsn(100), stop=Lsn(300), fresh=200, share=0)
    store = BreaksOff("S2")
    store.objects = here.stores["S2"].objects
    here.stores["S2"] = store
    (store.key,) = keys_of(here.stores, "packs/")
    (finding,) = (await scrub(here)).findings
    assert (finding.what, finding.mended) == ("damaged", True)
    assert "ObjectDamaged" in finding.why


class Down(MemoryStore):
    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
        return Unknown("down") if key != keys.FORMAT else await super().read(key)


async def test_a_store_that_does_not_answer_lacks_nothing_and_loses_nothing() -> None:
    here = await stored()
    down = Down("S3")
    down.objects = here.stores["S3"].objects
    here.stores["S3"] = down
    (pack, *_) = keys_of(here.stores, "packs/")
    for name in ("S1", "S2"):
        damage(here.stores[name], pack, "cut")
    report = await scrub(here)
    assert report.lost == []  # S3 may have it
    assert report.away == {"S3": "down"}
    assert {each.store for each in report.findings if each.key == pack} == {"S1", "S2"}


async def test_an_entry_never_takes_the_place_of_a_seal_nor_goes_beyond_the_end() -> None:
    """A damaged seal beyond the end, and an entry that a fenced writer left on one store, stay as they are."""
    here = await stored()
    (*_, seal) = keys_of(here.stores, "log/00000001/")
    codec = Codec(KEYRING, 7)
    assert codec.open(here.stores["S1"].objects[seal]).is_seal
    damage(here.stores["S1"], seal, "first byte")
    await scrub(here)
    assert len(here.stores["S1"].objects[seal]) == SEAL_BYTES
    del here.stores["S1"].objects[seal]
    report = await scrub(here, fresh=True)
    assert [(each.key, each.mended) for each in report.findings] == [
        (seal, True)
    ]  # the epoch is over: seals are copied
    (*_, last) = keys_of(here.stores, "log/00000002/")
    beyond = keys.slot_key(2, int(last.rpartition("/")[2], 16) + 1)
    stray = here.stores["S1"].objects[last]
    here.stores["S1"].objects[beyond] = stray
    report = await scrub(here, fresh=True)
    assert [(each.key, each.what, each.mended) for each in report.findings] == [(beyond, "damaged", False)]
    assert beyond not in here.stores["S2"].objects


async def test_what_segments_cover_is_not_put_back() -> None:
    """A leader trims store by store: an entry that one lacks already is not missing there."""
    here = await stored(epochs=1)
    leading = await Leading(here.stores).begin()
    await here.write(leading, 3 * SEGMENT)
    (covered, *_) = keys_of(here.stores, "log/00000002/")[1:]
    del here.stores["S2"].objects[covered]
    damage(here.stores["S3"], covered, "last byte")
    (finding,) = (await scrub(here)).findings
    assert (finding.store, finding.mended) == ("S3", False)
    assert "a segment holds its bytes" in finding.why
    assert covered not in here.stores["S2"].objects
    await leading.end()


async def test_a_scrub_that_was_stopped_goes_on_where_it_was() -> None:
    here = await stored()
    read: list[str] = []

    class Stops(MemoryStore):
        async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
            if key.startswith("wal/") and length is None:
                read.append(key)
                if len(read) == 5:
                    raise asyncio.CancelledError
            return await super().read(key, start=start, length=length)

    plain = here.stores["S2"]
    stops = Stops("S2")
    stops.objects = plain.objects
    here.stores["S2"] = stops
    with pytest.raises(asyncio.CancelledError):
        await scrub(here)
    damage(here.stores["S1"], keys.segment_key(1, 0), "cut")  # behind the cursor: the next scrub's
    report = await scrub(here)
    assert report.resumed
    assert report.findings == []
    assert read.count(keys.segment_key(1, 0)) == 1
    again = await scrub(here)
    assert not again.resumed
    assert [each.key for each in again.findings] == [keys.segment_key(1, 0)]


async def test_repair_brings_one_store_up_to_date_and_reads_little_else() -> None:
    here = await stored()
    whole = here.objects("S2")
    doomed = [key for number, key in enumerate(sorted(whole)) if number % 3 == 0]
    for key in doomed:
        del here.stores["S2"].objects[key]
    damage(here.stores["S1"], keys.segment_key(1, 3), "cut")
    report = await scrub(here, only="S2")
    assert here.objects("S2") == whole
    assert sum(report.objects.values()) <= 2 * len(doomed) + 3
    assert len(here.stores["S1"].objects[keys.segment_key(1, 3)]) < len(whole[keys.segment_key(1, 3)])  # not asked for


async def test_repair_knows_what_the_last_scrub_could_not_mend() -> None:
    here = await stored()
    key = keys.segment_key(1, 1)
    damage(here.stores["S2"], key, "last byte")
    kept = here.stores["S1"].objects.pop(key), here.stores["S3"].objects.pop(key)
    await scrub(here)
    here.stores["S1"].objects[key], here.stores["S3"].objects[key] = kept
    report = await scrub(here, only="S2")
    assert [(each.store, each.key, each.mended) for each in report.findings] == [("S2", key, True)]
    status = await take_inventory(here.stores, KEYRING, CLOCK, HealthBook(NAMES))
    found = {each.name: each.found for each in status.stores}
    assert found["S2"] == {"damaged": 1, "mended": 1}


async def test_an_emptied_store_is_no_member_and_repair_fills_it_without_making_it_one() -> None:
    here = await stored()
    whole = here.objects("S3")
    here.stores["S3"].objects.clear()
    report = await scrub(here)
    assert here.stores["S3"].objects.keys() <= {"beacons/scrub"}
    assert "S3 holds no log" in report.notes[0]
    await scrub(here, only="S3")
    assert here.objects("S3") == whole
    assert keys.FORMAT not in here.stores["S3"].objects


async def test_a_damaged_name_tag_is_reported() -> None:
    here = await stored()
    damage(here.stores["S3"], keys.FORMAT, "cut")
    findings = (await scrub(here)).findings
    assert [(each.store, each.key, each.mended) for each in findings] == [("S3", keys.FORMAT, False)]


class Late(MemoryStore):
    """Answers late, and loses a request or a reply now and then."""

    def __init__(self, of: MemoryStore, chance: random.Random, trimmed: set[str]) -> None:
        super().__init__(of.name)
        self.objects = of.objects
        self._chance = chance
        self.trimmed = trimmed

    async def late(self) -> None:
        for _ in range(self._chance.randrange(4)):
            await asyncio.sleep(0)

    async def create(self, key: str, body: bytes) -> Made | Unknown:
        await self.late()
        if self._chance.random() < 0.02:
            return Unknown("lost on its way")
        answer = await super().create(key, body)
        await self.late()
        return Unknown("its reply was lost") if self._chance.random() < 0.02 else answer

    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
        await self.late()
        return await super().read(key, start=start, length=length)

    async def delete(self, keys: Sequence[str]) -> None | Unknown:
        self.trimmed.update(keys)
        await self.late()
        return await super().delete(keys)


class Judged(Late):
    """What a scrub sees of it: judges each delete. No seal and no claim, and two other stores hold it whole."""

    others: dict[str, Judged]
    replaced = 0

    async def delete(self, keys: Sequence[str]) -> None | Unknown:
        await self.late()
        (key,) = keys
        assert not key.startswith("epochs/")
        if key.startswith("log/"):
            whole = [name for name, store in self.others.items() if store is not self and entry(store, key)]
            assert len(whole) == 2 or key in self.trimmed, (key, whole)
            assert len(self.objects.get(key, b"")) != SEAL_BYTES
        self.replaced += 1
        return await MemoryStore.delete(self, keys)


def entry(store: MemoryStore, key: str) -> bool:
    try:
        return not Codec(KEYRING, 7).open(store.objects.get(key, b"")).is_seal
    except Damaged:
        return False


async def _beside(seed: int) -> int:
    """Leaders append, trim and take each other over while copies rot and scrubs go round and round."""
    chance = random.Random(seed)
    here = await stored(epochs=1)
    trimmed: set[str] = set()
    stores = {name: Late(store, chance, trimmed) for name, store in here.stores.items()}
    judged = {name: Judged(store, chance, trimmed) for name, store in here.stores.items()}
    for store in judged.values():
        store.others = judged

    async def lead() -> None:
        for _ in range(3):
            leading = await Leading(stores).begin()
            for _ in range(chance.randrange(1, 4)):
                await here.write(leading, chance.randrange(500, 6000))
                if chance.random() < 0.5:
                    await leading.trim()
            await leading.end()

    async def rot() -> None:
        store = stores[chance.choice(NAMES)]  # one alone, so that nothing is lost by chance
        while True:
            for _ in range(chance.randrange(60)):
                await asyncio.sleep(0)
            key = chance.choice(sorted(store.objects))
            if not key.startswith("beacons/") and key != keys.FORMAT:
                damage(store, key, chance.choice(["first byte", "last byte", "longer"]))

    async def scrubs() -> None:
        while True:
            await Scrub(judged, KEYRING, CLOCK, HealthBook(NAMES), Silent()).everything(fresh=True)

    beside = [asyncio.create_task(work()) for work in (rot, scrubs, scrubs)]
    try:
        await asyncio.wait_for(lead(), 30)
    finally:
        for task in beside:
            task.cancel()
        ended = await asyncio.gather(*beside, return_exceptions=True)
    for end in ended:
        assert isinstance(end, asyncio.CancelledError), end
    await here.same_log()
    await (await Leading(here.stores).begin()).end()  # and whoever takes over finds the same
    await here.same_log()
    return sum(store.replaced for store in judged.values())


async def test_beside_leaders_nothing_settled_ever_looks_absent() -> None:
    replaced = 0
    for seed in range(12):
        replaced += await _beside(seed)
    assert replaced > 20  # the world can do what is judged


async def test_the_rate_is_kept_for_each_store() -> None:
    class Stopwatch:
        now = 0.0
        slept = 0.0

        def monotonic(self) -> float:
            return self.now

        async def sleep(self, seconds: float) -> None:
            self.slept += seconds
            self.now += seconds

    clock = Stopwatch()
    pace = Pace(clock, 1000.0)  # type: ignore[arg-type]
    for _ in range(10):
        await pace.passed("S1", 500)
    assert clock.slept == pytest.approx(5.0)
    clock.now += 100  # idle time is not saved up
    await pace.passed("S2", 500)
    assert clock.slept == pytest.approx(5.5)


def test_the_score_tells_who_fails_who_is_slow_and_who_spoils() -> None:
    good = Tally(requests=10_000, objects=10_000, p99_ms=20)
    table = scores(
        {
            "good": [good],
            "fails": [Tally(requests=10_000, failures=100, objects=10_000, p99_ms=20)],
            "slow": [Tally(requests=10_000, objects=10_000, p99_ms=300)],
            "spoils": [Tally(requests=10_000, objects=10_000, damaged=1, p99_ms=20)],
            "new": [],
        }
    )
    assert {name: round(each.score) for name, each in table.items()} == {
        "good": 100,
        "fails": 90,
        "slow": 45,
        "spoils": 50,
        "new": 100,
    }


def test_findings_name_store_and_key() -> None:
    assert Finding("S1", "packs/x", "missing", "", mended=True).store == "S1"
