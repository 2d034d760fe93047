"""What prune does not know, or knows from a listing alone, lets nothing go; no revision is ever taken back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import combinations

import pytest
from tests.churning import DAY, EAGER, HOUR, Churning, Life, Mortal, Passing, churning, sparse
from tests.stored import KEYRING, NAMES, flip, keys_of

from threefold.kernel.errors import Refused
from threefold.kernel.keys import Keyring
from threefold.kernel.progress import Silent
from threefold.stores.store import Gone, Made, ObjectStore, Page, Unknown
from threefold.upkeep.prune import Prune
from threefold.vault import pack as packs
from threefold.vault.manifest import snapshot_key
from threefold.vault.marks import Mark, encode, read_marks
from threefold.vault.retention import Policy
from threefold.vault.revisions import original


async def daily(days: int = 5) -> Churning:
    """A snapshot a day, all kept."""
    here = await churning(12)
    here.policy = Policy(pitr=HOUR, daily=30, grace=DAY)
    await here.take()
    for day in range(days):
        here.clock.at += DAY
        await here.take({2 * day, 2 * day + 1})
    return here


async def own_pack(here: Churning, snapshot: str) -> str:
    """The key of a pack that this one needs and the newest does not."""
    manifest, newest = await here.vault().manifest(snapshot), await here.vault().manifest(max(here.needed))
    return packs.pack_key(max(set(manifest.packs()) - set(newest.packs())))


def of(here: Churning, prefix: str) -> set[str]:
    return set(keys_of(here.here.stores, prefix))


async def whole_from_any_two(here: Churning) -> None:
    for names in combinations(NAMES, 2):
        await here.whole(names)


async def test_a_snapshot_of_which_one_store_lacks_a_pack_outlives_prunes_while_another_is_away() -> None:
    here = await daily()
    old = sorted(here.needed)[1]
    del here.here.stores["S2"].objects[await own_pack(here, old)]
    here.away = frozenset({"S3"})
    await here.prune(HOUR, repack=None)
    await here.prune(DAY + HOUR, repack=None)
    here.away = frozenset()
    await here.prune(HOUR, repack=None)
    assert old in here.needed
    await whole_from_any_two(here)


async def test_a_snapshot_of_which_a_pack_is_on_one_store_alone_stays() -> None:
    here = await daily()
    old = sorted(here.needed)[1]
    pack = await own_pack(here, old)
    for name in ("S2", "S3"):
        del here.here.stores[name].objects[pack]
    for _ in range(3):
        await here.prune(DAY + HOUR, repack=None)
    assert old in here.needed
    await here.whole(["S1"])


async def test_a_snapshot_of_which_a_pack_is_on_no_store_covers_for_nothing_and_goes() -> None:
    here = await daily()
    old = sorted(here.needed)[1]
    pack = await own_pack(here, old)
    for name in NAMES:
        del here.here.stores[name].objects[pack]
    for _ in range(2):
        await here.prune(DAY + HOUR, repack=None)
    assert snapshot_key(old) not in of(here, "snapshots/")


async def test_reads_that_are_not_answered_do_not_make_a_pack_lost() -> None:
    here = await daily()
    slow_pack = await own_pack(here, sorted(here.needed)[1])

    class Slow(Mortal):
        async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
            return Unknown("503") if key == slow_pack else await super().read(key, start=start, length=length)

    stores = {name: (Mortal if name == "S1" else Slow)(store, Life()) for name, store in here.here.stores.items()}
    for _ in range(2):
        await Prune(stores, KEYRING, here.clock, Silent(), here.policy, fork_bytes=4096).run()
        here.clock.at += DAY + HOUR
    await whole_from_any_two(here)


class Between(Passing):
    """Another prune runs while this one waits to ask again whether anything is being deleted."""

    def __init__(self, here: Churning, deaf: ObjectStore, runs: int) -> None:
        super().__init__(9)
        self.at = here.clock.at
        self._here, self._deaf, self._runs = here, deaf, runs

    async def sleep(self, seconds: float) -> None:
        if seconds >= 2 and self._runs and isinstance(await self._deaf.list("prune"), Unknown):
            self._runs -= 1
            await self._here.prune(repack=None)
        await super().sleep(seconds)


async def repack_deaf_to_marks(here: Churning, runs: int) -> None:
    """It puts a revision, and two stores do not list marks from then on; meanwhile another prunes ``runs`` times."""
    before = {key for key in of(here, "snapshots/") if "." in key}

    class Deaf(Mortal):
        async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> Page | Unknown:
            revised = any("." in key and key.startswith("snapshots/") and key not in before for key in self.objects)
            return Unknown("time-out") if prefix == "prune" and revised else await super().list(prefix, after=after)

    stores: dict[str, ObjectStore] = {
        name: (Mortal if name == "S1" else Deaf)(store, Life()) for name, store in here.here.stores.items()
    }
    clock = Between(here, stores["S2"], runs)
    work = Prune(stores, KEYRING, clock, Silent(), here.policy, fork_bytes=4096, repack=EAGER)
    with pytest.raises(Exception, match="too few stores tell"):
        await work.run()


async def test_a_revision_that_another_prune_relies_on_is_not_withdrawn() -> None:
    here = await sparse()
    here.policy = Policy(pitr=2 * DAY, grace=timedelta(0))
    here.clock.at += DAY
    kept = here._kept(here.needed)
    await repack_deaf_to_marks(here, 2)
    assert kept <= {original(key.rpartition("/")[2]) for key in of(here, "snapshots/")}
    here.needed = kept
    await whole_from_any_two(here)


async def test_nor_with_a_grace_of_a_day_and_a_mark_from_before() -> None:
    """The mark of before stays, since something in it is locked."""
    here = await sparse()
    for store in here.here.stores.values():
        store._clock = here.clock
    wide, everything, first = here.policy, set(here.needed), min(here.needed)
    here.policy = replace(wide, pitr=HOUR)
    await here.prune(DAY, repack=None)
    here.here.stores["S1"].locks[snapshot_key(first)] = here.clock.at + 20 * DAY
    here.policy = replace(wide, pitr=3 * DAY)
    here.needed = here._kept(everything)
    await here.prune(2 * DAY, repack=None)
    here.needed &= {original(key.rpartition("/")[2]) for key in of(here, "snapshots/")}
    kept = set(here.needed)
    await whole_from_any_two(here)
    await repack_deaf_to_marks(here, 1)
    assert here.needed == kept
    await whole_from_any_two(here)


async def test_a_revision_whose_manifest_is_listed_and_does_not_read_replaces_nothing() -> None:
    here = await sparse()
    first = await here.prune(DAY)
    assert first is not None
    for revision in first.repack.revised.values():
        for name in ("S2", "S3"):
            objects, key = here.here.stores[name].objects, snapshot_key(revision)
            objects[key] = flip(objects[key], 60)
    await here.whole(("S2", "S3"))
    await here.prune(2 * DAY)
    await whole_from_any_two(here)


async def test_a_revision_whose_manifest_another_prune_may_be_deleting_replaces_nothing() -> None:
    here = await sparse()
    first = await here.prune(DAY)
    assert first is not None
    snapshot, revision = next(iter(first.repack.revised.items()))
    sentence = Mark("20261101T000000Z-00000000", here.clock.at, frozenset({snapshot_key(revision)}), (), "another0")
    for store in here.here.stores.values():
        store.objects[sentence.key] = encode(sentence, KEYRING, bytes(12))
    await here.prune(2 * DAY)
    assert snapshot_key(snapshot) in of(here, "snapshots/")


async def test_a_sentence_that_does_not_read_here_ends_the_run_before_anything_is_deleted() -> None:
    here = await sparse()
    await here.prune(DAY)
    later = Keyring(bytes(range(32)), bytes(range(1, 33)))
    sentence = Mark("20261101T000000Z-00000000", here.clock.at, frozenset({"packs/a"}), (), "another0")
    for store in here.here.stores.values():
        store.objects[sentence.key] = encode(sentence, later, bytes(12))
    before = of(here, "")
    with pytest.raises(Refused, match="does not read here"):
        await here.prune(2 * DAY)
    assert of(here, "") == before


async def test_what_was_spared_has_a_whole_grace_period_again_though_its_mark_stays_for_something_else() -> None:
    here = await sparse()
    for store in here.here.stores.values():
        store._clock = here.clock
    wide, first = here.policy, min(here.needed)
    here.policy = replace(wide, pitr=HOUR)
    marked = await here.prune(DAY, repack=None)
    here.here.stores["S1"].locks[snapshot_key(first)] = here.clock.at + 20 * DAY
    here.policy = replace(wide, pitr=3 * DAY)
    second = await here.prune(2 * DAY, repack=None)
    here.policy = replace(wide, pitr=HOUR)
    third = await here.prune(HOUR, repack=None)
    assert marked is not None
    assert second is not None
    assert third is not None
    spared = {key for key in second.spared if key.startswith("snapshots/")}
    assert spared
    assert spared <= set(third.marked)
    assert spared <= of(here, "snapshots/")
    await here.prune(DAY, repack=None)
    assert not spared & of(here, "snapshots/")
    await here.prune(20 * DAY, repack=None)
    await here.prune(2 * DAY, repack=None)
    assert snapshot_key(first) not in of(here, "")
    assert not of(here, "prune/")


async def test_a_store_that_was_away_does_not_bring_back_the_age_of_what_was_spared() -> None:
    here = await sparse()
    wide = here.policy
    here.policy = replace(wide, pitr=HOUR)
    await here.prune(DAY, repack=None)
    here.away = frozenset({"S3"})
    here.policy = replace(wide, pitr=3 * DAY)
    second = await here.prune(2 * DAY, repack=None)
    here.away = frozenset()
    here.policy = replace(wide, pitr=HOUR)
    await here.prune(HOUR, repack=None)
    assert second is not None
    spared = {key for key in second.spared if key.startswith("snapshots/")}
    assert spared
    assert spared <= of(here, "snapshots/")


async def test_a_mark_is_as_old_as_it_is_put_however_long_the_repack_took() -> None:
    here = await sparse()
    here.clock.at += DAY
    began = here.clock.at

    class Long(Mortal):
        async def create(self, key: str, body: bytes) -> Made | Unknown:
            here.clock.at += 5 * HOUR if key.startswith("packs/") else timedelta(0)
            return await super().create(key, body)

    stores: dict[str, ObjectStore] = {name: Long(store, Life()) for name, store in here.here.stores.items()}
    await Prune(stores, KEYRING, here.clock, Silent(), here.policy, fork_bytes=4096, repack=EAGER).run()
    (mark,) = (await read_marks(stores, KEYRING)).marks
    assert mark.at >= began + 5 * HOUR


async def test_sentences_are_taken_back_before_their_mark() -> None:
    here = await sparse()
    await here.prune(DAY, repack=None)
    deleted: list[str] = []

    class Noted(Mortal):
        async def delete(self, keys: Sequence[str]) -> None | Unknown:
            deleted.extend(key for key in keys if key.startswith("prune/"))
            return await super().delete(keys)

    stores: dict[str, ObjectStore] = {name: Noted(store, Life()) for name, store in here.here.stores.items()}
    here.clock.at += 2 * DAY
    await Prune(stores, KEYRING, here.clock, Silent(), here.policy, fork_bytes=4096).run()
    assert [key.endswith("-now") for key in deleted] == [True] * 3 + [False] * 3


async def test_a_sentence_whose_mark_is_gone_is_swept_when_no_run_can_be_at_it() -> None:
    here = await sparse()
    sentence = Mark("20261101T000000Z-00000000", here.clock.at, frozenset({"packs/a"}), (), "another0")
    for store in here.here.stores.values():
        store.objects[sentence.key] = encode(sentence, KEYRING, bytes(12))
    await here.prune(HOUR, repack=None)
    assert sentence.key in of(here, "prune/")
    await here.prune(DAY, repack=None)
    assert sentence.key not in of(here, "prune/")
