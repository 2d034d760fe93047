"""Records on a real PostgreSQL: made, changed, listed, deleted, brought back, and told about."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from tests.crm import EMPLOYEE, Crm, crm

from threefold.crm.model import asking
from threefold.crm.model.actor import SYSTEM
from threefold.crm.model.asking import Asked, Filter
from threefold.crm.model.errors import Conflict, Invalid, Stale
from threefold.crm.model.kinds import KINDS
from threefold.crm.model.paging import Place
from threefold.crm.records import records
from threefold.crm.records.records import Found
from threefold.kernel.errors import BadInput, NotThere


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def there() -> AsyncIterator[Crm]:
    async with crm() as made:
        yield made


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_record_is_made_read_and_changed(there: Crm) -> None:
    made = await there.create("accounts", EMPLOYEE, name="  Acme ", country="de")
    assert (made["name"], made["country"], made["version"]) == ("Acme", "DE", 1)
    assert (made["created_by"], made["created_on"]) == (EMPLOYEE.user, EMPLOYEE.device)
    assert made["id"].version == 7
    assert await there.get("accounts", made["id"]) == made
    changed = await there.update("accounts", made, city="Köln")
    assert (changed["city"], changed["version"], changed["updated_by"]) == ("Köln", 2, None)
    with pytest.raises(Stale) as lost:
        await there.update("accounts", made, city="Bonn")
    assert "version 2" in lost.value.message
    assert (await there.get("accounts", made["id"]))["city"] == "Köln"
    with pytest.raises(NotThere):
        await there.get("contacts", made["id"])


async def test_every_wrong_field_is_named_and_nothing_is_kept(there: Crm) -> None:
    with pytest.raises(Invalid) as refused:
        await there.create("contacts", email="nobody", version=3, nonsense=1, account_id=None, phone="1\n2")
    assert set(refused.value.fields) == {"full_name", "email", "version", "nonsense", "phone"}
    with pytest.raises(Invalid) as refused:
        await there.create("deals", name="x", account_id=uuid4(), owner_id=str(uuid4()))
    assert set(refused.value.fields) == {"account_id", "owner_id"}


async def test_a_record_of_a_clients_own_id_is_made_once(there: Crm) -> None:
    id_ = uuid4()
    await there.create("tags", id=id_, name="one")
    with pytest.raises(Conflict, match="with this id"):
        await there.create("tags", id=id_, name="two")
    with pytest.raises(Conflict, match="such a tag"):
        await there.create("tags", name="ONE")


async def test_every_kind_can_be_listed_in_every_order_and_the_two_ways_agree(there: Crm) -> None:
    account = await there.create("accounts", name="Order")
    for number in range(7):
        value = {} if number % 3 else {"close_on": f"2026-01-0{number + 1}"}
        await there.create("deals", name=f"d{number % 2}", account_id=account["id"], value_cents=number % 4, **value)
    for kind in KINDS.values():
        for field in (*kind.fields, *kind.columns):
            name = field if isinstance(field, str) else field.name
            if asking.unsortable(kind, name):
                continue
            for sort in (name, f"-{name}"):
                whole = [row["id"] for row in await paged(there, kind.name, Asked(sort=sort, limit=200))]
                assert [row["id"] for row in await paged(there, kind.name, Asked(sort=sort, limit=2))] == whole
                assert [row["id"] for row in await paged(there, kind.name, Asked(sort=sort, limit=3), js=True)] == [
                    str(each) for each in whole
                ]
                assert len(set(whole)) == len(whole)
                for js in (False, True):
                    back = await backwards(there, kind.name, Asked(sort=sort, limit=2), js=js)
                    assert [str(row["id"]) for row in back] == [str(each) for each in whole], (kind.name, sort, js)


async def turned(there: Crm, kind: str, asked: Asked, *, js: bool = False) -> Found:
    async with there.database.read() as connection:
        if not js:
            return await records.page(connection, SYSTEM, KINDS[kind], asked)
        text, before, following = await records.page_json(connection, SYSTEM, KINDS[kind], asked)
        return Found(json.loads(text), following, before)


async def backwards(there: Crm, kind: str, asked: Asked, *, js: bool) -> list[dict[str, Any]]:
    """To the last page, and all of it again from there; each page on the way is the one that was seen before."""
    there_on: list[list[dict[str, Any]]] = []
    found = await turned(there, kind, asked, js=js)
    assert found.prev is None
    there_on.append(found.rows)
    while found.next is not None:
        found = await turned(there, kind, replace(asked, after=found.next), js=js)
        there_on.append(found.rows)
    rows = found.rows
    for seen in reversed(there_on[:-1]):
        found = await turned(there, kind, replace(asked, before=found.prev), js=js)
        assert found.rows == seen
        assert found.next is not None
        rows = found.rows + rows
    assert found.prev is None
    return rows


async def test_pages_lead_back_whatever_came_and_went_meanwhile(there: Crm) -> None:
    made = [await there.create("tags", name=f"p{number:02}") for number in range(9)]
    asked = Asked((Filter("name", "starts", "p"),), sort="name", limit=3)
    second = await turned(there, "tags", replace(asked, after=(await turned(there, "tags", asked)).next))
    await there.create("tags", name="p02a")  # before the page that is shown, and after it
    await there.create("tags", name="p05a")
    assert [row["name"] for row in second.rows] == ["p03", "p04", "p05"]
    back = await turned(there, "tags", replace(asked, before=second.prev))
    assert [row["name"] for row in back.rows] == ["p01", "p02", "p02a"], "none is left out"
    first = await turned(there, "tags", replace(asked, before=back.prev))
    assert ([row["name"] for row in first.rows], first.prev) == (["p00"], None)
    again = await turned(there, "tags", replace(asked, after=back.next))
    assert again.rows == second.rows
    on = await turned(there, "tags", replace(asked, after=again.next))
    assert [row["name"] for row in on.rows] == ["p05a", "p06", "p07"]
    for row in made:  # all that there was is gone: an empty page still leads back, and on
        await there.delete("tags", row["id"])
    for js in (False, True):
        empty = await turned(there, "tags", replace(asked, after=on.next), js=js)
        assert (empty.rows, empty.next) == ([], None)
        back = await turned(there, "tags", replace(asked, before=empty.prev), js=js)
        assert [row["name"] for row in back.rows] == ["p02a", "p05a"]
        before = await turned(there, "tags", replace(asked, before=back.prev or first.prev or second.prev), js=js)
        assert before.next is not None
        assert [row["name"] for row in (await turned(there, "tags", replace(asked, after=before.next))).rows]


async def test_a_page_is_after_a_place_or_before_one(there: Crm) -> None:
    place = Place("-updated_at", "2026-01-01", uuid4()).encoded()
    with pytest.raises(BadInput, match="not both"):
        asking.parse(KINDS["tags"], [("sort", "-updated_at"), ("after", place), ("before", place)])
    with pytest.raises(BadInput, match="sorted by"):
        asking.parse(KINDS["tags"], [("sort", "name"), ("before", place)])
    with pytest.raises(NotThere):
        await turned(there, "tags", Asked(sort="name", before=Place("name", None, uuid4()).encoded()))


async def paged(there: Crm, kind: str, asked: Asked, *, js: bool = False) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    async with there.database.read() as connection:
        while True:
            if js:
                text, _, following = await records.page_json(connection, SYSTEM, KINDS[kind], asked)
                rows += json.loads(text)
            else:
                found = await records.page(connection, SYSTEM, KINDS[kind], asked)
                rows, following = rows + found.rows, found.next
            if following is None:
                return rows
            asked = Asked(asked.filters, asked.sort, following, asked.limit, asked.deleted, asked.text)


async def test_the_timeline_tells_what_was_changed_by_whom_and_the_record_as_it_was(there: Crm) -> None:
    contact = await there.contact(phone="1", consent_mail=True)
    async with there.database.write(EMPLOYEE, "called back") as tx:
        second = await records.update(tx, KINDS["contacts"], contact["id"], {"phone": "2", "role": "Boss"}, 1)
    await there.delete("contacts", contact["id"], 2)
    async with there.database.read() as connection:
        entries = await records.timeline(connection, SYSTEM, KINDS["contacts"], contact["id"])
        assert [entry["version"] for entry in entries] == [3, 2, 1]
        assert entries[1]["changes"] == {"phone": ["1", "2"], "role": ["", "Boss"]}
        assert (entries[1]["actor"], entries[1]["reason"]) == (EMPLOYEE.user, "called back")
        assert entries[2]["changes"]["phone"] == [None, "1"]
        assert "updated_at" not in entries[0]["changes"]
        assert await records.timeline(connection, SYSTEM, KINDS["contacts"], contact["id"], after=3, limit=1) == [
            entries[1]
        ]
        was = await records.as_of(connection, SYSTEM, KINDS["contacts"], contact["id"], contact["created_at"])
        assert was == contact
        was = await records.as_of(connection, SYSTEM, KINDS["contacts"], contact["id"], second["updated_at"])
        assert was == second
        before = contact["created_at"] - timedelta(seconds=1)
        with pytest.raises(NotThere):
            await records.as_of(connection, SYSTEM, KINDS["contacts"], contact["id"], before)
        assert contact["created_at"] < datetime.now(UTC)
