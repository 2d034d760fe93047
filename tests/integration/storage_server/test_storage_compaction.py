"""The oldest journal file is emptied and removed: whatever happens meanwhile, nothing that lives in it is lost."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest
from storage_engines import OPTIONS, contents, crash, filled, get, journal_files, opened, put

from threefold.kernel.clock import SystemClock
from threefold.storage_server.compaction import compact_oldest
from threefold.storage_server.engine import Engine
from threefold.storage_server.s3 import S3Error


async def test_a_crash_at_every_step_of_compaction_changes_nothing(tmp_path: Path) -> None:
    await filled(tmp_path / "whole")
    expected = {f"k{number}": bytes([number]) * 500 for number in range(2, 30)}
    engine = await opened(tmp_path / "whole")
    for key in ("k0", "k1"):
        await engine.delete("b-b", key)
    await engine.close()
    steps = 0
    while True:
        folder = tmp_path / f"crash{steps}"
        shutil.copytree(tmp_path / "whole", folder)
        engine = await opened(folder)
        left, real = [steps], engine.journal.append

        def append(*args: Any, left: list[int] = left, real: Any = real, **kwargs: Any) -> Any:
            if left[0] == 0:
                raise asyncio.CancelledError
            left[0] -= 1
            return real(*args, **kwargs)

        engine.journal.append = append
        done = False
        try:
            await compact_oldest(engine.journal, engine._catalog)
            done = True
        except asyncio.CancelledError:
            await engine.journal.durable(engine.journal.newest_batch)
        await crash(engine)
        engine = await opened(folder)
        assert await contents(engine) == expected
        await engine.close()
        if done:
            break
        steps += 1
    assert steps > 5


async def test_an_empty_bucket_outlives_the_file_that_named_it(tmp_path: Path) -> None:
    engine = await opened(tmp_path)
    await engine.make_bucket("empty")
    for number in range(30):
        await put(engine, "k", bytes([number]) * 500)
    while len(engine.journal.files) > 1:
        await compact_oldest(engine.journal, engine._catalog)
    await engine.close()
    engine = Engine(tmp_path, SystemClock(), OPTIONS)
    assert await engine.buckets() == ["b-b", "empty"]
    await engine.close()


@pytest.mark.parametrize("large", [True, False])
async def test_what_lost_its_record_while_the_server_ran_is_written_again(tmp_path: Path, large: bool) -> None:
    """Compaction must not drop a file with an object that it cannot find in it: 404 would be a lie for ever."""
    engine = await opened(tmp_path)
    body = b"v" * (5000 if large else 700)
    await put(engine, "k", body)
    position = (await engine.find("b-b", "k")).place.position
    for number in range(12):
        await put(engine, f"k{number}", bytes([number]) * 500)
    (first, *_) = journal_files(tmp_path)
    data = bytearray(first.read_bytes())
    data[position + 20] ^= 1
    first.write_bytes(data)
    await compact_oldest(engine.journal, engine._catalog)
    for _ in range(2):
        assert not first.exists()
        assert await get(engine, "k") == body
        assert len(await contents(engine)) == 13
        await engine.close()
        engine = await opened(tmp_path)
    await engine.close()


async def test_a_lock_that_was_made_longer_outlives_the_files_that_said_so(tmp_path: Path) -> None:
    engine = await opened(tmp_path)
    for key in ("small", "large"):
        await put(engine, key, b"x" * (10 if key == "small" else 1500))
        await engine.lengthen_lock("b-b", key, ("COMPLIANCE", 2**42))
    for number in range(400):  # several files of dead records
        await put(engine, "beacon", bytes([number % 256]) * 200)
    first = min(engine.journal.files)
    while min(engine.journal.files) < first + 2:
        await compact_oldest(engine.journal, engine._catalog)
    await crash(engine)
    engine = await opened(tmp_path)
    for key in ("small", "large"):
        with pytest.raises(S3Error) as error:
            await engine.delete("b-b", key)
        assert error.value.status == 403
        assert (await engine.find("b-b", key)).locked_until_ms == 2**42
    await engine.close()
