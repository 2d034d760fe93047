"""Taking over while one store answers nothing: entries that only one other shows cost no time-out each."""

from __future__ import annotations

import asyncio
import time

from threefold.kernel.clock import SystemClock
from threefold.kernel.keys import Keyring
from threefold.kernel.lsn import Lsn
from threefold.quorum import keys
from threefold.quorum.driver import Driver
from threefold.quorum.history import encode_start
from threefold.quorum.majority import WINDOW
from threefold.quorum.objects import Codec, Header, Kind
from threefold.quorum.takeover import take_over
from threefold.quorum.view import Scope
from threefold.stores.health import HealthBook
from threefold.stores.memory import MemoryStore
from threefold.stores.observed import ObservedStore
from threefold.stores.store import Gone, Made, Page, Unknown

_STORES = ("S1", "S2", "S3")
_TIME_OUT_S = 2.0


class _Hanging(MemoryStore):
    async def create(self, key: str, body: bytes) -> Made | Unknown:
        await asyncio.sleep(_TIME_OUT_S)
        return Unknown("did not answer in time")

    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
        await asyncio.sleep(_TIME_OUT_S)
        return Unknown("did not answer in time")

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> Page | Unknown:
        await asyncio.sleep(_TIME_OUT_S)
        return Unknown("did not answer in time")


async def test_slots_on_one_store_are_brought_to_two_without_waiting_for_the_third() -> None:
    codec, writer = Codec(Keyring(bytes(32)), 7), "0a" * 16
    memory = {"S1": MemoryStore("S1"), "S2": MemoryStore("S2"), "S3": _Hanging("S3")}
    first = codec.encode(Header(Kind.START, 1, 0, writer, 1, Lsn(0), Lsn(0)), encode_start((), b""))
    link, at = first.digest, 0
    for store in ("S1", "S2"):
        await memory[store].create(keys.slot_key(1, 0), first.body)
    for slot in range(1, WINDOW + 1):  # on S1, and on their way to the others when the leader died
        header = Header(Kind.ENTRY, 1, slot, writer, 1, Lsn(at), Lsn(at + 100), link)
        entry = codec.encode(header, b"x" * 100)
        link, at = entry.digest, at + 100
        await memory["S1"].create(keys.slot_key(1, slot), entry.body)
    clock, health = SystemClock(), HealthBook(_STORES)
    driver = Driver({name: ObservedStore(store, clock, health) for name, store in memory.items()}, clock)
    began = time.monotonic()
    found = await driver.run(take_over(Scope(_STORES, codec, "0b" * 16), 2))
    assert found.end == at
    assert time.monotonic() - began < 2 * _TIME_OUT_S, "it waited for the store that hangs, slot after slot"
    for slot in range(1, WINDOW + 1):
        assert isinstance(await memory["S2"].read(keys.slot_key(1, slot)), bytes)
