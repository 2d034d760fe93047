"""An engine in this process: opened on a folder, used, and crashed. Not in conftest.py: see storage_clients.py."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

from threefold.kernel.clock import SystemClock
from threefold.storage_server.engine import Engine, EngineOptions
from threefold.storage_server.entries import INLINE
from threefold.storage_server.records import PAGE
from threefold.storage_server.s3 import Condition, S3Error

OPTIONS = EngineOptions(journal_file_bytes=PAGE + 6000, inline_bytes_max=1000, min_free_bytes=0)
NO_LOCK = ("", 0)


async def put(engine: Engine, key: str, body: bytes, *, create: bool = False) -> None:
    sha256, condition = hashlib.sha256(body).digest(), Condition(create=create)
    if len(body) <= OPTIONS.inline_bytes_max:
        await engine.put_small("b-b", key, body, sha256=sha256, condition=condition, attributes=b"", lock=NO_LOCK)
        return
    writer = engine.blobs.create()
    writer.write(body)
    try:
        await engine.put_file("b-b", key, writer, sha256=sha256, condition=condition, attributes=b"", lock=NO_LOCK)
    except S3Error:
        writer.abandon()
        raise


async def get(engine: Engine, key: str) -> bytes:
    entry = await engine.find("b-b", key)
    if entry.file_id == INLINE:
        return await engine.read_small(entry)
    return b"".join([block async for block in engine.read_file(entry, 0, entry.size)])


async def contents(engine: Engine) -> dict[str, bytes]:
    listing = await engine.list("b-b", prefix="", after="", delimiter="", limit=1000)
    return {key: await get(engine, key) for key, _ in listing.objects}


async def crash(engine: Engine) -> None:
    """As kill -9 leaves it: nothing is flushed, nothing is said."""
    engine._tender.cancel()
    await asyncio.sleep(0)
    engine.journal._queue.put(None)
    await asyncio.to_thread(engine.journal._thread.join)
    await asyncio.to_thread(engine.journal._maker.shutdown)
    engine._lock.release()


async def opened(folder: Path) -> Engine:
    engine = Engine(folder, SystemClock(), OPTIONS)
    await engine.make_bucket("b-b")
    return engine


def journal_files(folder: Path) -> list[Path]:
    return sorted((folder / "journal").glob("*.journal"))


async def filled(folder: Path) -> None:
    """Several files of journal, stopped in good order."""
    engine = await opened(folder)
    for number in range(30):
        await put(engine, f"k{number}", bytes([number]) * 500)
    await engine.close()
    assert len(journal_files(folder)) >= 3
