"""A log under two master keys: who has both reads it, who has the old one is told so, and one liar stops nobody."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from threefold.failover.deciding import Desk, settle
from threefold.failover.steps import Kind as StepKind
from threefold.failover.steps import Step, encode, key_of
from threefold.kernel.clock import SystemClock
from threefold.kernel.errors import BadInput, Damaged, OtherKey
from threefold.kernel.keys import Keyring
from threefold.kernel.lsn import Lsn
from threefold.protect.beacon import LEADER, read_leaders
from threefold.quorum import keys
from threefold.quorum.appender import Appender, Encode
from threefold.quorum.driver import Driver
from threefold.quorum.history import Span, encode_start
from threefold.quorum.members import Format
from threefold.quorum.objects import SEAL_BYTES, Codec, Header, Kind
from threefold.quorum.reader import read_extent, read_wal
from threefold.quorum.requests import Create, Read
from threefold.quorum.timelines import open_history, seal_history
from threefold.quorum.view import Scope
from threefold.stores.memory import MemoryStore
from threefold.stores.store import Made

M0, M1 = bytes(range(32)), bytes(range(60, 92))
OLD, BOTH, NEXT = Keyring(M0), Keyring(M0, M1), Keyring(M0, M1, prepared=True)
WRITER = "0123456789abcdef" * 2
CLOCK = SystemClock()
HEADER = Header(Kind.ENTRY, 2, 1, WRITER, 1, Lsn(400), Lsn(700))
ENTRY = Codec(BOTH, 7).encode(HEADER, bytes(300)).body


def _stores(second: Keyring = BOTH) -> dict[str, MemoryStore]:
    """Epoch 1 under the old key, epoch 2 under ``second``, 400 and 300 bytes."""
    one, two = Codec(OLD, 7), Codec(second, 7)
    start = one.encode(Header(Kind.START, 1, 0, WRITER, 1, Lsn(0), Lsn(0)), encode_start((), b""))
    entry = one.encode(Header(Kind.ENTRY, 1, 1, WRITER, 1, Lsn(0), Lsn(400), start.digest), b"o" * 400)
    seal = two.encode(Header(Kind.SEAL, 1, 2, WRITER))
    spans = (Span(1, 1, 1, Lsn(0), Lsn(400)),)
    again = two.encode(Header(Kind.START, 2, 0, WRITER, 1, Lsn(400), Lsn(400)), encode_start(spans, b""))
    after = two.encode(Header(Kind.ENTRY, 2, 1, WRITER, 1, Lsn(400), Lsn(700), again.digest), b"n" * 300)
    stores = {name: MemoryStore(name) for name in ("S1", "S2", "S3")}
    for number, store in enumerate(stores.values()):
        store.objects[keys.FORMAT] = Format(7, OLD.key_id, str(number), 4096, 4096).encode()
        store.objects |= {keys.epoch_key(epoch): b"{}" for epoch in (1, 2)}
        for found in (start, entry, seal, again, after):
            store.objects[keys.slot_key(*found.position)] = found.body
    return stores


async def _read(stores: dict[str, MemoryStore], ring: Keyring) -> bytes:
    extent = await read_extent(stores, ring, CLOCK, patience=2)
    wal = read_wal(stores, ring, CLOCK, extent, start=extent.start, end=extent.end)
    return b"".join([data async for _, _, data in wal])


@pytest.mark.parametrize("ring", [BOTH, NEXT], ids=["in force", "prepared"])
async def test_a_log_under_two_keys_is_one_log(ring: Keyring) -> None:
    assert await _read(_stores(), ring) == b"o" * 400 + b"n" * 300


async def test_who_has_the_old_key_alone_is_told_so_by_two_stores() -> None:
    stores = _stores()
    for silent in (None, "S1"):
        asked = {name: store for name, store in stores.items() if name != silent}
        with pytest.raises(BadInput, match=f"goes on under key {BOTH.key_id[:4]}"):
            await _read(asked, OLD)
    with pytest.raises(BadInput, match="goes on under key"):
        await _read({"S1": stores["S1"]}, OLD)  # one store alone, asked on purpose


async def test_one_store_that_names_another_key_is_outvoted() -> None:
    lying = _stores(OLD)
    lying["S2"] = _stores(BOTH)["S2"]
    assert await _read(lying, OLD) == b"o" * 400 + b"n" * 300


async def test_a_log_that_was_founded_with_another_key_is_no_older_one() -> None:
    with pytest.raises(BadInput, match="is not the one of the log"):
        await _read(_stores(), Keyring(M1))


@given(st.integers(0, 8 * len(ENTRY) - 1))
@settings(max_examples=300, deadline=None)
def test_a_flipped_bit_of_an_entry_is_damage_and_never_another_key(bit: int) -> None:
    hurt = bytearray(ENTRY)
    hurt[bit // 8] ^= 1 << bit % 8
    for ring in (BOTH, NEXT):
        with pytest.raises(Damaged) as told:
            Codec(ring, 7).open(bytes(hurt))
        assert not isinstance(told.value, OtherKey)


def test_garbage_is_damage_and_never_another_key() -> None:
    for garbage in (bytes(200), b"\xff" * 200, b"3FLG", ENTRY[:100]):
        with pytest.raises(Damaged) as told:
            Codec(OLD, 7).open(garbage)
        assert not isinstance(told.value, OtherKey)


def test_a_codec_never_seals_behind_what_it_has_opened() -> None:
    codec = Codec(NEXT, 7)
    assert Codec(OLD, 7).open(codec.encode(HEADER, b"x").body).payload == b"x"
    codec.open(ENTRY)
    for each in (codec, codec.fork()):
        with pytest.raises(OtherKey):
            Codec(OLD, 7).open(each.encode(HEADER, b"x").body)
    assert len(codec.encode(Header(Kind.SEAL, 1, 1, WRITER)).body) == SEAL_BYTES


def test_what_the_first_version_wrote_is_read_under_the_founding_key() -> None:
    first = Codec(OLD, 7)
    first._mark = bytes(2)
    assert Codec(BOTH, 7).open(first.encode(HEADER, b"old").body).payload == b"old"


def test_two_stores_with_another_keys_seal_fence_and_one_does_not() -> None:
    scope = Scope(("S1", "S2", "S3"), Codec(OLD, 7), "0a" * 16)
    first = scope.codec.encode(Header(Kind.START, 3, 0, scope.writer, 1, Lsn(0), Lsn(0)), encode_start((), b""))
    appender = Appender(scope, first, (), Lsn(0))
    appender.offer(b"abc")
    sends = {send.request.store: send for send in appender.poll(0.0) if isinstance(send.request, Create)}
    seal = Codec(BOTH, 7).encode(Header(Kind.SEAL, 3, 1, WRITER)).body
    fenced = []
    for store in ("S1", "S2"):
        appender.answer(sends[store].token, Made.EXISTS, 0.0)
        for send in appender.poll(0.0):
            if not isinstance(send.request, Encode) and isinstance(send.request, Read) and send.request.store == store:
                appender.answer(send.token, seal, 0.0)
        fenced.append(bool(appender.fenced))
    assert fenced == [False, True]
    assert BOTH.key_id[:4] in appender.fenced
    assert appender.settled == 0


async def test_beacons_and_the_journal_tell_an_old_key_file_by_two_stores() -> None:
    stores = {name: MemoryStore(name) for name in ("S1", "S2", "S3")}
    foreign = bytes(12) + BOTH.sealer("beacon").seal(b"{}", nonce=bytes(12), header=LEADER.encode())
    key = key_of(1, 0)
    step = Step(StepKind.ORDERED, "a", "now", 0.0)
    for count, (name, store) in enumerate(stores.items(), start=1):
        store.objects[keys.FORMAT] = Format(7, OLD.key_id, name).encode()
        store.objects[LEADER] = foreign
        store.objects[key] = encode(step, key, BOTH, bytes(12))
        if count < 2:
            assert await read_leaders(stores, OLD) == []
    with pytest.raises(BadInput, match=BOTH.key_id):
        await read_leaders(stores, OLD)
    with pytest.raises(BadInput, match=BOTH.key_id):
        await Driver(stores, CLOCK).run(settle(Desk(tuple(stores), OLD), key), patience=2)


def test_a_timelines_history_is_read_whoever_sealed_it() -> None:
    for ring in (OLD, BOTH):
        assert open_history(BOTH, 2, seal_history(ring, 2, b"1\t0/0\tx\n")) == b"1\t0/0\tx\n"
