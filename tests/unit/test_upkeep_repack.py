"""Repacking: what is written anew, what stays, and what a reader, a snapshot, a lock or a damaged copy make of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import combinations

import pytest
from tests.churning import DAY, EAGER, HOUR, Churning, Life, sparse
from tests.stored import KEYRING, NAMES, SEGMENT, T0, flip, keys_of, unaffected

from threefold.kernel.errors import NotThere
from threefold.kernel.keys import Keyring
from threefold.kernel.lsn import Lsn
from threefold.kernel.progress import Silent
from threefold.recover.log import open_quorum_log
from threefold.recover.verify import verify_stored
from threefold.stores.memory import MemoryStore
from threefold.stores.store import Made, Unknown
from threefold.upkeep.prune import Prune
from threefold.upkeep.sparse import Thresholds, plan_repack
from threefold.vault import pack as packs
from threefold.vault.manifest import Manifest, Summary, snapshot_key
from threefold.vault.marks import Mark, encode
from threefold.vault.pack import PackBuilder, Place
from threefold.vault.revisions import by_original, original, revised_id

SUMMARY = Summary("a", "", 7, 18, SEGMENT, 1, Lsn(0), Lsn(1), T0, T0, 0, 0)


def of(here: Churning, prefix: str) -> set[str]:
    return set(keys_of(here.here.stores, prefix))


async def test_sparse_packs_are_written_anew_and_go_with_the_manifests_that_name_them() -> None:
    here = await sparse()
    before = {name: dict(store.objects) for name, store in here.here.stores.items()}
    looked = await here.prune(DAY, dry_run=True)
    assert {name: dict(store.objects) for name, store in here.here.stores.items()} == before
    first = await here.prune()
    assert looked is not None
    assert first is not None
    assert (looked.repack.packs, looked.repack.won_bytes) == (first.repack.packs, first.repack.won_bytes)
    assert len(first.repack.packs) == 2
    assert first.repack.revised.keys() == set(first.repack.snapshots)
    old = {*map(packs.pack_key, first.repack.packs), *map(snapshot_key, first.repack.snapshots)}
    assert old <= set(first.marked)
    assert old <= of(here, "")  # both are there, until the grace period is over
    assert (await here.prune(HOUR)).deleted == {}  # type: ignore[union-attr]
    stored_before = here.bytes_in("packs/")
    second = await here.prune(DAY)
    assert second is not None
    assert not old & of(here, "")
    assert second.repack.packs == []  # what was just written is not sparse
    gone = stored_before - here.bytes_in("packs/")
    assert gone * 3 >= first.repack.won_bytes
    for names in [*combinations(NAMES, 2), *combinations(NAMES, 1)]:
        await here.whole(names)
    log = await open_quorum_log(here.vault().stores, KEYRING, here.clock, lambda _: None)
    proof = await verify_stored(here.vault(), log, Silent(), deep=True)
    assert proof.problems == []
    assert proof.snapshots == len(here.needed)


async def test_a_snapshot_keeps_its_name_whichever_revision_stands_for_it() -> None:
    here = await sparse()
    report = await here.prune(DAY)
    assert report is not None
    catalogue = await here.vault().catalogue()
    ids = [each.id for each in catalogue.summaries]
    assert set(report.repack.revised.values()) <= set(ids)  # the latest one, while both stand
    assert sorted(map(original, ids)) == sorted(set(map(original, ids)))
    for snapshot, revision in report.repack.revised.items():
        old, new = await here.vault().manifest(snapshot), await here.vault().manifest(revision)
        assert replace(new.summary, id=snapshot) == old.summary
        assert (new.files, new.names, new.backup_manifest) == (old.files, list(old.names), old.backup_manifest)
        for store in here.here.stores.values():  # the latest does not read: then the one before
            store.objects[snapshot_key(revision)] = flip(store.objects[snapshot_key(revision)], 60)
    catalogue = await here.vault().catalogue()
    assert set(report.repack.revised) <= {each.id for each in catalogue.summaries}
    assert catalogue.damaged == ()


def test_revisions_sort_after_those_before_and_share_their_name() -> None:
    first = revised_id("20261130T023000Z-9f86d081", "60303ae2" * 4)
    second = revised_id(first, "00000000" * 4)
    assert "20261130T023000Z-9f86d081" < first < second
    assert original(second) == original(first) == "20261130T023000Z-9f86d081"
    assert by_original([second, first]) == {original(first): [first, second]}


async def test_little_to_win_copies_nothing() -> None:
    here = await sparse()
    report = await here.prune(DAY, repack=Thresholds(below=0.7, least=10**6))
    assert report is not None
    assert report.repack.packs == []
    assert not any("." in key for key in of(here, "snapshots/"))
    report = await here.prune(repack=None)
    assert report is not None
    assert report.repack.packs == []


def test_a_pack_is_sparse_by_places_and_its_frame_counts_for_nothing() -> None:
    """One chunk that lies in a pack twice is live twice (a pruner has lost data by counting it once)."""
    builder = PackBuilder("p", KEYRING)
    name = bytes(32)
    places = [builder.add(name, 400, packs.compress(bytes([each]) * 400)) for each in range(4)]
    size = len(builder.finish())

    def planned(live: list[Place], below: float) -> int:
        manifest = Manifest(SUMMARY, (), (), [name] * len(live), live)
        plan = plan_repack({"a": manifest}, {"packs/p": size}, (), {"a": 0}, Thresholds(below=below, least=0))
        return len(plan.packs)

    assert planned(places, 0.99) == 0
    assert planned(places[:2], 0.5) == 0
    assert planned(places[:2], 0.51) == 1


async def test_the_sparsest_come_first_and_one_run_copies_no_more_than_it_may() -> None:
    here = await sparse(9)
    everything = await here.prune(DAY, dry_run=True)
    assert everything is not None
    copied = everything.repack.copied_bytes // 3
    assert len(everything.repack.packs) > 1
    some = await here.prune(dry_run=True, repack=replace(EAGER, most=copied - 1))
    assert some is not None
    assert 0 < len(some.repack.packs) < len(everything.repack.packs)


async def test_a_store_that_is_away_puts_it_off() -> None:
    here = await sparse()
    here.away = frozenset({"S3"})
    before = of(here, "packs/")
    report = await here.prune(DAY)
    assert report is not None
    assert "takes all three stores" in report.repack.put_off
    assert report.repack.packs  # what would be
    assert of(here, "packs/") == before
    here.away = frozenset()
    report = await here.prune()
    assert report is not None
    assert report.repack.revised


async def test_a_store_that_comes_back_late_keeps_what_it_names_until_it_has_the_new_ones() -> None:
    """S3 loses the new packs' copies before the old ones are deleted: then nothing of the old goes anywhere."""
    here = await sparse()
    before = of(here, "packs/")
    first = await here.prune(DAY)
    assert first is not None
    new = of(here, "packs/") - before
    assert new
    for key in new:
        del here.here.stores["S3"].objects[key]
    second = await here.prune(2 * DAY)
    assert second is not None
    assert {*map(packs.pack_key, first.repack.packs)} <= of(here, "packs/")
    for names in combinations(NAMES, 2):
        await here.whole(names)
    await here.whole(["S3"])


