"""While nothing can be written: reads go on, what customers send is kept on two stores, and filed once afterwards."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.edge_client import Client
from tests.ride_world import Riding, riding

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUERY = {"subject": "The door is stuck", "body": "Since this morning."}


def key() -> str:
    return str(uuid.uuid4())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world() -> AsyncIterator[Riding]:
    async with riding(edges=2) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def crm(world: Riding) -> AsyncIterator[Riding]:
    yield world
    await world.up_again()


async def test_it_stands_on_two_stores_before_anybody_is_told(crm: Riding) -> None:
    await crm.away()
    crm.stores["S1"].stop()  # hangs
    one = await crm.ask("customer", "POST", "/api/v1/queries", {**QUERY, "subject": "On two"}, key=key())
    assert one.status == 202, one.body
    crm.stores["S2"].kill()
    lost = key()
    two = await crm.ask("customer", "POST", "/api/v1/queries", {**QUERY, "subject": "On one"}, key=lost)
    assert two.status == 503, two.body
    assert two.code == "not-saved", "nobody knows"
    # Every edge dies, and the first store with its disk: what two had is there.
    crm.edges[0].kill()
    crm.stores["S1"].kill()
    crm.stores["S1"].wipe()
    crm.stores["S2"].start()
    await crm.stores["S2"].ready()
    await crm.start()
    again = await crm.ask("customer", "POST", "/api/v1/queries", {**QUERY, "subject": "On one"}, key=lost)
    assert again.status == 202, again.body
    await crm.back(promote=False)
    for answer in (one, again):
        assert (await crm.until(answer.json()["id"]))["state"] == "applied"
    rows = await crm.sql("SELECT subject FROM crm.queries WHERE subject LIKE 'On %' ORDER BY subject")
    assert rows == [("On one",), ("On two",)]
    crm.stores["S1"].start()
    await crm.stores["S1"].ready()


async def test_two_edges_take_and_file_the_same_and_it_is_once(crm: Riding) -> None:
    await crm.away()
    keys = [key() for _ in range(12)]

    async def send(n: int, edge: int) -> Any:
        sent = {**QUERY, "subject": f"n {n:02}"}
        return await crm.ask("customer", "POST", "/api/v1/queries", sent, key=keys[n], edge=edge)

    ids = []
    for n in range(len(keys)):
        both = await asyncio.gather(send(n, 0), send(n, 1))
        assert {each.status for each in both} <= {202, 503}, [each.body for each in both]
        assert len({each.json()["id"] for each in both if each.status == 202}) == 1
        ids += [each.json()["id"] for each in both if each.status == 202][:1]
    await crm.back(promote=False)
    # Repetitions go straight into the database meanwhile.
    direct = await asyncio.gather(*(send(n, n % 2) for n in range(len(keys))))
    assert {each.status for each in direct} <= {201, 202, 409}
    for id_ in ids:
        assert (await crm.until(id_, edge=1))["state"] == "applied"
    rows = await crm.sql(
        "SELECT subject, count(*) FROM crm.queries WHERE subject LIKE 'n %' GROUP BY 1 ORDER BY min(created_at)"
    )
    assert rows == [(f"n {n:02}", 1) for n in range(len(keys))]


async def test_a_proof_is_used_once_through_all_of_it(crm: Riding) -> None:
    await crm.away()
    client = crm.people["customer"]
    reads, writes = client.headers("GET", "/api/v1/me"), client.headers("POST", "/api/v1/queries")
    body = json.dumps({**QUERY, "subject": "Proved once"}).encode()
    writes["Content-Type"] = "application/json"

    def send(method: str, target: str, content: bytes | None, headers: Any, edge: int = 0) -> Any:
        through = Client(crm.origin, ("127.0.0.1", crm.edges[edge].port))
        return through.send(method, target, content, headers)

    assert send("GET", "/api/v1/me", None, reads).status == 200
    assert send("GET", "/api/v1/me", None, reads).code == "proof"
    first = send("POST", "/api/v1/queries", body, writes)
    assert first.status == 202
    assert send("POST", "/api/v1/queries", body, writes).code == "proof"
    replayed = send("POST", "/api/v1/queries", body, writes, edge=1)
    if replayed.status == 202:  # that edge has not seen it: it is the same intake all the same
        assert replayed.json()["id"] == first.json()["id"]
    await crm.back(promote=False)
    await crm.until(first.json()["id"])
    for edge in (0, 1):
        assert send("GET", "/api/v1/me", None, reads, edge).code == "proof"
        assert send("POST", "/api/v1/queries", body, writes, edge).code == "proof"
    assert await crm.sql("SELECT count(*) FROM crm.queries WHERE subject = 'Proved once'") == [(1,)]


async def test_who_was_revoked_files_nothing_and_what_is_impossible_is_told(crm: Riding) -> None:
    case = (await crm.ask("other", "POST", "/api/v1/queries", QUERY, key=key())).json()["id"]
    await crm.away()
    mine = await crm.ask("thief", "POST", "/api/v1/queries", {**QUERY, "subject": "Of a thief"}, key=key())
    said = await crm.ask("other", "POST", f"/api/v1/queries/{case}/answers", {"body": "More of it."}, key=key())
    assert (mine.status, said.status) == (202, 202)
    for edge in crm.edges:
        edge.kill()
    await crm.two.primary.server.start()
    device = crm.people["thief"].who["device"]["id"]
    await crm.sql("UPDATE edge.devices SET revoked_at = now() WHERE id = %s", (device,))
    await crm.sql("UPDATE crm.queries SET deleted_at = now() WHERE id = %s", (case,))
    await asyncio.gather(crm.start(0), crm.start(1))
    thief = await crm.until(mine.json()["id"], "employee")
    assert (thief["state"], thief["problem"]["detail"]) == ("rejected", "the device that sent it was revoked")
    assert json.loads(thief["sent"]["body"])["subject"] == "Of a thief", "nothing is lost"
    told = await crm.until(said.json()["id"], "other")
    assert (told["state"], told["problem"]["status"]) == ("rejected", 404)
    assert await crm.sql("SELECT count(*) FROM crm.queries WHERE subject = 'Of a thief'") == [(0,)]
    assert (await crm.ask("thief", "GET", "/api/v1/me")).status == 401
    listed = (await crm.ask("employee", "GET", "/api/v1/intake")).json()["items"]
    assert {each["id"] for each in listed} == {thief["id"], told["id"]}
    handled = await crm.ask("employee", "POST", f"/api/v1/intake/{thief['id']}/handled", {})
    assert handled.status == 200, handled.body
    assert len((await crm.ask("employee", "GET", "/api/v1/intake")).json()["items"]) == 1
    assert (await crm.ask("other", "POST", f"/api/v1/intake/{told['id']}/handled", {})).status == 404


async def test_nobody_floods_the_stores(crm: Riding) -> None:
    await crm.away()
    big = {**QUERY, "body": "x" * 19_000}
    statuses = []
    for n in range(34):
        answer = await crm.ask("customer", "POST", "/api/v1/queries", {**big, "subject": f"{n}"}, key=key())
        statuses.append(answer.status)
    assert statuses == [202] * 30 + [429] * 4
    assert int(answer.headers["retry-after"]) >= 1
    fits = await crm.ask("other", "POST", "/api/v1/queries", QUERY, key=key())
    assert fits.status == 202, "one customer's flood is nobody else's"
    padded = json.dumps(QUERY).encode() + b" " * 200_000
    assert (await crm.ask("other", "POST", "/api/v1/queries", padded, key=key())).status in {413, 503}


async def test_without_stores_the_device_keeps_it() -> None:
    async with riding(deferring=False) as crm:
        await crm.away()
        answer = await crm.ask("customer", "POST", "/api/v1/queries", QUERY, key=key())
        assert (answer.status, answer.code) == (503, "unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.headers["threefold-writes"] == "refused"
        assert (await crm.ask("customer", "GET", "/api/v1/queries")).status == 200
        await crm.back(promote=False)
        assert (await crm.ask("customer", "POST", "/api/v1/queries", QUERY, key=key())).status == 201


@pytest.mark.long
async def test_read_only_on_purpose_is_told_with_its_reason_and_outlives_everything(crm: Riding) -> None:
    sent = {"read_only": True, "reason": "counting the stock", "until": "2031-05-06T22:00:00Z"}
    assert (await crm.ask("employee", "PUT", "/api/v1/read-only", sent)).status == 403
    assert (await crm.ask("customer", "PUT", "/api/v1/read-only", sent)).status == 404
    assert (await crm.ask("administrator", "PUT", "/api/v1/read-only", sent)).status == 200
    crm.edges[0].kill()
    await crm.start()
    for edge in (0, 1):
        while (await crm.ask("customer", "GET", "/api/v1/me", edge=edge)).headers["threefold-writes"] != "refused":
            await asyncio.sleep(0.1)
        answer = await crm.ask("customer", "POST", "/api/v1/queries", QUERY, key=key(), edge=edge)
        assert (answer.status, answer.code) == (503, "read-only")
        assert "counting the stock until 2031-05-06 22:00 UTC" in answer.json()["detail"]
        assert answer.headers["retry-after"] == "3600"
        assert (await crm.ask("customer", "GET", "/api/v1/queries", edge=edge)).status == 200
    assert json.loads(crm.run("read-only", "status").stdout.splitlines()[-1])["reason"] == "counting the stock"
    assert crm.run("read-only", "off").returncode == 0
    while (await crm.ask("customer", "GET", "/api/v1/me")).headers["threefold-writes"] != "taken":
        await asyncio.sleep(0.1)
    assert (await crm.ask("customer", "POST", "/api/v1/queries", QUERY, key=key())).status == 201

    # By a flag, where nothing can be written: it serves what the standby has, and leaves all of it alone.
    await crm.away()
    crm.edges[1].kill()
    await crm.start(1, "--read-only")
    answer = await crm.ask("customer", "POST", "/api/v1/queries", QUERY, key=key(), edge=1)
    assert (answer.status, answer.code) == (503, "read-only")
    assert (await crm.ask("customer", "GET", "/api/v1/queries", edge=1)).status == 200
    crm.edges[1].kill()
    await crm.start(1)


async def test_a_customer_is_served_through_the_loss_of_the_primary(world: Riding) -> None:
    made = await world.ask("customer", "POST", "/api/v1/queries", QUERY, key=key())
    assert made.status == 201, made.body
    assert made.headers["threefold-site"] == "north"
    assert made.headers["threefold-age"] == "0"
    case = made.json()["id"]
    await world.away()

    read = await world.ask("customer", "GET", f"/api/v1/queries/{case}")
    assert read.status == 200
    assert read.headers["threefold-site"] == "south"
    assert read.headers["threefold-writes"] == "deferred"
    await asyncio.sleep(1.6)
    assert int((await world.ask("customer", "GET", "/api/v1/me")).headers["threefold-age"]) >= 1

    # Nonsense is refused at once, as ever; what depends on what is there now is not taken.
    for sent, status in (({**QUERY, "subject": ""}, 422), ({**QUERY, "nonsense": 1}, 422)):
        assert (await world.ask("customer", "POST", "/api/v1/queries", sent, key=key())).status == status
    nothing = f"/api/v1/queries/{uuid.uuid4()}/answers"
    answer = await world.ask("customer", "POST", nothing, {"body": "Hello?"}, key=key())
    assert answer.status == 404, world.said()
    product = {**QUERY, "product_id": str(uuid.uuid4())}
    assert (await world.ask("customer", "POST", "/api/v1/queries", product, key=key())).status == 422
    other = await world.ask("other", "POST", f"/api/v1/queries/{case}/answers", {"body": "mine?"}, key=key())
    assert other.status == 404, "another's case is not there"
    rated = await world.ask("customer", "POST", f"/api/v1/queries/{case}/rating", {"satisfaction": 5}, key=key())
    assert rated.status == 503
    assert int(rated.headers["retry-after"]) >= 1
    changed = await world.ask(
        "employee", "PATCH", f"/api/v1/queries/{case}", {"priority": 1}, headers={"If-Match": '"1"'}
    )
    assert changed.status == 503

    keys, taken = [key(), key()], []
    for n, each in enumerate(keys):
        answer = await world.ask("customer", "POST", "/api/v1/queries", {**QUERY, "subject": f"Away {n}"}, key=each)
        assert answer.status == 202, answer.body
        assert answer.headers["location"] == f"/api/v1/intake/{answer.json()['id']}"
        taken.append(answer.json()["id"])
    again = await world.ask("customer", "POST", "/api/v1/queries", {**QUERY, "subject": "Away 0"}, key=keys[0])
    assert (again.status, again.json()["id"]) == (202, taken[0]), "the same key is the same intake"
    twisted = await world.ask("customer", "POST", "/api/v1/queries", {**QUERY, "subject": "Else"}, key=keys[0])
    assert twisted.status == 422
    said = await world.ask("customer", "POST", f"/api/v1/queries/{case}/answers", {"body": "Still stuck."}, key=key())
    assert said.status == 202, said.body
    lone = await world.ask("customer", "POST", "/api/v1/queries", {**QUERY, "subject": "Without a key"})
    assert lone.status == 202, lone.body

    # Who may ask about it.
    assert (await world.ask("customer", "GET", f"/api/v1/intake/{taken[0]}")).json()["state"] == "waiting"
    assert (await world.ask("other", "GET", f"/api/v1/intake/{taken[0]}")).status == 404
    listed = {who: (await world.ask(who, "GET", "/api/v1/intake")).json()["items"] for who in ("other", "employee")}
    assert not any(each["state"] == "waiting" for each in listed["other"])
    assert sum(each["state"] == "waiting" for each in listed["employee"]) == 4

    await world.back()
    found = [await world.until(each) for each in [*taken, said.json()["id"], lone.json()["id"]]]
    assert [each["state"] for each in found] == ["applied"] * 4
    rows = await world.sql(
        "SELECT subject, created_by::text FROM crm.queries"
        " WHERE created_at >= (SELECT created_at FROM crm.queries WHERE id = %s) ORDER BY created_at",
        (case,),
    )
    me = world.people["customer"].who["user"]["id"]
    subjects = [QUERY["subject"], "Away 0", "Away 1", "Without a key"]
    assert rows == [(subject, me) for subject in subjects], "once, in order, its author's"
    record = (await world.ask("customer", "GET", found[0]["link"])).json()
    assert record["subject"] == "Away 0"
    history = (await world.ask("employee", "GET", f"{found[0]['link']}/timeline")).json()["items"]
    assert "while the database was away" in history[0]["reason"]
    late = await world.ask("customer", "POST", "/api/v1/queries", {**QUERY, "subject": "Away 0"}, key=keys[0])
    assert (late.status, late.json()["id"]) == (201, record["id"]), "a late repetition gets the answer"
    assert late.headers["idempotency-replayed"] == "true"
    assert await world.sql("SELECT count(*) FROM crm.interactions WHERE body = 'Still stuck.'") == [(1,)]
    assert json.loads(world.run("verify-log").stdout.splitlines()[-1])["sound"]
    new = await world.ask("customer", "POST", "/api/v1/queries", QUERY, key=key())
    assert (new.status, new.headers["threefold-site"], new.headers["threefold-timeline"]) == (201, "south", "2")
