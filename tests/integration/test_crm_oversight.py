"""What administrators look at over the whole CRM, page by page, against a real PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import pytest_asyncio
from tests.crm import Crm, crm

from threefold.crm.cases import oversight
from threefold.crm.model.actor import Actor, Role
from threefold.crm.model.paging import Place
from threefold.kernel.errors import BadInput

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def made() -> AsyncIterator[Crm]:
    async with crm() as found:
        yield found


async def _changes(made: Crm, most: int, **asked: Any) -> list[tuple[UUID, int]]:
    """All of them, page by page."""
    found: list[tuple[UUID, int]] = []
    before: str | None = None
    while True:
        async with made.database.read() as connection:
            rows, before = await oversight.changes(connection, before=before, most=most, **asked)
        assert len(rows) <= most
        found += [(row["record_id"], row["version"]) for row in rows]
        assert len(found) < 1_000, "it goes round in circles"
        if before is None:
            return found


async def _log(made: Crm, where: str = "true") -> list[tuple[UUID, int]]:
    """The tests' own statement, all at once."""
    rows = await made.pg.sql(f"SELECT record_id, version FROM crm.log WHERE {where} ORDER BY tx DESC, position DESC")
    return [(record, version) for record, version in rows]


async def test_changes_are_each_told_once_whatever_the_page_and_the_filter(
    made: Crm, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = Actor(Role.ADMINISTRATOR, user=uuid4(), name="Ada")
    for number in range(9):
        account = await made.create("accounts", ada if number % 4 == 0 else Actor(Role.EMPLOYEE), name=f"A{number}")
        if number % 3 == 0:
            await made.update("accounts", account, ada, city="Bremen")
        await made.contact()
    for looked in (3, 2_000):  # so few that a page is short, or empty, and yet not the last
        monkeypatch.setattr(oversight, "LOOKED", looked)
        for most in (1, 2, 50):
            assert await _changes(made, most) == await _log(made)
            assert await _changes(made, most, kind="accounts") == await _log(made, "kind = 'accounts'")
            assert await _changes(made, most, user=ada.user) == await _log(made, f"actor = '{ada.user}'")
            assert await _changes(made, most, kind="deals") == []
    assert len(await _changes(made, 50, user=ada.user)) == 6


async def test_changes_are_found_by_day_and_by_what_was_done(made: Crm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are put far apart by hand: the log's order is that of its transactions, and times follow it nearly."""
    tasks = [await made.create("tasks", subject=f"T{number}") for number in range(12)]
    await made.delete("tasks", tasks[3]["id"])
    await made.restore("tasks", tasks[3]["id"])
    await made.update("tasks", await made.get("tasks", tasks[5]["id"]), subject="T5, changed")
    begun = datetime(2020, 1, 1, tzinfo=UTC)
    async with await psycopg.AsyncConnection.connect(made.pg.dsn(), autocommit=True) as connection:
        await connection.execute("SET session_replication_role = replica")
        wobble = "CASE WHEN n %% 2 = 0 THEN interval '50 min' ELSE interval '0' END"
        await connection.execute(
            f"UPDATE crm.log l SET at = %s + n * interval '6 hours' + {wobble} FROM (SELECT record_id, version,"
            " row_number() OVER (ORDER BY tx, position) AS n FROM crm.log) o WHERE (o.record_id, o.version) ="
            " (l.record_id, l.version)".encode(),
            [begun],
        )
    last = (await made.pg.sql("SELECT max(at) FROM crm.log"))[0][0]
    for looked in (3, 2_000):
        monkeypatch.setattr(oversight, "LOOKED", looked)
        for did, where in (
            ("binned", "changes -> 'deleted_at' ->> 1 IS NOT NULL"),
            ("restored", "changes -> 'deleted_at' ->> 0 IS NOT NULL"),
            ("update", "op = 'update' AND NOT changes ? 'deleted_at'"),
            ("create", "op = 'create'"),
        ):
            assert await _changes(made, 2, did=did) == await _log(made, where), did
        for first, days in ((0, 1), (1, 1), (2, 3), (-5, 2), (0, 400), (400, 5)):
            since, until = begun + timedelta(days=first), begun + timedelta(days=first + days)
            within = f"at >= '{since}' AND at < '{until}'"
            assert await _changes(made, 4, since=since, until=until) == await _log(made, within), (first, days)
            assert await _changes(made, 4, until=since) == await _log(made, f"at < '{since}'")
            assert await _changes(made, 4, since=since) == await _log(made, f"at >= '{since}'")
    assert await _changes(made, 4, since=last, kind="tasks", did="create") == []


async def test_a_page_of_an_empty_log_is_the_last(made: Crm) -> None:
    async with made.database.read() as connection:
        assert await oversight.changes(connection, before="1.1") == ([], None)


@pytest.mark.parametrize("before", ["x", "1", "1.", "1.2.3", "-1.2", "9" * 30 + ".1", "\u0664.1"])
async def test_what_is_no_place_is_refused(made: Crm, before: str) -> None:
    async with made.database.read() as connection:
        with pytest.raises(BadInput):
            await oversight.changes(connection, before=before)


async def test_customers_by_name_page_by_page(made: Crm) -> None:
    names = ["Ann", "Ben", "Ben", "Ben%", "Cy", "\u00c4nne"]
    for name in names:
        contact = await made.contact()
        values = {"full_name": name, "email": f"{uuid4().hex}@example.com", "role": "customer"}
        await made.create("users", **values, contact_id=contact["id"])
    await made.create("users", full_name="Ada", email="ada@example.com", role="administrator")

    async def all_of(text: str) -> list[str]:
        found, after = list[str](), None
        while True:
            async with made.database.read() as connection:
                rows, _, after = await oversight.customers(connection, text, after, most=2)
            found += [row["full_name"] for row in rows]
            if after is None:
                return found

    assert sorted(await all_of("")) == sorted(names)
    assert await all_of("ben") == ["Ben", "Ben", "Ben%"]
    assert await all_of("Ben%") == ["Ben%"], "what people type is no pattern"
    async with made.database.read() as connection:
        with pytest.raises(BadInput):
            await oversight.customers(connection, after=Place("-at", "x", uuid4()).encoded())
        figures = await oversight.figures(connection)
    assert (figures["customers"], figures["administrators"]) == (len(names), 1)
