"""A snapshot whose manifest, or a chunk of it, does not read by one revision is read by another."""

from __future__ import annotations

from itertools import combinations

import pytest
from tests.churning import DAY, Away, Churning, sparse
from tests.stored import KEYRING, NAMES, flip

from threefold.kernel.errors import Damaged, NotThere, Unavailable
from threefold.kernel.progress import Silent
from threefold.recover.log import open_quorum_log
from threefold.recover.verify import verify_stored
from threefold.stores.health import HealthBook
from threefold.stores.memory import MemoryStore
from threefold.stores.store import Gone, Unknown
from threefold.upkeep.scrub import Scrub
from threefold.vault import pack as packs
from threefold.vault.chunk_store import Vault
from threefold.vault.manifest import Manifest, snapshot_key
from threefold.vault.revisions import original


class Silent503(MemoryStore):
    """Gives nothing back whose key begins so."""

    def __init__(self, of: MemoryStore, prefixes: tuple[str, ...]) -> None:
        super().__init__(of.name)
        self.objects, self.prefixes = of.objects, prefixes

    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
        return Unknown("503") if key.startswith(self.prefixes) else await super().read(key, start=start, length=length)


@pytest.mark.parametrize("names", [*combinations(NAMES, 2), NAMES])
async def test_a_revision_whose_body_is_damaged_does_not_hide_the_good_one_before(names: tuple[str, ...]) -> None:
    """Its author died when it was on one store, and that copy rots behind its summary."""
    here = await sparse()
    report = await here.prune(DAY)
    assert report is not None
    old, revision = next(iter(report.repack.revised.items()))
    key, stores = snapshot_key(revision), here.here.stores
    for name in ("S2", "S3"):
        del stores[name].objects[key]
    stores["S1"].objects[key] = flip(stores["S1"].objects[key], len(stores["S1"].objects[key]) - 40)
    vault = here.vault(names)
    (latest,) = [each for each in (await vault.catalogue()).summaries if original(each.id) == old]
    assert (latest.id == revision) is ("S1" in names)
    assert (await vault.restorable(latest.id)).summary.id == old
    log = await open_quorum_log(vault.stores, KEYRING, here.clock, lambda _: None)
    proof = await verify_stored(vault, log, Silent(), deep=False)
    assert not any(each.costs_recovery and key == each.key for each in proof.problems)
    for store in stores.values():
        store.objects[snapshot_key(old)] = flip(store.objects[snapshot_key(old)], 60)
    with pytest.raises((Damaged, NotThere)):
        await vault.restorable(latest.id)


async def test_a_scrub_finds_a_lost_pack_of_a_snapshot_whose_latest_revision_does_not_read() -> None:
    here = await sparse()
    report = await here.prune(DAY)
    assert report is not None
    stores = here.here.stores
    old = report.repack.revised.keys()
    for name in ids(here) - here.needed - set(report.repack.revised.values()):
        for store in stores.values():
            del store.objects[snapshot_key(name)]
    newer = {key for name in ids(here) - old for key in (await here.vault().manifest(name)).pack_keys()}
    lost = min({key for name in old for key in (await here.vault().manifest(name)).pack_keys()} - newer)
    for store in stores.values():
        for key in [key for key in store.objects if key == lost or key.startswith("prune/")]:
            del store.objects[key]
        for key in map(snapshot_key, report.repack.revised.values()):
            store.objects[key] = flip(store.objects[key], len(store.objects[key]) - 40)
    found = (await Scrub(stores, KEYRING, here.clock, HealthBook(NAMES), Silent()).everything()).findings
    assert lost in {each.key for each in found}


def ids(here: Churning) -> set[str]:
    return {key.rpartition("/")[2] for key in here.here.stores["S1"].objects if key.startswith("snapshots/")}


async def outlasted() -> tuple[Churning, Manifest, list[int]]:
    """Of a snapshot: its first manifest, and its chunks whose packs are deleted, being in its revision's packs now."""
    here = await sparse()
    looked = await here.prune(DAY, dry_run=True)
    assert looked is not None
    manifest = await here.vault().manifest(looked.repack.snapshots[0])
    await here.prune()
    await here.prune(2 * DAY)
    moved = [at for at, place in enumerate(manifest.places) if place.pack in looked.repack.packs]
    assert not {packs.pack_key(manifest.places[at].pack) for at in moved} & here.packs().keys()
    return here, manifest, moved


def reading(here: Churning, manifest: Manifest, stores: dict[str, MemoryStore]) -> Vault:
    """One that read this manifest earlier."""
    vault = Vault(stores, KEYRING, here.clock, read_patience_seconds=0.5)
    vault._wanted.add(manifest.summary.id)
    return vault


@pytest.mark.parametrize("together", [1, 2])
async def test_a_recovery_that_outlasts_the_grace_period_goes_on_though_a_store_is_dead(together: int) -> None:
    here, manifest, moved = await outlasted()
    vault = reading(here, manifest, {**here.here.stores, "S3": Away("S3")})
    group = moved[:1] * together  # in one read
    for _ in range(2):
        before = here.clock.at
        found = await vault.chunks([(manifest.names[at], manifest.places[at]) for at in group])
        where = {name: number for number, name in enumerate(manifest.names)}
        contents = dict(zip(manifest.files[0].chunks, here.contents[manifest.summary.id], strict=True))
        assert found == [contents[where[manifest.names[at]]] for at in group]
    assert here.clock.at == before  # patience is spent once for a pack


@pytest.mark.parametrize("silent", ["snapshots/", "packs/"])
async def test_a_chunk_that_a_revision_may_have_is_not_said_to_be_gone(silent: str) -> None:
    here, manifest, moved = await outlasted()
    name, place = manifest.names[moved[0]], manifest.places[moved[0]]
    with pytest.raises(NotThere):  # nothing was read here of which there could be revisions
        await here.vault().chunks([(name, place)])
    hidden = tuple(here.packs()) if silent == "packs/" else (silent,)
    stores: dict[str, MemoryStore] = {each: Silent503(store, hidden) for each, store in here.here.stores.items()}
    with pytest.raises(Unavailable):
        await reading(here, manifest, stores).chunks([(name, place)])
