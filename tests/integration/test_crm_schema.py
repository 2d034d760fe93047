"""The tables are what the table of kinds says, on every PostgreSQL; migrations happen once; no list is a scan."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import pytest_asyncio
from tests.crm import Crm, crm, customer
from tests.pg import BOTH, cluster

from threefold.crm.datalog import feed, timeline
from threefold.crm.model.actor import SYSTEM
from threefold.crm.model.asking import Asked, Filter
from threefold.crm.model.kinds import KINDS, Type
from threefold.crm.model.validating import nullable
from threefold.crm.records import records, search
from threefold.crm.sql import repository
from threefold.crm.sql.migrate import Migration, crm_set, migrate
from threefold.crm.sql.repository import Condition
from threefold.kernel.errors import Refused

pytestmark = pytest.mark.asyncio(loop_scope="module")

SQL_TYPES = {
    Type.TEXT: {"text"},
    Type.LONG: {"text"},
    Type.EMAIL: {"text"},
    Type.CHOICE: {"text"},
    Type.INTEGER: {"integer", "smallint"},
    Type.CENTS: {"bigint"},
    Type.BOOLEAN: {"boolean"},
    Type.ID: {"uuid"},
    Type.IDS: {"uuid[]"},
    Type.TIME: {"timestamp with time zone"},
    Type.DATE: {"date"},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def there() -> AsyncIterator[Crm]:
    async with crm() as made:
        await _fill(made)
        yield made


async def _fill(made: Crm) -> None:
    """Enough that a scan is what a planner would avoid if it could."""
    async with await psycopg.AsyncConnection.connect(made.pg.dsn(), autocommit=True) as connection:
        await connection.execute(
            "INSERT INTO crm.tags (id, name) SELECT gen_random_uuid(), 't' || n FROM generate_series(1, 5000) n"
        )
        await connection.execute("SET session_replication_role = replica")
        await connection.execute(
            "INSERT INTO crm.contacts (id, full_name, email, account_id, updated_at) SELECT gen_random_uuid(),"
            " 'N' || n, n || '@x.example', gen_random_uuid(), now() - n * interval '1 min'"
            " FROM generate_series(1, 9000) n"
        )
        for kind, column, value in (
            ("accounts", "name", "'A' || n"),
            ("deals", "name, account_id", "'D' || n, gen_random_uuid()"),
            ("tasks", "subject, assignee_id, due_at", "'T' || n, gen_random_uuid(), now()"),
            ("products", "name, sku, price_cents", "'P' || n, n, n"),
            (
                "queries",
                "subject, contact_id",
                "'Q' || n, gen_random_uuid()",
            ),
            ("requests", "subject, contact_id, kind", "'R' || n, gen_random_uuid(), 'repair'"),
            ("interactions", "body, contact_id, query_id", "'I', gen_random_uuid(), gen_random_uuid()"),
            ("affiliations", "contact_id, account_id", "gen_random_uuid(), gen_random_uuid()"),
            ("taggings", "tag_id, record_kind, record_id", "gen_random_uuid(), 'deals', gen_random_uuid()"),
            ("prices", "product_id, currency, price_cents, valid_from", "gen_random_uuid(), 'EUR', n, '2026-01-01'"),
        ):
            await connection.execute(
                f"INSERT INTO crm.{kind} (id, {column}, updated_at) SELECT gen_random_uuid(), {value},"
                " now() - n * interval '1 min' FROM generate_series(1, 6000) n".encode()
            )
        await connection.execute("VACUUM ANALYZE")


@pytest.mark.parametrize("major", BOTH)
async def test_the_tables_are_what_the_table_of_kinds_says(major: int) -> None:
    async with crm(major) as made:
        for kind in KINDS.values():
            rows = await made.pg.sql(
                "SELECT attname::text, format_type(atttypid, NULL), NOT attnotnull FROM pg_attribute"
                " WHERE attrelid = %s::regclass AND attnum > 0",
                (f"crm.{kind.name}",),
            )
            fields = {field.name: field for field in repository.columns(kind)}
            assert {row[0] for row in rows} == fields.keys(), kind.name
            for name, sql_type, null in rows:
                assert sql_type in SQL_TYPES[fields[name].type], (kind.name, name)
                assert null == nullable(fields[name]), (kind.name, name)
            for field in kind.fields:
                if field.type is Type.CHOICE and field.name != "record_kind":
                    checks = await made.pg.sql(
                        "SELECT string_agg(pg_get_constraintdef(oid), ' ') FROM pg_constraint"
                        " WHERE conrelid = %s::regclass",
                        (f"crm.{kind.name}",),
                    )
                    assert all(f"'{choice}'" in checks[0][0] for choice in field.choices), (kind.name, field.name)
            if kind.searched:
                indexed = await made.pg.sql("SELECT pg_get_indexdef(%s::regclass)", (f"crm.{kind.name}_words",))
                assert all(f"{name}" in indexed[0][0] for name in kind.searched)


async def test_migrations_are_made_once_however_many_start_at_once() -> None:
    async with cluster(18) as pg:

        def begin() -> list[Migration]:
            with psycopg.connect(pg.dsn()) as connection:
                return migrate(connection)

        outcomes = await asyncio.gather(*(asyncio.to_thread(begin) for _ in range(5)))
        assert sorted(map(len, outcomes)) == [0, 0, 0, 0, len(crm_set())]
        changed = [replace(each, text=each.text + " ") if each.number == 2 else each for each in crm_set()]
        for files, message in (
            (changed, "was changed after"),
            (crm_set()[:-1], "made by a newer version"),
            ([*crm_set(), crm_set()[0]], "the same number"),
        ):
            with psycopg.connect(pg.dsn()) as connection, pytest.raises(Refused, match=message):
                migrate(connection, files)
        broken = Migration("crm", 999, "999-broken.sql", "CREATE TABLE crm.half (x int); SELECT nonsense")
        with psycopg.connect(pg.dsn()) as connection, pytest.raises(psycopg.Error):
            migrate(connection, [*crm_set(), broken])
        assert await pg.sql("SELECT to_regclass('crm.half'), max(number) < 999 FROM crm.migrations") == [(None, True)]


def _lists() -> list[tuple[str, Asked]]:
    some = uuid4()
    asked = [(kind.name, Asked()) for kind in KINDS.values()]
    asked += [(kind.name, Asked(deleted=True)) for kind in KINDS.values()]
    asked += [(kind.name, Asked(text="n12")) for kind in KINDS.values() if kind.searched]
    asked += [
        ("contacts", Asked(sort="full_name")),
        ("contacts", Asked(sort="-email")),
        ("accounts", Asked(sort="name")),
        ("products", Asked(sort="name")),
    ]
    for kind, fields in (
        ("contacts", ("account_id",)),
        ("affiliations", ("contact_id", "account_id")),
        ("queries", ("contact_id", "account_id", "product_id", "assignee_id", "team_id")),
        ("requests", ("contact_id", "account_id", "product_id", "assignee_id", "team_id")),
        ("interactions", ("contact_id", "account_id", "query_id", "request_id")),
        ("tasks", ("assignee_id", "record_id")),
        ("deals", ("account_id", "contact_id", "owner_id")),
        ("taggings", ("tag_id", "record_id")),
        ("prices", ("product_id",)),
    ):
        asked += [(kind, Asked((Filter(field, "eq", some),))) for field in fields]
    asked += [(kind, Asked((Filter("status", "eq", "new"),))) for kind in ("queries", "requests")]
    asked += [("deals", Asked((Filter("stage", "eq", "won"),)))]
    return asked


SMALL = ("teams", "users", "tags", "policies")  # dozens of rows, for good


async def _plan(there: Crm, built: Condition) -> str:
    async with there.database.read() as connection:
        found = await connection.execute(psycopg.sql.SQL("EXPLAIN ") + built.text, built.params)
        return "\n".join(row["QUERY PLAN"] for row in await found.fetchall())


async def test_no_list_of_a_page_scans_a_table(there: Crm) -> None:
    for name, asked in _lists():
        if name in SMALL:
            continue
        kind = KINDS[name]
        for actor in (SYSTEM, *([customer(UUID(int=5))] if kind.owner and not asked.deleted else [])):
            for shown in (repository.selected(kind), repository.as_json(kind)):
                plan = await _plan(there, repository.page(actor, kind, asked, shown))
                assert "Seq Scan" not in plan, (name, asked, plan)
                if not asked.filters and not asked.text and not asked.deleted and not actor.is_customer:
                    assert "Sort" not in plan, (name, asked, plan)


async def test_the_next_page_is_where_the_index_goes_on(there: Crm) -> None:
    async with there.database.read() as connection:
        for sort in ("-updated_at", "name", "id"):
            found = await records.page(connection, SYSTEM, KINDS["accounts"], Asked(sort=sort, limit=200))
            assert found.next is not None
            for turned in (Asked(sort=sort, after=found.next), Asked(sort=sort, before=found.next)):
                built = repository.page(SYSTEM, KINDS["accounts"], turned, repository.selected(KINDS["accounts"]))
                plan = await _plan(there, built)
                assert "Index Cond" in plan, plan
                assert "Sort" not in plan, plan


class _Explained:
    """A connection that asks for the plan of each statement before it runs it."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.plans: list[str] = []

    async def execute(self, query: Any, params: Any = None, **more: Any) -> Any:
        text = query if isinstance(query, str) else query.as_string(None)
        found = await self._connection.execute("EXPLAIN " + text, params)
        self.plans.append("\n".join(row["QUERY PLAN"] for row in await found.fetchall()))
        return await self._connection.execute(query, params, **more)


