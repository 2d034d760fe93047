"""The API's records over HTTP: lists, conditions, the recycle bin, history, bulk - and what it refuses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
import pytest_asyncio
from tests.api_world import Api, api


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world() -> AsyncIterator[Api]:
    async with api() as made:
        yield made


pytestmark = pytest.mark.asyncio(loop_scope="module")
NOBODY = "0199a3c2-7d10-7f3a-9c55-2f6f0d8a4b11"


async def test_a_record_is_made_read_changed_deleted_and_restored(world: Api) -> None:
    made = await world.ask("POST", "/accounts", {"name": " Acme ", "country": "DE"})
    assert made.status == 201
    assert made.headers["etag"] == '"1"'
    where = made.headers["location"].removeprefix("/api/v1")
    read = await world.ask("GET", where)
    assert read.json() == made.json()
    assert read.json()["name"] == "Acme"
    assert read.json()["created_by"] == world.who("employee")["id"]
    assert read.json()["created_on"] == world.people["employee"].who["device"]["id"]
    assert (await world.ask("GET", where, headers={"If-None-Match": '"1"'})).status == 304

    changed = await world.ask("PATCH", where, {"city": "Köln"}, match='"1"')
    assert (changed.status, changed.headers["etag"], changed.json()["city"], changed.json()["name"]) == (
        200,
        '"2"',
        "Köln",
        "Acme",
    )
    assert (await world.ask("GET", where, headers={"If-None-Match": '"1"'})).status == 200

    assert (await world.ask("DELETE", where, match='"2"')).status == 204
    assert (await world.ask("GET", where)).status == 404
    binned = await world.ask("GET", where, deleted="true")
    assert binned.json()["deleted_at"] is not None
    assert [one["id"] for one in (await world.ask("GET", "/accounts", deleted="true")).json()["items"]] == [
        made.json()["id"]
    ]
    back = await world.ask("POST", f"{where}/restore")
    assert (back.status, back.json()["deleted_at"]) == (200, None)
    assert back.headers["etag"] == f'"{back.json()["version"]}"'

    told = (await world.ask("GET", f"{where}/timeline")).json()
    assert [entry["op"] for entry in told["items"]] == ["update", "update", "update", "create"]
    assert told["items"][2]["changes"]["city"] == ["", "Köln"]
    assert told["items"][2]["actor_name"] == "Bob"
    first = told["items"][-1]["at"]
    then = await world.ask("GET", where, as_of=first)
    assert (then.status, then.json()["city"], then.json()["version"]) == (200, "", 1)


async def test_a_lost_update_is_refused(world: Api) -> None:
    made = await world.make("teams", {"name": "North"}, by="administrator")
    at = f"/teams/{made['id']}"
    assert (await world.ask("PATCH", at, {"name": "A"}, match='"1"', by="administrator")).status == 200
    late = await world.ask("PATCH", at, {"name": "B"}, match='"1"', by="administrator")
    assert (late.status, late.json()["type"]) == (412, "urn:threefold:problem:stale")
    assert (await world.ask("DELETE", at, match='"1"', by="administrator")).status == 412
    assert (
        await world.ask("PATCH", at, {"name": "B"}, match='"99999999999999999999"', by="administrator")
    ).status == 412
    assert (await world.ask("PATCH", at, {"name": "B"}, by="administrator")).status == 428
    for odd in ("1", '"x"', "*", 'W/"2"', '"2", "3"', '""', '"2'):
        assert (await world.ask("PATCH", at, {"name": "B"}, match=odd, by="administrator")).status == 400, odd
    assert (await world.ask("GET", at)).json()["name"] == "A"


async def test_pages_show_every_record_once(world: Api) -> None:
    for number in range(7):
        await world.make("products", {"sku": f"P{number}", "name": f"Part {number % 3}", "price_cents": number})
    seen: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = (await world.ask("GET", "/products", sort="name", limit=3, **{"name.starts": "Part"}, **after)).json()
        seen += [one["sku"] for one in page["items"]]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert len(seen) == 7
    assert sorted(seen) == [f"P{number}" for number in range(7)]
    found = (await world.ask("GET", "/products", **{"price_cents.ge": 5, "sort": "-price_cents"})).json()["items"]
    assert [one["price_cents"] for one in found] == [6, 5]
    record = (await world.ask("GET", f"/products/{found[0]['id']}")).json()
    assert {**found[0], "created_at": "", "updated_at": ""} == {**record, "created_at": "", "updated_at": ""}


async def test_many_changes_are_all_done_or_none(world: Api) -> None:
    one = await world.make("tags", {"name": "red"})
    two = await world.make("tags", {"name": "blue"})
    bad = [
        {"do": "create", "record": {"name": "green"}},
        {"do": "create", "record": {"name": "red"}},
        {"do": "change", "id": one["id"], "version": 1, "changes": {"name": "   "}},
        {"do": "delete", "id": NOBODY, "version": 1},
    ]
    refused = await world.ask("POST", "/tags/bulk", {"items": bad[:2] + bad[3:]})
    assert refused.status == 409
    assert set(refused.json()["fields"]) == {"items.1", "items.2"}
    assert (await world.ask("POST", "/tags/bulk", {"items": bad})).json()["fields"].keys() == {
        "items.2.change.changes.name"
    }
    stale = [{"do": "change", "id": two["id"], "version": 7, "changes": {"name": "navy"}}, *bad[:1]]
    answer = await world.ask("POST", "/tags/bulk", {"items": stale})
    assert (answer.status, set(answer.json()["fields"])) == (412, {"items.0"})
    assert {tag["name"] for tag in (await world.ask("GET", "/tags")).json()["items"]} == {"red", "blue"}

    good = [
        {"do": "create", "record": {"name": "green", "id": NOBODY}},
        {"do": "change", "id": one["id"], "version": 1, "changes": {"name": "crimson"}},
        {"do": "delete", "id": two["id"], "version": 1},
    ]
    done = await world.ask("POST", "/tags/bulk", {"items": good})
    assert [item["version"] for item in done.json()["items"]] == [1, 2, 2]
    assert {tag["name"] for tag in (await world.ask("GET", "/tags")).json()["items"]} == {"green", "crimson"}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"name":"x"', 400),
        (b"", 400),
        (b"[" * 100_000, 400),
        (b'{"name":"' + b"\xff" + b'"}', 400),
        (b'{"name":"\\ud800"}', 400),
        (b'{"name":"\\ud800\\u0041"}', 400),
        (b'{"name":"x","employees":' + b"9" * 5000 + b"}", 400),
        (b'{"name":"x","employees":1e999}', 422),
        (b'{"name":"x","employees":NaN}', 422),
        (b'{"name":"x","employees":1.5}', 422),
        (b'{"name":"x","employees":5.0}', 201),
        (b'{"name":"x","employees":"5"}', 422),
        (b'{"name":"x","employees":true}', 422),
        (b'{"name":"x","employees":99999999999}', 422),
        (b'{"name":"x","owner_id":"0199a3c27d107f3a9c552f6f0d8a4b11"}', 422),
        (b'{"name":"x\\u0000"}', 422),
        (b'{"name":"x\\ny"}', 422),
        (b'{"name":"   "}', 422),
        (b'{"name":"' + b"x" * 201 + b'"}', 422),
        (b'{"name":5}', 422),
        (b'{"name":null}', 422),
        (b'{"name":"x","nmae":"y"}', 422),
        (b'{"name":"x","version":9}', 422),
        (b'{"name":"x","city":null}', 422),
        (b'{"name":"x","country":"D"}', 422),
        (b'{"name":"x","owner_id":"' + NOBODY.encode() + b'"}', 422),
        (b'["name"]', 422),
        (b"null", 422),
        (b'{"name":"' + b"x" * 2_000_000 + b'"}', 413),
    ],
    ids=range(29),
)
async def test_a_body_that_cannot_be_meant_is_refused(world: Api, body: bytes, status: int) -> None:
    try:
        answer = await world.ask("POST", "/accounts", raw=body)
    except (BrokenPipeError, ConnectionResetError):  # it answered, and did not wait for the rest
        assert status == 413
        return
    assert answer.status == status, answer.body
    if status != 201:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["detail"]


@pytest.mark.parametrize(
    "due",
    ["2026-01-01", "2026-01-01T00:00:00", "1700000000", 1700000000, "0001-01-01T00:00:00Z", "9999-12-31T23:59:59-12:00",
     "infinity", "2026-02-30T00:00:00Z", "now", ""],
)  # fmt: skip
async def test_a_time_has_to_be_one(world: Api, due: object) -> None:
    assert (await world.ask("POST", "/tasks", {"subject": "x", "due_at": due})).status == 422


async def test_times_and_dates_come_back_as_they_were_meant(world: Api) -> None:
    for given, kept in (
        ("2026-01-01T02:00:00+02:00", "2026-01-01T00:00:00Z"),
        ("2026-01-01T00:00:00.5Z", "2026-01-01T00:00:00.500000Z"),
        (None, None),
    ):
        assert (await world.make("tasks", {"subject": "x", "due_at": given}))["due_at"] == kept
    product = await world.make("products", {"sku": "dated", "name": "x", "price_cents": 5})
    price = {"product_id": product["id"], "currency": "USD", "price_cents": 7, "valid_from": "2028-02-29"}
    made = await world.make("prices", price)
    assert made["valid_from"] == "2028-02-29"
    assert (await world.ask("POST", "/prices", {**price, "valid_from": "2027-02-29"})).status == 422
    assert (await world.ask("POST", "/prices", {**price, "valid_from": 20_000})).status == 422
    assert (await world.ask("POST", "/prices", price)).status == 409


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("nmae=x", 422),
        ("name.like=x", 422),
        ("employees=x", 422),
        ("employees.le=99999999999999999999999", 422),
        ("created_at.ge=yesterday", 422),
        ("owner_id=5", 422),
        ("sort=nmae", 422),
        ("sort=name;drop", 422),
        ("limit=0", 422),
        ("limit=201", 422),
        ("limit=1&limit=2", 422),
        ("limit=%C2%B2", 422),
        ("deleted=maybe", 422),
        ("name=%00", 422),
        ("name=%ff", 400),
        ("after=nonsense", 400),
        ("after=W10", 400),
        ("after=" + "W" * 999, 400),
        ("after=WyItdXBkYXRlZF9hdCIsIm5vdyIsIjAxOTlhM2MyLTdkMTAtN2YzYS05YzU1LTJmNmYwZDhhNGIxMSJd", 200),
        ("after=WyItdXBkYXRlZF9hdCIsIngiLCIwMTk5YTNjMi03ZDEwLTdmM2EtOWM1NS0yZjZmMGQ4YTRiMTEiXQ", 422),
        ("name=" + "x" * 20_000, 414),
        ("&".join(["name=x"] * 21), 422),
        ("name=%27%3B+DROP+TABLE+crm.accounts%3B--", 200),
        ("name.contains=%25_%5C", 200),
    ],
)
async def test_a_query_that_cannot_be_meant_is_refused(world: Api, query: str, status: int) -> None:
    answer = await world.ask("GET", f"/accounts?{query}")
    assert answer.status == status, answer.body


async def test_what_is_not_there_is_404_and_405_says_what_is(world: Api) -> None:
    for path in (
        "/nothing",
        "/accounts/x",
        "/accounts/x/y/z/w",
        f"/accounts/{NOBODY}",
        f"/accounts/{NOBODY}/nothing",
        "/",
    ):
        assert (await world.ask("GET", path)).status == 404, path
    answer = await world.ask("PUT", "/accounts", {"name": "x"})
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, POST")
    assert (await world.ask("HEAD", "/accounts")).status == 200
    plain = {"Content-Type": "text/plain"}
    assert (await world.ask("POST", "/accounts", raw=b'{"name":"x"}', headers=plain)).status == 415


async def test_a_customer_has_its_own_and_knows_of_nothing_else(world: Api) -> None:
    mine = await world.make("queries", {"subject": "Mine"}, by="customer")
    assert mine["contact_id"] == world.who("customer")["contact_id"]
    theirs = await world.make("queries", {"subject": "Theirs"}, by="other")
    at = f"/queries/{theirs['id']}"
    assert (await world.ask("GET", at, by="customer")).status == 404
    assert [one["id"] for one in (await world.ask("GET", "/queries", by="customer")).json()["items"]] == [mine["id"]]
    stolen = {"subject": "x", "contact_id": world.who("other")["contact_id"]}
    assert (await world.ask("POST", "/queries", stolen, by="customer")).status == 404
    own = {"subject": "x", "contact_id": world.who("customer")["contact_id"]}
    assert (await world.ask("POST", "/queries", own, by="customer")).status == 201
    beyond = await world.ask("POST", "/queries", {"subject": "x", "priority": 1}, by="customer")
    assert (beyond.status, beyond.json()["type"]) == (403, "urn:threefold:problem:forbidden")
    for method, path in (
        ("GET", "/users"), ("GET", "/teams"), ("GET", "/deals"), ("POST", "/accounts"),
        ("DELETE", f"/queries/{mine['id']}"),
        ("PATCH", f"/queries/{mine['id']}"), ("GET", f"/queries/{mine['id']}/timeline"), ("POST", "/queries/bulk"),
        ("GET", "/queries?deleted=true"), ("GET", f"/queries/{mine['id']}?as_of=2026-01-01T00:00:00Z"),
    ):  # fmt: skip
        assert (await world.ask(method, path, by="customer")).status == 404, path


async def test_a_guessed_case_is_answered_as_one_that_never_was(world: Api) -> None:
    others = await world.make("queries", {"subject": "Not yours"}, by="other")
    said = [
        await world.ask("POST", "/interactions", {"query_id": id_, "body": "x"}, by="customer")
        for id_ in (others["id"], str(uuid4()))
    ]
    assert [answer.status for answer in said] == [404, 404]
    assert said[0].body == said[1].body


async def test_employees_read_what_only_administrators_change(world: Api) -> None:
    assert (await world.ask("GET", "/teams")).status == 200
    refused = await world.ask("POST", "/teams", {"name": "South"})
    assert (refused.status, refused.json()["type"]) == (403, "urn:threefold:problem:forbidden")
