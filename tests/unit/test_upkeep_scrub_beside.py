"""Scrubs go round and round beside leaders, and nothing that is settled ever looks absent."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from tests.scrubbing import damage
from tests.stored import CLOCK, KEYRING, NAMES, Leading, stored

from threefold.kernel.errors import Damaged
from threefold.kernel.progress import Silent
from threefold.quorum import keys
from threefold.quorum.objects import SEAL_BYTES, Codec
from threefold.stores.health import HealthBook
from threefold.stores.memory import MemoryStore
from threefold.stores.store import Gone, Made, Unknown
from threefold.upkeep.scrub import Scrub


class Late(MemoryStore):
    """Answers late, and loses a request or a reply now and then."""

    def __init__(self, of: MemoryStore, chance: random.Random, trimmed: set[str]) -> None:
        super().__init__(of.name)
        self.objects = of.objects
        self._chance = chance
        self.trimmed = trimmed

    async def late(self) -> None:
        for _ in range(self._chance.randrange(4)):
            await asyncio.sleep(0)

    async def create(self, key: str, body: bytes) -> Made | Unknown:
        await self.late()
        if self._chance.random() < 0.02:
            return Unknown("lost on its way")
        answer = await super().create(key, body)
        await self.late()
        return Unknown("its reply was lost") if self._chance.random() < 0.02 else answer

    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
        await self.late()
        return await super().read(key, start=start, length=length)

    async def delete(self, keys: Sequence[str]) -> None | Unknown:
        self.trimmed.update(keys)
        await self.late()
        return await super().delete(keys)


class Judged(Late):
    """What a scrub sees of it: judges each delete. No seal and no claim, and two other stores hold it whole."""

    others: dict[str, Judged]
    replaced = 0

    async def delete(self, keys: Sequence[str]) -> None | Unknown:
        await self.late()
        (key,) = keys
        assert not key.startswith("epochs/")
        if key.startswith("log/"):
            whole = [name for name, store in self.others.items() if store is not self and entry(store, key)]
            assert len(whole) == 2 or key in self.trimmed, (key, whole)
            assert len(self.objects.get(key, b"")) != SEAL_BYTES
        self.replaced += 1
        return await MemoryStore.delete(self, keys)


def entry(store: MemoryStore, key: str) -> bool:
    try:
        return not Codec(KEYRING, 7).open(store.objects.get(key, b"")).is_seal
    except Damaged:
        return False


async def _beside(seed: int) -> int:
    """Leaders append, trim and take each other over while copies rot and scrubs go round and round."""
    chance = random.Random(seed)
    here = await stored(epochs=1)
    trimmed: set[str] = set()
    stores = {name: Late(store, chance, trimmed) for name, store in here.stores.items()}
    judged = {name: Judged(store, chance, trimmed) for name, store in here.stores.items()}
    for store in judged.values():
        store.others = judged

    async def lead() -> None:
        for _ in range(3):
            leading = await Leading(stores).begin()
            for _ in range(chance.randrange(1, 4)):
                await here.write(leading, chance.randrange(500, 6000))
                if chance.random() < 0.5:
                    await leading.trim()
            await leading.end()

    async def rot() -> None:
        store = stores[chance.choice(NAMES)]  # one alone, so that nothing is lost by chance
        while True:
            for _ in range(chance.randrange(60)):
                await asyncio.sleep(0)
            key = chance.choice(sorted(store.objects))
            if not key.startswith("beacons/") and key != keys.FORMAT:
                damage(store, key, chance.choice(["first byte", "last byte", "longer"]))

    async def scrubs() -> None:
        while True:
            await Scrub(judged, KEYRING, CLOCK, HealthBook(NAMES), Silent()).everything(fresh=True)

    beside = [asyncio.create_task(work()) for work in (rot, scrubs, scrubs)]
    try:
        await asyncio.wait_for(lead(), 30)
    finally:
        for task in beside:
            task.cancel()
        ended = await asyncio.gather(*beside, return_exceptions=True)
    for end in ended:
        assert isinstance(end, asyncio.CancelledError), end
    await here.same_log()
    await (await Leading(here.stores).begin()).end()  # and whoever takes over finds the same
    await here.same_log()
    return sum(store.replaced for store in judged.values())


async def test_beside_leaders_nothing_settled_ever_looks_absent() -> None:
    replaced = 0
    for seed in range(12):
        replaced += await _beside(seed)
    assert replaced > 20  # the world can do what is judged
