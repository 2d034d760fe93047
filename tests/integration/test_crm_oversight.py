"""What administrators look at over the whole CRM, page by page, against a real PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

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
