"""Retention locks: what a store promises of them, over the memory store and our own server; where there are none."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from tests.conformance.servers import Server

from threefold.kernel.clock import SystemClock
from threefold.stores.lock_proof import prove_lock
from threefold.stores.locking import LockingStore
from threefold.stores.memory import MemoryStore
from threefold.stores.open import open_store
from threefold.stores.store import ABSENT, Locked, Made, NotLocked, ObjectStore, Unknown

CLOCK = SystemClock()
LARGE = bytes(range(256)) * 8192  # a file of its own, and more than goes in one packet


def opened(server: Server) -> ObjectStore:
    return open_store(replace(server.config, url=f"{server.config.url}/{uuid.uuid4().hex}"))


@pytest.fixture(params=["memory", "own"])
def store(request: pytest.FixtureRequest) -> ObjectStore:
    return MemoryStore(clock=CLOCK) if request.param == "memory" else opened(request.getfixturevalue("own"))


def later(seconds: float) -> datetime:
    return CLOCK.now() + timedelta(seconds=seconds)


@pytest.mark.parametrize("body", [b"", b"small", LARGE], ids=len)
async def test_what_is_created_locked_stays_until_then_and_goes_after(store: ObjectStore, body: bytes) -> None:
    until = later(2.2)
    assert await store.create_locked("packs/a b", body, until) is Made.CREATED
    assert await store.create_locked("packs/a b", b"another", until) is Made.EXISTS
    assert await store.create("packs/free", b"x") is Made.CREATED
    held = await store.locked_until("packs/a b")
    assert isinstance(held, datetime)
    assert timedelta(0) <= held - until < timedelta(seconds=1.1)
    assert await store.locked_until("packs/free") is None
    assert await store.locked_until("packs/none") is None
    for keys in (["packs/a b"], ["packs/free", "packs/a b"]):
        answer = await store.delete(keys)
        assert isinstance(answer, Locked)
        assert (answer.key, answer.until) == ("packs/a b", held)
    assert isinstance(await store.erase("packs/a b"), Locked)
    assert isinstance(await store.write("packs/a b", b"thief"), Unknown)
    assert await store.read("packs/a b") == body
    assert await store.read("packs/free") is ABSENT  # the one that is locked does not hold the others back
    await asyncio.sleep(max(0, (held - CLOCK.now()).total_seconds()) + 0.05)
    assert await store.delete(["packs/a b"]) is None
    assert await store.read("packs/a b") is ABSENT


async def test_a_lock_is_made_longer_and_never_shorter(store: ObjectStore) -> None:
    await store.create("wal/1", b"x")
    assert await store.lock("wal/1", later(600)) is None
    first = await store.locked_until("wal/1")
    assert await store.lock("wal/1", later(1200)) is None
    longer = await store.locked_until("wal/1")
    assert isinstance(first, datetime)
    assert isinstance(longer, datetime)
    assert longer > first
    assert isinstance(await store.lock("wal/1", later(5)), NotLocked)
    assert await store.locked_until("wal/1") == longer
    assert isinstance(await store.lock("wal/none", later(5)), Unknown)


async def test_a_store_that_answers_no_more_says_nothing_of_locks(own: Server) -> None:
    store = open_store(own.through(9))
    for answer in (
        await store.create_locked("packs/a", b"x", later(5)),
        await store.lock("packs/a", later(5)),
        await store.locked_until("packs/a"),
        await store.erase("packs/a"),
    ):
        assert isinstance(answer, Unknown)
        assert not isinstance(answer, NotLocked)


async def test_a_store_without_locks_says_so_and_a_locking_store_stores_all_the_same(azurite: Server) -> None:
    store = opened(azurite)
    assert isinstance(await store.create_locked("packs/a", b"x", later(60)), NotLocked)
    assert await store.read("packs/a") is ABSENT
    locking = LockingStore(store, CLOCK, timedelta(days=1), ("packs",))
    assert await locking.create("packs/a", b"x") is Made.CREATED
    assert await store.read("packs/a") == b"x"
    proof = await prove_lock(store, CLOCK)
    assert not proof.locked
    assert "no store that objects can be locked on" in proof.detail


async def test_a_locking_store_locks_by_prefix_alone(store: ObjectStore) -> None:
    locking = LockingStore(store, CLOCK, timedelta(hours=1), ("packs", "wal"))
    for key in ("packs/a", "wal/1/2", "packs-like", "log/1/2", "snapshots/s", "beacons/leader"):
        assert await locking.create(key, b"x") is Made.CREATED
        held = await store.locked_until(key)
        assert (held is not None) is key.startswith(("packs/", "wal/")), key
    assert await locking.create("packs/a", b"y") is Made.EXISTS


async def test_the_proof_is_given_by_a_store_that_refuses(store: ObjectStore) -> None:
    proof = await prove_lock(store, CLOCK)
    assert (proof.locked, proof.detail, proof.hides) == (True, "locked: deletion refused", False)
    assert (await prove_lock(store, CLOCK)).locked  # what the first one left does not disturb


class _Deletes(MemoryStore):
    async def erase(self, key: str) -> None | Locked | Unknown:
        self.objects.pop(key)
        return None


class _Overwrites(MemoryStore):
    async def write(self, key: str, body: bytes) -> None | Unknown:
        self.objects[key] = body
        return None


class _Shortens(MemoryStore):
    async def lock(self, key: str, until: datetime) -> None | Unknown:
        self.locks[key] = until
        return None


class _Ignores(MemoryStore):
    async def create_locked(self, key: str, body: bytes, until: datetime) -> Made | Unknown:
        return await self.create(key, body)


class _Versions(MemoryStore):
    """As AWS does: the locked version cannot be deleted, an ordinary delete puts a marker over it."""

    async def erase(self, key: str) -> None | Locked | Unknown:
        return Locked(key, self.locks[key], version="v1")

    async def delete(self, keys: Sequence[str]) -> None | Locked | Unknown:
        for key in keys:
            self.objects.pop(key, None)
        return None


@pytest.mark.parametrize(
    ("kind", "locked", "says"),
    [
        (_Deletes, False, "a locked object was deleted"),
        (_Overwrites, False, "a locked object was written over"),
        (_Shortens, False, "a lock was made shorter"),
        (_Ignores, False, "it took the lock and has none"),
        (_Versions, True, "an ordinary delete hides an object"),
    ],
)
async def test_the_proof_tells_what_is_wrong(kind: type[MemoryStore], locked: bool, says: str) -> None:
    proof = await prove_lock(kind(clock=CLOCK), CLOCK)
    assert (proof.locked, proof.hides) == (locked, locked)
    assert says in proof.detail
    assert proof.hint
