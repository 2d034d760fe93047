"""The recycle bin, the search, and what open pages hear: on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.crm import Crm, crm, customer

from threefold.crm.datalog.live import EVERYTHING, Live
from threefold.crm.model.actor import SYSTEM
from threefold.crm.model.asking import Asked, Filter
from threefold.crm.model.errors import Conflict, Stale
from threefold.crm.model.kinds import KINDS
from threefold.crm.records import records
from threefold.crm.sql.database import Database
from threefold.kernel.clock import SystemClock
from threefold.kernel.errors import NotThere

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def there() -> AsyncIterator[Crm]:
    async with crm() as made:
        yield made


async def ids(there: Crm, kind: str, *, deleted: bool = False) -> set[object]:
    async with there.database.read() as connection:
        found = await records.page(connection, SYSTEM, KINDS[kind], Asked(deleted=deleted, limit=200))
    return {row["id"] for row in found.rows}


async def test_a_record_takes_along_what_hangs_on_it_and_brings_back_exactly_that(there: Crm) -> None:
    account = await there.create("accounts", name="Gone")
    contact = await there.contact(account_id=account["id"])
    link = await there.create("affiliations", contact_id=contact["id"], account_id=account["id"])
    deals = [await there.create("deals", name=f"d{n}", account_id=account["id"]) for n in range(3)]
    tag = await there.create("tags", name="hot")
    tagging = await there.create("taggings", tag_id=tag["id"], record_kind="deals", record_id=deals[0]["id"])
    task = await there.create("tasks", subject="t", record_kind="accounts", record_id=account["id"])
    await there.delete("deals", deals[2]["id"], 1)  # before, on its own
    with pytest.raises(Stale):
        await there.delete("accounts", account["id"], 7)
    await there.delete("accounts", account["id"], 1)
    with pytest.raises(NotThere):
        await there.delete("accounts", account["id"], None)
    assert not {deals[0]["id"], deals[1]["id"]} & await ids(there, "deals")
    assert {deal["id"] for deal in deals} <= await ids(there, "deals", deleted=True)
    for kind, row in (("affiliations", link), ("taggings", tagging), ("tasks", task)):
        with pytest.raises(NotThere):
            await there.get(kind, row["id"])
    assert (await there.get("contacts", contact["id"]))["version"] == 1  # people stay
    with pytest.raises(Conflict, match="its account is in the recycle bin"):
        await there.restore("deals", deals[0]["id"])
    restored = await there.restore("accounts", account["id"])
    assert (restored["version"], restored["deleted_at"]) == (3, None)
    for kind, row in (("affiliations", link), ("taggings", tagging), ("tasks", task), ("deals", deals[1])):
        assert (await there.get(kind, row["id"]))["version"] == 3
    with pytest.raises(NotThere):
        await there.get("deals", deals[2]["id"])  # it was in the bin before
    await there.restore("deals", deals[2]["id"])
    with pytest.raises(NotThere):
        await there.restore("deals", deals[2]["id"])
    assert await there.pg.sql("SELECT count(*) FROM crm.deletions WHERE kind <> 'tags'") == [(0,)]


async def test_what_was_brought_back_alone_is_not_brought_back_twice(there: Crm) -> None:
    product = await there.create("products", sku="S-1", name="Router", price_cents=5)
    price = await there.create(
        "prices", product_id=product["id"], currency="usd", price_cents=6, valid_from="2026-01-01"
    )
    await there.delete("products", product["id"])
    taken = await there.create("products", sku="S-1", name="Another", price_cents=5)
    with pytest.raises(Conflict, match="SKU"):
        await there.restore("products", product["id"])
    await there.delete("products", taken["id"])
    await there.restore("products", product["id"])
    await there.delete("prices", price["id"])
    await there.delete("products", product["id"])
    await there.restore("products", product["id"])
    with pytest.raises(NotThere):
        await there.get("prices", price["id"])


async def test_the_search_minds_neither_accents_nor_capitals_nor_order(there: Crm) -> None:
    contact = await there.create("contacts", full_name="Zoë Łukasiewicz-Straße", email="zoe.l@münchen-bau.example.com")
    phone = await there.create("contacts", full_name="Phone Person", email="p@example.com", phone="+49 (30) 901820")
    case = await there.create("queries", contact_id=contact["id"], subject="The router shows a red light")

    async def found(text: str) -> set[object]:
        async with there.database.read() as connection:
            return {hit.id for hit in await records.search(connection, SYSTEM, text, 50)}

    for text in ("zoe", "ZOË", "lukas zo", "łukasiewicz", "strasse", "straße zoe", "munchen", "zoe.l@münchen"):
        assert await found(text) == {contact["id"]}, text
    for text in ("901820", "+49 (30) 901820", "30 9018"):
        assert await found(text) == {phone["id"]}, text
    assert await found("light rout") == {case["id"]}
    assert await found("r") == set()  # one letter stands for itself
    for text in ("", " ", "'", "\\", "!&|():*", "%", "light nothing", "\t", "a" * 500):
        assert await found(text) == set(), text
    async with there.database.read() as connection:
        asked = Asked(text="zo")
        rows = (await records.page(connection, SYSTEM, KINDS["contacts"], asked)).rows
        assert [row["id"] for row in rows] == [contact["id"]]
        best = await records.search(connection, SYSTEM, "red router", 1)
        assert (best[0].kind, best[0].title, best[0].detail) == ("queries", "The router shows a red light", "new")
    await there.delete("queries", case["id"])
    assert await found("light rout") == set()


async def test_filters_find_what_they_say(there: Crm) -> None:
    account = await there.create("accounts", name="Filter 100%_x", employees=5, industry="Food")
    other = await there.create("accounts", name="Filter 1000x")
    async with there.database.read() as connection:
        for filter_, expected in (
            (Filter("name", "contains", "100%_"), {account["id"]}),
            (Filter("name", "starts", "filter"), {account["id"], other["id"]}),
            (Filter("employees", "ge", 5), {account["id"]}),
            (Filter("industry", "empty", False), {account["id"]}),
            (Filter("employees", "empty", True), {other["id"]}),
            (Filter("employees", "ne", 5), {other["id"]}),
            (Filter("industry", "in", ("Food", "x")), {account["id"]}),
        ):
            asked = Asked((filter_, Filter("name", "starts", "Filter")))
            rows = (await records.page(connection, SYSTEM, KINDS["accounts"], asked)).rows
            assert {row["id"] for row in rows} == expected, filter_


async def test_open_pages_hear_of_what_they_may_see_here_and_elsewhere(there: Crm) -> None:
    mine, other = await there.contact(), await there.contact()
    here, elsewhere = Live(there.database, SystemClock()), Live(Database(there.pg.dsn(), SystemClock()), SystemClock())
    for live in (here, elsewhere):
        await live.open()
    try:
        await _listening(there, 2)
        pages = [live.subscribe(actor) for live in (here, elsewhere) for actor in (SYSTEM, customer(mine["id"]))]
        theirs = await there.create("queries", contact_id=other["id"], subject="x")
        hidden = await there.create("interactions", contact_id=mine["id"], body="psst", internal=True)
        my_own = await there.create("queries", contact_id=mine["id"], subject="x")
        for page in (pages[0], pages[2]):
            heard = {await asyncio.wait_for(anext(page), 5) for _ in range(3)}
            assert heard == {("queries", theirs["id"]), ("interactions", hidden["id"]), ("queries", my_own["id"])}
        for page in (pages[1], pages[3]):
            assert await asyncio.wait_for(anext(page), 5) == ("queries", my_own["id"])
        # A connection that is lost: pages are told to look at everything, and hear again.
        await there.pg.sql(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'threefold live'"
        )
        assert await asyncio.wait_for(anext(pages[3]), 10) == EVERYTHING
        await pages[2].aclose()
        assert [event async for event in pages[2]] in ([], [EVERYTHING])
    finally:
        for live in (here, elsewhere):
            await live.close()


async def _listening(there: Crm, many: int) -> None:
    for _ in range(100):
        found = await there.pg.sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'threefold live'")
        if found[0][0] >= many:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("nobody listens")


async def test_a_change_that_was_taken_back_is_told_to_nobody(there: Crm) -> None:
    live = Live(there.database, SystemClock())
    page = live.subscribe(SYSTEM)
    with pytest.raises(RuntimeError):
        await _changing_its_mind(there)
    made = await there.create("tags", name="told")
    assert await asyncio.wait_for(anext(page), 5) == ("tags", made["id"])


async def _changing_its_mind(there: Crm) -> None:
    async with there.database.write(SYSTEM) as tx:
        await records.create(tx, KINDS["tags"], {"name": "not told"})
        raise RuntimeError
