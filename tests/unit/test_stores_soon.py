"""A store that hangs: known as such after a second, waited for no longer by anybody, and back with its first answer."""

from __future__ import annotations

import asyncio
import time

import pytest

from threefold.kernel.clock import SystemClock
from threefold.quorum.driver import Driver
from threefold.quorum.requests import Ask, Procedure, Read
from threefold.stores.health import HealthBook
from threefold.stores.memory import MemoryStore
from threefold.stores.observed import HANGS_S, ObservedStore
from threefold.stores.soon import answers_soon
from threefold.stores.store import Gone, Unknown

NAMES = ("S1", "S2", "S3")


class Balky(MemoryStore):
    """Answers nothing while ``stands`` is cleared; ``refuses``: at once, and with nothing."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.objects["k"] = b"x"
        self.stands = asyncio.Event()
        self.stands.set()
        self.refuses = False

    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
        if self.refuses:
            return Unknown("connection refused")
        await self.stands.wait()
        return await super().read(key, start=start, length=length)


def _three() -> tuple[dict[str, Balky], dict[str, ObservedStore]]:
    health, inner = HealthBook(NAMES), {name: Balky(name) for name in NAMES}
    return inner, {name: ObservedStore(store, SystemClock(), health) for name, store in inner.items()}


async def _timed(stores: dict[str, ObservedStore]) -> tuple[set[str], float]:
    began = time.monotonic()
    return set(await answers_soon(stores, lambda store: store.read("k"))), time.monotonic() - began


async def test_it_is_given_its_time_once_and_a_sign_of_life_later() -> None:
    inner, stores = _three()
    inner["S2"].stands.clear()
    answered, took = await _timed(stores)
    assert answered == {"S1", "S3"}
    assert 0.9 < took < 2
    assert [stores[name].hangs for name in NAMES] == [False, True, False]
    answered, took = await _timed(stores)
    assert answered == {"S1", "S3"}
    assert took < 0.6
    inner["S2"].stands.set()
    assert (await _timed(stores))[0] == set(NAMES), "its first answer is heard"
    assert not stores["S2"].hangs


async def test_a_store_that_refuses_at_once_does_not_hang() -> None:
    inner, stores = _three()
    inner["S2"].refuses = True
    for _ in range(3):
        await _timed(stores)
        await asyncio.sleep(HANGS_S / 2)
    assert not stores["S2"].hangs


async def test_one_that_nobody_asks_does_not_hang_either() -> None:
    _, stores = _three()
    await _timed(stores)
    await asyncio.sleep(HANGS_S * 1.1)
    assert not any(store.hangs for store in stores.values())


@pytest.mark.parametrize("known", [True, False])
async def test_a_new_driver_knows_it_too(known: bool) -> None:
    """Each step of a switch has a driver of its own, and learned it anew."""
    inner, stores = _three()
    inner["S1"].stands.clear()
    if known:
        await _timed(stores)

    def two() -> Procedure[int]:
        answers = yield Ask(tuple(Read(name, "k") for name in NAMES), lambda answers: len(answers) >= 2, 0.8)
        return len(answers)

    began = time.monotonic()
    assert await Driver(stores, SystemClock()).run(two()) == 2
    assert (time.monotonic() - began < 0.5) is known
    inner["S1"].stands.set()
