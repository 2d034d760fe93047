"""The employees' and administrators' pages do not exist for customers, whatever they send and whosever it is about."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from tests.crm import crm, customer
from tests.crm_statements import world

from threefold.crm.cases import cases
from threefold.crm.model.kinds import KINDS
from threefold.crm.pages import admin, employee
from threefold.kernel.errors import NotThere

FORM = {"content-type": "application/x-www-form-urlencoded"}


def _routes(router: Any) -> Iterator[tuple[str, str]]:
    """FastAPI keeps an included router as one route around it."""
    for route in router.routes:
        if hasattr(route, "methods"):
            yield from ((method, route.path) for method in sorted(route.methods))
        else:
            yield from _routes(getattr(route, "original_router", route))


@pytest.mark.asyncio
async def test_no_page_of_the_staff_is_a_customers() -> None:
    routes = [*_routes(employee.router), *_routes(admin.router)]
    assert len(routes) > 50
    async with crm() as there:
        contact = (await there.contact())["id"]
        asker = customer(contact)
        async with there.database.write(asker) as tx:
            case = await cases.open_case(tx, KINDS["queries"], {"subject": "My own"})
        before = await there.pg.sql("SELECT count(*) FROM crm.log")
        async with world(there.database, asker) as asked:
            for method, path in routes:
                for kind, record in (("queries", case["id"]), ("contacts", contact)):
                    target = re.sub(r"\{\w+\}", str(record), path.replace("{kind}", kind))
                    sent = None if method == "GET" else b"body=x&name=x&kind=queries&record=" + str(record).encode()
                    with pytest.raises(NotThere):
                        await asked.ask(method, target, sent, headers=FORM if sent else {})
        assert await there.pg.sql("SELECT count(*) FROM crm.log") == before
