"""What goes into the vault's formats comes out, and a single flipped bit never does."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from threefold.kernel.errors import Damaged
from threefold.kernel.keys import Keyring
from threefold.kernel.lsn import Lsn
from threefold.vault import manifest as manifests
from threefold.vault import pack as packs
from threefold.vault.check import check_object
from threefold.vault.chunker import CHUNK_BYTES, Chunker, ChunkNamer
from threefold.vault.manifest import Directory, File, Manifest, Summary, Tablespace
from threefold.vault.pack import PackBuilder, PackOpener, Place

KEYRING = Keyring(bytes(range(32)))
OTHER = Keyring(bytes(range(1, 33)))
NAMER = ChunkNamer(KEYRING)
NOW = datetime(2026, 11, 22, 10, 15, 30, tzinfo=UTC)
PACK = packs.new_pack_id(NOW, "0123456789abcdef" * 2)

pieces = st.lists(st.integers(1, 3 * CHUNK_BYTES), min_size=0, max_size=6)


@given(pieces)
@settings(max_examples=30, deadline=None)
def test_chunks_are_the_file_cut_at_fixed_places_however_it_arrives(sizes: list[int]) -> None:
    total = bytes(sum(sizes))
    data = bytearray(total)
    for at in range(0, len(data), 4096):
        data[at] = at // 4096 % 251
    chunker, got, at = Chunker(), [], 0
    for size in sizes:
        got += chunker.feed(bytes(data[at : at + size]))
        at += size
    got += [last] if (last := chunker.finish()) else []
    assert got == [bytes(data[cut : cut + CHUNK_BYTES]) for cut in range(0, len(data), CHUNK_BYTES)]
    assert chunker.finish() == b""


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_names_are_equal_for_equal_content_under_one_key_alone(one: bytes, two: bytes) -> None:
    assert (NAMER.name(one) == NAMER.name(two)) == (one == two)
    assert NAMER.name(one) != ChunkNamer(OTHER).name(one)


def build(chunks: list[bytes]) -> tuple[bytes, list[tuple[bytes, Place]]]:
    builder = PackBuilder(PACK, KEYRING)
    placed = [(NAMER.name(each), builder.add(NAMER.name(each), len(each), packs.compress(each))) for each in chunks]
    return builder.finish(), placed


contents = st.lists(st.binary(max_size=2000), min_size=1, max_size=8, unique=True)


@given(contents)
@settings(max_examples=50, deadline=None)
def test_a_pack_gives_each_chunk_back_by_range_and_by_its_index(chunks: list[bytes]) -> None:
    body, placed = build(chunks)
    opener = PackOpener(KEYRING)
    for plain, (name, place) in zip(chunks, placed, strict=True):
        assert opener.chunk(name, place, body[place.offset : place.offset + place.stored]) == plain
    tail = body[-(len(body) - packs.index_begin(body)) - 3 :]
    assert list(opener.index(PACK, tail, len(body))) == placed
    check_object(packs.pack_key(PACK), body, KEYRING)


@given(contents, st.data())
@settings(max_examples=100, deadline=None)
def test_no_flipped_bit_of_a_pack_goes_unnoticed(chunks: list[bytes], data: st.DataObject) -> None:
    body, _ = build(chunks)
    bit = data.draw(st.integers(0, len(body) * 8 - 1))
    damaged = bytearray(body)
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Damaged):
        check_object(packs.pack_key(PACK), bytes(damaged), KEYRING)
    with pytest.raises(Damaged):
        check_object(packs.pack_key(PACK), body[: bit // 8], KEYRING)
    with pytest.raises(Damaged):
        check_object(packs.pack_key(packs.new_pack_id(NOW, "f" * 32)), body, KEYRING)
    with pytest.raises(Damaged):
        check_object(packs.pack_key(PACK), body, OTHER)


def test_chunks_cannot_change_places_within_a_pack() -> None:
    body, [(one, first), (two, second)] = build([b"a" * 100, b"b" * 100])
    opener = PackOpener(KEYRING)
    with pytest.raises(Damaged):
        opener.chunk(one, second, body[second.offset : second.offset + second.stored])
    with pytest.raises(Damaged):
        opener.chunk(one, first._replace(offset=second.offset), body[first.offset : first.offset + first.stored])
    assert opener.chunk(two, second, body[second.offset : second.offset + second.stored]) == b"b" * 100


words = st.text(max_size=20)
paths = st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=8), min_size=1, max_size=4).map("/".join)
lsns = st.integers(0, 2**64 - 1).map(Lsn)
times = st.datetimes(min_value=datetime(2020, 1, 1), max_value=datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@st.composite
def snapshots(draw: st.DrawFn) -> Manifest:
    chunks = draw(st.lists(st.binary(max_size=50), max_size=5, unique=True))
    places = [
        Place(draw(st.sampled_from(["p1", "p2", "p3"])), draw(st.integers(0, 2**32 - 1)), n, n)
        for n in range(len(chunks))
    ]
    number = st.integers(0, max(0, len(chunks) - 1))
    files = [
        File(path, mode, size, mtime, crc, tuple(draw(st.lists(number, max_size=4))) if chunks else ())
        for path, mode, size, mtime, crc in draw(
            st.lists(
                st.tuples(
                    paths,
                    st.integers(0, 0o7777),
                    st.integers(0, 2**50),
                    st.integers(0, 2**40),
                    st.integers(0, 2**32 - 1),
                ),
                max_size=4,
            )
        )
    ]
    summary = Summary(
        id=manifests.new_snapshot_id(NOW, "ab" * 16),
        label=draw(words),
        system_identifier=draw(st.integers(0, 2**64 - 1)),
        major=18,
        segment_size=draw(st.sampled_from([2**20, 2**24, 2**30])),
        timeline=draw(st.integers(1, 2**32 - 1)),
        start=draw(lsns),
        stop=draw(lsns),
        started=draw(times),
        stopped=draw(times),
        size=draw(st.integers(0, 2**60)),
        files=len(files),
        tablespaces=tuple(
            Tablespace(oid, "/" + draw(words)) for oid in draw(st.lists(st.integers(1, 2**32 - 1), max_size=3))
        ),
    )
    directories = tuple(Directory(path, 0o700) for path in draw(st.lists(paths, max_size=3)))
    names = [NAMER.name(each) for each in chunks]
    return Manifest(summary, tuple(files), directories, names, places, draw(words))


@given(snapshots(), st.data())
@settings(max_examples=60, deadline=None)
def test_a_manifest_comes_back_whole_or_not_at_all(manifest: Manifest, data: st.DataObject) -> None:
    snapshot = manifest.summary.id
    body = manifests.encode(manifest, KEYRING, "0123456789abcdef0123")
    assert manifests.decode(snapshot, body, KEYRING) == manifest
    needed = manifests.decode_summary(snapshot, body[: manifests.HEADER_BYTES], KEYRING)
    assert isinstance(needed, int)
    assert manifests.decode_summary(snapshot, body[:needed], KEYRING) == manifest.summary
    bit = data.draw(st.integers(0, len(body) * 8 - 1))
    damaged = bytearray(body)
    damaged[bit // 8] ^= 1 << bit % 8
    for bad in (bytes(damaged), body[: bit // 8], body + b"\0"):
        with pytest.raises(Damaged):
            manifests.decode(snapshot, bad, KEYRING)
    with pytest.raises(Damaged):
        manifests.decode(snapshot + "x", body, KEYRING)


def test_a_path_that_is_not_utf_8_survives() -> None:
    path = b"base/\xff\xfe".decode(errors="surrogateescape")
    summary = Summary("s", "", 1, 18, 2**24, 1, Lsn(0), Lsn(0), NOW, NOW, 0, 1)
    manifest = Manifest(summary, (File(path, 0o600, 0, 0, 0, ()),), (), [], [], path)
    assert manifests.decode("s", manifests.encode(manifest, KEYRING, "00" * 8), KEYRING).files[0].path == path
