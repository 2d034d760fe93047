"""Files that were taken away and come back, and how much one customer may put here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from tests.api_world import Api, api
from tests.crm_statements import world as pages

from threefold.crm.model.actor import Actor, Role
from threefold.crm.sql.database import Database
from threefold.kernel.clock import SystemClock
from threefold.kernel.errors import NotThere

pytestmark = pytest.mark.asyncio(loop_scope="module")

OCTETS = {"Content-Type": "application/octet-stream"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world() -> AsyncIterator[Api]:
    async with api() as made:
        yield made


async def _put(world: Api, at: str, data: bytes, *, by: str = "employee", name: str = "a.txt") -> Any:
    return await world.ask("POST", f"{at}/attachments", raw=data, headers=OCTETS, by=by, name=name)


async def _page(world: Api, target: str, by: str = "employee") -> Any:
    """As the CRM shows it to that person; what goes wrong is raised."""
    person = world.who(by)
    contact = UUID(person["contact_id"]) if person["role"] == "customer" else None
    actor = Actor(Role(person["role"]), user=UUID(person["id"]), contact=contact, name=person["name"])
    async with Database(world.pg.dsn(), SystemClock()) as database, pages(database, actor) as shown:
        return await shown.ask("GET", target)


async def _set(world: Api, **values: Any) -> None:
    now = await world.ask("GET", "/settings", by="administrator")
    wanted = {"files_per_customer": 500, "mib_per_customer": 1024, "audit_days": None} | values
    done = await world.ask("PUT", "/settings", wanted, by="administrator", match=now.headers["etag"])
    assert done.status == 200, done.body


async def test_deleted_files_are_shown_with_who_and_when_and_come_back(world: Api) -> None:
    case = await world.make("queries", {"subject": "It hums"}, by="customer")
    at = f"/queries/{case['id']}"
    files = [(await _put(world, at, str(n).encode(), name=f"photo-{n}.jpg")).json() for n in range(3)]
    for file in files:
        assert (await world.ask("DELETE", f"/attachments/{file['id']}")).status == 204
    assert (await world.ask("GET", f"{at}/attachments")).json()["items"] == []
    first = (await world.ask("GET", "/attachments/deleted", limit=2)).json()
    second = (await world.ask("GET", "/attachments/deleted", limit=2, after=first["next"])).json()
    assert [one["name"] for one in first["items"] + second["items"]] == ["photo-2.jpg", "photo-1.jpg", "photo-0.jpg"]
    assert (second["next"], first["prev"]) == (None, None)
    back = (await world.ask("GET", "/attachments/deleted", limit=2, before=second["prev"])).json()
    assert back["items"] == first["items"]
    bob = world.who("employee")
    assert {(one["deleted_by"], one["who"]) for one in first["items"]} == {(bob["id"], bob["name"])}
    for target in ("/bin/files", f"/records{at}"):
        shown = (await _page(world, target)).body.decode()
        assert "photo-1.jpg" in shown, target
        assert f"by {bob['name']}" in shown, target
        assert f"/files/{files[1]['id']}/restore" in shown, target
    assert (await world.ask("POST", f"/attachments/{files[1]['id']}/restore")).status == 204
    assert (await world.ask("POST", f"/attachments/{files[1]['id']}/restore")).status == 404
    assert [one["name"] for one in (await world.ask("GET", f"{at}/attachments")).json()["items"]] == ["photo-1.jpg"]
    assert f"/files/{files[1]['id']}/restore" not in (await _page(world, "/bin/files")).body.decode()


async def test_customers_never_hear_of_deleted_files(world: Api) -> None:
    case = await world.make("queries", {"subject": "It hums"}, by="customer")
    file = (await _put(world, f"/queries/{case['id']}", b"x", by="customer", name="secret.txt")).json()
    assert (await world.ask("DELETE", f"/attachments/{file['id']}")).status == 204
    for person in ("customer", "other"):
        assert (await world.ask("GET", "/attachments/deleted", by=person)).status == 404
        assert (await world.ask("GET", f"/attachments/{file['id']}", by=person)).status == 404
        assert (await world.ask("POST", f"/attachments/{file['id']}/restore", by=person)).status == 404
        for target in ("/bin/files", f"/files/{file['id']}"):
            with pytest.raises(NotThere):
                await _page(world, target, by=person)
    shown = await _page(world, f"/cases/queries/{case['id']}", by="customer")
    assert b"secret.txt" not in shown.body


async def test_a_record_in_the_bin_shows_its_files_and_keeps_them(world: Api) -> None:
    task = await world.make("tasks", {"subject": "Call"})
    file = (await _put(world, f"/tasks/{task['id']}", b"minutes", name="minutes.txt")).json()
    assert (await world.ask("DELETE", f"/tasks/{task['id']}", match='"1"')).status == 204
    page = await _page(world, f"/records/tasks/{task['id']}")
    assert (page.status, b"minutes.txt" in page.body) == (200, True)
    assert (await _page(world, f"/files/{file['id']}")).body == b"minutes"


async def test_what_one_customer_puts_here_is_bounded_and_nobody_elses_is(world: Api) -> None:
    case = await world.make("queries", {"subject": "It hums"}, by="other")
    at = f"/queries/{case['id']}"
    await _set(world, files_per_customer=3)
    made = [await _put(world, at, bytes([n]), by="other") for n in range(3)]
    assert [each.status for each in made] == [201] * 3
    full = await _put(world, at, b"one more", by="other")
    assert (full.status, full.json()["fields"]["file"]) == (422, "is one too many: you may have 3 here")
    assert full.json()["hint"]
    assert (await _put(world, at, b"ours")).status == 201, "employees are not bound"
    mine = await world.make("queries", {"subject": "Mine"}, by="customer")
    assert (await _put(world, f"/queries/{mine['id']}", b"x", by="customer")).status == 201, "nor others by it"
    await world.ask("DELETE", f"/attachments/{made[0].json()['id']}")
    assert (await _put(world, at, b"one more", by="other")).status == 201, "what was taken away makes room"

    await _set(world, mib_per_customer=1)
    large = await _put(world, at, bytes(2**20 - 5), by="other")
    assert (large.status, "1 MiB" in large.json()["fields"]["file"]) == (422, True)
    there = await world.pg.sql(f"SELECT count(*) FROM crm.attachments WHERE record_id = '{case['id']}'")
    assert there == [(5,)], "nothing half-written"
    assert (await _put(world, at, bytes(2**20 - 100), by="other")).status == 201
    await _set(world)


async def test_of_many_uploads_at_once_none_slips_past_the_bound(world: Api) -> None:
    case = await world.make("queries", {"subject": "Many"}, by="customer")
    count = "SELECT count(*) FROM crm.attachments WHERE deleted_at IS NULL AND created_by = '{}'"
    mine = count.format(world.who("customer")["id"])
    there = (await world.pg.sql(mine))[0][0]
    await _set(world, files_per_customer=there + 2)
    sent = [_put(world, f"/queries/{case['id']}", uuid4().bytes, by="customer") for _ in range(8)]
    statuses = sorted(answer.status for answer in await asyncio.gather(*sent))
    assert statuses == [201] * 2 + [422] * 6
    assert (await world.pg.sql(mine))[0][0] == there + 2
    await _set(world)
