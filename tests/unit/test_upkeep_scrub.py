"""A scrub: what it finds, what it mends, and above all what it leaves alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import pytest
from tests.scrubbing import DAMAGES, damage, scrub
from tests.stored import KEYRING, NAMES, SEGMENT, Leading, keys_of, stored

from threefold.quorum import keys
from threefold.quorum.objects import SEAL_BYTES, Codec
from threefold.stores.memory import MemoryStore
from threefold.stores.store import Gone, Unknown
from threefold.upkeep.mend import Finding


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


async def test_a_damaged_name_tag_is_reported() -> None:
    here = await stored()
    damage(here.stores["S3"], keys.FORMAT, "cut")
    findings = (await scrub(here)).findings
    assert [(each.store, each.key, each.mended) for each in findings] == [("S3", keys.FORMAT, False)]


def test_findings_name_store_and_key() -> None:
    assert Finding("S1", "packs/x", "missing", "", mended=True).store == "S1"
