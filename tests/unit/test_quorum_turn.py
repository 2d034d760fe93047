"""Changes that come while a slot is under way share the next one, and never wait longer than they were told to."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from threefold.kernel.clock import SystemClock
from threefold.quorum.appender import Appender
from threefold.quorum.driver import Driver, LogWriter
from threefold.quorum.objects import Codec
from threefold.stores.memory import MemoryStore


def _writer(unsettled: int) -> tuple[LogWriter, Any]:
    appender = SimpleNamespace(unsettled=unsettled, settled=0, buffered=0)
    codec = cast("Codec", SimpleNamespace(fork=lambda: None))
    driver = Driver({"S1": MemoryStore("S1")}, SystemClock())
    return LogWriter(driver, cast("Appender", appender), codec, SystemClock(), lambda _: None), appender


async def test_nothing_under_way_is_no_wait() -> None:
    writer, _ = _writer(unsettled=0)
    turn = writer.turn(60)
    with pytest.raises(StopIteration):
        turn.send(None)


async def test_the_wait_ends_when_it_was_told_to() -> None:
    writer, _ = _writer(unsettled=1)
    loop = asyncio.get_running_loop()
    began = loop.time()
    await asyncio.wait_for(writer.turn(0.05), 5)
    assert 0.04 <= loop.time() - began < 2


async def test_a_writer_that_is_fenced_waits_no_more() -> None:
    writer, _ = _writer(unsettled=1)
    writer.fenced.set()
    await asyncio.wait_for(writer.turn(60), 1)
