"""Wrapped keys changed on stores that fail, lock, or are tampered with: there is always a way to open the keys."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from tests.recovering import Faulty
from tests.stored import KEYRING, WRAPPED, found
from tests.unit.test_upkeep_locks import World

from threefold.kernel import wraps
from threefold.kernel.errors import Refused, Unavailable
from threefold.kernel.keys import digest
from threefold.kernel.wraps import Passphrase
from threefold.quorum.keys import wrapped_key_key
from threefold.stores.store import ObjectStore
from threefold.upkeep import rewrap
from threefold.upkeep.rewrap import Rewrap
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
    with pytest.raises(Refused, match="rotated on another host"):
        rewrap.none_newer(await copies(plain, KEYRING), KEYRING)
