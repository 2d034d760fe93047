"""Hedged reads: what they cost, and that a store that stalls is overtaken all the same."""

from __future__ import annotations

import asyncio

from threefold.kernel.clock import SystemClock
from threefold.stores.memory import MemoryStore
from threefold.stores.reads import Reader
from threefold.stores.store import Gone, Unknown

NAMES = ("S1", "S2", "S3")


class Slow(MemoryStore):
    def __init__(self, name: str, seconds: float) -> None:
        super().__init__(name)
        self.objects["k"] = b"x"
        self.seconds = seconds
        self.asked = 0

    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
        self.asked += 1
        await asyncio.sleep(self.seconds)
        return await super().read(key, start=start, length=length)


async def _accept(data: bytes) -> bytes:
    return data


async def _read(stores: dict[str, Slow], reads: int, at_once: int) -> None:
    reader = Reader(stores, SystemClock(), lambda _: None)
    left = iter(range(reads))

    async def work() -> None:
        for _ in left:
            assert await reader.read("k", _accept, length=1) == b"x"

    await asyncio.gather(*(work() for _ in range(at_once)))


async def test_where_all_stores_are_slow_few_are_asked_twice() -> None:
    """Each read takes longer than the reader waits before it asks another store."""
    stores = {name: Slow(name, 0.9) for name in NAMES}
    await _read(stores, 200, 100)
    asked = sum(store.asked for store in stores.values())
    assert 200 < asked <= 200 * 1.05 + 16


async def test_a_store_that_stalls_is_overtaken_by_all_that_wait_for_it() -> None:
    stores = {"S1": Slow("S1", 3600), "S2": Slow("S2", 0.01), "S3": Slow("S3", 0.01)}
    async with asyncio.timeout(8):
        await _read(stores, 60, 8)
    assert sum(store.asked for store in stores.values()) <= 60 + 16
