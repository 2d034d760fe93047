"""Who writes a batch: the event loop for one request on a quick disk, the thread for more, and after a slow write."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest
from storage_engines import opened, put

from threefold.kernel.errors import ThreefoldError, Unavailable


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


async def test_a_create_without_a_task_is_heard_of_once_it_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await opened(tmp_path)
    await put(engine, "before", b"v")
    events: list[object] = []
    real = os.fdatasync

    def watched(fd: int) -> None:
        real(fd)
        events.append("on the disk")

    monkeypatch.setattr(os, "fdatasync", watched)
    told = asyncio.Event()

    def hear(failure: ThreefoldError | None) -> None:
        events.append(failure)
        told.set()

    assert engine.create_at_once("b-b", "k", b"v", sha256(b"v").digest(), hear)
    assert events == [], "nothing may be said from within"
    await asyncio.wait_for(told.wait(), 5)
    assert events == ["on the disk", None]
    assert not engine.create_at_once("b-b", "k", b"other", sha256(b"other").digest(), hear), "it is taken"
    assert not engine.create_at_once("nowhere", "k", b"v", sha256(b"v").digest(), hear)
    monkeypatch.undo()
    await engine.close()


async def test_a_create_without_a_task_hears_of_a_disk_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await opened(tmp_path)
    await put(engine, "before", b"v")
    heard: list[ThreefoldError | None] = []

    def broken(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", broken)
    assert engine.create_at_once("b-b", "k", b"v", sha256(b"v").digest(), heard.append)
    for _ in range(200):
        if heard:
            break
        await asyncio.sleep(0.01)
    assert isinstance(heard[0], Unavailable)
    assert not engine.create_at_once("b-b", "next", b"v", sha256(b"v").digest(), heard.append)
    monkeypatch.undo()
    await engine.close()


async def test_creates_that_follow_from_each_other_are_not_written_from_within_each_other(tmp_path: Path) -> None:
    """As a client's requests do that came in one piece: each begins when the one before is answered."""
    engine = await opened(tmp_path)
    engine.journal.quick_s = 60
    many, done = 1500, asyncio.Event()

    def hear(number: int, failure: ThreefoldError | None) -> None:
        if failure is not None or number == many:
            done.set()
            return
        following = partial(hear, number + 1)
        assert engine.create_at_once("b-b", f"{number:05}", b"v", sha256(b"v").digest(), following)

    hear(0, None)
    await asyncio.wait_for(done.wait(), 120)
    listing = await engine.list("b-b", prefix="", after="", delimiter="", limit=2 * many)
    assert len(listing.objects) == many
    await engine.close()


async def test_a_listener_that_fails_keeps_no_answer_from_the_others(tmp_path: Path) -> None:
    engine = await opened(tmp_path)
    heard: list[ThreefoldError | None] = []

    def fails(_: ThreefoldError | None) -> None:
        raise RuntimeError("on purpose")

    for key, hear in (("one", fails), ("two", heard.append)):
        assert engine.create_at_once("b-b", key, b"v", sha256(b"v").digest(), hear)
    await put(engine, "three", b"v")
    assert heard == [None]
    await put(engine, "four", b"v")
    await engine.close()
