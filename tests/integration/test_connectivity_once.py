"""A change asked for many times is made once; and nothing is told as saved that is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest
import pytest_asyncio
from tests.edge_client import Answer, Client
from tests.edge_server import Crm, edge_crm

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def crm() -> AsyncIterator[Crm]:
    async with edge_crm() as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ada(crm: Crm) -> Client:
    return await crm.administrator()


async def done(crm: Crm, what: str) -> int:
    return int((await crm.cluster.sql("SELECT count(*) FROM public.done WHERE what = %s", (what,)))[0][0])


def post(client: Client, what: str, key: str, **more: object) -> Answer:
    twin = client.twin()
    try:
        return twin.post("/t/do", {"what": what, **more}, key=key)
    finally:
        twin.close()


async def test_a_replay_returns_the_first_answer_and_changes_nothing(crm: Crm, ada: Client) -> None:
    what, key = uuid4().hex, uuid4().hex
    first, second = post(ada, what, key), post(ada, what, key)
    assert first.status == second.status == 201
    assert first.body == second.body
    assert second.headers["etag"] == '"1"'
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    assert await done(crm, what) == 1


async def test_fifty_at_once_make_one_change(crm: Crm, ada: Client) -> None:
    what, key = uuid4().hex, uuid4().hex
    with ThreadPoolExecutor(50) as pool:
        answers = await asyncio.to_thread(lambda: list(pool.map(lambda _: post(ada, what, key, slow=0.2), range(50))))
    assert await done(crm, what) == 1
    assert {answer.status for answer in answers} == {201, 409}
    fresh = [a for a in answers if a.status == 201 and "idempotency-replayed" not in a.headers]
    assert len(fresh) == 1
    assert len({answer.body for answer in answers if answer.status == 201}) == 1


async def test_without_a_key_each_is_a_change(crm: Crm, ada: Client) -> None:
    what = uuid4().hex
    assert [post(ada, what, "").status for _ in range(2)] == [201, 201]
    assert await done(crm, what) == 2


async def test_while_the_first_is_under_way_the_second_is_told_so(crm: Crm, ada: Client) -> None:
    what, key = uuid4().hex, uuid4().hex
    first = asyncio.create_task(asyncio.to_thread(post, ada, what, key, slow=1))
    await asyncio.sleep(0.4)
    second = await asyncio.to_thread(post, ada, what, key, slow=1)
    assert (second.status, second.code) == (409, "conflict")
    assert not first.done(), "told at once, not when the first is done"
    assert (await first).status == 201
    assert post(ada, what, key, slow=1).headers["idempotency-replayed"] == "true"


async def test_a_key_belongs_to_one_request(crm: Crm, ada: Client) -> None:
    what, key = uuid4().hex, uuid4().hex
    assert post(ada, what, key).status == 201
    other = post(ada, what + "!", key)
    assert (other.status, other.code) == (422, "invalid")
    assert ada.post("/t/do?x=1", {"what": what}, key=key).status == 422
    assert await done(crm, what) == 1
    assert await done(crm, what + "!") == 0


async def test_a_key_belongs_to_one_person(crm: Crm, ada: Client) -> None:
    what, key = uuid4().hex, uuid4().hex
    emil = crm.employee(ada)
    assert post(ada, what, key).status == post(emil, what, key).status == 201
    assert await done(crm, what) == 2


@pytest.mark.parametrize("fail", ["raise", "answer", "crash"])
async def test_what_failed_left_nothing_and_may_be_asked_again(crm: Crm, ada: Client, fail: str) -> None:
    what, key = uuid4().hex, uuid4().hex
    assert post(ada, what, key, fail=fail).status >= 400
    assert post(ada, what, "", fail=fail).status >= 400
    assert await done(crm, what) == 0
    assert post(ada, what, key).status == 201, "the key was not used up by a failure"


@pytest.mark.parametrize("key", ["x" * 256, "two words", "\u00e4"])
async def test_a_key_that_cannot_be_kept_is_refused(crm: Crm, ada: Client, key: str) -> None:
    answer = post(ada, "x", key)
    assert (answer.status, set(answer.json()["fields"])) == (422, {"Idempotency-Key"})


async def test_a_restarted_server_remembers(crm: Crm, ada: Client) -> None:
    what, key = uuid4().hex, uuid4().hex
    first = post(ada, what, key)
    crm.stop()
    await crm.start()
    again = post(ada, what, key)
    assert (again.body, again.headers["idempotency-replayed"]) == (first.body, "true")
    assert await done(crm, what) == 1


async def test_a_commit_whose_wait_was_cut_short_is_never_told_as_saved(crm: Crm, ada: Client) -> None:
    """No standby answers: COMMIT waits, its backend is killed. The row is there, and nobody knows it to be safe."""
    what, key = uuid4().hex, uuid4().hex
    await crm.cluster.set(synchronous_standby_names="nobody")
    try:
        first = asyncio.create_task(asyncio.to_thread(post, ada, what, key))
        await _waiting(crm)
        while_waiting = await asyncio.to_thread(post, ada, what, key)
        assert while_waiting.code == "conflict"
        await crm.cluster.sql(_KILL)
        assert ((await first).status, (await first).code) == (503, "not-saved")
        assert "retry-after" in (await first).headers
        assert await done(crm, what) == 1, "it is visible here, on no second store"
        replay = asyncio.create_task(asyncio.to_thread(post, ada, what, key))
        await _waiting(crm)
        assert not replay.done(), "a replay waits until what it tells is safe"
        await crm.cluster.sql(_KILL)
        assert (await replay).status == 503
    finally:
        await crm.cluster.set(synchronous_standby_names="")
    found = await asyncio.to_thread(post, ada, what, key)
    assert (found.status, found.headers["idempotency-replayed"]) == (201, "true")
    assert await done(crm, what) == 1


_WAITING = "FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
_KILL = f"SELECT pg_terminate_backend(pid) {_WAITING}"


async def _waiting(crm: Crm) -> None:
    for _ in range(100):
        if (await crm.cluster.sql(f"SELECT count(*) {_WAITING}"))[0][0]:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("nothing waits for a standby")


async def test_a_database_that_goes_away_is_told_and_comes_back(crm: Crm, ada: Client) -> None:
    what, key = uuid4().hex, uuid4().hex
    under_way = asyncio.create_task(asyncio.to_thread(post, ada, what, key, slow=5))
    await asyncio.sleep(0.5)
    await crm.cluster.server.stop("immediate", timeout=10)
    assert (await under_way).status == 503
    for answer in [await asyncio.to_thread(ada.get, "/t/me"), await asyncio.to_thread(post, ada, what, key)]:
        assert (answer.status, answer.code) == (503, "unavailable")
        assert "retry-after" in answer.headers
    assert ada.get("/healthz").status == 200
    assert ada.get("/readyz").status == 503
    await crm.cluster.server.start()
    for _ in range(100):
        answer = await asyncio.to_thread(post, ada, what, key)
        if answer.status == 201:
            break
        await asyncio.sleep(0.1)
    assert answer.status == 201
    assert await done(crm, what) == 1


async def test_keys_and_proofs_are_forgotten_in_time_and_not_before(crm: Crm, ada: Client) -> None:
    from threefold.connectivity.edge import Edge
    from threefold.connectivity.headers import origin_of
    from threefold.crm.sql.database import Database
    from threefold.kernel.clock import SystemClock

    what, old, new = uuid4().hex, uuid4().hex, uuid4().hex
    post(ada, what, old), post(ada, what, new)
    await crm.cluster.sql("UPDATE edge.replies SET created_at = now() - interval '15 days' WHERE key = %s", (old,))
    await crm.cluster.sql("UPDATE edge.proofs SET forget_at = now() - interval '1 s'")
    assert ada.get("/t/me").status == 200
    origin = origin_of(crm.origin)
    assert origin is not None
    async with Database(crm.cluster.dsn(), SystemClock()) as database:
        await Edge(database, SystemClock(), origin).prune()
    kept = await crm.cluster.sql("SELECT key FROM edge.replies WHERE key = ANY(%s)", ([old, new],))
    assert kept == [(new,)]
    assert (await crm.cluster.sql("SELECT count(*) FROM edge.proofs"))[0][0] == 1
