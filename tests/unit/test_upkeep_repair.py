"""Repair: one store is brought up to date by the lists, and a stranger is filled without becoming a member."""

from __future__ import annotations

from tests.scrubbing import damage, scrub
from tests.stored import CLOCK, KEYRING, NAMES, stored

from threefold.quorum import keys
from threefold.stores.health import HealthBook
from threefold.upkeep.inventory import take_inventory


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
