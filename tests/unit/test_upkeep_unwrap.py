"""The keys out of wrapped copies of which one store forges, damages or withholds its own."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import Callable
from datetime import timedelta

import pytest
from tests.recovering import Faulty
from tests.stored import CLOCK, NAMES

from threefold.bootstrap_keys import unwrap_from_stores
from threefold.kernel import wraps
from threefold.kernel.errors import Damaged
from threefold.kernel.keys import Keyring, Sealer, digest
from threefold.kernel.wraps import Passphrase, WrongOpener
from threefold.protect.beside import beside
from threefold.quorum.keys import wrapped_key_key
from threefold.upkeep.renew import Renewal, keep_locked
from threefold.upkeep.wrapped import copies
from threefold.vault.retention import Policy

A = Keyring(bytes(range(32)))
RING = Keyring(*A.masters(), bytes(range(1, 33)))
RIGHT, WRONG = Passphrase("right horse battery"), Passphrase("wrong horse battery")
GOOD = wraps.wrap(RING, RIGHT, salt=bytes(16))
KEY = wrapped_key_key(RING.newest, "0000abcd")

MISSHAPEN = {
    "replaces": 5,
    "keys": 5,
    "version": [1],
    "key_id": "ab",
    "opened_by": 7,
    "n": 2**20,
    "r": 8.0,
    "p": True,
    "split": "one",
    "vouched": "\ud800é",
}


def forged(body: bytes = GOOD, **other: object) -> bytes:
    """With other fields, and a digest that fits."""
    record = json.loads(body) | other
    record["digest"] = digest(wraps._authenticated(record)).hex()
    return json.dumps(record).encode()


def first_version(*, bit: int = 0) -> bytes:
    """As the first version wrote it, with ``bit`` of the sealed key flipped."""
    record = {
        "version": 1,
        "key_id": A.key_id,
        "kdf": "scrypt",
        "n": 2**15,
        "r": 8,
        "p": 1,
        "salt": wraps._text(bytes(16)),
    }
    lock = Sealer(wraps._lock(record, RIGHT, bytes(16)))
    sealed = bytearray(lock.seal(A.masters()[0], nonce=bytes(12), header=A.key_id.encode()))
    sealed[3] ^= bit
    return json.dumps(record | {"sealed": wraps._text(bytes(sealed))}).encode()


def holding(key: str = KEY, **bodies: bytes) -> dict[str, Faulty]:
    """The good copy on each store, or what is said."""
    stores = {name: Faulty(name) for name in NAMES}
    for name, store in stores.items():
        store.objects[key] = bodies.get(name, GOOD)
    return stores


@pytest.mark.parametrize("on", NAMES)
async def test_a_forged_copy_on_one_store_does_not_keep_the_right_passphrase_out(on: str) -> None:
    for lie in (forged(sealed=b64encode(bytes(140)).decode()), forged(opened_by="shares", split=1), GOOD[:100]):
        assert (await unwrap_from_stores(holding(**{on: lie}), CLOCK, RIGHT)).ids == RING.ids


async def test_a_flipped_bit_of_a_first_copy_does_not_keep_the_right_passphrase_out() -> None:
    key, good = wrapped_key_key(A.key_id), first_version()
    stores = holding(key, S1=first_version(bit=1), S2=good, S3=good)
    assert (await unwrap_from_stores(stores, CLOCK, RIGHT)).ids == A.ids


async def test_the_wrong_passphrase_is_called_wrong_at_once_with_a_store_away_or_lying() -> None:
    stores = holding(S1=forged(sealed=b64encode(bytes(140)).decode()))
    with pytest.raises(WrongOpener, match="passphrase does not open"):
        await unwrap_from_stores(stores, CLOCK, WRONG)
    stores = holding()
    stores["S2"].down = True
    async with asyncio.timeout(4):
        with pytest.raises(WrongOpener, match="passphrase does not open"):
            await unwrap_from_stores(stores, CLOCK, WRONG)
        assert (await unwrap_from_stores(stores, CLOCK, RIGHT)).ids == RING.ids


async def test_where_one_store_alone_answers_it_is_not_the_last_word() -> None:
    stores = holding(S1=forged(sealed=b64encode(bytes(140)).decode()))
    stores["S2"].down = stores["S3"].down = True

    async def back() -> None:
        await asyncio.sleep(0.3)
        stores["S2"].down = False

    found, _ = await asyncio.gather(unwrap_from_stores(stores, CLOCK, RIGHT), back())
    assert found.ids == RING.ids


async def test_one_store_cannot_keep_us_busy_with_copies_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[bytes] = []
    real: Callable[..., Keyring] = wraps.unwrap

    def counted(body: bytes, opener: wraps.Opener) -> Keyring:
        tried.append(body)
        if body != GOOD:
            raise WrongOpener("no")
        return real(body, opener)

    monkeypatch.setattr(wraps, "unwrap", counted)
    stores = holding()
    for number in range(100):
        stores["S1"].objects[f"keys/{RING.newest}-0{number:03}"] = b"%d" % number
    assert (await unwrap_from_stores(stores, CLOCK, RIGHT)).ids == RING.ids
    assert tried[0] == GOOD
    assert len(tried) <= 40


@pytest.mark.parametrize("name", MISSHAPEN)
async def test_a_misshapen_copy_with_a_digest_that_fits_is_damage_and_nothing_else(name: str) -> None:
    body = forged(**{name: MISSHAPEN[name]})
    assert not wraps.vouched(body, RING)
    if name != "vouched":
        with pytest.raises(Damaged):
            wraps.describe(body)
        with pytest.raises(Damaged):
            wraps.unwrap(body, RIGHT)
    stores = holding(S1=body)
    assert len(await copies(dict(stores), RING)) == 3
    assert (await unwrap_from_stores(stores, CLOCK, RIGHT)).ids == RING.ids


@pytest.mark.parametrize("body", [b"[" * 100_000, b"\xff\xfe", b"5", b"[]", b'{"version": 3}', b" " * 2_000_000])
def test_what_is_no_record_is_damage(body: bytes) -> None:
    with pytest.raises(Damaged):
        wraps.describe(body)
    assert not wraps.vouched(body, RING)


async def test_work_beside_is_told_of_and_begun_again() -> None:
    said: list[dict[str, object]] = []
    begun: list[int] = []

    class Quick:
        async def sleep(self, seconds: float) -> None:
            await asyncio.sleep(0)

    async def work() -> None:
        begun.append(1)
        if len(begun) < 3:
            raise TypeError("not iterable")

    def report(event: str, **more: object) -> None:
        said.append(more)

    async with beside({"the locks": work}, Quick(), report):  # type: ignore[arg-type]
        async with asyncio.timeout(5):
            while len(begun) < 3:
                await asyncio.sleep(0)
    assert [(each["what"], each["level"]) for each in said] == [("the locks", "error")] * 2


async def test_locks_are_kept_beside_a_misshapen_copy() -> None:
    stores = {name: Faulty(name) for name in NAMES}
    for store in stores.values():
        store.objects[KEY] = GOOD
    stores["S1"].objects[f"{KEY}9"] = forged(replaces=5)
    policy = Policy(timedelta(days=7), 7, 4, 12, timedelta(days=1))
    renewal = Renewal(dict(stores), NAMES, RING, CLOCK, policy, timedelta(days=30))
    task = asyncio.create_task(keep_locked(renewal, CLOCK, lambda *_, **__: None, timedelta(days=30)))
    try:
        async with asyncio.timeout(10):
            while not all(KEY in store.locks for store in stores.values()):
                assert not task.done()
                await asyncio.sleep(0.01)
    finally:
        task.cancel()
