"""The probe lets good stores vote and refuses the others, saying why. Each broken store breaks one promise."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from tests.conformance.servers import GOOD, Server

from threefold.kernel.clock import SystemClock
from threefold.stores.memory import MemoryStore
from threefold.stores.open import open_store
from threefold.stores.probe import ProbeReport, probe
from threefold.stores.store import Gone, Made, Page, Unknown


def _failed(report: ProbeReport) -> set[str]:
    return {finding.name for finding in report.findings if not finding.passed}


@pytest.fixture(params=GOOD)
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(request.param)
    return found


async def test_a_good_server_passes_and_is_left_clean(server: Server) -> None:
    store = open_store(server.config)
    report = await probe(store, SystemClock())
    assert report.passed, report.refusal
    assert 0 < report.create_p50 <= report.create_p99 < 5
    assert await store.list("probe") == Page((), last=True)


async def test_a_server_that_ignores_conditions_is_refused(rclone: Server) -> None:
    report = await probe(open_store(rclone.config), SystemClock())
    assert {"create once", "race"} <= _failed(report)
    assert "a second create of the same key was told that it created it" in report.refusal
    assert all(finding.hint for finding in report.findings if not finding.passed)


async def test_the_model_passes() -> None:
    store = MemoryStore()
    assert (await probe(store, SystemClock())).passed
    assert store.objects == {}


class _Overwrites(MemoryStore):
    async def create(self, key: str, body: bytes) -> Made | Unknown:
        self.objects[key] = body
        return Made.CREATED


class _TwoWinners(MemoryStore):
    """Looks, then writes: conditional, but not atomic."""

    async def create(self, key: str, body: bytes) -> Made | Unknown:
        there = key in self.objects
        await asyncio.sleep(0)
        return Made.EXISTS if there else await super().create(key, body) and Made.CREATED


class _LastBytesStay(MemoryStore):
    """Tells the right winner, and keeps the loser's bytes."""

    async def create(self, key: str, body: bytes) -> Made | Unknown:
        answer = await super().create(key, body)
        self.objects[key] = body
        return answer


class _IgnoresAfter(MemoryStore):
    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> Page | Unknown:
        return await super().list(prefix, limit=limit)


class _ListsLate(MemoryStore):
    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> Page | Unknown:
        page = await super().list(prefix, after=after, limit=limit)
        assert isinstance(page, Page)
        return Page(page.objects[:-1], page.last)


class _IgnoresRanges(MemoryStore):
    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
        return await super().read(key)


class _KeepsAll(MemoryStore):
    async def delete(self, keys: Sequence[str]) -> None | Unknown:
        return Unknown("locked")


class _NeverAbsent(MemoryStore):
    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
        answer = await super().read(key, start=start, length=length)
        return Unknown("404 NoSuchBucket") if isinstance(answer, Gone) else answer


class _OldWrites(MemoryStore):
    async def write(self, key: str, body: bytes) -> None | Unknown:
        self.objects.setdefault(key, body)
        return None


@pytest.mark.parametrize(
    ("broken", "finding"),
    [
        (_Overwrites, "create once"),
        (_TwoWinners, "race"),
        (_LastBytesStay, "race"),
        (_IgnoresAfter, "list"),
        (_ListsLate, "list"),
        (_IgnoresRanges, "ranges"),
        (_KeepsAll, "delete"),
        (_NeverAbsent, "answers"),
        (_OldWrites, "overwrite"),
    ],
)
async def test_a_broken_promise_is_found(broken: type[MemoryStore], finding: str) -> None:
    report = await probe(broken(), SystemClock())
    assert finding in _failed(report)
    assert report.refusal


async def test_a_loser_may_be_told_to_ask_again() -> None:
    """AWS answers 409 where two creates meet: undecided, and no reason to refuse the store."""

    class Conflicts(MemoryStore):
        async def create(self, key: str, body: bytes) -> Made | Unknown:
            answer = await super().create(key, body)
            return Unknown("answered 409") if answer is Made.EXISTS and "/race/" in key else answer

    report = await probe(Conflicts(), SystemClock())
    assert report.passed, report.refusal
    assert "95 undecided" in next(one.detail for one in report.findings if one.name == "race")
