"""How long the driver goes on: as long as there is something new to read, and not for ever."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from threefold.kernel.clock import SystemClock
from threefold.kernel.errors import Unavailable
from threefold.kernel.keys import Keyring
from threefold.kernel.lsn import Lsn
from threefold.quorum.appender import Appender, Limits
from threefold.quorum.driver import Driver, LogWriter
from threefold.quorum.history import encode_start
from threefold.quorum.objects import Codec, Frame, Header, Kind
from threefold.quorum.requests import Ask, Pause, Procedure, Read
from threefold.quorum.view import Scope
from threefold.stores.memory import MemoryStore
from threefold.stores.store import ABSENT, Gone, Unknown

_PATIENCE_S = 0.5


class _Far(MemoryStore):
    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
        await asyncio.sleep(0.1)
        return Unknown("it does not say") if key == "silent" else await super().read(key, start=start, length=length)


def _read(keys: Iterator[str]) -> Procedure[str]:
    for key in keys:
        yield Ask((Read("S1", key),))
        if key == "silent":
            yield Pause(0.01)
    return "read"


async def test_a_long_log_on_a_far_store_is_read_to_its_end() -> None:
    driver = Driver({"S1": _Far("S1")}, SystemClock())
    slots = (f"log/00000001/{slot:012x}" for slot in range(10))
    assert await driver.run(_read(slots), patience=_PATIENCE_S) == "read"


async def test_who_asks_the_same_again_is_given_up() -> None:
    driver = Driver({"S1": _Far("S1")}, SystemClock())
    with pytest.raises(Unavailable, match="S1: it does not say"):
        await driver.run(_read(iter(["silent"] * 1000)), patience=_PATIENCE_S)


class _Hanging(MemoryStore):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.asked, self.under_way = 0, 0

    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
        self.asked += 1
        self.under_way += 1
        try:
            await asyncio.sleep(3600)
        finally:
            self.under_way -= 1
        return ABSENT


async def test_reads_of_a_store_that_hangs_do_not_pile_up() -> None:
    """Each is a connection, and a process has a thousand; the walk goes on with the other two stores."""
    hanging = _Hanging("S3")
    driver = Driver({"S1": MemoryStore("S1"), "S2": MemoryStore("S2"), "S3": hanging}, SystemClock())

    def walk() -> Procedure[str]:
        for stride in range(20):
            slots = [f"log/00000001/{stride:06x}{slot:06x}" for slot in range(100)]
            requests = tuple(Read(store, slot) for slot in slots for store in ("S1", "S2", "S3"))
            yield Ask(requests, lambda answers: len(answers) >= 200)
        return "read"

    assert await driver.run(walk(), patience=5) == "read"
    await asyncio.sleep(0)
    assert hanging.asked == 2000
    assert hanging.under_way <= 128


class _Awakes(MemoryStore):
    """Hangs until it is told to answer."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.awake = asyncio.Event()

    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
        await self.awake.wait()
        return await super().read(key, start=start, length=length)


def _each(steps: int) -> Procedure[list[int]]:
    """How many of three answered, step by step; two are enough, and the third is given a moment."""
    came = []
    for step in range(steps):
        reads = tuple(Read(store, f"key-{step}") for store in ("S1", "S2", "S3"))
        answers = yield Ask(reads, lambda answers: len(answers) >= 2, grace=0.2)
        came.append(len(answers))
    return came


async def test_a_store_that_hangs_is_waited_for_once_and_again_when_it_has_answered() -> None:
    hangs = _Awakes("S3")
    driver = Driver({"S1": MemoryStore("S1"), "S2": MemoryStore("S2"), "S3": hangs}, SystemClock())
    began = asyncio.get_running_loop().time()
    assert await driver.run(_each(20)) == [2] * 20
    assert asyncio.get_running_loop().time() - began < 1  # 20 times 0.2 s otherwise
    hangs.awake.set()
    await asyncio.sleep(0.05)  # what was left alone comes in
    assert await driver.run(_each(3)) == [3] * 3


class _Guarded(Codec):
    """Slow to encode what is large, and counts who is in it."""

    crowded = False
    bundles = segments = 0

    def __init__(self) -> None:
        super().__init__(Keyring(bytes(32)), 7)
        self._inside = 0

    def fork(self) -> Codec:
        return _Guarded()

    def compress(self, payload: bytes) -> bytes:
        with self._alone():
            return super().compress(payload)

    def encode_parts(self, header: Header, parts: Sequence[bytes | Frame]) -> bytes:
        _Guarded.bundles += header.kind is Kind.BUNDLE
        _Guarded.segments += header.kind is Kind.SEGMENT
        with self._alone():
            time.sleep(0.05)
        return super().encode_parts(header, parts)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._inside += 1
        _Guarded.crowded |= self._inside > 1
        try:
            yield
        finally:
            self._inside -= 1


async def test_a_codec_is_in_one_thread_at_a_time_though_a_bundle_is_encoded_beside_a_segment() -> None:
    """Two threads in one compressor are a crash, or a segment that is not what it says."""
    scope = Scope(("S1", "S2", "S3"), _Guarded(), "0a" * 16, segment_bytes=64, bundle_slots=2)
    first = scope.codec.encode(Header(Kind.START, 1, 0, scope.writer, 1, Lsn(0), Lsn(0)), encode_start((), b""))
    appender = Appender(scope, first, (), Lsn(0), Limits(entry_bytes=8))
    stores = {name: MemoryStore(name) for name in scope.stores}
    writer = LogWriter(Driver(stores, SystemClock()), appender, scope.codec, SystemClock(), lambda _: None)
    writer.offer(bytes(64 * 8))
    async with asyncio.timeout(10):
        while not appender.idle:
            await asyncio.sleep(0.01)
    assert _Guarded.bundles > 10
    assert _Guarded.segments > 5
    assert not _Guarded.crowded
    await writer.close()
