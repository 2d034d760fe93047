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


class Far(MemoryStore):
    """A quarter of a second away; ``cut``: nothing comes back."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.objects["k"] = b"x"
        self.cut = False
        self.seconds = 0.25

    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
        await asyncio.sleep(3600 if self.cut else self.seconds)
        return await super().read(key, start=start, length=length)


async def test_far_stores_that_were_cut_off_for_a_moment_are_heard_again() -> None:
    """Each sign of life comes too late for its own asker: it counts all the same."""
    health, inner = HealthBook(NAMES), {name: Far(name) for name in NAMES}
    stores = {name: ObservedStore(store, SystemClock(), health) for name, store in inner.items()}
    assert (await _timed(stores))[0] == set(NAMES)
    for store in inner.values():
        store.cut = True
    assert (await _timed(stores))[0] == set()
    for store in inner.values():
        store.cut = False
    assert (await _timed(stores))[0] == set(NAMES), "with fewer than two others nobody is given up early"
    inner["S2"].cut = True
    await _timed(stores)
    inner["S2"].cut = False
    await asyncio.sleep(0.1)
    answered = [await _timed(stores) for _ in range(4)]
    assert answered[-1][0] == set(NAMES)


async def test_what_was_given_up_soon_or_takes_long_by_nature_says_nothing() -> None:
    inner, stores = {"S1": Far("S1")}, {}
    inner["S1"].objects["packs/1"] = b"much"
    stores["S1"] = ObservedStore(inner["S1"], SystemClock(), HealthBook(NAMES))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(stores["S1"].read("k"), 0.05)
    await asyncio.sleep(HANGS_S * 1.1)
    assert not stores["S1"].hangs
    inner["S1"].seconds = HANGS_S * 1.5
    pack = asyncio.create_task(stores["S1"].read("packs/1"))
    await asyncio.sleep(HANGS_S * 1.2)
    assert not stores["S1"].hangs
    await pack


async def test_whoever_needs_the_answer_waits_for_it() -> None:
    inner, stores = _three()
    inner["S2"].stands.clear()
    await _timed(stores)
    assert stores["S2"].hangs
    began = time.monotonic()
    await answers_soon(stores, lambda store: store.read("k"), 0.6, patiently=True)
    assert time.monotonic() - began > 0.5
