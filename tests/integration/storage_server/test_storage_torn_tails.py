"""What a crash leaves at the journal's end: cut where nothing was acknowledged, and never to come back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from storage_engines import contents, crash, get, journal_files, opened, put

from threefold.storage_server.records import PAGE, Kind, scan


async def test_a_tail_torn_at_every_byte_loses_only_what_was_not_acknowledged(tmp_path: Path) -> None:
    engine = await opened(tmp_path / "whole")
    await put(engine, "first", b"1" * 40)
    await put(engine, "second", b"2" * 40)
    start = engine.journal._end
    await put(engine, "last", b"3" * 40)
    end = engine.journal._end
    await crash(engine)
    (file, *_) = journal_files(tmp_path / "whole")
    data = file.read_bytes()
    folder, journal = tmp_path / "torn", tmp_path / "torn" / "journal"
    journal.mkdir(parents=True)
    expected = {"first": b"1" * 40, "second": b"2" * 40}
    for cut in range(start, end + 1):
        for rest in (b"\0", b"\xff") if cut % 3 == 0 else (b"\0",):
            for path in journal.iterdir():
                path.unlink()
            (journal / file.name).write_bytes(data[:cut] + rest * (end - cut) + data[end:])
            engine = await opened(folder)
            seen = await contents(engine)
            assert seen == expected or (cut >= end - 8 and seen == expected | {"last": b"3" * 40}), cut
            await put(engine, "next", b"4")  # goes where the torn one stood, and stays
            await crash(engine)
            engine = await opened(folder)
            assert await contents(engine) == seen | {"next": b"4"}
            await crash(engine)


async def test_what_was_cut_off_never_comes_back(tmp_path: Path) -> None:
    """The rest of a torn batch, whole in itself, must not line up behind the next record that is written."""
    engine = await opened(tmp_path)
    start = engine.journal._end
    await asyncio.gather(put(engine, "aa", b"1" * 40), put(engine, "bb", b"2" * 40))
    await crash(engine)
    (file, *_) = journal_files(tmp_path)
    data = bytearray(file.read_bytes())
    data[start + 60] ^= 1
    file.write_bytes(data)
    engine = await opened(tmp_path)
    assert await contents(engine) == {}
    await put(engine, "cc", b"3" * 40)
    await crash(engine)
    engine = await opened(tmp_path)
    assert await contents(engine) == {"cc": b"3" * 40}
    await engine.close()


async def test_records_that_only_the_page_cache_had_are_written_again_before_they_are_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an fdatasync that failed, the pages read well and are on no disk: only writing them puts them there."""
    engine = await opened(tmp_path)
    await put(engine, "k", b"only in memory?")
    await crash(engine)
    written = []
    from threefold.storage_server import replay

    real = replay.write_all

    def recording(fd: int, data: bytes, position: int) -> None:
        written.append(data)
        real(fd, data, position)

    monkeypatch.setattr(replay, "write_all", recording)
    engine = await opened(tmp_path)
    assert any(b"only in memory?" in data for data in written)
    await engine.close()


@pytest.mark.parametrize("ended", [True, False])
async def test_a_crash_between_two_files_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    """The file after the next may have its name before the batch that ends this one is on the disk."""
    engine = await opened(tmp_path)
    while engine.journal.active_number == 1:
        await put(engine, "k", b"v" * 900)
    await put(engine, "k", b"newest")
    await crash(engine)
    first, *rest = journal_files(tmp_path)
    data = bytearray(first.read_bytes())
    found = scan(bytes(data), first_salt := bytes(data[20:28]), continued=True).records
    assert (found[-1].kind, len(first_salt), len(rest)) == (Kind.END, 8, 2)
    for path in rest:  # nothing of the batches after the end has reached the disk
        path.write_bytes(path.read_bytes()[:PAGE].ljust(path.stat().st_size, b"\0"))
    if not ended:
        data[found[-1].position :] = bytes(len(data) - found[-1].position)
    first.write_bytes(data)
    written = []
    from threefold.storage_server import replay

    real = replay.write_all

    def recording(fd: int, data: bytes, position: int) -> None:
        written.append(data)
        real(fd, data, position)

    monkeypatch.setattr(replay, "write_all", recording)
    for _ in range(2):
        engine = await opened(tmp_path)
        assert len(written.pop()) >= found[-1].end - found[-1].batch_start or not ended
        assert engine.journal.active_number == (2 if ended else 1)
        assert await get(engine, "k") == b"v" * 900
        await crash(engine)
    engine = await opened(tmp_path)
    for number in range(30):
        await put(engine, f"k{number}", b"w" * 900)
    await engine.close()
    engine = await opened(tmp_path)
    assert len(await contents(engine)) == 31
    await engine.close()
