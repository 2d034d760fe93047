"""What is asked often finds its rows by an index: the queue, what is late, duplicates, deliveries, files."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from tests.crm import EMPLOYEE, Crm, crm

from threefold.crm.cases import cases
from threefold.crm.exchange import courier, webhooks
from threefold.crm.model.actor import SYSTEM
from threefold.crm.model.kinds import KINDS
from threefold.crm.records import attachments, merge

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def there() -> AsyncIterator[Crm]:
    async with crm() as made:
        await made.pg.sql(
            "INSERT INTO crm.contacts (id, full_name, email, phone) SELECT gen_random_uuid(), 'N' || n,"
            " n || '@x.example', n::text FROM generate_series(1, 5000) n"
        )
        for kind, more in (("queries", ""), ("requests", ", kind")):
            await made.pg.sql(
                f"INSERT INTO crm.{kind} (id, contact_id, subject, status, first_response_due_at,"
                f" resolution_due_at{more}) SELECT gen_random_uuid(), gen_random_uuid(), 's',"
                " (ARRAY['new', 'waiting', 'waiting'])[n % 3 + 1], now() + n * interval '1 min',"
                f" now() + n * interval '2 min'{more and chr(44)}{more and repr('repair')}"
                " FROM generate_series(1, 5000) n"
            )
        await made.pg.sql("VACUUM ANALYZE")
        yield made


class _Explained:
    """A connection that asks for the plan of each SELECT before it runs it."""

    def __init__(self, connection: Any, plans: list[str]) -> None:
        self._connection = connection
        self._plans = plans

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def execute(self, query: Any, params: Any = None, **more: Any) -> Any:
        text = query if isinstance(query, (str, bytes)) else query.as_string(None)
        text = text.decode() if isinstance(text, bytes) else text
        if re.match(r"\s*\(?(SELECT|WITH|UPDATE|DELETE)\b", text):
            found = await self._connection.execute("EXPLAIN " + text, params)
            self._plans += ["\n".join(row["QUERY PLAN"] for row in await found.fetchall())]
        return await self._connection.execute(query, params, **more)


async def test_every_query_finds_its_rows_by_an_index(there: Crm) -> None:
    plans: list[str] = []
    async with there.database.read() as plain:
        connection: Any = _Explained(plain, plans)
        await cases.queue(connection, EMPLOYEE)
        await cases.queue(connection, EMPLOYEE, mine=True)
        await cases.queue(connection, EMPLOYEE, team=uuid4())
        await merge.duplicates(connection, KINDS["contacts"])
    async with there.database.write(SYSTEM) as tx:
        tx.connection = connection = _Explained(tx.connection, plans)
        await cases.escalate_due(tx)
    # (The names beside a queue, "contacts c", are hashed while there are so few contacts.)
    walked = [plan for plan in plans if re.search(r"Seq Scan on (queries|requests|contacts)(?! c\b)", plan)]
    assert len(plans) >= 7
    # Duplicates walk the whole of a narrow index in its order, and stop as soon as there are enough.
    assert not walked, "\n\n".join(walked)


async def test_deliveries_and_files_of_one_are_found_among_many(there: Crm) -> None:
    contact = await there.contact()
    async with there.database.write(SYSTEM) as tx:
        hook = await webhooks.subscribe(tx, "https://example.com/")
    await there.pg.sql(
        "INSERT INTO crm.webhooks (id, url, kinds, secret) SELECT gen_random_uuid(), '', '{}', '' FROM"
        " generate_series(1, 20)"
    )
    await there.pg.sql(
        "INSERT INTO crm.deliveries (id, webhook_id, body, kind, record_id, record_version) SELECT gen_random_uuid(),"
        " w.id, '', 'tags', gen_random_uuid(), 1 FROM crm.webhooks w, generate_series(1, 500)"
    )
    await there.pg.sql("INSERT INTO crm.blobs VALUES (sha256('x'), 1, 'x')")
    await there.pg.sql(
        "INSERT INTO crm.attachments (id, record_kind, record_id, name, media_type, size, sha256) SELECT"
        " gen_random_uuid(), 'contacts', gen_random_uuid(), 'x', 'x', 1, sha256('x') FROM generate_series(1, 5000)"
    )
    await there.pg.sql("VACUUM ANALYZE crm.deliveries, crm.attachments, crm.webhooks")
    plans: list[str] = []
    async with there.database.read() as plain:
        connection: Any = _Explained(plain, plans)
        await webhooks.deliveries(connection, hook["id"])
        await attachments.of(connection, EMPLOYEE, KINDS["contacts"], contact["id"])
        await connection.execute(courier._DUE)
    bad = [plan for plan in plans if re.search(r"Seq Scan on (deliveries|attachments)", plan)]
    assert not bad, "\n\n".join(bad)
