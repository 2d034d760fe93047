"""Wrapped keys changed on stores that fail, lock, or are tampered with: there is always a way to open the keys."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from tests.recovering import Faulty
from tests.stored import CLOCK, KEYRING, LOG, NAMES, WRAPPED, found, stored
from tests.unit.test_upkeep_locks import World

from threefold.kernel import wraps
from threefold.kernel.errors import Refused, Unavailable
from threefold.kernel.keys import digest
from threefold.kernel.progress import Silent
from threefold.kernel.wraps import Passphrase
from threefold.protect.fill import fill
from threefold.protect.founding import _key_can_be_recovered
from threefold.quorum.keys import wrapped_key_key
from threefold.quorum.objects import Codec
from threefold.stores.health import HealthBook
from threefold.stores.memory import MemoryStore
from threefold.stores.store import ObjectStore
from threefold.upkeep import rewrap
from threefold.upkeep.rewrap import Rewrap
from threefold.upkeep.scrub import Scrub
from threefold.upkeep.wrapped import copies, put

OLD, NEW = Passphrase("a passphrase"), Passphrase("another passphrase")


async def _change(stores: dict[str, ObjectStore], opener: wraps.Opener, said: list[str] | None = None) -> None:
    there = await copies(stores, KEYRING)
    notes = said if said is not None else []
    await Rewrap(stores, KEYRING, notes.append).run([opener], rewrap.of_kind(there, opener))


async def _opens(stores: dict[str, ObjectStore], opener: wraps.Opener) -> list[bool]:
    """For each store, whether any copy there opens."""
    answers = []
    for store in stores.values():
        found_ = [copy.body for copy in await copies({store.name: store}, KEYRING)]
        answers.append(any(_does(body, opener) for body in found_))
    return answers


def _does(body: bytes, opener: wraps.Opener) -> bool:
    try:
        return wraps.unwrap(body, opener).ids == KEYRING.ids
    except wraps.WrongOpener:
        return False


@pytest.mark.long
async def test_under_a_lock_the_old_copy_stays_is_not_renewed_and_goes_afterwards() -> None:
    world = World(timedelta(days=8))
    await world.day(0)
    stores, old = world.stores, wrapped_key_key(KEYRING.key_id)
    await put(stores, {old: WRAPPED})
    until = await stores["S1"].locked_until(old)
    assert until is not None
    said: list[str] = []
    await _change(stores, NEW, said)
    assert sum("stays under a retention lock" in note for note in said) == 3
    assert await _opens(stores, NEW) == [True] * 3
    (new,) = {copy.key for copy in await copies(stores, KEYRING) if not copy.replaced}
    for number in range(1, 10):
        await world.day(number)
        await world.renew()
    assert await stores["S1"].locked_until(old) == until
    held = await stores["S1"].locked_until(new)
    assert held is not None
    assert held > world.clock.at + world.period / 3  # type: ignore[operator]
    await _change(stores, NEW)
    assert await _opens(stores, OLD) == [False] * 3
    assert await _opens(stores, NEW) == [True] * 3


@pytest.mark.parametrize("step", range(2))
async def test_a_store_that_fails_leaves_the_old_way_or_the_new_one_and_again_ends_it(step: int) -> None:
    stores = {name: Faulty(name) for name in ("S1", "S2", "S3")}
    await found(stores)
    plain: dict[str, ObjectStore] = dict(stores)
    if step == 0:
        stores["S2"].down = True
    else:
        stores["S2"].reads_left = step  # it answers the look, and dies while copies are put or taken away
    with pytest.raises(Unavailable, match="S2"):
        await _change(plain, NEW)
    stores["S2"].down, stores["S2"].reads_left = False, None
    assert all(old or new for old, new in zip(await _opens(plain, OLD), await _opens(plain, NEW), strict=True))
    await _change(plain, NEW)
    assert await _opens(plain, OLD) == [False] * 3
    assert await _opens(plain, NEW) == [True] * 3
    assert {len(each) for each in ([k for k in s.objects if k.startswith("keys/")] for s in stores.values())} == {1}


async def test_a_forged_copy_replaces_nothing_and_a_newer_key_is_not_overwritten() -> None:
    stores = {name: Faulty(name) for name in ("S1", "S2", "S3")}
    await found(stores)
    plain: dict[str, ObjectStore] = dict(stores)
    (good,) = {copy.key for copy in await copies(plain, KEYRING)}
    forged = json.loads(wraps.wrap(KEYRING, NEW, salt=bytes(16))) | {"replaces": [good]}
    forged["digest"] = digest(wraps._authenticated(forged)).hex()
    await stores["S3"].create(f"keys/{KEYRING.key_id}-00000000", json.dumps(forged).encode())
    assert not any(copy.replaced for copy in await copies(plain, KEYRING))
    newer = rewrap.prepared(KEYRING)
    await stores["S3"].create(f"keys/{newer.newest}-00000000", wraps.wrap(newer, NEW, salt=bytes(16)))
    rewrap.none_newer(await copies(plain, KEYRING), KEYRING)  # one store alone may have forged it
    await stores["S2"].create(f"keys/{newer.newest}-00000000", wraps.wrap(newer, NEW, salt=bytes(16)))
    with pytest.raises(Refused, match="rotated on another host"):
        rewrap.none_newer(await copies(plain, KEYRING), KEYRING)


def _forged(body: bytes, **other: object) -> bytes:
    record = json.loads(body) | other
    record["digest"] = digest(wraps._authenticated(record)).hex()
    return json.dumps(record).encode()


async def test_a_key_stands_on_two_stores_that_hold_it_for_certain() -> None:
    ring = rewrap.prepared(KEYRING)
    true, key = wraps.wrap(ring, NEW, salt=bytes(16)), wrapped_key_key(ring.newest, "1")
    stores: dict[str, ObjectStore] = {name: MemoryStore(name) for name in ("S1", "S2", "S3")}
    await stores["S1"].create(key, true)
    await stores["S2"].create(key, _forged(true, sealed="AAAA"))
    with pytest.raises(Refused, match="would be lost"):
        rewrap.stands(await copies(stores, ring), ring, list(stores))
    with pytest.raises(Refused, match="would be lost"):
        await _key_can_be_recovered(stores, ring.activated())
    older = json.loads(wraps.wrap(KEYRING, NEW, salt=bytes(16))) | {"keys": [ring.newest, KEYRING.newest]}
    older["vouched"] = wraps._voucher(older, KEYRING)
    await stores["S2"].create(wrapped_key_key(KEYRING.newest, "2"), _forged(json.dumps(older).encode()))
    with pytest.raises(Refused, match="would be lost"):
        rewrap.stands(await copies(stores, ring), ring, list(stores))
    await stores["S3"].create(key, true)
    rewrap.stands(await copies(stores, ring), ring, list(stores))
    await _key_can_be_recovered(stores, ring.activated())


async def test_a_host_without_the_prepared_key_begins_an_epoch_where_two_stores_hold_the_newer_copy_alike() -> None:
    ours = KEYRING.followed_by(bytes(range(5, 37))).activated()
    later = ours.followed_by(bytes(range(9, 41)))
    true, key = wraps.wrap(later, NEW, salt=bytes(16)), wrapped_key_key(later.newest, "1")
    stores: dict[str, ObjectStore] = {name: MemoryStore(name) for name in ("S1", "S2", "S3")}
    await stores["S1"].create(key, true)
    await stores["S2"].create(key, _forged(true, sealed="AAAA"))
    with pytest.raises(Refused, match="would be lost"):
        await _key_can_be_recovered(stores, ours)
    await stores["S3"].create(key, true)
    await _key_can_be_recovered(stores, ours)


async def test_who_stole_an_old_key_replaces_no_newer_copy() -> None:
    ring = KEYRING.followed_by(bytes(range(5, 37))).activated()
    key = wrapped_key_key(ring.newest, "1")
    stores: dict[str, ObjectStore] = {name: MemoryStore(name) for name in ("S1", "S2", "S3")}
    await put(stores, {key: wraps.wrap(ring, NEW, salt=bytes(16))})
    stolen = wraps.wrap(KEYRING, OLD, salt=bytes(16), replaces=[key, wrapped_key_key(KEYRING.newest)])
    await put(stores, {wrapped_key_key(KEYRING.newest): WRAPPED, wrapped_key_key(KEYRING.newest, "2"): stolen})
    gone = {copy.key for copy in await copies(stores, ring) if copy.replaced}
    assert gone == {wrapped_key_key(KEYRING.newest)}


async def test_neither_filling_nor_repair_brings_a_replaced_copy_back() -> None:
    here = await stored()
    old, new = wrapped_key_key(KEYRING.newest), wrapped_key_key(KEYRING.newest, "1")
    body = wraps.wrap(KEYRING, NEW, salt=bytes(16), replaces=[old])
    for store in here.stores.values():
        store.objects[new] = body
    for name in ("S2", "S3"):
        del here.stores[name].objects[old]
    del here.stores["S3"].objects[new]
    sources = [here.stores["S1"], here.stores["S2"]]
    await fill(here.stores["S3"], sources, KEYRING, Codec(KEYRING, LOG), lambda *_: True, prefixes=["keys"])
    assert [key for key in here.stores["S3"].objects if key.startswith("keys/")] == [new]
    report = await Scrub(here.stores, KEYRING, CLOCK, HealthBook(NAMES), Silent()).everything()
    assert not [finding for finding in report.findings if finding.key == old]
    assert [name for name, store in here.stores.items() if old in store.objects] == ["S1"]
