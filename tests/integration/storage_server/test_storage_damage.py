"""Damage to what was acknowledged: told, refused, never cut and never called absent."""

from __future__ import annotations

from pathlib import Path

import pytest
from storage_engines import filled, get, journal_files, opened, put

from threefold.kernel.errors import Damaged
from threefold.storage_server.compaction import compact_oldest
from threefold.storage_server.records import PAGE
from threefold.storage_server.s3 import S3Error


@pytest.mark.parametrize("which", [0, 1, -2])
async def test_a_missing_file_is_noticed(tmp_path: Path, which: int) -> None:
    await filled(tmp_path)
    journal_files(tmp_path)[which].unlink()
    if which == -2:
        journal_files(tmp_path)[-1].unlink()  # the spare as well
    with pytest.raises(Damaged, match="is missing"):
        await opened(tmp_path)


async def test_files_that_were_wiped_are_not_taken_for_unused_ones(tmp_path: Path) -> None:
    await filled(tmp_path)
    for path in journal_files(tmp_path)[1:]:
        path.write_bytes(path.read_bytes()[:PAGE].ljust(path.stat().st_size, b"\0"))
    with pytest.raises(Damaged, match="is empty, and others follow it"):
        await opened(tmp_path)


@pytest.mark.parametrize("which", [0, -2])
async def test_a_damaged_record_head_is_not_cut_but_refused(tmp_path: Path, which: int) -> None:
    await filled(tmp_path)
    path = journal_files(tmp_path)[which]
    data = bytearray(path.read_bytes())
    data[PAGE + 20] ^= 1
    path.write_bytes(data)
    with pytest.raises(Damaged, match="damaged at byte 4096"):
        await opened(tmp_path)
    assert path.read_bytes() == data


async def test_a_damaged_object_is_an_error_never_absent_and_can_be_put_again(tmp_path: Path) -> None:
    await filled(tmp_path)
    path = journal_files(tmp_path)[0]
    path.write_bytes(path.read_bytes().replace(bytes([3]) * 500, bytes([3]) * 499 + b"!"))
    for turn in range(3):
        engine = await opened(tmp_path)
        with pytest.raises(Damaged):
            await get(engine, "k3")
        with pytest.raises(S3Error) as error:
            await put(engine, "k3", b"new", create=True)
        assert error.value.status == 412
        assert await get(engine, "k4") == bytes([4]) * 500
        if turn == 1:  # the damage is carried on, not laundered
            await compact_oldest(engine.journal, engine._catalog)
            assert not path.exists()
        await engine.close()
    engine = await opened(tmp_path)
    await put(engine, "k3", b"new")
    await engine.close()
    engine = await opened(tmp_path)
    assert await get(engine, "k3") == b"new"
    await engine.close()


async def test_a_damaged_or_missing_large_object_is_an_error(tmp_path: Path) -> None:
    engine = await opened(tmp_path)
    await put(engine, "large", b"v" * 5000)
    (path,) = (tmp_path / "objects").glob("??/*")
    path.write_bytes(b"v" * 4999 + b"w")
    with pytest.raises(Damaged):
        await get(engine, "large")
    path.unlink()
    with pytest.raises(Damaged):
        await get(engine, "large")
    assert [key for key, _ in (await engine.list("b-b", prefix="", after="", delimiter="", limit=9)).objects] == [
        "large"
    ]
    await engine.close()
