"""How long the driver goes on: as long as there is something new to read, and not for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from threefold.kernel.clock import SystemClock
from threefold.kernel.errors import Unavailable
from threefold.quorum.driver import Driver
from threefold.quorum.requests import Ask, Pause, Procedure, Read
from threefold.stores.memory import MemoryStore
from threefold.stores.store import Gone, Unknown

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
