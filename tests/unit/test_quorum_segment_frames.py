"""Segments that take the compressed frames of large entries as they are."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threefold.kernel.errors import Damaged
from threefold.kernel.keys import Keyring
from threefold.kernel.lsn import Lsn
from threefold.quorum.appender import Appender, Encode, Encoded, Limits
from threefold.quorum.builder import SegmentBuilder, Settled
from threefold.quorum.history import encode_start
from threefold.quorum.objects import HEADER_BYTES, Codec, Frame, Header, Kind
from threefold.quorum.view import Scope
from threefold.stores.store import Made

WRITER = "0a" * 16
SEGMENT = 1024 * 1024
LARGE = 64 * 1024


def _codec() -> Codec:
    return Codec(Keyring(bytes(32)), 7)


def _header(size: int, kind: Kind = Kind.SEGMENT) -> Header:
    return Header(kind, 1, 9, WRITER, 1, Lsn(0), Lsn(size))


def _wal(size: int, seed: int = 1) -> bytes:
    """Half of it compresses to nothing."""
    return b"".join(random.Random(seed + at).randbytes(64) + bytes(64) for at in range(0, size, 128))[:size]


@given(st.lists(st.integers(1, 3 * LARGE), min_size=1, max_size=12))
def test_a_segment_opens_to_the_bytes_of_its_entries(sizes: Sequence[int]) -> None:
    codec, wal, at = _codec(), _wal(SEGMENT), 0
    builder = SegmentBuilder(Lsn(0), SEGMENT)
    for slot, size in enumerate([*sizes, SEGMENT], start=1):
        data = wal[at : at + size]
        if data:
            builder.feed(Settled(1, Lsn(at), data, 1, slot, codec.compress(data)))
        at += len(data)
    builder.feed(Settled(1, Lsn(SEGMENT), b"x", 1, 99))
    (whole,) = builder.whole

    body = codec.encode_parts(_header(SEGMENT), whole.parts)

    assert (whole.start, whole.end) == (0, SEGMENT)
    assert _codec().open(body).payload == wal


def test_what_is_compressed_already_is_not_compressed_again() -> None:
    codec, wal = _codec(), _wal(3 * LARGE + 1000)
    appender = Appender(
        Scope(("S1", "S2", "S3"), codec, WRITER, segment_bytes=len(wal)),
        codec.encode(Header(Kind.START, 3, 0, WRITER, 1, Lsn(0), Lsn(0)), encode_start((), b"")),
        (),
        Lsn(0),
        Limits(entry_bytes=LARGE),
    )
    appender.offer(wal + b"behind")
    asked: list[Encode] = []
    while sends := appender.poll(0.0):
        for send in sends:
            if isinstance(send.request, Encode):
                asked.append(send.request)
                appender.answer(send.token, Encoded(codec.encode_parts(send.request.header, send.request.parts)), 0.0)
            else:
                appender.answer(send.token, Made.CREATED, 0.0)

    (segment,) = asked
    frames = [part for part in segment.parts if isinstance(part, Frame)]
    assert len(frames) == 3
    assert [part for part in segment.parts if isinstance(part, bytes)] == [wal[3 * LARGE :]]
    assert all(len(frame.compressed) < 0.6 * LARGE for frame in frames)
    assert appender.covered == (3, 5)


def test_of_an_entry_that_is_partly_known_the_rest_is_taken_in_clear() -> None:
    """Its frame would bring the known bytes along: those before a fork belong to two timelines."""
    codec, wal = _codec(), _wal(4 * LARGE)
    builder = SegmentBuilder(Lsn(0), 4 * LARGE)
    builder.feed(Settled(1, Lsn(0), wal[: 2 * LARGE], 1, 1, codec.compress(wal[: 2 * LARGE])))
    builder.feed(Settled(1, Lsn(LARGE), wal[LARGE:], 1, 2, codec.compress(wal[LARGE:])))
    builder.feed(Settled(1, Lsn(4 * LARGE), b"x", 1, 3))
    (whole,) = builder.whole
    assert whole.parts[1:] == (wal[2 * LARGE :],)
    assert codec.open(codec.encode_parts(_header(4 * LARGE), whole.parts)).payload == wal


def test_segments_of_one_frame_are_as_they_always_were() -> None:
    """Version 1: written by earlier versions of the program, and read by them."""
    first = bytes.fromhex(
        "33464c470104e3b30000000000000007000000000000000100000000000000090a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a00"
        "00000100000000000000000000000000000006000000000000000000000000000000000000000000000000000000000000"
        "0000e76544cbce248907af00bc8023652a6970a13131a47a859e385efabdba85d458b24589857b915be8c46ef45e56226f"
    )
    assert _codec().open(first).payload == b"always"
    assert _codec().encode_parts(_header(6), [b"always"])[:HEADER_BYTES] == first[:HEADER_BYTES]


@pytest.mark.parametrize("off", [-1, 1])
def test_a_segment_with_more_or_fewer_bytes_than_its_header_says_is_damaged(off: int) -> None:
    codec, wal = _codec(), _wal(2 * LARGE)
    parts = [Frame(codec.compress(wal[:LARGE])), wal[LARGE:]]
    body = codec.encode_parts(_header(2 * LARGE + off), parts)
    with pytest.raises(Damaged, match="not as many bytes"):
        codec.open(body)


def test_a_cut_frame_is_damaged() -> None:
    codec, wal = _codec(), _wal(2 * LARGE)
    parts = [Frame(codec.compress(wal[:LARGE])[:-9]), wal[LARGE:]]
    with pytest.raises(Damaged):
        codec.open(codec.encode_parts(_header(2 * LARGE), parts))


def test_nothing_but_a_segment_has_several_frames() -> None:
    codec = _codec()
    body = codec.encode_parts(_header(2, Kind.ENTRY), [b"a", b"b"])
    with pytest.raises(Damaged, match="format version 2"):
        codec.open_header(body)
