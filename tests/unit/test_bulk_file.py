"""Writing past the page cache, and what is left to it."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import random
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from threefold.kernel.bulk_file import PIECE_BYTES, BulkFile

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="O_DIRECT is Linux's")
LARGE = 256 * 1024
_REAL_PWRITE, _REAL_FCNTL = os.pwrite, fcntl.fcntl


@contextmanager
def _file(path: Path) -> Iterator[BulkFile]:
    file = BulkFile(path, os.O_WRONLY | os.O_CREAT)
    try:
        yield file
    finally:
        file.close()


def _written(folder: Path, size: int) -> None:
    """So many bytes are written, and are there."""
    data = os.urandom(size)
    with _file(folder / "file") as file:
        file.write([data], 0)
    assert (folder / "file").read_bytes() == data


class _Writes:
    """What went to the system: was it past the cache, where, how much."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[tuple[bool, int, int]] = []
        monkeypatch.setattr(os, "pwrite", self.pwrite)

    def pwrite(self, fd: int, data: memoryview, position: int) -> int:
        direct = bool(_REAL_FCNTL(fd, fcntl.F_GETFL) & os.O_DIRECT)
        self.made.append((direct, position, len(data)))
        return _REAL_PWRITE(fd, data, position)


@given(
    st.lists(st.tuples(st.integers(0, 600_000), st.lists(st.integers(0, 700_000), max_size=4)), max_size=4),
    st.booleans(),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_written_is_there(tmp_path: Path, writes: Sequence[tuple[int, list[int]]], aligned: bool) -> None:
    path, expected, chance = tmp_path / "file", bytearray(), random.Random(7)
    path.unlink(missing_ok=True)
    with _file(path) as file:
        for position, sizes in writes:
            at = position // 4096 * 4096 if aligned else position
            pieces = [chance.randbytes(size) for size in sizes]
            file.write(pieces, at)
            data = b"".join(pieces)
            if data:
                expected.extend(bytes(max(at + len(data) - len(expected), 0)))
                expected[at : at + len(data)] = data
    assert path.read_bytes() == expected


def test_large_pieces_go_past_the_cache_and_the_rest_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes = _Writes(monkeypatch)
    with _file(tmp_path / "file") as file:
        if not _able(tmp_path):
            pytest.skip("the file system has a page cache only")
        file.write([os.urandom(PIECE_BYTES), os.urandom(LARGE + 100)], 0)
        file.write([os.urandom(LARGE)], 3 * PIECE_BYTES)
        file.write([os.urandom(LARGE - 4096)], 4 * PIECE_BYTES)
        file.write([os.urandom(LARGE)], 5 * PIECE_BYTES + 1)
    assert writes.made == [
        (True, 0, PIECE_BYTES),
        (True, PIECE_BYTES, LARGE),
        (False, PIECE_BYTES + LARGE, 100),
        (True, 3 * PIECE_BYTES, LARGE),
        (False, 4 * PIECE_BYTES, LARGE - 4096),
        (False, 5 * PIECE_BYTES + 1, LARGE),
    ]


def _able(folder: Path) -> bool:
    page = mmap.mmap(-1, 4096)
    try:
        fd = os.open(folder / "able", os.O_WRONLY | os.O_CREAT | os.O_DIRECT)
    except OSError:
        return False
    try:
        return _REAL_PWRITE(fd, page, 0) == len(page)
    except OSError:
        return False
    finally:
        os.close(fd)


def test_a_file_system_that_does_not_offer_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(fd: int, command: int, argument: int = 0) -> int:
        if command == fcntl.F_SETFL and argument & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return _REAL_FCNTL(fd, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", refusing)
    _written(tmp_path, 2 * PIECE_BYTES + 5)


def test_one_that_finds_out_when_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = []

    def pwrite(fd: int, data: memoryview, position: int) -> int:
        if _REAL_FCNTL(fd, fcntl.F_GETFL) & os.O_DIRECT:
            refused.append(position)
            raise OSError(errno.EINVAL, "Invalid argument")
        return _REAL_PWRITE(fd, data, position)

    monkeypatch.setattr(os, "pwrite", pwrite)
    _written(tmp_path, 2 * PIECE_BYTES + 5)
    assert len(refused) == _able(tmp_path)  # once, not for every piece


def test_a_write_that_stops_short_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", lambda fd, data, position: _REAL_PWRITE(fd, data[: 4096 * 3], position))
    _written(tmp_path, PIECE_BYTES + 5)


def test_several_threads_write_neighbours_of_one_file_whose_end_lies_askew(tmp_path: Path) -> None:
    data = os.urandom(8 * PIECE_BYTES + 12_345)
    path = tmp_path / "file"
    path.touch()
    os.truncate(path, len(data))

    def write(at: int) -> None:
        with _file(path) as file:
            file.write([data[at : at + PIECE_BYTES]], at)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, reversed(range(0, len(data), PIECE_BYTES))))
    assert path.read_bytes() == data


def test_any_other_error_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_fd: int, _data: memoryview, _position: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with _file(tmp_path / "file") as file, pytest.raises(OSError, match="No space"):
        file.write([bytes(PIECE_BYTES)], 0)
