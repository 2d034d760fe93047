"""Changes of several records at once wait for each other and never in a circle: PostgreSQL would end one, with a 503.

Each test brings two changes to where, without one order of locking, each has what the other wants next: somebody else
holds a record in the middle of both until both wait, and then lets go.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID

import psycopg
import pytest
import pytest_asyncio
from tests.crm import Crm, crm

from threefold.crm.api import shapes
from threefold.crm.api.bulk import all_or_nothing
from threefold.crm.clocks import case_clocks
from threefold.crm.desk import Tx
from threefold.crm.model.actor import SYSTEM
from threefold.crm.model.errors import Conflict, Stale
from threefold.crm.model.kinds import KINDS
from threefold.crm.records import batches, merge, records
from threefold.crm.sql import locks, repository
from threefold.kernel.errors import NotThere

pytestmark = pytest.mark.asyncio(loop_scope="module")

ACCOUNTS, CONTACTS, QUERIES = KINDS["accounts"], KINDS["contacts"], KINDS["queries"]
Does = Callable[[Tx], Awaitable[Any]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def there() -> AsyncIterator[Crm]:
    async with crm(settings={"deadlock_timeout": "100ms"}) as made:
        yield made


async def _in(there: Crm, does: Does) -> Any:
    async with there.database.write(SYSTEM) as tx:
        return await does(tx)


async def _waiting(there: Crm, many: int) -> None:
    for _ in range(500):
        found = await there.pg.sql(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        if found[0][0] >= many:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("they do not wait, so nothing is shown")


async def _crossed(there: Crm, kind: str, middle: UUID, *works: Does) -> list[Any]:
    """What each came to. ``middle`` is held until all wait."""
    async with await psycopg.AsyncConnection.connect(there.pg.dsn()) as holder:
        await holder.execute(f"SELECT FROM crm.{kind} WHERE id = %s FOR UPDATE".encode(), [middle])
        tasks = [asyncio.create_task(_in(there, works[0]))]
        await _waiting(there, 1)
        tasks += [asyncio.create_task(_in(there, work)) for work in works[1:]]
        await _waiting(there, len(works))
        await holder.rollback()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, (Conflict, Stale, NotThere)):
            raise result
    return results


async def _contacts(there: Crm, many: int) -> list[Any]:
    return sorted([await there.contact() for _ in range(many)], key=lambda row: row["id"])


def _changes(rows: Sequence[Any], **values: Any) -> list[Any]:
    items = [{"do": "change", "id": str(row["id"]), "version": row["version"], "changes": values} for row in rows]
    return shapes.BULK["contacts"](items=items).items  # type: ignore[call-arg,attr-defined,no-any-return]


async def test_two_bulk_requests_in_opposite_orders(there: Crm) -> None:
    rows = await _contacts(there, 3)
    for order in (rows, rows[::-1]):  # whoever is first gets it, and the other is told that it is late
        now = {row["id"]: await there.get("contacts", row["id"]) for row in rows}
        one, other = (_changes([now[row["id"]] for row in each], phone="1") for each in (order, order[::-1]))
        results = await _crossed(
            there,
            "contacts",
            rows[1]["id"],
            lambda tx, one=one: all_or_nothing(tx, CONTACTS, one),  # type: ignore[misc]
            lambda tx, other=other: all_or_nothing(tx, CONTACTS, other),  # type: ignore[misc]
        )
        assert sum(isinstance(result, Stale) for result in results) == 1


async def test_a_batch_that_is_undone_and_one_that_is_made(there: Crm) -> None:
    rows = await _contacts(there, 3)
    items = [(row["id"], None) for row in rows]
    batch = await _in(there, lambda tx: batches.apply(tx, CONTACTS, items, {"phone": "1"}))
    undone, _ = await _crossed(
        there,
        "contacts",
        rows[1]["id"],
        lambda tx: batches.undo(tx, batch["id"]),
        lambda tx: batches.apply(tx, CONTACTS, items, {"phone": "2"}),
    )
    assert undone["left_over"] == []
    assert [(await there.get("contacts", row["id"]))["phone"] for row in rows] == ["2"] * 3


async def test_a_merge_that_is_undone_and_a_record_that_goes_with_what_hangs_on_it(there: Crm) -> None:
    one = await there.create("accounts", name="Acme")
    two = await there.create("accounts", name="Acme", city="Bonn")  # which the one that stays takes over
    deals = [await there.create("deals", name=f"d{n}", account_id=two["id"]) for n in range(2)]
    merged = await _in(there, lambda tx: merge.merge(tx, ACCOUNTS, one["id"], two["id"]))
    await _crossed(
        there,
        "deals",
        max(deal["id"] for deal in deals),
        lambda tx: merge.undo(tx, merged),
        lambda tx: batches.delete(tx, ACCOUNTS, [(one["id"], None)]),
    )


async def test_a_case_that_moves_to_an_account_that_is_merged(there: Crm) -> None:
    one, two = [await there.create("accounts", name="Acme") for _ in range(2)]
    contact = await there.contact()
    cases = sorted(
        [await there.create("queries", subject="x", contact_id=contact["id"], account_id=two["id"]) for _ in range(2)],
        key=lambda row: row["id"],
    )
    items = [
        {"do": "change", "id": str(case["id"]), "version": 1, "changes": changes}
        for case, changes in zip(cases, ({"priority": 2}, {"account_id": str(one["id"])}), strict=True)
    ]
    asked = shapes.BULK["queries"](items=items).items  # type: ignore[call-arg,attr-defined]
    await _crossed(
        there,
        "queries",
        cases[1]["id"],
        lambda tx: all_or_nothing(tx, QUERIES, asked),
        lambda tx: merge.merge(tx, ACCOUNTS, one["id"], two["id"]),
    )
    for case in cases:
        assert (await there.get("queries", case["id"]))["account_id"] == one["id"]


async def test_an_answer_in_a_case_whose_account_is_merged(there: Crm) -> None:
    one, two = [await there.create("accounts", name="Acme") for _ in range(2)]
    contact = await there.contact()
    case = await there.create("queries", subject="x", contact_id=contact["id"], account_id=two["id"])
    async with there.database.write(SYSTEM) as tx:
        held = await case_clocks.lock(tx, QUERIES, case["id"])
        merging = asyncio.create_task(_in(there, lambda other: merge.merge(other, ACCOUNTS, one["id"], two["id"])))
        await _waiting(there, 1)
        said = {"query_id": case["id"], "account_id": held["account_id"], "contact_id": contact["id"]}
        await repository.insert(tx, KINDS["interactions"], {**said, "body": "hello"})
    await merging
    assert (await there.get("queries", case["id"]))["account_id"] == one["id"]


async def test_a_record_that_is_restored_alone_and_with_its_batch(there: Crm) -> None:
    rows = await _contacts(there, 3)
    batch = await _in(there, lambda tx: batches.delete(tx, CONTACTS, [(row["id"], None) for row in rows]))
    undone, _ = await _crossed(
        there,
        "contacts",
        rows[1]["id"],
        lambda tx: batches.undo(tx, batch["id"]),
        lambda tx: records.restore(tx, CONTACTS, rows[0]["id"]),
    )
    assert undone is not None
    for row in rows:
        assert (await there.get("contacts", row["id"]))["deleted_at"] is None


async def test_every_kind_has_its_place_in_the_order(there: Crm) -> None:
    assert {*locks.ORDER} == {*KINDS, "attachments"}
    for kind in KINDS.values():  # what is referred to comes first, where anybody holds it for being referred to
        for field in kind.fields:
            if field.refers in ("accounts", "contacts", "queries", "requests") and field.refers != kind.name:
                assert locks.RANK[field.refers] < locks.RANK[kind.name], (kind.name, field.name)
