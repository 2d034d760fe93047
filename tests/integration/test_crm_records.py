"""Records on a real PostgreSQL: made, changed, listed, deleted, brought back, and told about."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from tests.crm import EMPLOYEE, Crm, crm

from threefold.crm.model import asking
from threefold.crm.model.actor import SYSTEM
from threefold.crm.model.asking import Asked
from threefold.crm.model.errors import Conflict, Invalid, Stale
from threefold.crm.model.kinds import KINDS
from threefold.crm.records import records
from threefold.kernel.errors import NotThere


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


async def paged(there: Crm, kind: str, asked: Asked, *, js: bool = False) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    async with there.database.read() as connection:
        while True:
            if js:
                text, following = await records.page_json(connection, SYSTEM, KINDS[kind], asked)
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