async def test_the_search_the_feed_and_the_timeline_use_their_indexes(there: Crm) -> None:
    async with there.database.read() as connection:
        explained: Any = _Explained(connection)
        await search.search(explained, SYSTEM, "n123 x")
        _, cursor = await feed.changes(explained, SYSTEM, None)
        await feed.changes(explained, SYSTEM, cursor)
        await feed.latest(explained)
        found = await connection.execute("SELECT id FROM crm.tags LIMIT 1")
        tag = (await found.fetchall())[0]["id"]
        await timeline.timeline(explained, SYSTEM, KINDS["tags"], tag)
        await timeline.as_of(explained, SYSTEM, KINDS["tags"], tag, datetime.now(UTC))
    assert len(explained.plans) >= 6
    for plan in explained.plans:
        assert not re.search("Seq Scan on (contacts|accounts|queries|requests|tasks|deals|products|log)", plan), plan
    for plan in explained.plans[1:4]:
        assert "Sort" not in plan, plan


async def test_office_hours_that_were_set_before_they_had_a_history_stay() -> None:
    async with cluster(18) as pg:
        with psycopg.connect(pg.dsn()) as connection:
            migrate(connection, [each for each in crm_set() if each.number < 21])
            connection.execute(
                "INSERT INTO crm.office (zone, opens, closes, days) VALUES ('Asia/Karachi', '08:00', '16:30', '{0,5}')"
            )
            migrate(connection)
        assert await pg.sql("SELECT zone, opens::text, closes::text, days, version FROM crm.office") == [
            ("Asia/Karachi", "08:00:00", "16:30:00", [0, 5], 1)
        ]
        assert await pg.sql("SELECT version, op FROM crm.log WHERE kind = 'office'") == [(1, "create")]
