from __future__ import annotations

import asyncio

import pytest

from threefold.kernel.clock import SystemClock
from threefold.stores.health import HEDGE_CEILING, HEDGE_FLOOR, WINDOW, HealthBook, Operation, State
from threefold.stores.memory import MemoryStore
from threefold.stores.observed import ObservedStore
from threefold.stores.store import Gone, Unknown

READ, CREATE = Operation.READ, Operation.CREATE


def _book(**seconds: float) -> HealthBook:
    book = HealthBook(["S1", "S2", "S3"])
    for name, each in seconds.items():
        for at in range(40):
            book.record(name, READ, each, 8192, None, float(at))
    return book


def test_a_store_of_which_nothing_is_known_is_healthy_and_tried_first() -> None:
    book = _book(S1=0.01, S3=0.005)
    assert book.state("S2", 40) is State.HEALTHY
    assert book.fastest_first(READ, 40) == ("S2", "S3", "S1")


def test_percentiles_and_ewma() -> None:
    book = HealthBook(["S1"])
    for number in range(1, 101):
        book.record("S1", CREATE, number / 1000, 100, None, 0.0)
    (health,) = book.snapshot(1.0)
    (latency,) = health.latencies
    assert (latency.operation, latency.samples) == (CREATE, 100)
    assert latency.p50 == pytest.approx(0.050)
    assert latency.p99 == pytest.approx(0.099)
    assert 0.085 < latency.ewma < 0.100
    (later,) = book.snapshot(WINDOW + 2)
    assert later.latencies[0].samples == 0


def test_large_transfers_measure_the_line_not_the_store() -> None:
    book = _book(S1=0.01, S2=0.01, S3=0.01)
    book.record("S1", READ, 30.0, 64 << 20, None, 40.0)
    assert book.state("S1", 40) is State.HEALTHY
    assert book.snapshot(40)[0].latencies[0].p99 == pytest.approx(0.01)


def test_three_failures_in_a_row_and_one_answer() -> None:
    book = _book(S1=0.01, S2=0.02, S3=0.03)
    for _ in range(2):
        book.record("S1", READ, 5.0, 0, "S1 answered 503", 41.0)
    assert book.state("S1", 41) is State.HEALTHY
    book.record("S1", READ, 5.0, 0, "S1 did not answer in time", 42.0)
    assert book.state("S1", 42) is State.UNREACHABLE
    assert book.fastest_first(READ, 42) == ("S2", "S3", "S1")
    health = book.snapshot(42)[0]
    assert (health.failures, health.consecutive_failures) == (3, 3)
    assert (health.last_error, health.last_error_at) == ("S1 did not answer in time", 42.0)
    book.record("S1", READ, 0.01, 0, None, 43.0)
    assert book.state("S1", 43) is State.HEALTHY
    assert book.fastest_first(READ, 43)[0] == "S1"


def test_slow_is_against_the_others_and_noticeable() -> None:
    assert _book(S1=0.300, S2=0.010, S3=0.012).state("S1", 40) is State.SLOW
    assert _book(S1=0.300, S2=0.200, S3=0.250).state("S1", 40) is State.HEALTHY  # all are far away
    assert _book(S1=0.010, S2=0.001, S3=0.001).state("S1", 40) is State.HEALTHY  # nobody notices
    assert _book(S1=0.300, S2=0.010, S3=0.012).state("S2", 40) is State.HEALTHY
    assert _book(S1=0.300, S2=0.010).state("S1", 40 + WINDOW) is State.HEALTHY  # of another time


def test_a_store_that_was_slow_once_is_tried_again() -> None:
    book = _book(S1=0.300, S2=0.010, S3=0.012)
    assert book.fastest_first(READ, 40) == ("S2", "S3", "S1")
    book.record("S2", READ, 0.01, 0, None, 40 + WINDOW)
    book.record("S3", READ, 0.01, 0, None, 40 + WINDOW)
    assert book.fastest_first(READ, 41 + WINDOW)[0] == "S1"


def test_lost_ends_only_when_membership_says_so() -> None:
    book = _book(S1=0.001, S2=0.02, S3=0.03)
    book.mark_lost("S1", "the format object is gone", 41.0)
    book.record("S1", READ, 0.001, 0, None, 42.0)
    assert book.state("S1", 42) is State.LOST
    assert book.fastest_first(READ, 42)[-1] == "S1"
    book.mark_member("S1")
    assert book.state("S1", 42) is State.HEALTHY


def test_hedging_waits_as_long_as_that_store_usually_takes() -> None:
    book = _book(S1=0.200, S2=0.0001, S3=7.0)
    assert book.hedge_after("S1", READ, 40) == pytest.approx(0.200)
    assert book.hedge_after("S2", READ, 40) == HEDGE_FLOOR
    assert book.hedge_after("S3", READ, 40) == HEDGE_CEILING
    assert book.hedge_after("S1", CREATE, 40) == HEDGE_FLOOR  # nothing known
    book.record("S1", READ, 5.0, 0, "S1 answered 503", 41.0)
    assert book.hedge_after("S1", READ, 41) == 0


async def test_an_observed_store_counts_by_operation_and_purpose() -> None:
    book = HealthBook(["S1"])
    store = ObservedStore(MemoryStore("S1"), SystemClock(), book)
    await store.create("log/1/1", b"12345")
    await store.create("log/1/1", b"12345")
    await store.create("beacons/a", b"1")
    await store.write("beacons/a", b"22")
    await store.read("log/1/1")
    await store.read("log/1/2")
    await store.list("log")
    await store.delete(["log/1/1", "log/1/2"])
    counted = {
        (one.operation.value, one.purpose): (one.requests, one.unknown, one.bytes_out, one.bytes_in)
        for one in store.traffic()
    }
    assert counted == {
        ("create", "beacons"): (1, 0, 1, 0),
        ("create", "log"): (2, 0, 10, 0),
        ("delete", "log"): (1, 0, 0, 0),
        ("list", "log"): (1, 0, 0, 0),
        ("read", "log"): (2, 0, 0, 5),
        ("write", "beacons"): (1, 0, 2, 0),
    }
    (health,) = book.snapshot(SystemClock().monotonic())
    assert (health.requests, health.failures) == (8, 0)


class _Stuck(MemoryStore):
    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
        await asyncio.sleep(3600)
        return b""

    async def create(self, key: str, body: bytes) -> Unknown:
        return Unknown("S1 answered 503")


async def test_failures_and_abandoned_reads_are_on_the_books() -> None:
    book = HealthBook(["S1"])
    store = ObservedStore(_Stuck("S1"), SystemClock(), book)
    assert await store.create("log/1", b"x") == Unknown("S1 answered 503")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(store.read("wal/1"), 0.05)
    (health,) = book.snapshot(SystemClock().monotonic())
    assert (health.requests, health.failures, health.last_error) == (2, 1, "S1 answered 503")
    assert health.consecutive_failures == 1  # nobody heard it answer
    assert health.latencies[0].p50 >= 0.05
    assert {(one.operation, one.purpose, one.unknown) for one in store.traffic()} == {
        (CREATE, "log", 1),
        (READ, "wal", 0),
    }
