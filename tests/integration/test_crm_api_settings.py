"""What administrators set for the whole CRM, over the API: based on a version, in the data log, and nobody else's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.api_world import Api, api

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOURS = {"zone": "Europe/Berlin", "opens": "08:30", "closes": "18:00", "days": [0, 2, 4]}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world() -> AsyncIterator[Api]:
    async with api() as made:
        yield made


async def _logged(world: Api, kind: str) -> list[tuple[Any, ...]]:
    return await world.pg.sql(
        f"SELECT version, op, actor::text, (changes -> 'zone') ->> 1 FROM crm.log WHERE kind = '{kind}'"
        " ORDER BY version"
    )


async def test_office_hours_are_read_and_set_by_version_and_are_in_the_data_log(world: Api) -> None:
    first = await world.ask("GET", "/office")
    assert first.json() == {"zone": "UTC", "opens": "09:00", "closes": "17:00", "days": [0, 1, 2, 3, 4], "version": 1}
    unchanged = await world.ask("GET", "/office", headers={"If-None-Match": first.headers["etag"]})
    assert (unchanged.status, unchanged.body) == (304, b"")
    done = await world.ask("PUT", "/office", HOURS, by="administrator", match=first.headers["etag"], key="hours-1")
    assert (done.status, done.headers["etag"], done.json()) == (200, '"2"', {**HOURS, "version": 2})
    again = await world.ask("PUT", "/office", HOURS, by="administrator", match=first.headers["etag"], key="hours-1")
    assert (again.status, again.body) == (200, done.body), "a repeated request gets the first answer"
    late = await world.ask("PUT", "/office", HOURS, by="administrator", match=first.headers["etag"])
    assert (late.status, late.code) == (412, "stale")
    assert (await world.ask("PUT", "/office", HOURS, by="administrator")).status == 428
    ada = world.who("administrator")["id"]
    assert await _logged(world, "office") == [(1, "create", None, None), (2, "update", ada, "Europe/Berlin")]
    told = (await world.ask("GET", "/changes", limit=1000)).json()["items"]
    assert [each["changes"]["zone"] for each in told if each["kind"] == "office" and each["changes"]] == [
        ["UTC", "Europe/Berlin"]
    ]


async def test_only_administrators_set_anything_and_customers_know_of_nothing(world: Api) -> None:
    for path, content in (("/office", HOURS), ("/settings", {})):
        for person, status in (("employee", 403), ("customer", 404)):
            answer = await world.ask("PUT", path, content, by=person, match='"2"')
            assert answer.status == status, (path, person, answer.body)
    assert (await world.ask("GET", "/office", by="customer")).status == 404
    assert (await world.ask("GET", "/settings", by="customer")).status == 404
    assert (await world.ask("GET", "/settings")).status == 403


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"zone": "Europe/Nowhere"}, "zone"),
        ({"zone": "../etc/passwd"}, "zone"),
        ({"opens": "8:30"}, "opens"),
        ({"closes": "24:00"}, "closes"),
        ({"closes": "08:30"}, "closes"),
        ({"days": []}, "days"),
        ({"days": [7]}, "days"),
        ({"days": [1, 1]}, "days"),
        ({"holidays": []}, "holidays"),
    ],
)
async def test_hours_that_cannot_be_are_refused_by_field(world: Api, wrong: dict[str, Any], field: str) -> None:
    answer = await world.ask("PUT", "/office", HOURS | wrong, by="administrator", match='"2"')
    assert answer.status == 422, answer.body
    assert any(name.startswith(field) for name in answer.json()["fields"]), answer.body


async def test_settings_are_set_by_version_and_within_bounds(world: Api) -> None:
    first = await world.ask("GET", "/settings", by="administrator")
    given = first.json()
    assert given == {"files_per_customer": 500, "mib_per_customer": 1024, "audit_days": None, "version": 1}
    wanted = {"files_per_customer": 3, "mib_per_customer": 5, "audit_days": 365}
    done = await world.ask("PUT", "/settings", wanted, by="administrator", match=first.headers["etag"])
    assert done.json() == {**wanted, "version": 2}
    late = await world.ask("PUT", "/settings", wanted, by="administrator", match=first.headers["etag"])
    assert late.code == "stale"
    for wrong in ({"audit_days": 29}, {"files_per_customer": -1}, {"mib_per_customer": 10**9}):
        answer = await world.ask("PUT", "/settings", wanted | wrong, by="administrator", match='"2"')
        assert (answer.status, next(iter(answer.json()["fields"])).partition(".")[0]) == (422, *wrong), answer.body
    back = await world.ask("PUT", "/settings", wanted | {"audit_days": None}, by="administrator", match='"2"')
    assert back.json()["audit_days"] is None
