"""Every page and every list of the API finds its rows by an index: asked for as people ask, explained as it was sent.

Whatever a handler sends while it answers is written down (tests/crm_statements.py) and explained on a database whose
tables are told to be a thousand times as long as they are, so that a scan is what the planner means and not what it
falls into for want of rows. Tables that stay short for good may be scanned.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import pytest_asyncio
from tests.crm import Crm, crm
from tests.crm_statements import Sent, World, recorded, world

from threefold.connectivity.app import edge_set
from threefold.crm.clocks import case_states
from threefold.crm.model.actor import Actor, Role
from threefold.crm.model.errors import Forbidden
from threefold.crm.model.kinds import CASES, KINDS, STAGES
from threefold.crm.pages import listing
from threefold.crm.pages.employee.board import LANES
from threefold.crm.sql.migrate import crm_set, migrate
from threefold.kernel.errors import NotThere

pytestmark = pytest.mark.asyncio(loop_scope="module")

_ROWS = 3_000
_TIMES = 1_000  # as many as that are said to be there
_DEAR = 5_000.0  # a walk through three million rows is 30,000 and more
_PEOPLE = UUID(int=7)


@dataclass
class There:
    crm: Crm
    staff: World
    customer: World
    records: dict[str, UUID]  # one of each kind, with its history


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def there() -> AsyncIterator[There]:
    async with crm(settings={"autovacuum": "off"}) as made:
        with psycopg.connect(made.pg.dsn()) as connection:
            migrate(connection, crm_set(), edge_set())
        records = await _few(made)
        await _many(made)
        administrator = Actor(Role.ADMINISTRATOR, user=_PEOPLE, device=uuid4(), name="Ada")
        customer = Actor(Role.CUSTOMER, user=records["customer"], contact=records["contacts"], name="Cy")
        async with (
            world(made.database, administrator, Path("/nowhere")) as staff,
            world(made.database, customer, Path("/nowhere")) as theirs,
        ):
            yield There(made, staff, theirs, records)


async def _few(made: Crm) -> dict[str, UUID]:
    """Whole records, as the CRM makes them."""
    found: dict[str, UUID] = {}

    async def create(kind: str, /, **values: Any) -> None:
        found[kind] = (await made.create(kind, **values))["id"]

    await create("users", full_name="Ada", email="ada@example.com", role="administrator", id=_PEOPLE)
    await create("teams", name="Support")
    minutes = {"first_response_minutes": 60, "resolution_minutes": 480}
    await create("policies", name="Urgent", record_kind="queries", priority=1, **minutes)
    await create("accounts", name="Acme")
    await create("contacts", full_name="Cy Young", email="cy@example.com", account_id=found["accounts"])
    customer = {"full_name": "Cy", "email": "cy2@example.com", "role": "customer", "contact_id": found["contacts"]}
    found["customer"] = (await made.create("users", **customer))["id"]
    await create("affiliations", contact_id=found["contacts"], account_id=found["accounts"])
    await create("products", name="Router", sku="R-1", price_cents=100)
    await create("prices", product_id=found["products"], currency="EUR", price_cents=1, valid_from="2026-01-01")
    about = {"contact_id": found["contacts"], "product_id": found["products"], "subject": "It broke"}
    await create("queries", **about)
    await create("requests", **about, kind="repair")
    await create("interactions", contact_id=found["contacts"], query_id=found["queries"], body="hello")
    await create("tasks", subject="Call", record_kind="contacts", record_id=found["contacts"])
    await create("deals", name="A deal", account_id=found["accounts"], contact_id=found["contacts"])
    await create("tags", name="vip")
    await create("taggings", tag_id=found["tags"], record_kind="contacts", record_id=found["contacts"])
    return found


async def _many(made: Crm) -> None:
    """Rows that are only there to be many; statistics that say a thousand times as many."""
    cases = "(ARRAY['new', 'waiting', 'closed'])[n % 3 + 1]"
    some = "gen_random_uuid()"
    fill = {
        "contacts": ("full_name, email, phone, account_id", f"'N' || n, n || '@x.example', n::text, {some}"),
        "accounts": ("name", "'A' || n"),
        "affiliations": ("contact_id, account_id", f"{some}, {some}"),
        "products": ("name, sku, price_cents", "'P' || n, n, n"),
        "prices": ("product_id, currency, price_cents, valid_from", f"{some}, 'EUR', n, '2026-01-01'"),
        "queries": (
            "subject, contact_id, account_id, product_id, status",
            f"'Q' || n, {some}, {some}, {some}, {cases}",
        ),
        "requests": (
            "subject, contact_id, account_id, product_id, kind, status",
            f"'R' || n, {some}, {some}, {some}, 'repair', replace({cases}, 'closed', 'done')",
        ),
        "interactions": ("body, contact_id, query_id", f"'I', {some}, {some}"),
        "tasks": ("subject, assignee_id, due_at", f"'T' || n, {some}, now()"),
        "deals": ("name, account_id, stage", f"'D' || n, {some}, (ARRAY['lead', 'won'])[n % 2 + 1]"),
        "taggings": ("tag_id, record_kind, record_id", f"{some}, 'deals', {some}"),
        "users": ("full_name, email, role, contact_id", f"'U' || n, n || '@y.example', 'customer', {some}"),
    }
    async with await psycopg.AsyncConnection.connect(made.pg.dsn(), autocommit=True) as connection:
        await connection.execute("SET session_replication_role = replica")
        for kind, (columns, values) in fill.items():
            deleted = "CASE WHEN n % 50 = 0 THEN now() END"
            await connection.execute(
                f"INSERT INTO crm.{kind} (id, {columns}, updated_at, deleted_at) SELECT gen_random_uuid(), {values},"
                f" now() - n * interval '1 min', {deleted} FROM generate_series(1, {_ROWS}) n".encode()
            )
        await connection.execute(
            "INSERT INTO crm.log (record_id, version, kind, op, at, digest, hash, tx) SELECT gen_random_uuid(), 1,"
            f" 'tags', 'create', now(), '', '', '1' FROM generate_series(1, {_ROWS})".encode()
        )
        await connection.execute("INSERT INTO crm.blobs VALUES (sha256('x'), 1, 'x')")
        await connection.execute(
            "INSERT INTO crm.attachments (id, record_kind, record_id, name, media_type, size, sha256) SELECT"
            " gen_random_uuid(), 'contacts', gen_random_uuid(), 'x', 'x', 1, sha256('x')"
            f" FROM generate_series(1, {_ROWS})".encode()
        )
        await connection.execute("VACUUM ANALYZE")
        # What the planner takes a table's size from: rows a page, times the pages that there are.
        await connection.execute(
            "SELECT pg_restore_relation_stats('schemaname', 'crm', 'relname', relname::text, 'relpages', relpages,"
            f" 'reltuples', (reltuples * {_TIMES})::real) FROM pg_class WHERE relnamespace = 'crm'::regnamespace"
            " AND relkind = 'r' AND relpages > 0 AND reltuples >= 1000".encode()
        )


async def _walks(there: There, sent: list[Sent]) -> list[str]:
    """The statements whose plan looks at a good part of a long table, with their plans.

    That is said by the price, and not by the word: an index that does not fit is walked through from end to end as
    well, and a scan below a limit is soon over.
    """
    found = []
    async with there.crm.database.read() as connection:
        for one in {each.text: each for each in sent}.values():
            if not re.match(r"\s*\(*\s*(SELECT|WITH)\b", one.text):
                continue
            cursor = await connection.execute(b"EXPLAIN " + one.text.encode(), one.params, prepare=False)
            plan = "\n".join(row["QUERY PLAN"] for row in await cursor.fetchall())
            whole = re.search(r"\.\.([\d.]+) ", plan)
            assert whole is not None
            if float(whole[1]) > _DEAR:
                found.append(f"{' '.join(one.text.split())}\n{one.params}\n{plan}")
    return found


def _pages(records: dict[str, UUID]) -> list[str]:
    """Of employees and administrators."""
    asked = ["/queue", *(f"/queue?show={show}" for show in ("mine", "team", "unassigned", "all"))]
    asked += ["/search?q=n12+x", "/duplicates", "/import", "/outbox", "/me"]
    asked += ["/admin", "/admin/people", "/admin/customers", "/admin/teams", "/admin/policies", "/admin/webhooks"]
    asked += ["/bin/files", "/admin/settings", "/admin/audit", "/admin/audit/changes?did=binned&since=2026-01-01"]
    asked += [
        "/admin/audit/changes?since=2026-01-01&until=2026-01-02",
        "/admin/audit/changes",
        "/admin/audit/erasures",
        f"/admin/people/{_PEOPLE}",
    ]
    asked += [f"/board?kind={kind}{mine}" for kind in LANES for mine in ("", "&mine=true")]
    for name, kind in KINDS.items():
        asked += [f"/records/{name}", f"/bin?kind={name}", f"/pick/{name}"]
        asked += [f"/records/{name}?sort={way}{column}" for column in listing.SORTED.get(name, ()) for way in ("", "-")]
        if kind.searched:
            asked += [f"/records/{name}?q=n12", f"/pick/{name}?q=n12"]
        asked += [f"/records/{name}/{records[name]}", f"/records/{name}/{records[name]}?at=2100-01-01T00:00:00Z"]
        asked += [f"/records/{name}/new", f"/records/{name}/{records[name]}/edit"]
    for case in CASES:
        asked += [f"/records/{case}?assignee_id={_PEOPLE}", f"/records/{case}?assignee_id=none"]
        asked += [f"/records/{case}?status={state}" for state in (*case_states.running(case), "waiting")]
    return [*asked, *(f"/records/deals?stage={stage}" for stage in STAGES), f"/records/deals?owner_id={_PEOPLE}"]


def _api(records: dict[str, UUID]) -> list[str]:
    asked = [
        "/search?q=n12+x",
        "/changes",
        "/queue",
        "/queue?mine=true",
        "/me",
        "/batches",
        "/imports",
        "/views?kind=contacts",
    ]
    asked += ["/attachments/deleted", "/office", "/settings"]
    asked += ["/webhooks", "/contacts/duplicates", "/contacts/merges", "/contacts?deleted=true"]
    for name, kind in KINDS.items():
        asked += [f"/{name}", f"/{name}/{records[name]}", f"/{name}/{records[name]}/timeline", f"/{name}?sort=id"]
        asked += [f"/{name}?sort={way}{column}" for column in listing.SORTED.get(name, ()) for way in ("", "-")]
        asked += [f"/{name}?{field.name}={records[field.refers]}" for field in kind.fields if field.refers in _LINKS]
    return [f"/api/v1{target}" for target in asked]


_LINKS = ("accounts", "contacts", "products", "queries", "requests", "tags")


async def _turned(who: World, target: str) -> list[str]:
    """The addresses of the page that follows and of the one before that, as the page itself links to them."""
    found: list[str] = []
    for way in ("next", "prev"):
        try:
            body = (await who.ask("GET", found[-1] if found else target)).body.decode(errors="replace")
        except (NotThere, Forbidden):
            return found
        if body.startswith('{"items"'):
            cursor = json.loads(body).get(way)
            sign = "&" if "?" in target else "?"
            link = f"{target}{sign}{'after' if way == 'next' else 'before'}={cursor}" if cursor else ""
        else:
            told = re.search(rf'href="([^"]+)" rel="{way}"', body)
            link = html.unescape(told[1]) if told else ""
        if not link:
            return found
        found.append(link)
    return found


async def test_no_page_and_no_list_walks_through_a_long_table(there: There) -> None:
    wrong: dict[str, list[str]] = {}
    asked = [(there.staff, target) for target in (*_pages(there.records), *_api(there.records))]
    mine = there.records
    own = ["/", "/report", "/products", f"/products/{mine['products']}"]
    own += [f"/cases/{kind}/{mine[kind]}" for kind in CASES]
    own += [f"/api/v1/{kind}" for kind in ("queries", "requests", "interactions", "contacts", "products")]
    asked += [(there.customer, target) for target in own]
    for who, target in [*asked]:  # and each list that goes on: further on, and back again
        asked += [(who, each) for each in await _turned(who, target)]
    seen = 0
    for who, target in asked:
        with recorded() as sent:
            try:
                answer = await who.ask("GET", target)
            except (NotThere, Forbidden):  # a page that this kind does not have
                continue
        assert answer.status in {200, 303, 307}, (target, answer)
        seen += len(sent)
        if scans := await _walks(there, sent):
            wrong[target] = scans
    assert seen > 500
    assert not wrong, "\n\n".join(f"=== {target}\n" + "\n\n".join(scans) for target, scans in wrong.items())
