"""The counts in the stores: they are added to, and never taken for absent because an answer was late or sealed."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from threefold.cost.keeping import Keeper, read_record
from threefold.cost.traffic import Count, TrafficRecord, encode, key_of
from threefold.kernel.clock import SystemClock
from threefold.kernel.keys import NONCE_BYTES, Keyring
from threefold.stores.health import HealthBook, Operation
from threefold.stores.memory import MemoryStore
from threefold.stores.observed import ObservedStore
from threefold.stores.store import Gone, Unknown

NAMES = ("S1", "S2", "S3")
OURS, THEIRS = Keyring(bytes(range(32))), Keyring(bytes(range(1, 33)))
CLOCK = SystemClock()
CELL = ("S1", "log entries", Operation.CREATE)
KEY = key_of("protect")


class Slow(MemoryStore):
    """A memory store whose reads take ``seconds``."""

    seconds = 0.0

    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
        await asyncio.sleep(self.seconds)
        return await super().read(key, start=start, length=length)


class Place:
    """Three stores, and a process that ran ``protect`` for a moment."""

    def __init__(self) -> None:
        self.stores = {name: Slow(name) for name in NAMES}
        health = HealthBook(NAMES)
        self.observed = {name: ObservedStore(store, CLOCK, health) for name, store in self.stores.items()}
        self.keeper = Keeper("protect", self.observed, health, OURS, CLOCK)

    async def holds(self, keyring: Keyring, *names: str, beat: int = 7, count: int = 5_000_000) -> TrafficRecord:
        """What eight days counted, in ``names``."""
        record = TrafficRecord(beat=beat - 1)
        began = datetime.now(UTC) - timedelta(days=9)
        record.add(began, datetime.now(UTC) - timedelta(days=1), {CELL: Count(count)})
        record.beat = beat
        for name in names:
            await self.stores[name].write(KEY, encode(record, "protect", keyring, bytes(NONCE_BYTES)))
        return record

    async def ask(self) -> None:
        for store in self.observed.values():
            await store.create(f"log/{CLOCK.new_id()}", b"entry")

    async def found(self, keyring: Keyring = OURS) -> TrafficRecord:
        for store in self.stores.values():
            store.seconds = 0.0
        return await read_record(self.stores, "protect", keyring)


def requests(record: TrafficRecord) -> int:
    return sum(cells[CELL].requests for cells in record.days.values() if CELL in cells)


async def test_a_late_answer_is_not_taken_for_no_record() -> None:
    here = Place()
    before = await here.holds(OURS, *NAMES)
    await here.ask()
    for store in here.stores.values():
        store.seconds = 1.3
    await here.keeper.flush()
    assert await here.found() == before
    await here.keeper.flush()  # what was not added is added by the next one
    after = await here.found()
    assert (requests(after), after.beat, after.since) == (5_000_001, 8, before.since)


async def test_an_old_record_of_one_store_does_not_replace_what_two_others_do_not_say() -> None:
    here = Place()
    before = await here.holds(OURS, "S1", "S2", beat=90)
    await here.holds(OURS, "S3", beat=2, count=1)  # it was away since
    await here.ask()
    here.stores["S1"].seconds = here.stores["S2"].seconds = 1.3
    await here.keeper.flush()
    assert await here.found() == before


async def test_a_record_under_another_key_stays() -> None:
    here = Place()
    before = await here.holds(THEIRS, *NAMES)
    await here.ask()
    await here.keeper.flush()
    assert await here.found(THEIRS) == before


@pytest.mark.parametrize(("away", "written"), [((), True), (("S3",), True), (("S2", "S3"), False)])
async def test_a_first_record_is_written_where_two_say_that_there_is_none(away: tuple[str, ...], written: bool) -> None:
    here = Place()
    await here.ask()
    for name in away:
        here.stores[name].seconds = 1.3
    await here.keeper.flush()
    assert requests(await here.found()) == (1 if written else 0)


async def test_a_record_that_is_begun_anew_is_not_older_than_what_it_counts() -> None:
    here = Place()
    await asyncio.sleep(0.01)
    await here.ask()
    await here.keeper.flush()
    first = await here.found()
    for store in here.stores.values():
        await store.delete([KEY])
    await asyncio.sleep(0.01)
    await here.ask()
    await here.keeper.flush()
    again = await here.found()
    assert requests(again) == 1
    assert again.since >= first.until