async def test_a_damaged_copy_is_never_copied_and_a_pack_without_a_good_one_stays() -> None:
    here = await sparse()
    looked = await here.prune(DAY, dry_run=True)
    assert looked is not None
    one, other = looked.repack.packs
    for pack, names in ((one, ("S1", "S3")), (other, NAMES)):
        for snapshot in looked.repack.snapshots:
            for place in (await here.vault().manifest(snapshot)).places:
                for name in names if place.pack == pack else ():
                    objects, key = here.here.stores[name].objects, packs.pack_key(pack)
                    objects[key] = objects[key][: place.offset + 20] + bytes(9) + objects[key][place.offset + 29 :]
    report = await here.prune()
    assert report is not None
    assert report.repack.packs == [one]
    assert report.repack.left.keys() == {other}
    assert packs.pack_key(one) in report.marked
    assert packs.pack_key(other) not in report.marked
    revised = next(iter(report.repack.revised.values()))
    manifest = await here.vault().manifest(revised)
    good = [number for number, place in enumerate(manifest.places) if place.pack not in {one, other}]
    for name in NAMES:
        vault = here.vault([name])
        for number in good:
            await vault.chunks([(manifest.names[number], manifest.places[number])])


async def test_a_recovery_that_holds_an_earlier_manifest_finds_its_chunks_in_the_later_ones_packs() -> None:
    here = await sparse()
    looked = await here.prune(DAY, dry_run=True)
    assert looked is not None
    snapshot = looked.repack.snapshots[0]
    reading = here.vault()
    manifest = await reading.manifest(snapshot)
    await here.prune()
    await here.prune(2 * DAY)
    assert not {*map(packs.pack_key, looked.repack.packs)} & of(here, "packs/")
    assert snapshot_key(snapshot) not in of(here, "snapshots/")
    found = [
        (await reading.chunks([(manifest.names[number], manifest.places[number])]))[0]
        for number in manifest.files[0].chunks
    ]
    assert found == here.contents[snapshot]
    for key in [key for key in of(here, "snapshots/") if original(key.rpartition("/")[2]) == snapshot]:
        for store in here.here.stores.values():
            del store.objects[key]
    lost = next(number for number, place in enumerate(manifest.places) if place.pack in looked.repack.packs)
    with pytest.raises(NotThere):
        await here.vault().chunks([(manifest.names[lost], manifest.places[lost])])


