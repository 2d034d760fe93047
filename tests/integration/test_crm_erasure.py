"""Erased persons are gone from everywhere, the data log still proves itself, and no recovery brings them back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from tests.crm import EMPLOYEE, Crm, crm, customer

from threefold.crm.cases import cases
from threefold.crm.datalog import log
from threefold.crm.desk import Row, Tx
from threefold.crm.erasing import erasure
from threefold.crm.erasing.erasure_ledger import ErasureLedger
from threefold.crm.exchange import imports
from threefold.crm.model.actor import SYSTEM, Actor
from threefold.crm.model.errors import Conflict, Forbidden
from threefold.crm.model.kinds import KINDS
from threefold.crm.records import attachments, batches, merge, views
from threefold.kernel.errors import Damaged, NotThere, Unavailable

pytestmark = pytest.mark.asyncio(loop_scope="module")
CONTACTS, QUERIES = KINDS["contacts"], KINDS["queries"]
SECRET = "Xanthippe"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def there() -> AsyncIterator[Crm]:
    async with crm() as made:
        yield made


async def _do(there: Crm, actor: Actor, what: Any, *args: Any, **more: Any) -> Any:
    async with there.database.write(actor) as tx:
        return await what(tx, *args, **more)


async def _person(there: Crm) -> tuple[Row, Row]:
    """A contact, and one that was merged into it; her name is in everything that can hold words."""
    made = []
    for _ in range(2):
        contact = await there.create(
            "contacts", full_name=SECRET, email=f"{SECRET}.{uuid4().hex}@x.example", phone="123", role=SECRET
        )
        about: dict[str, Any] = {"contact_id": str(contact["id"])}
        case = await there.create("queries", subject=SECRET, body=SECRET, **about)
        await there.update("queries", case, body=f"{SECRET} again")
        await there.create("requests", subject=SECRET, kind="repair", **about)
        await _do(there, SYSTEM, cases.answer, QUERIES, case["id"], f"Dear {SECRET}")
        task = await there.create("tasks", subject=SECRET, record_kind="queries", record_id=str(case["id"]))
        await there.create("tasks", subject=SECRET, record_kind="tasks", record_id=str(task["id"]))
        mail = f"{SECRET}{uuid4().hex}@x.example"
        await there.create("users", full_name=SECRET, email=mail, role="customer", **about)
        await _do(there, SYSTEM, attachments.put, QUERIES, case["id"], f"{SECRET}.txt", "text/plain", SECRET.encode())
        paper = f"{SECRET} on paper".encode()
        await _do(there, EMPLOYEE, attachments.put, KINDS["tasks"], task["id"], f"{SECRET}.pdf", "", paper)
        await _do(there, EMPLOYEE, views.save, CONTACTS, f"where is {contact['email']}", shared=True)
        await _do(there, EMPLOYEE, views.save, CONTACTS, "somebody", urlencode({"email": contact["email"]}))
        await _do(there, EMPLOYEE, views.save, CONTACTS, "nobody in particular", "email.contains=example")
        await _do(there, EMPLOYEE, batches.apply, QUERIES, [(case["id"], None)], {"subject": f"about {SECRET}"})
        made.append(contact)
    await _do(there, EMPLOYEE, merge.merge, CONTACTS, made[0]["id"], made[1]["id"], {"email": "drop"})
    return made[0], made[1]


async def _found(there: Crm) -> list[str]:
    """Where in the whole database her name still is."""
    tables = await there.pg.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'crm'")
    where = []
    for (name,) in tables:
        rows = await there.pg.sql(
            f"SELECT count(*) FROM crm.{name} t WHERE to_jsonb(t)::text ~* '{SECRET}|{SECRET.encode().hex()}'"
        )
        where += [name] if rows[0][0] else []
    return where


async def _verified(there: Crm) -> log.Report:
    async with there.database.read() as connection:
        return await log.verify(connection)


async def test_a_person_is_gone_from_everywhere_and_the_log_proves_itself(there: Crm, tmp_path: Path) -> None:
    contact, other = await _person(there)
    for header in ("name,email", f"{SECRET},{SECRET}@x.example"):  # some files have none, and some never come to an end
        file = f"{header}\n{SECRET},x@x.example\n".encode()
        upload = await _do(there, EMPLOYEE, imports.upload, CONTACTS, "x.csv", file)
        await there.pg.sql("UPDATE crm.imports SET status = 'running' WHERE id = %s", [upload["id"]])
    bystander = await there.contact(phone="7")
    ledger = ErasureLedger(tmp_path / "kept" / "erasures.jsonl")
    assert {"contacts", "log", "merges", "batches", "attachments", "blobs", "imports", "views"} <= set(
        await _found(there)
    )
    told: list[erasure.Erased] = []

    async def hook(tx: Tx, erased: erasure.Erased) -> None:
        assert not ledger.path.exists()
        told.append(erased)

    with pytest.raises(Conflict, match="merged into"):
        await _do(there, SYSTEM, erasure.erase, other["id"], "asked for it", ledger)
    row = await _do(there, SYSTEM, erasure.erase, contact["id"], "asked for it", ledger, [hook])
    assert (row["contact_id"], row["reason"]) == (contact["id"], "asked for it")
    assert await _found(there) == []
    assert (set(told[0].contacts), len(told[0].users)) == ({contact["id"], other["id"]}, 2)
    now = await there.get("contacts", contact["id"])
    assert (now["full_name"], now["email"]) == ("Erased person", f"erased-{contact['id'].hex[-12:]}@invalid.example")
    assert now["do_not_contact"]
    assert await there.pg.sql("SELECT count(*) FROM crm.users WHERE active AND contact_id = %s", [contact["id"]]) == [
        (0,)
    ]
    assert (await there.get("contacts", bystander["id"]))["phone"] == "7"
    assert await there.pg.sql("SELECT name FROM crm.views") == [("nobody in particular",)]
    report = await _verified(there)
    assert report.sound, report.broken
    assert report.erased > 10
    lines = [json.loads(line) for line in ledger.path.read_text().splitlines()]
    assert {UUID(line["contact"]) for line in lines} == {contact["id"], other["id"]}
    assert all(set(line) == {"contact", "at"} for line in lines)
    async with there.database.read() as connection:
        (merged,) = await merge.merges(connection, CONTACTS, 1)
    with pytest.raises(Conflict, match="erased"):
        await _do(there, EMPLOYEE, merge.undo, merged["id"])
    await _do(there, SYSTEM, erasure.erase, contact["id"], "again", ledger)
    assert (await _verified(there)).sound


async def test_nobody_else_may_and_a_ledger_that_cannot_be_written_stops_it(there: Crm, tmp_path: Path) -> None:
    contact = await there.contact()
    ledger = ErasureLedger(tmp_path / "erasures.jsonl")
    with pytest.raises(Forbidden):
        await _do(there, EMPLOYEE, erasure.erase, contact["id"], "", ledger)
    with pytest.raises(NotThere):
        await _do(there, customer(contact["id"]), erasure.erase, contact["id"], "", ledger)
    with pytest.raises(NotThere):
        await _do(there, SYSTEM, erasure.erase, uuid4(), "", ledger)
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="ledger"):
        await _do(there, SYSTEM, erasure.erase, contact["id"], "", ErasureLedger(tmp_path / "file" / "erasures.jsonl"))
    assert (await there.get("contacts", contact["id"]))["full_name"] == "Ada"
    assert ledger.read() == []


async def test_a_recovery_to_an_earlier_time_brings_nobody_back(tmp_path: Path) -> None:
    async with crm() as there:
        contact, other = await _person(there)
        whole = await asyncio.to_thread(there.pg.run, "pg_dump", "-Fp", "--inserts", there.pg.dsn())
        ledger = ErasureLedger(tmp_path / "erasures.jsonl")
        await _do(there, SYSTEM, erasure.erase, contact["id"], "asked", ledger)
        assert await erasure.replay(there.database, ledger) == []
    # The earlier state: as dumped before the erasure, the merge undone as if it had come later.
    async with crm() as there:
        await there.pg.sql("DROP SCHEMA crm CASCADE")
        dump = there.pg.folder / "dump.sql"
        dump.write_text(whole.stdout)
        await asyncio.to_thread(there.pg.run, "psql", "-q", "-v", "ON_ERROR_STOP=1", "-f", dump, there.pg.dsn())
        assert set(await _found(there)) >= {"contacts", "queries", "blobs"}
        async with there.database.read() as connection:
            (merged,) = await merge.merges(connection, CONTACTS)
        await _do(there, EMPLOYEE, merge.undo, merged["id"])
        assert set(await erasure.replay(there.database, ledger)) == {contact["id"], other["id"]}
        assert await _found(there) == []
        assert await erasure.replay(there.database, ledger) == []
        assert (await _verified(there)).sound


async def test_a_torn_line_is_nobodys_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    ledger = ErasureLedger(tmp_path / "erasures.jsonl")
    one, two, three = uuid4(), uuid4(), uuid4()
    await ledger.append([one], "now")
    with ledger.path.open("ab") as file:
        file.write(b'{"contact": "' + str(two).encode()[:20])
    assert ledger.read() == [one]
    await asyncio.gather(*(ledger.append([each], "now") for each in (two, three, one)))
    assert set(ledger.read()) == {one, two, three}
    text = ledger.path.read_text()
    ledger.path.write_text(text.replace(str(one), "nobody"))
    with pytest.raises(Damaged, match="line 1"):
        ledger.read()
