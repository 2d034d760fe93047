"""The data log: whatever is written is in it, and whatever is tampered with is found."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest
import pytest_asyncio
from tests.crm import EMPLOYEE, Crm, crm, customer
from tests.pg import BOTH

from threefold.crm.datalog import feed, log
from threefold.crm.datalog.log import Report
from threefold.crm.desk import Connection
from threefold.crm.model.actor import SYSTEM
from threefold.kernel.errors import BadInput, Damaged, NotThere

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=BOTH)
async def there(request: pytest.FixtureRequest) -> AsyncIterator[Crm]:
    async with crm(request.param) as made:
        yield made


async def proved(there: Crm) -> Report:
    async with there.database.read() as connection:
        return await log.verify(connection)


@asynccontextmanager
async def tampered(there: Crm, *statements: str) -> AsyncIterator[Connection]:
    """Past the triggers; put back afterwards."""
    async with await psycopg.AsyncConnection.connect(there.pg.dsn(), row_factory=psycopg.rows.dict_row) as connection:
        await connection.execute("SET session_replication_role = replica")
        for statement in statements:
            assert (await connection.execute(statement.encode())).rowcount > 0, statement
        yield connection
        await connection.rollback()


async def filled(there: Crm) -> None:
    if await there.pg.sql("SELECT 1 FROM crm.accounts WHERE name = 'Whole' LIMIT 1"):
        return
    account = await there.create("accounts", EMPLOYEE, name="Whole", city='"Żó\\łw" \u2028🐢')
    contact = await there.contact(account_id=account["id"], phone="1")
    contact = await there.update("contacts", contact, EMPLOYEE, phone="2", consent_mail=True)
    await there.update("contacts", contact, phone="3", account_id=None)
    case = await there.create("queries", contact_id=contact["id"], subject="Tab\tand", body='a\n"b"\t\\')
    await there.update("queries", case, status="open")
    deal = await there.create("deals", name="x", account_id=account["id"], value_cents=10**14, close_on="2026-02-03")
    await there.delete("deals", deal["id"])
    gone = await there.create("tags", name="gone")
    await there.pg.sql("DELETE FROM crm.tags WHERE id = %s", (gone["id"],))
    await there.pg.sql("INSERT INTO crm.tags (id, name, version) VALUES (%s, 'back', 3)", (gone["id"],))
    await there.pg.sql("UPDATE crm.accounts SET industry = 'by hand'")


async def test_what_was_done_by_the_crm_and_by_hand_is_proved(there: Crm) -> None:
    await filled(there)
    report = await proved(there)
    assert report.sound, report.broken
    assert (report.records, report.entries) == (7, 14)  # two of them are the settings, made with the tables
    rows = await there.pg.sql("SELECT version, updated_at > created_at FROM crm.accounts WHERE name = 'Whole'")
    assert rows == [(2, True)]  # stamped, though nobody asked for it


TAMPERING = [
    "UPDATE crm.contacts SET phone = '4' WHERE phone = '3'",
    "UPDATE crm.contacts SET language = 'de'",  # a field that no entry speaks of: only the creation's digest does
    "UPDATE crm.contacts SET version = version + 1",
    "UPDATE crm.contacts SET created_at = created_at - interval '1 day'",
    "DELETE FROM crm.contacts",
    "INSERT INTO crm.tags (id, name) VALUES (gen_random_uuid(), 'never logged')",
    "DELETE FROM crm.log WHERE version = 2 AND kind = 'contacts'",
    "DELETE FROM crm.log WHERE version = 1 AND kind = 'contacts'",
    "DELETE FROM crm.log WHERE version = 3 AND kind = 'contacts'",
    "UPDATE crm.log SET at = at - interval '1 hour' WHERE version = 2",
    "UPDATE crm.log SET actor = gen_random_uuid() WHERE version = 2",
    "UPDATE crm.log SET device = NULL WHERE version = 2",
    "UPDATE crm.log SET reason = 'a better one' WHERE version = 2",
    "UPDATE crm.log SET op = 'delete' WHERE version = 2",
    "UPDATE crm.log SET kind = 'accounts' WHERE kind = 'contacts'",
    "UPDATE crm.log SET changes = jsonb_set(changes, '{phone,1}', '\"9\"') WHERE changes ? 'phone'",
    "UPDATE crm.log SET changes = NULL WHERE version = 2",
    "UPDATE crm.log SET digest = sha256(digest) WHERE version = 2",
    "UPDATE crm.log SET salt = sha256(salt) WHERE version = 1",
    "UPDATE crm.log SET hash = sha256(hash) WHERE version = 1",
    "UPDATE crm.log SET version = 100 WHERE version = 2",
]


@pytest.mark.parametrize("statement", TAMPERING)
async def test_tampering_is_found(there: Crm, statement: str) -> None:
    await filled(there)
    async with tampered(there, statement) as connection:
        await connection.execute("SET LOCAL timezone = 'UTC'")
        wrong = [
            (id_, problem)
            for kind in ("accounts", "contacts", "tags", "queries", "deals")
            for columns in [await log._columns(connection, kind)]
            async for id_, row, entries in log._records(connection, kind)
            if (problem := log.problem_of(id_, kind, columns, row, entries))
        ]
        assert wrong, statement
    assert (await proved(there)).sound


async def test_a_table_taken_from_under_the_log_is_found(there: Crm) -> None:
    await there.pg.sql("ALTER TABLE crm.deals DISABLE TRIGGER log_update")
    try:
        with pytest.raises(Damaged, match="deals"):
            await proved(there)
    finally:
        await there.pg.sql("ALTER TABLE crm.deals ENABLE TRIGGER log_update")


async def test_the_log_cannot_be_changed_even_by_hand(there: Crm) -> None:
    await filled(there)
    for statement in (
        "DELETE FROM crm.log",
        "TRUNCATE crm.log",
        "TRUNCATE crm.contacts",
        "UPDATE crm.log SET reason = 'x'",
        "UPDATE crm.log SET changes = '{}' WHERE version = 2",
        "UPDATE crm.contacts SET id = gen_random_uuid()",
    ):
        with pytest.raises(psycopg.errors.RaiseException):
            await there.pg.sql(statement)


async def test_an_erased_entry_keeps_the_chain_and_a_new_column_keeps_the_proof(there: Crm) -> None:
    contact = await there.contact(phone="1")
    contact = await there.update("contacts", contact, phone="2")
    await there.update("contacts", contact, phone="")
    await there.pg.sql("UPDATE crm.log SET changes = NULL, salt = NULL WHERE record_id = %s", (contact["id"],))
    later = await there.contact(phone="1")
    await there.pg.sql("ALTER TABLE crm.contacts ADD COLUMN nickname text")
    try:
        await there.update("contacts", later, phone="5")
        report = await proved(there)
        assert report.sound, report.broken
        assert report.erased == 3
        async with tampered(there, f"UPDATE crm.contacts SET nickname = 'x' WHERE id = '{later['id']}'") as connection:
            await connection.execute("SET LOCAL timezone = 'UTC'")
            columns = await log._columns(connection, "contacts")
            wrong = [
                id_
                async for id_, row, entries in log._records(connection, "contacts")
                if log.problem_of(id_, "contacts", columns, row, entries)
            ]
            assert wrong == [later["id"]]
    finally:
        await there.pg.sql("ALTER TABLE crm.contacts DROP COLUMN nickname")


async def test_the_feed_tells_every_change_once_and_never_skips_one_that_commits_late(there: Crm) -> None:
    async with there.database.read() as connection:
        start = await feed.latest(connection)
    async with await psycopg.AsyncConnection.connect(there.pg.dsn()) as slow:
        await slow.execute("INSERT INTO crm.tags (id, name) VALUES (gen_random_uuid(), 'late')")  # open, and first
        made = [await there.create("tags", name=f"t{number}") for number in range(5)]
        async with there.database.read() as connection:
            rows, cursor = await feed.changes(connection, SYSTEM, start, 100)
        assert rows == []  # it waits, for what comes later may belong in front
        await slow.commit()
    seen = []
    async with there.database.read() as connection:
        while True:
            rows, following = await feed.changes(connection, SYSTEM, cursor, 2)
            seen += rows
            if not rows:
                assert following == cursor
                break
            cursor = following
    assert len(seen) == 6
    assert [row["record_id"] for row in seen[1:]] == [tag["id"] for tag in made]
    async with there.database.read() as connection:
        with pytest.raises(NotThere):
            await feed.changes(connection, customer(made[0]["id"]), None)
        for nonsense in ("", "x", "MS4y.", "LTEuMg", "💥"):
            with pytest.raises(BadInput):
                await feed.changes(connection, SYSTEM, nonsense)


async def test_the_feed_of_many_writers_at_once_is_whole(there: Crm) -> None:
    async with there.database.read() as connection:
        cursor = await feed.latest(connection)
    made: set[str] = set()
    stop = asyncio.Event()

    async def write(who: int) -> None:
        for number in range(15):
            made.add(str((await there.create("tags", name=f"w{who}-{number}"))["id"]))

    async def read() -> list[str]:
        nonlocal cursor
        seen: list[str] = []
        while True:
            last = stop.is_set()
            async with there.database.read() as connection:
                rows, cursor = await feed.changes(connection, SYSTEM, cursor, 7)
            seen += [str(row["record_id"]) for row in rows]
            if last and not rows:
                return seen

    reading = asyncio.create_task(read())
    await asyncio.gather(*(write(who) for who in range(8)))
    stop.set()
    seen = await reading
    assert len(seen) == len(set(seen)) == 120
    assert set(seen) == made


async def test_the_feeds_order_is_that_of_numbers_and_not_of_their_digits() -> None:
    async with crm() as fresh:
        first = int((await fresh.pg.sql("SELECT pg_current_xact_id()::text"))[0][0])
        assert first < 1000
        async with await psycopg.AsyncConnection.connect(fresh.pg.dsn(), autocommit=True) as connection:
            for number in range(first, 1010):
                await connection.execute(
                    "INSERT INTO crm.tags (id, name) VALUES (gen_random_uuid(), %s)", (str(number),)
                )
            rows = await (await connection.execute("SELECT record_id FROM crm.log ORDER BY tx, position")).fetchall()
        seen, cursor = [], None
        async with fresh.database.read() as reading:
            while True:
                found, cursor = await feed.changes(reading, SYSTEM, cursor, 60)
                seen += [row["record_id"] for row in found]
                if not found:
                    break
            assert await feed.latest(reading) == cursor
        assert seen == [row[0] for row in rows]
