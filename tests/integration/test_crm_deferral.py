"""While nothing can be written: reads go on, what customers send is kept on two stores, and filed once afterwards."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

from tests.edge_client import Client
from tests.ride_world import riding

QUERY = {"subject": "The door is stuck", "body": "Since this morning."}


def key() -> str:
    return str(uuid.uuid4())


async def test_a_customer_is_served_through_the_loss_of_the_primary() -> None:
    async with riding() as crm:
        made = await crm.ask("customer", "POST", "/api/v1/queries", QUERY, key=key())
        assert made.status == 201, made.body
        assert made.headers["threefold-site"] == "north"
        assert made.headers["threefold-age"] == "0"
        case = made.json()["id"]
        await crm.away()

        read = await crm.ask("customer", "GET", f"/api/v1/queries/{case}")
        assert read.status == 200
        assert read.headers["threefold-site"] == "south"
        assert read.headers["threefold-writes"] == "deferred"
        await asyncio.sleep(1.6)
        assert int((await crm.ask("customer", "GET", "/api/v1/me")).headers["threefold-age"]) >= 1

        # Nonsense is refused at once, as ever; what depends on what is there now is not taken.
        for sent, status in (({**QUERY, "subject": ""}, 422), ({**QUERY, "nonsense": 1}, 422)):
            assert (await crm.ask("customer", "POST", "/api/v1/queries", sent, key=key())).status == status
        nothing = f"/api/v1/queries/{uuid.uuid4()}/answers"
        answer = await crm.ask("customer", "POST", nothing, {"body": "Hello?"}, key=key())
        assert answer.status == 404, crm.said()
        product = {**QUERY, "product_id": str(uuid.uuid4())}
        assert (await crm.ask("customer", "POST", "/api/v1/queries", product, key=key())).status == 422
        other = await crm.ask("other", "POST", f"/api/v1/queries/{case}/answers", {"body": "mine?"}, key=key())
        assert other.status == 404, "another's case is not there"
        rated = await crm.ask("customer", "POST", f"/api/v1/queries/{case}/rating", {"satisfaction": 5}, key=key())
        assert rated.status == 503
        assert int(rated.headers["retry-after"]) >= 1
        changed = await crm.ask(
            "employee", "PATCH", f"/api/v1/queries/{case}", {"priority": 1}, headers={"If-Match": '"1"'}
        )
        assert changed.status == 503

        keys, taken = [key(), key()], []
        for n, each in enumerate(keys):
            answer = await crm.ask("customer", "POST", "/api/v1/queries", {**QUERY, "subject": f"Away {n}"}, key=each)
            assert answer.status == 202, answer.body
            assert answer.headers["location"] == f"/api/v1/intake/{answer.json()['id']}"
            taken.append(answer.json()["id"])
        again = await crm.ask("customer", "POST", "/api/v1/queries", {**QUERY, "subject": "Away 0"}, key=keys[0])
        assert (again.status, again.json()["id"]) == (202, taken[0]), "the same key is the same intake"
        twisted = await crm.ask("customer", "POST", "/api/v1/queries", {**QUERY, "subject": "Else"}, key=keys[0])
        assert twisted.status == 422
        said = await crm.ask("customer", "POST", f"/api/v1/queries/{case}/answers", {"body": "Still stuck."}, key=key())
        assert said.status == 202, said.body
        lone = await crm.ask("customer", "POST", "/api/v1/queries", {**QUERY, "subject": "Without a key"})
        assert lone.status == 202, lone.body

        # Who may ask about it.
        assert (await crm.ask("customer", "GET", f"/api/v1/intake/{taken[0]}")).json()["state"] == "waiting"
        assert (await crm.ask("other", "GET", f"/api/v1/intake/{taken[0]}")).status == 404
        assert (await crm.ask("other", "GET", "/api/v1/intake")).json()["items"] == []
        assert len((await crm.ask("employee", "GET", "/api/v1/intake")).json()["items"]) == 4

        await crm.back()
        found = [await crm.until(each) for each in [*taken, said.json()["id"], lone.json()["id"]]]
        assert [each["state"] for each in found] == ["applied"] * 4
        rows = await crm.sql("SELECT subject, created_by::text FROM crm.queries ORDER BY created_at")
        me = crm.people["customer"].who["user"]["id"]
        subjects = [QUERY["subject"], "Away 0", "Away 1", "Without a key"]
        assert rows == [(subject, me) for subject in subjects], "once, in order, its author's"
        record = (await crm.ask("customer", "GET", found[0]["link"])).json()
        assert record["subject"] == "Away 0"
        history = (await crm.ask("employee", "GET", f"{found[0]['link']}/timeline")).json()["items"]
        assert "while the database was away" in history[0]["reason"]
        late = await crm.ask("customer", "POST", "/api/v1/queries", {**QUERY, "subject": "Away 0"}, key=keys[0])
        assert (late.status, late.json()["id"]) == (201, record["id"]), "a late repetition gets the answer"
        assert late.headers["idempotency-replayed"] == "true"
        assert await crm.sql("SELECT count(*) FROM crm.interactions WHERE body = 'Still stuck.'") == [(1,)]
        assert json.loads(crm.run("verify-log").stdout.splitlines()[-1])["sound"]
        new = await crm.ask("customer", "POST", "/api/v1/queries", QUERY, key=key())
        assert (new.status, new.headers["threefold-site"], new.headers["threefold-timeline"]) == (201, "south", "2")


async def test_it_stands_on_two_stores_before_anybody_is_told() -> None:
    async with riding() as crm:
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
        await crm.back()
        for answer in (one, again):
            assert (await crm.until(answer.json()["id"]))["state"] == "applied"
        assert sorted(await crm.sql("SELECT subject FROM crm.queries")) == [("On one",), ("On two",)]


async def test_two_edges_take_and_file_the_same_and_it_is_once() -> None:
    async with riding(edges=2) as crm:
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
        await crm.back()
        # Repetitions go straight into the database meanwhile.
        direct = await asyncio.gather(*(send(n, n % 2) for n in range(len(keys))))
        assert {each.status for each in direct} <= {201, 202, 409}
        for id_ in ids:
            assert (await crm.until(id_, edge=1))["state"] == "applied"
        rows = await crm.sql("SELECT subject, count(*) FROM crm.queries GROUP BY 1 ORDER BY min(created_at)")
        assert rows == [(f"n {n:02}", 1) for n in range(len(keys))]


async def test_a_proof_is_used_once_through_all_of_it() -> None:
    async with riding(edges=2) as crm:
        await crm.away()
        client = crm.people["customer"]
        reads, writes = client.headers("GET", "/api/v1/me"), client.headers("POST", "/api/v1/queries")
        body = json.dumps(QUERY).encode()
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
        await crm.back()
        await crm.until(first.json()["id"])
        for edge in (0, 1):
            assert send("GET", "/api/v1/me", None, reads, edge).code == "proof"
            assert send("POST", "/api/v1/queries", body, writes, edge).code == "proof"
        assert await crm.sql("SELECT count(*) FROM crm.queries") == [(1,)]


async def test_who_was_revoked_files_nothing_and_what_is_impossible_is_told() -> None:
    async with riding() as crm:
        case = (await crm.ask("other", "POST", "/api/v1/queries", QUERY, key=key())).json()["id"]
        await crm.away()
        mine = await crm.ask("customer", "POST", "/api/v1/queries", {**QUERY, "subject": "Of a thief"}, key=key())
        said = await crm.ask("other", "POST", f"/api/v1/queries/{case}/answers", {"body": "More of it."}, key=key())
        assert (mine.status, said.status) == (202, 202)
        crm.edges[0].kill()
        await crm.two.promote()
        device = crm.people["customer"].who["device"]["id"]
        await crm.sql("UPDATE edge.devices SET revoked_at = now() WHERE id = %s", (device,))
        await crm.sql("UPDATE crm.queries SET deleted_at = now() WHERE id = %s", (case,))
        await crm.start()
        thief = await crm.until(mine.json()["id"], "employee")
        assert (thief["state"], thief["problem"]["detail"]) == ("rejected", "the device that sent it was revoked")
        assert json.loads(thief["sent"]["body"])["subject"] == "Of a thief", "nothing is lost"
        told = await crm.until(said.json()["id"], "other")
        assert (told["state"], told["problem"]["status"]) == ("rejected", 404)
        assert await crm.sql("SELECT count(*) FROM crm.queries") == [(1,)]
        listed = (await crm.ask("employee", "GET", "/api/v1/intake")).json()["items"]
        assert {each["id"] for each in listed} == {thief["id"], told["id"]}
        handled = await crm.ask("employee", "POST", f"/api/v1/intake/{thief['id']}/handled", {})
        assert handled.status == 200, handled.body
        assert len((await crm.ask("employee", "GET", "/api/v1/intake")).json()["items"]) == 1
        assert (await crm.ask("other", "POST", f"/api/v1/intake/{told['id']}/handled", {})).status == 404


async def test_nobody_floods_the_stores() -> None:
    async with riding() as crm:
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
        await crm.back()
        assert (await crm.ask("customer", "POST", "/api/v1/queries", QUERY, key=key())).status == 201
