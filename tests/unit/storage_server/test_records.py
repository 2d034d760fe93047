"""The rule that tells a torn tail from damage (records.py), at every byte."""

from __future__ import annotations

import os

import pytest

from threefold.storage_server.records import (
    PAGE,
    FileHeader,
    Kind,
    Scan,
    decode_file_header,
    encode,
    encode_file_header,
    record_bytes,
    scan,
)

SALT = b"saltsalt"
SIZE = PAGE + 4096


def journal(batches: list[list[bytes]], *, salt: bytes = SALT) -> tuple[bytes, list[int], int]:
    """A file of batches of bodies; returns its bytes and the positions of the records."""
    data = encode_file_header(FileHeader(1, salt, 1))
    positions = []
    for number, bodies in enumerate(batches, 1):
        start = len(data)
        for body in bodies:
            meta = f"key{len(positions)}".encode()
            positions.append(len(data))
            record = encode(salt, Kind.PUT, number, len(data), start, meta, body) + body
            data += record.ljust(record_bytes(len(meta), len(body)), b"\0")
    return data.ljust(SIZE, b"\0"), positions, len(data)


def bodies(data: bytes, result: Scan) -> list[bytes]:
    return [data[record.body_at : record.body_at + record.body_bytes] for record in result.records]


def test_what_was_written_is_read_back() -> None:
    data, _, end = journal([[b"one", b"two"], [b""], [b"three" * 50]])
    result = scan(data, SALT, continued=False)
    assert bodies(data, result) == [b"one", b"two", b"", b"three" * 50]
    assert (result.end, result.torn, result.lost) == (end, False, ())


def test_a_tail_torn_at_any_byte_costs_the_last_batch_only() -> None:
    data, positions, end = journal([[b"first"], [b"second" * 9], [b"third", b"fourth"]])
    for cut in range(positions[2], end):
        torn = data[:cut].ljust(SIZE, b"\0")
        result = scan(torn, SALT, continued=False)
        assert not result.lost, cut
        whole = bodies(torn, result)
        assert whole[:2] == [b"first", b"second" * 9], cut
        assert whole[2:] in ([], [b"third"], [b"third", b"fourth"]), cut


def test_the_last_batch_torn_at_its_beginning_is_cut_even_if_its_end_is_whole() -> None:
    """Sectors of one write reach the disk in any order."""
    data, positions, _ = journal([[b"first"], [b"second", b"third"]])
    torn = data[: positions[1]] + b"\xff" * 16 + data[positions[1] + 16 :]
    result = scan(torn, SALT, continued=False)
    assert bodies(torn, result) == [b"first"]
    assert result.torn
    assert result.end == positions[1]
    assert not result.lost


@pytest.mark.parametrize("byte", range(0, 64, 3))
def test_damage_before_the_last_batch_is_never_cut(byte: int) -> None:
    data, positions, _ = journal([[b"first" * 4], [b"second"], [b"third"]])
    at = positions[0] + byte
    bad = data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :]
    result = scan(bad, SALT, continued=False)
    assert not result.torn
    assert result.lost or not result.records[0].whole
    assert bodies(bad, result)[-2:] == [b"second", b"third"]


def test_a_damaged_body_names_its_object() -> None:
    data, positions, _ = journal([[b"first"], [b"second"]])
    at = data.index(b"first")
    bad = data[:at] + b"F" + data[at + 1 :]
    record = scan(bad, SALT, continued=False).records[0]
    assert (record.meta, record.whole) == (b"key0", False)
    assert positions


def test_in_a_file_that_was_continued_nothing_is_a_torn_tail() -> None:
    data, positions, end = journal([[b"first"], [b"second"]])
    bad = data[: positions[1]] + b"\xff" * (end - positions[1]) + data[end:]
    assert scan(bad, SALT, continued=False).torn
    result = scan(bad, SALT, continued=True)
    assert not result.torn
    assert result.lost


def test_records_of_an_earlier_life_are_not_taken_for_live_ones() -> None:
    old, _, _ = journal([[b"ghost"]], salt=b"oldsalt!")
    result = scan(encode_file_header(FileHeader(2, SALT, 1)) + old[PAGE:], SALT, continued=False)
    assert result.records == ()
    assert result.torn


def test_a_record_in_another_place_is_no_record() -> None:
    data, positions, end = journal([[b"first"]])
    moved = data[:PAGE] + bytes(64) + data[positions[0] : end]
    assert scan(moved.ljust(SIZE, b"\0"), SALT, continued=False).records == ()


def test_the_file_header_is_read_back_and_checked() -> None:
    header = FileHeader(7, os.urandom(8), 3)
    page = encode_file_header(header)
    assert len(page) == PAGE
    assert decode_file_header(page) == header
    for at in range(36):
        assert decode_file_header(page[:at] + bytes([page[at] ^ 1]) + page[at + 1 :]) is None
