"""A large object is written as it comes, in pieces of any size; its blocks' checksums are those of its bytes."""

from __future__ import annotations

import random
from pathlib import Path

import google_crc32c
import pytest

from threefold.storage_server.blobs import Blobs
from threefold.storage_server.entries import BLOCK_BYTES


@pytest.mark.parametrize("longest", [700, 70_000, 3 * BLOCK_BYTES])
def test_pieces_of_any_size_make_the_same_file(tmp_path: Path, longest: int) -> None:
    chance = random.Random(longest)
    data = chance.randbytes(3 * BLOCK_BYTES + 12_345)
    writer = Blobs.open(tmp_path).create()
    at = 0
    while at < len(data):
        piece = data[at : at + chance.randint(0, longest)]
        writer.write(piece)
        at += len(piece)
    checksums = writer.finish()
    assert writer.size == len(data)
    assert Blobs.open(tmp_path).path(writer.file_id).read_bytes() == data
    blocks = [data[start : start + BLOCK_BYTES] for start in range(0, len(data), BLOCK_BYTES)]
    assert checksums == b"".join(google_crc32c.value(block).to_bytes(4, "little") for block in blocks)
