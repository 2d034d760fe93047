"""Damaged objects of the log: another store's copy is used, and it is said; where there is none, nothing is guessed."""

from __future__ import annotations

import os

import pytest
from tests.stored import Leading, found

from threefold.kernel.clock import SystemClock
from threefold.kernel.errors import Damaged, Unavailable
from threefold.kernel.keys import Keyring
from threefold.kernel.lsn import Lsn
from threefold.quorum import keys
from threefold.quorum.history import encode_start
from threefold.quorum.members import Format
from threefold.quorum.objects import Codec, Header, Kind
from threefold.quorum.reader import read_extent, read_wal
from threefold.stores.memory import MemoryStore
from threefold.stores.store import Gone, Unknown

KEYRING = Keyring(bytes(range(32)))
WRITER = "0123456789abcdef" * 2
SEGMENT = 4096
WAL = os.urandom(SEGMENT + 1000)


def _stores() -> dict[str, MemoryStore]:
    """One segment, which the first entry filled, and two entries behind it; the same on each store."""
    codec = Codec(KEYRING, 7)
    before = codec.encode(Header(Kind.START, 1, 0, WRITER, 1, Lsn(0), Lsn(0)), encode_start((), b""))
    whole = codec.encode(Header(Kind.SEGMENT, 1, 2, WRITER, 1, Lsn(0), Lsn(SEGMENT)), WAL[:SEGMENT])
    objects = {
        keys.epoch_key(1): b"somebody",
        keys.slot_key(1, 0): before.body,
        keys.segment_key(1, 0): whole.body,
    }
    for slot, (start, end) in enumerate(((0, SEGMENT), (SEGMENT, SEGMENT + 400), (SEGMENT + 400, len(WAL))), 1):
        header = Header(Kind.ENTRY, 1, slot, WRITER, 1, Lsn(start), Lsn(end), before.digest)
        before = codec.encode(header, WAL[start:end])
        objects[keys.slot_key(1, slot)] = before.body
    stores = {name: MemoryStore(name) for name in ("S1", "S2", "S3")}
    for number, store in enumerate(stores.values()):
        store.objects.update(objects)
        found = Format(7, KEYRING.key_id, str(number), SEGMENT, SEGMENT)
        store.objects[keys.FORMAT] = found.encode()
    return stores


def _damage(store: MemoryStore, key: str) -> None:
    body = bytearray(store.objects[key])
    body[-20] ^= 1
    store.objects[key] = bytes(body)


async def _read(stores: dict[str, MemoryStore]) -> tuple[bytes, list[str]]:
    said: list[str] = []
    clock = SystemClock()
    extent = await read_extent(stores, KEYRING, clock, said.append, patience=1)
    wal = read_wal(stores, KEYRING, clock, extent, start=extent.start, end=extent.end, note=said.append)
    return b"".join([data async for _, _, data in wal]), said


async def test_what_is_whole_is_read_and_nothing_is_said() -> None:
    assert await _read(_stores()) == (WAL, [])


@pytest.mark.parametrize("key", [keys.slot_key(1, 2), keys.slot_key(1, 3), keys.segment_key(1, 0)])
async def test_a_damaged_copy_is_not_used_and_that_is_said(key: str) -> None:
    stores = _stores()
    _damage(stores["S1"], key)
    data, said = await _read(stores)
    assert data == WAL
    assert said == [f"{key} is damaged on S1: another store's copy is used"]


async def test_of_many_damaged_copies_the_first_is_named() -> None:
    stores = _stores()
    for slot in (2, 3):
        _damage(stores["S1"], keys.slot_key(1, slot))
    data, said = await _read(stores)
    assert data == WAL
    assert said == [f"{keys.slot_key(1, 2)} and 1 more are damaged on S1: another store's copy is used"]


async def test_two_damaged_copies_of_an_entry_are_outweighed_by_the_third() -> None:
    stores = _stores()
    for name in ("S1", "S2"):
        _damage(stores[name], keys.slot_key(1, 2))
    data, said = await _read(stores)
    assert data == WAL
    assert len(said) == 2


@pytest.mark.parametrize("key", [keys.slot_key(1, 2), keys.segment_key(1, 0)])
async def test_what_nobody_has_whole_is_never_skipped_over(key: str) -> None:
    stores = _stores()
    for store in stores.values():
        _damage(store, key)
    with pytest.raises((Damaged, Unavailable)):
        await _read(stores)


class _Once(MemoryStore):
    """Its first answer is an error."""

    asked = False

    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
        if not self.asked:
            self.asked = True
            return Unknown("503")
        return await super().read(key, start=start, length=length)


class _Dead(MemoryStore):
    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
        return Unknown("cannot be reached")


async def test_beside_a_dead_store_one_error_of_another_does_not_end_it() -> None:
    stores = _stores()
    flaky = _Once("S2")
    flaky.objects = dict(stores["S2"].objects)
    stores |= {"S1": _Dead("S1"), "S2": flaky}
    extent = await read_extent(stores, KEYRING, SystemClock(), patience=5)
    assert extent.end == len(WAL)


async def test_two_dead_stores_are_told_after_a_moment() -> None:
    stores = _stores()
    stores |= {"S1": _Dead("S1"), "S2": _Dead("S2")}
    with pytest.raises(Unavailable, match="only S3 answers with the log"):
        await read_extent(stores, KEYRING, SystemClock(), patience=5)


async def test_a_log_that_lacks_a_history_file_is_damaged_and_not_absent() -> None:
    stores = {name: MemoryStore(name) for name in ("S1", "S2", "S3")}
    await found(stores)
    leading = await Leading(stores, timeline=2).begin()
    await leading.append(os.urandom(100))
    await leading.end()
    with pytest.raises(Damaged, match="no history file of its timeline 2"):
        await read_extent(stores, KEYRING, SystemClock(), patience=5)
