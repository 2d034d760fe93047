"""A customer guesses ids, over every operation that the document names: another's data never comes back."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.api_world import Api, api

from threefold.crm.api import document
from threefold.crm.model.kinds import CUSTOMERS_READ

pytestmark = pytest.mark.asyncio(loop_scope="module")
SECRET = "XYZZY"  # in every text of what is another's


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world() -> AsyncIterator[Api]:
    async with api() as made:
        yield made


async def _of_another(world: Api) -> dict[str, str]:
    """One record of every kind, none of them the customer's: its id by its kind."""
    other = world.who("other")["contact_id"]
    ids = {"contacts": other, "users": world.who("other")["id"]}
    await world.ask("PATCH", f"/contacts/{other}", {"role": SECRET, "phone": SECRET}, match='"1"')

    async def make(kind: str, by: str = "administrator", /, **values: Any) -> None:
        ids[kind] = (await world.make(kind, values, by=by))["id"]

    await make("accounts", name=SECRET)
    await make("affiliations", contact_id=other, account_id=ids["accounts"], role=SECRET)
    await make("products", sku="open", name="Open to all", price_cents=1)
    await make("prices", product_id=ids["products"], currency="EUR", price_cents=1, valid_from="2026-01-01")
    await make("queries", "other", subject=SECRET)
    await make("requests", "other", subject=SECRET, kind="repair")
    await make("interactions", "other", body=SECRET, query_id=ids["queries"])
    await make("tasks", subject=SECRET)
    await make("deals", name=SECRET, account_id=ids["accounts"])
    await make("tags", name=SECRET)
    await make("taggings", tag_id=ids["tags"], record_kind="queries", record_id=ids["queries"])
    await make("teams", name=SECRET)
    await make(
        "policies", name=SECRET, record_kind="queries", priority=1, first_response_minutes=9, resolution_minutes=9
    )
    octets = {"Content-Type": "application/octet-stream"}
    file = await world.ask("POST", f"/queries/{ids['queries']}/attachments", raw=SECRET.encode(), headers=octets)
    ids["attachments"] = file.json()["id"]
    hook = await world.ask("POST", "/webhooks", {"url": "https://example.com/"}, by="administrator")
    ids["webhooks"] = hook.json()["id"]
    view = await world.ask("POST", "/views", {"kind": "deals", "name": SECRET, "shared": True})
    ids["views"] = view.json()["id"]
    return ids


def _body(operation: dict[str, Any], ids: dict[str, str]) -> Any:
    """One that a customer could well send; what it is not for is refused before it is read."""
    name = operation["operationId"]
    if name.startswith("answer"):
        return {"body": "mine"}
    if name.startswith("rate"):
        return {"satisfaction": 1}
    if name == "createInteraction":
        return {"body": "mine", "query_id": ids["queries"]}
    if name == "createRequest":
        return {"subject": "x", "kind": "repair", "contact_id": ids["contacts"]}
    if name == "createQuery":
        return {"subject": "x", "contact_id": ids["contacts"]}
    return {}


async def test_no_operation_gives_a_customer_what_is_anothers(world: Api) -> None:
    ids = await _of_another(world)
    log = "SELECT count(*) FROM crm.log"
    before = await world.pg.sql(log)
    asked = 0
    for path, item in document()["paths"].items():
        kind = path.removeprefix("/api/v1/").partition("/")[0]
        for method, operation in item.items():
            if operation["operationId"] == "openapi":
                continue
            for guess in sorted({ids.get(kind, ids["deals"]), ids["queries"]}) if "{id}" in path else [""]:
                target = re.sub(r"\{\w+\}", guess, path.removeprefix("/api/v1"))
                content, raw = _body(operation, ids) if "requestBody" in operation else None, None
                headers = {}
                if path.endswith("/attachments") and method == "post":
                    content, raw, headers = None, b"mine", {"Content-Type": "application/octet-stream"}
                answer = await world.ask(
                    method.upper(), target, content, raw=raw, headers=headers, by="customer", match='"1"'
                )
                asked += 1
                assert SECRET.encode() not in answer.body, (method, target, answer.body)
                assert answer.status != 403, (method, target)
                if "{id}" in path and (kind not in CUSTOMERS_READ or method != "get"):
                    assert answer.status == 404, (method, target, answer.status, answer.body)
    for target in ("/queries", "/requests", "/interactions", "/contacts", "/search"):
        for query in ({"q": SECRET}, {"q": SECRET[:3]}):
            if (target, query["q"]) != ("/interactions", SECRET):
                answer = await world.ask("GET", target, by="customer", **query)
                assert SECRET.encode() not in answer.body
    scoped = [("queries", "id", ids["queries"]), ("queries", "contact_id", ids["contacts"]),
              ("interactions", "query_id", ids["queries"]), ("contacts", "id.in", ids["contacts"])]  # fmt: skip
    for kind, name, value in scoped:
        assert (await world.ask("GET", f"/{kind}", by="customer", **{name: value})).json()["items"] == []
    assert await world.pg.sql(log) == before, "nothing was written"
    assert asked > 250
