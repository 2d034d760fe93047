"""A manifest that is not locked before its author has looked; a joining store that counts while it is verified."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest
from tests.stored import KEYRING, NAMES, SEGMENT, T0, unaffected
from tests.unit.test_protect_replacing import _Middle
from tests.unit.test_upkeep_locks import World, world
from tests.unit.test_upkeep_prune import DAY, NARROW

from threefold.kernel.errors import Unavailable
from threefold.kernel.lsn import Lsn
from threefold.kernel.progress import Silent
from threefold.quorum import keys
from threefold.stores.locking import LockingStore
from threefold.stores.memory import MemoryStore
from threefold.stores.store import Gone, Locked, Page, Unknown
from threefold.upkeep.prune import Prune
from threefold.upkeep.renew import AT_CREATION
from threefold.vault.chunk_store import Vault
from threefold.vault.manifest import Manifest, snapshot_key


async def _withdrawn_late(here: World, primary_behind: timedelta) -> Manifest:
    """Published while a sentence names a pack of its; then the DRaaS server renews locks; then its author looks."""
    plain = here.here.stores
    old = await here.here.vault().manifest(here.here.snapshots[0].id)
    here.clock.at = T0 + 8 * DAY
    await here.prune()
    here.clock.at = T0 + 10 * DAY
    deleting, go_on = asyncio.Event(), asyncio.Event()

    class Waits(MemoryStore):
        def __init__(self, of: MemoryStore) -> None:
            super().__init__(of.name, here.clock)
            self.objects, self.locks = of.objects, of.locks

        async def delete(self, keys: Sequence[str]) -> None | Locked | Unknown:
            deleting.set()
            await go_on.wait()
            return await super().delete(keys)

    slow = {name: LockingStore(Waits(store), here.clock, here.period, AT_CREATION) for name, store in plain.items()}
    running = asyncio.create_task(Prune(slow, KEYRING, here.clock, Silent(), NARROW, fork_bytes=SEGMENT).run())
    await deleting.wait()
    begin = Lsn(len(here.here.wal) - SEGMENT)
    _, draft, bodies = await here.here.drafted(
        at=here.clock.now() - primary_behind, start=begin, stop=Lsn(begin + 200), share=2
    )
    late = Manifest(draft.summary, draft.files, (), [*draft.names, *old.names], [*draft.places, *old.places])
    for key, body in bodies.items():
        for store in here.stores.values():
            await store.create(key, body)
    vault = Vault(here.stores, KEYRING, here.clock)
    await vault.publish(late)
    await here.renew()  # the DRaaS server's hourly pass
    with pytest.raises(Unavailable):
        await unaffected(vault, late)
    go_on.set()
    await running
    return late


@pytest.mark.parametrize("behind", [timedelta(0), timedelta(hours=2)], ids=["in time", "two hours after its backup"])
async def test_a_manifest_is_not_locked_before_its_author_could_withdraw_it(behind: timedelta) -> None:
    """`_SETTLED` counts from the backup's end by the primary's clock; what comes between is uploads and settling."""
    here = await world(DAY)
    late = await _withdrawn_late(here, behind)
    there = [name for name in NAMES if snapshot_key(late.summary.id) in here.here.stores[name].objects]
    assert there == [], "withdrawn, and held by a lock; it is the newest, and a pack of it is on no store"


async def test_a_leader_of_before_deletes_no_claim_of_a_store_that_votes_by_now() -> None:
    """It stood still while it verified; another one ended the replacement; a reading is spoilt once."""
    here = _Middle()
    claim = f"{keys.EPOCHS}/{1:08x}"
    key = claim
    four = here.stores["S4"]
    four.objects[key] = b"what a claim is"

    class Spoilt(MemoryStore):
        async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> Page | Unknown:
            page = await super().list(prefix, after=after, limit=limit)
            if prefix == keys.EPOCHS:
                # While we stood still: it was filled for the last time, and admitted.
                self.objects[keys.FORMAT] = here.stores["S1"].objects[keys.FORMAT]
            return page

        async def read(self, asked: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
            body = await super().read(asked, start=start, length=length)
            return b"spoilt" if asked == key else body

    target = Spoilt("S4")
    target.objects = four.objects
    here.joining.target = target
    await here.joining._verify()
    assert keys.FORMAT in four.objects
    assert key in four.objects, "claims are never deleted where they count"


async def test_nor_does_one_spoilt_reading_delete_anything() -> None:
    here = _Middle()
    key = f"{keys.EPOCHS}/{1:08x}"

    class SpoiltOnce(MemoryStore):
        times = 1

        async def read(self, asked: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
            body = await super().read(asked, start=start, length=length)
            if asked == key and self.times:
                self.times -= 1
                return b"spoilt"
            return body

    target = SpoiltOnce("S4")
    target.objects = here.stores["S4"].objects
    target.objects[key] = b"what a claim is"
    here.joining.target = target
    assert not await here.joining._verify()
    assert key in target.objects
