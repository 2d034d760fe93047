"""A copy of a pack counts where it reaches as far as it is needed."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from tests.recovering import CLOCK, KEYRING, Faulty, three

from threefold.kernel.errors import NotThere
from threefold.kernel.lsn import Lsn
from threefold.kernel.progress import Silent
from threefold.recover.verify import verify_stored
from threefold.vault import pack as packs
from threefold.vault.chunk_store import Vault
from threefold.vault.chunker import ChunkNamer
from threefold.vault.manifest import Manifest, Summary
from threefold.vault.pack import PackBuilder, Place

AT = datetime(2026, 11, 22, 10, tzinfo=UTC)
PACK = packs.new_pack_id(AT, "0123456789abcdef" * 2)
KEY = packs.pack_key(PACK)


async def stored() -> tuple[dict[str, Faulty], Vault, dict[bytes, Place]]:
    """One pack of three chunks, of which a snapshot has the first two."""
    builder, namer = PackBuilder(PACK, KEYRING), ChunkNamer(KEYRING)
    plain = [bytes([number]) * 1000 for number in range(3)]
    placed = {namer.name(each): builder.add(namer.name(each), 1000, packs.compress(each)) for each in plain}
    body, stores = builder.finish(), three()
    for store in stores.values():
        await store.create(KEY, body)
    kept = dict(list(placed.items())[:2])
    vault = Vault(stores, KEYRING, CLOCK)
    summary = Summary("20261122T100000Z-01234567", "", 7, 18, 2**24, 1, Lsn(0), Lsn(8), AT, AT, 0, 0)
    await vault.publish(Manifest(summary, (), (), list(kept), list(kept.values())))
    return stores, vault, kept


@pytest.mark.parametrize("by", ["cut", "hole"])
async def test_a_pack_cut_short_is_no_copy_to_build_upon(by: str) -> None:
    stores, vault, kept = await stored()
    end = packs.ends(kept.values())[PACK]
    whole = stores["S1"].objects[KEY]

    def damage(name: str) -> None:
        stores[name].objects[KEY] = whole[: end - 1] if by == "cut" else whole[: end - 20].ljust(len(whole), b"\0")

    assert await vault.known_chunks() == kept
    damage("S1")
    assert await vault.known_chunks() == kept
    presence = (await vault.presence({PACK: end}))[PACK]
    assert (presence.on, presence.absent) == ({"S2", "S3"}, {"S1"})
    report = await verify_stored(vault, NotThere("no log"), Silent(), deep=False)
    assert [problem.store for problem in report.problems if problem.key == KEY] == ["S1"]
    damage("S2")
    assert await vault.known_chunks() == {}


async def test_what_lies_behind_the_last_chunk_that_is_needed_is_not_missed() -> None:
    stores, vault, kept = await stored()
    for store in stores.values():
        store.objects[KEY] = store.objects[KEY][: packs.ends(kept.values())[PACK]]
    assert await vault.known_chunks() == kept


@pytest.mark.parametrize("chance", ["00", "ff"])
async def test_an_attempt_in_the_second_of_the_newest_snapshot_is_not_sent_again(chance: str) -> None:
    stores, vault, kept = await stored()
    later = packs.new_pack_id(AT, chance * 12)
    builder, namer = PackBuilder(later, KEYRING), ChunkNamer(KEYRING)
    name = namer.name(b"unpublished" * 100)
    place = builder.add(name, 1100, packs.compress(b"unpublished" * 100))
    body = builder.finish()
    for store in stores.values():
        await store.create(packs.pack_key(later), body)
    assert await vault.known_chunks() == kept | {name: place}
