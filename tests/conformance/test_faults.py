"""A real server behind a line that fails: every failure is Unknown, and reading back decides what happened."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests.conformance.servers import Server
from tests.fault_proxy import Fault, FaultProxy

from threefold.stores.confirm import Stored, Taken, create_confirmed
from threefold.stores.open import open_store
from threefold.stores.store import ABSENT, Made, ObjectStore, Page, Unknown


@pytest.fixture(params=["azurite", "own", "seaweedfs"])
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def proxy(server: Server) -> Iterator[FaultProxy]:
    with FaultProxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def store(server: Server, proxy: FaultProxy) -> ObjectStore:
    config = server.through(proxy.port)
    return open_store(replace(config, url=f"{config.url}/{uuid.uuid4().hex}", log_timeout=0.5, bulk_timeout=2.0))


async def test_a_reply_lost_after_the_create_was_applied(store: ObjectStore, proxy: FaultProxy) -> None:
    proxy.do(Fault.LOSE_REPLY, times=1)
    assert isinstance(await store.create("log/1", b"ours"), Unknown)
    assert await store.read("log/1") == b"ours"

    proxy.do(Fault.LOSE_REPLY, times=1)
    assert await create_confirmed(store, "log/2", b"ours") == Stored()
    assert await create_confirmed(store, "log/2", b"ours") == Stored()
    assert await create_confirmed(store, "log/2", b"a rival's") == Taken(b"ours")


async def test_no_request_is_sent_twice(store: ObjectStore, proxy: FaultProxy) -> None:
    """A create that is retried below us is told "exists" by its own object."""
    for fault in (Fault.LOSE_REPLY, Fault.CUT, Fault.ANSWER):
        proxy.do(fault, status=500)
        before = proxy.requests
        assert isinstance(await store.create(f"log/{fault.value}", b"x"), Unknown)
        assert proxy.requests <= before + 1
        proxy.heal()


@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (500, "InternalError"), (403, "AccessDenied")])
async def test_an_error_is_unknown_to_everything(store: ObjectStore, proxy: FaultProxy, status: int, code: str) -> None:
    proxy.do(Fault.ANSWER, status=status, code=code)
    for answer in await _everything(store):
        assert isinstance(answer, Unknown)
        assert f"answered {status} {code}" in answer.reason


@pytest.mark.parametrize("code", ["ConditionalRequestConflict", "ContainerBeingDeleted", ""])
async def test_409_is_not_yet_exists(store: ObjectStore, proxy: FaultProxy, code: str) -> None:
    proxy.do(Fault.ANSWER, times=1, status=409, code=code)
    assert isinstance(await store.create("log/1", b"ours"), Unknown)
    proxy.do(Fault.ANSWER, times=1, status=409, code=code)
    assert isinstance(await create_confirmed(store, "log/1", b"ours"), Unknown)
    assert await create_confirmed(store, "log/1", b"ours") == Stored()


async def test_a_bucket_that_is_gone_is_not_an_empty_store(server: Server) -> None:
    store = open_store(replace(server.config, url=server.config.url.replace("crm-dr", "not-there")))
    for answer in await _everything(store):
        assert isinstance(answer, Unknown)
        assert "404" in answer.reason or "403" in answer.reason  # SeaweedFS: no right to a bucket that is not there


async def test_a_bare_404_is_not_absent(store: ObjectStore, proxy: FaultProxy) -> None:
    """A gateway's, a wrong address's: nobody said that the key is not there."""
    proxy.do(Fault.ANSWER, status=404)
    for answer in await _everything(store):
        assert isinstance(answer, Unknown)


async def test_a_black_hole_is_unknown_within_the_time_out(store: ObjectStore, proxy: FaultProxy) -> None:
    proxy.do(Fault.BLACK_HOLE)
    for request in (
        lambda: store.create("log/1", b"x"),
        lambda: store.write("beacons/1", b"x"),
        lambda: store.read("log/1"),
        lambda: store.read("packs/of-any-size"),
    ):
        began = time.monotonic()
        answer = await request()
        assert isinstance(answer, Unknown)
        assert "did not answer in time" in answer.reason
        assert 0.4 < time.monotonic() - began < 1.5
    began = time.monotonic()
    assert isinstance(await store.create("packs/1", bytes(2 << 20)), Unknown)
    assert 1.5 < time.monotonic() - began < 3.5
    proxy.heal()
    assert await store.read("log/1") is ABSENT


async def test_half_a_body_is_not_an_object(store: ObjectStore, proxy: FaultProxy) -> None:
    assert await store.create("log/1", b"x" * 9000) is Made.CREATED
    proxy.do(Fault.HALF_BODY, times=1)
    assert isinstance(await store.read("log/1"), Unknown)
    assert await store.read("log/1") == b"x" * 9000


async def test_a_slow_first_byte_is_only_slow_or_unknown(store: ObjectStore, proxy: FaultProxy) -> None:
    proxy.do(Fault.SLOW_FIRST, times=1, seconds=0.2)
    assert await store.create("log/1", b"x") is Made.CREATED
    proxy.do(Fault.SLOW_FIRST, times=1, seconds=0.8)
    assert isinstance(await store.create("log/2", b"ours"), Unknown)
    assert await create_confirmed(store, "log/2", b"ours") == Stored()


async def test_a_stalled_body_is_unknown_within_the_time_out(store: ObjectStore, proxy: FaultProxy) -> None:
    assert await store.create("log/1", b"x" * 200_000) is Made.CREATED
    proxy.do(Fault.STALL, times=1)
    began = time.monotonic()
    assert isinstance(await store.read("log/1"), Unknown)
    assert 0.4 < time.monotonic() - began < 1.5
    assert await store.read("log/1") == b"x" * 200_000


async def test_wrong_bytes_in_an_error_are_no_answer(store: ObjectStore, proxy: FaultProxy) -> None:
    """Its code is what would have said "absent"."""
    proxy.do(Fault.ANSWER, times=1, status=404, code="NoSuchKex")
    assert isinstance(await store.read("log/1"), Unknown)


async def test_a_stale_list_is_what_it_was(store: ObjectStore, proxy: FaultProxy) -> None:
    """A hint, no more; a read says what is true."""
    assert await store.list("log") == Page((), last=True)
    assert await store.create("log/1", b"x") is Made.CREATED
    proxy.do(Fault.STALE_LIST, times=1)
    assert await store.list("log") == Page((), last=True)
    page = await store.list("log")
    assert isinstance(page, Page)
    assert [each.key for each in page.objects] == ["log/1"]
    assert await store.read("log/1") == b"x"


async def test_a_cut_line_and_then_a_whole_one(store: ObjectStore, proxy: FaultProxy) -> None:
    assert await store.create("log/1", b"x") is Made.CREATED
    proxy.do(Fault.CUT)
    for answer in await _everything(store):
        assert isinstance(answer, Unknown)
    proxy.heal()
    assert await store.read("log/1") == b"x"
    assert isinstance(await store.list("log"), Page)


async def test_a_slow_line_is_only_slow(store: ObjectStore, proxy: FaultProxy) -> None:
    proxy.do(Fault.DELAY, seconds=0.2)
    assert await store.create("log/1", b"x") is Made.CREATED
    proxy.do(Fault.DELAY, seconds=0.8)
    assert isinstance(await store.read("log/1"), Unknown)


async def _everything(store: ObjectStore) -> list[object]:
    return [
        await store.create("log/9", b"x"),
        await store.write("beacons/9", b"x"),
        await store.read("log/9"),
        await store.read("log/9", start=1, length=2),
        await store.list("log"),
        await store.delete(["log/9", "log/8"]),
    ]


async def test_connections_that_are_not_kept_are_closed(server: Server, proxy: FaultProxy) -> None:
    """A burst of creates opens many; left open, they would fill the server's until it throws out those in use."""
    config = server.through(proxy.port)
    store = open_store(replace(config, url=f"{config.url}/{uuid.uuid4().hex}"))
    for burst in range(3):
        made = await asyncio.gather(*(store.create(f"log/{burst}-{n}", b"x") for n in range(30)))
        assert made == [Made.CREATED] * 30
    async with asyncio.timeout(10):
        while len(proxy.links) > 30:  # obstore's own pool keeps what it opened at once, and no more
            await asyncio.sleep(0.05)
