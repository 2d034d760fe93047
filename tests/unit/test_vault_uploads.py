"""Two stores are enough to go on, and no store holds memory."""

from __future__ import annotations

import asyncio

import pytest

from threefold.kernel.clock import SystemClock
from threefold.kernel.errors import Unavailable
from threefold.stores.memory import MemoryStore
from threefold.stores.store import Made, Unknown
from threefold.vault.uploads import Uploads

CLOCK = SystemClock()


class Gated(MemoryStore):
    """Creates wait for the gate; ``lost`` replies are lost after the object was made; ``down`` answers nothing."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.gate = asyncio.Event()
        self.gate.set()
        self.lost = 0
        self.down = False
        self.waiting = 0

    async def create(self, key: str, body: bytes) -> Made | Unknown:
        self.waiting += 1
        try:
            await self.gate.wait()
        finally:
            self.waiting -= 1
        if self.down:
            return Unknown("down")
        made = await super().create(key, body)
        if self.lost:
            self.lost -= 1
            return Unknown("the reply was lost")
        return made


def three() -> dict[str, Gated]:
    return {name: Gated(name) for name in ("S1", "S2", "S3")}


async def test_a_stuck_store_gets_no_more_than_memory_allows_and_is_noted() -> None:
    stores = three()
    stores["S3"].gate.clear()
    async with Uploads(stores, CLOCK, in_memory=2) as uploads:
        for number in range(20):
            await asyncio.wait_for(uploads.put(f"packs/{number:02}", b"x" * number), 1)
            assert stores["S3"].waiting <= 2
        await asyncio.wait_for(uploads.finish(grace_seconds=0.05), 1)
        assert uploads.missing == {"S3": [f"packs/{number:02}" for number in range(20)]}
    await asyncio.sleep(0)
    assert stores["S3"].waiting == 0
    for name in ("S1", "S2"):
        assert len(stores[name].objects) == 20


async def test_a_store_that_comes_back_is_filled_again() -> None:
    stores = three()
    stores["S3"].gate.clear()
    async with Uploads(stores, CLOCK, in_memory=2) as uploads:
        for number in range(4):
            await uploads.put(f"packs/{number}", b"x")
        stores["S3"].gate.set()
        await asyncio.sleep(0.01)
        await uploads.put("packs/last", b"x")
        await uploads.finish()
    assert "packs/last" in stores["S3"].objects
    assert "packs/0" in uploads.missing["S3"]
    assert "packs/last" not in uploads.missing["S3"]


async def test_nothing_counts_before_it_is_on_two() -> None:
    stores = three()
    for name in ("S2", "S3"):
        stores[name].gate.clear()
    async with Uploads(stores, CLOCK, in_memory=1) as uploads:
        await uploads.put("packs/1", b"x")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(uploads.put("packs/2", b"y"), 0.1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(uploads.settle(), 0.1)
        stores["S2"].gate.set()
        await asyncio.wait_for(uploads.settle(), 1)


async def test_a_lost_reply_counts_once_the_bytes_are_read_back() -> None:
    stores = three()
    stores["S1"].lost = stores["S2"].lost = 1
    async with Uploads(stores, CLOCK) as uploads:
        await uploads.put("packs/1", b"x")
        await uploads.finish()
    assert uploads.missing == {}


async def test_other_bytes_under_our_key_are_no_copy() -> None:
    stores = three()
    stores["S1"].objects["packs/1"] = b"other"
    async with Uploads(stores, CLOCK) as uploads:
        await uploads.put("packs/1", b"ours")
        await uploads.finish()
    assert uploads.missing == {"S1": ["packs/1"]}
    assert stores["S1"].objects["packs/1"] == b"other"


async def test_two_stores_that_stay_down_are_said() -> None:
    stores = three()
    stores["S1"].down = stores["S2"].down = True
    async with Uploads(stores, CLOCK, patience_seconds=0.1) as uploads:
        await uploads.put("packs/1", b"x")
        with pytest.raises(Unavailable, match="packs/1 cannot be put on 2 stores"):
            await asyncio.wait_for(uploads.finish(), 5)