async def test_a_snapshot_that_shares_old_packs_and_is_published_late_keeps_them() -> None:
    here = await sparse()
    vault = here.vault()
    late = await here._drafted(vault, here.contents[sorted(here.needed)[-2]], 0)
    report = await here.prune(DAY)
    assert report is not None
    shared = {packs.pack_key(pack) for pack in report.repack.packs if pack in late.packs()}
    assert shared
    await vault.publish(late)
    await unaffected(vault, late)
    here.needed.add(late.summary.id)
    second = await here.prune(2 * DAY)
    assert second is not None
    assert shared <= of(here, "packs/")
    for _ in range(2):
        await here.prune(2 * DAY)  # by now it was written anew itself
    assert not shared & of(here, "packs/")
    for names in combinations(NAMES, 2):
        await here.whole(names)


async def test_what_is_locked_stays_until_then_and_that_is_said() -> None:
    here = await sparse()
    until = here.clock.at + 30 * DAY
    for store in here.here.stores.values():
        store._clock = here.clock
        for key in store.objects:
            if key.startswith(("packs/", "snapshots/")):
                store.locks[key] = until
    looked = await here.prune(DAY, dry_run=True)
    assert looked is not None
    assert looked.repack.locked_until == until
    report = await here.prune()
    assert report is not None
    assert report.repack.locked_until == until
    old = {*map(packs.pack_key, report.repack.packs)}
    second = await here.prune(2 * DAY)
    assert second is not None
    assert old <= of(here, "packs/")
    assert old <= second.locked.keys()
    assert second.repack.packs == []
    await here.prune(30 * DAY)
    assert not old & of(here, "packs/")
    await here.whole(NAMES[:2])


async def test_what_is_written_anew_is_sealed_under_the_key_in_force() -> None:
    here = await sparse()
    here.keyring = Keyring(bytes(range(32)), bytes(range(1, 33)))
    before, here.clock.at = of(here, "packs/"), here.clock.at + DAY
    work = Prune(here.stores(), here.keyring, here.clock, Silent(), here.policy, fork_bytes=4096, repack=EAGER)
    report = await work.run()
    new = of(here, "packs/") - before
    assert new
    frame = b"3FKY" + bytes.fromhex(here.keyring.key_id)
    for key in new:
        assert here.packs()[key][packs.HEADER_BYTES :].startswith(frame)
    for revision in report.repack.revised.values():
        assert frame in here.here.stores["S1"].objects[snapshot_key(revision)]
    await work.run()
    await here.whole(NAMES[:2])


