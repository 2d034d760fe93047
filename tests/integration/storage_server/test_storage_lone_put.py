"""Who writes a batch: the event loop for one request on a quick disk, the thread for more, and after a slow write."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path

import pytest
from storage_engines import opened, put


async def test_one_request_is_written_at_once_and_a_slow_disk_holds_up_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await opened(tmp_path)
    engine.journal.quick_s = 0.5
    writers: list[bool] = []
    real, delay = os.fdatasync, 0.0

    def watched(fd: int) -> None:
        writers.append(threading.current_thread() is threading.main_thread())
        time.sleep(delay)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", watched)
    await put(engine, "alone", b"v")
    await asyncio.gather(put(engine, "one", b"v"), put(engine, "of", b"v"), put(engine, "three", b"v"))
    delay = 0.6
    await put(engine, "slow", b"v")  # nobody could know
    await put(engine, "wary", b"v")
    delay = 0.0
    await put(engine, "still", b"v")
    await put(engine, "quick again", b"v")
    assert writers == [True, False, True, False, False, True]
    monkeypatch.undo()
    await engine.close()
