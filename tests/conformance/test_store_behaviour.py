"""One suite over every store: what ObjectStore promises, by behaviour. The memory store is the model."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace

import pytest
from tests.conformance.servers import GOOD, Server

from threefold.stores.memory import MemoryStore
from threefold.stores.open import open_store
from threefold.stores.store import ABSENT, Listed, Made, ObjectStore, Page

BODY = bytes(range(256)) * 40


@pytest.fixture(params=["memory", *GOOD])
def store(request: pytest.FixtureRequest) -> ObjectStore:
    """An empty store: a prefix nobody else has."""
    if request.param == "memory":
        return MemoryStore()
    server: Server = request.getfixturevalue(request.param)
    # Long enough for SeaweedFS, which answers the losers of a race one a second.
    return open_store(replace(server.config, url=f"{server.config.url}/{uuid.uuid4().hex}", log_timeout=30))


async def test_a_key_is_created_once_and_keeps_its_first_bytes(store: ObjectStore) -> None:
    assert await store.create("log/1/1", BODY) is Made.CREATED
    assert await store.create("log/1/1", b"another") is Made.EXISTS
    assert await store.create("log/1/1", BODY) is Made.EXISTS
    assert await store.read("log/1/1") == BODY


async def test_one_of_many_at_once_creates(store: ObjectStore) -> None:
    bodies = [str(number).encode() * 3000 for number in range(12)]
    answers = await asyncio.gather(*(store.create("slot", body) for body in bodies))
    assert answers.count(Made.CREATED) == 1
    assert answers.count(Made.EXISTS) == 11
    assert await store.read("slot") == bodies[answers.index(Made.CREATED)]


async def test_what_was_never_written_is_absent(store: ObjectStore) -> None:
    assert await store.read("nothing") is ABSENT
    assert await store.read("nothing", start=5) is ABSENT
    assert await store.read("nothing", start=5, length=0) is ABSENT


@pytest.mark.parametrize("start", [0, 1, 4095, len(BODY) - 1, len(BODY), len(BODY) + 5])
@pytest.mark.parametrize("length", [None, 0, 1, 700, len(BODY), 1 << 30])
async def test_ranges(store: ObjectStore, start: int, length: int | None) -> None:
    await store.create("ranges", BODY)
    expected = BODY[start:] if length is None else BODY[start : start + length]
    assert await store.read("ranges", start=start, length=length) == expected


async def test_an_empty_object_is_there(store: ObjectStore) -> None:
    assert await store.create("empty", b"") is Made.CREATED
    assert await store.create("empty", b"") is Made.EXISTS
    assert await store.read("empty") == b""


async def test_an_object_of_many_megabytes(store: ObjectStore) -> None:
    """Beyond the size at which clients like to split an upload, which would lose the condition."""
    body = BODY * 1200
    assert await store.create("packs/large", body) is Made.CREATED
    assert await store.create("packs/large", body[1:]) is Made.EXISTS
    assert await store.write("packs/written", body) is None
    assert await store.read("packs/written") == body
    assert await store.read("packs/large", start=len(body) - 3) == body[-3:]


async def test_a_write_replaces(store: ObjectStore) -> None:
    for body in (b"first", b"second", b""):
        assert await store.write("beacons/a", body) is None
        assert await store.read("beacons/a") == body
    assert await store.create("beacons/a", b"x") is Made.EXISTS


async def test_a_listing_is_sorted_whole_and_only_of_the_prefix(store: ObjectStore) -> None:
    assert await store.list("log") == Page((), last=True)
    keys = ["log/2/1", "log/10/1", "log/10/10", "log/10/2", "logs/1", "log-book", "wal/1/1"]
    for size, key in enumerate(keys):
        await store.create(key, bytes(size))
    inside = tuple(sorted((Listed(key, size) for size, key in enumerate(keys[:4])), key=lambda one: one.key))
    assert await store.list("log") == Page(inside, last=True)
    assert await store.list("log/") == Page(inside, last=True)
    everything = await store.list("")
    assert isinstance(everything, Page)
    assert [one.key for one in everything.objects] == sorted(keys)


async def test_a_listing_goes_on_after_any_key(store: ObjectStore) -> None:
    keys = [f"log/{number:02}" for number in range(10)]
    for key in keys:
        await store.create(key, b"x")
    for limit in (1, 3, 10, 11):
        for after, rest in (("", keys), ("log/04", keys[5:]), ("log/044", keys[5:]), ("log/99", [])):
            page = await store.list("log", after=after, limit=limit)
            assert isinstance(page, Page)
            assert [one.key for one in page.objects] == rest[:limit]
            assert page.last or len(rest) >= limit  # a full page need not know whether anything follows
            assert not page.last or len(rest) <= limit


async def test_a_delete_is_at_once_seen_and_forgives(store: ObjectStore) -> None:
    for key in ("a/1", "a/2", "a/3"):
        await store.create(key, b"x")
    assert await store.delete([]) is None
    assert await store.delete(["a/0", "a/1", "never/there"]) is None
    assert await store.read("a/1") is ABSENT
    assert await store.delete(["a/1", "a/2"]) is None
    page = await store.list("a")
    assert isinstance(page, Page)
    assert [one.key for one in page.objects] == ["a/3"]
    assert await store.create("a/1", b"again") is Made.CREATED