async def test_a_copy_that_does_not_come_back_as_it_was_put_stops_it_before_any_manifest() -> None:
    here = await sparse()

    class Spoils(MemoryStore):
        async def create(self, key: str, body: bytes) -> Made | Unknown:
            return await super().create(key, flip(body, 100) if key.startswith("packs/") else body)

    spoils = Spoils("S2")
    spoils.objects = here.here.stores["S2"].objects
    stores = {**here.stores(), "S2": spoils}
    here.clock.at += DAY
    report = await Prune(stores, KEYRING, here.clock, Silent(), here.policy, fork_bytes=4096, repack=EAGER).run()
    assert "S2 does not give packs/" in report.repack.put_off
    assert report.repack.revised == {}
    assert not any("." in key for key in of(here, "snapshots/"))
    assert not {*map(packs.pack_key, report.repack.packs)} & set(report.marked)


async def test_what_another_prune_may_be_deleting_makes_nothing_superfluous() -> None:
    """Its author looked before the revision was there, which names a pack that he took for an orphan."""
    here = await sparse()
    first = await here.prune(DAY)
    assert first is not None
    snapshot, revision = next(iter(first.repack.revised.items()))
    new = set((await here.vault().manifest(revision)).pack_keys()) - set(
        (await here.vault().manifest(snapshot)).pack_keys()
    )
    sentence = Mark("20261101T000000Z-00000000", here.clock.at, frozenset(new), (), "another0")
    for store in here.here.stores.values():
        store.objects[sentence.key] = encode(sentence, KEYRING, bytes(12))
    second = await here.prune(2 * DAY)
    assert second is not None
    assert snapshot_key(snapshot) in of(here, "snapshots/")
    assert snapshot_key(revision) in of(here, "snapshots/")
    for key in new:
        for store in here.here.stores.values():
            del store.objects[key]  # and now he does
    for names in combinations(NAMES, 2):
        await here.whole(names)


async def test_two_repacks_at_once_leave_what_is_kept_whole_and_one_of_them() -> None:
    here = await sparse()
    here.clock.at += DAY
    await asyncio.gather(here.prune(), here.prune())
    for _ in range(3):
        await here.prune(2 * DAY)
        for names in combinations(NAMES, 2):
            await here.whole(names)
    ids = [key.rpartition("/")[2] for key in of(here, "snapshots/")]
    assert len(ids) == len({original(each) for each in ids})


@pytest.mark.parametrize("later", [0, 2])
async def test_killed_at_any_request_it_leaves_everything_whole_and_is_gone_on_with(later: int) -> None:
    """The first prune writes packs anew and marks; the second one, ``later`` days on, deletes."""
    killed = 0
    for requests in range(3, 480, 23):
        here = await sparse(size=3)
        here.clock.at += DAY
        if later:
            await here.prune()
        killed += await here.prune(later * DAY, life=Life(requests, done=requests % 2 == 0)) is None
        for names in combinations(NAMES, 2):
            await here.whole(names)
        for _ in range(3):
            await here.prune(2 * DAY)
        for names in [*combinations(NAMES, 2), *combinations(NAMES, 1)]:
            await here.whole(names)
        looked = await here.prune(2 * DAY, dry_run=True)
        assert looked is not None
        assert looked.repack.packs == []
        assert len(of(here, "snapshots/")) == len(here.needed)
    assert killed > 15


async def test_where_a_manifest_cannot_be_read_nothing_is_written_anew() -> None:
    here = await sparse()
    key = snapshot_key(min(here.needed))
    for store in here.here.stores.values():
        store.objects[key] = flip(store.objects[key], 60)
    report = await here.prune(DAY)
    assert report is not None
    assert report.repack.packs == []
    assert "is not known" in report.notes[0]
