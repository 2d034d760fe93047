"""CSV in and out: all rows or none, faults by row and column, and what goes out comes back the same."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from tests.crm import EMPLOYEE, Crm, crm, customer

from threefold.crm.datalog import log
from threefold.crm.exchange import exports, import_rules, imports
from threefold.crm.model import validating
from threefold.crm.model.actor import SYSTEM, Actor
from threefold.crm.model.asking import Asked, Filter, parse
from threefold.crm.model.errors import Conflict, Invalid
from threefold.crm.model.kinds import KINDS, Field, Type
from threefold.kernel.clock import SystemClock
from threefold.kernel.errors import NotThere

pytestmark = pytest.mark.asyncio(loop_scope="module")
CONTACTS, ACCOUNTS, PRODUCTS = KINDS["contacts"], KINDS["accounts"], KINDS["products"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def there() -> AsyncIterator[Crm]:
    async with crm() as made:
        yield made


async def _do(there: Crm, actor: Actor, what: Any, *args: Any, **more: Any) -> Any:
    async with there.database.write(actor) as tx:
        return await what(tx, *args, **more)


async def _upload(there: Crm, text: str | bytes, kind: Any = CONTACTS, **more: Any) -> Any:
    data = text.encode() if isinstance(text, str) else text
    return await _do(there, EMPLOYEE, imports.upload, kind, "people.csv", data, **more)


async def _count(there: Crm, kind: str = "contacts") -> int:
    return int((await there.pg.sql(f"SELECT count(*) FROM crm.{kind}"))[0][0])


async def test_a_file_is_uploaded_tried_and_taken_in(there: Crm) -> None:
    account = await there.create("accounts", name="Müller & Söhne")
    text = (
        "\ufeffFirst name;Last Name;E-Mail;Company;Opt out;Odd\r\n"
        ' Ada ;Lovelace;ADA@X.example;muller & sohne;yes;"a;b"\r\n'
        "\r\n"
        "Grace;Hopper;grace@x.example;;;\r\n"
    )
    before = await _count(there)
    row = await _upload(there, text)
    assert (row["status"], row["encoding"], row["delimiter"]) == ("uploaded", "utf-8", ";")
    assert row["mapping"] == {
        "First name": "first_name",
        "Last Name": "last_name",
        "E-Mail": "email",
        "Company": "account",
        "Opt out": "do_not_contact",
    }
    async with there.database.read() as connection:
        assert (await imports.preview(connection, EMPLOYEE, row["id"]))[0][0] == " Ada "
    tried = await _do(there, EMPLOYEE, imports.dry_run, row["id"])
    assert (tried["status"], tried["rows"], tried["created"], tried["faults"]) == ("checked", 2, 2, [])
    assert await _count(there) == before
    seen: list[int] = []
    done = await _do(there, EMPLOYEE, imports.run, row["id"], progress=seen.append)
    assert (done["status"], done["created"], done["done"], seen) == ("done", 2, 2, [2])
    (ada,) = await there.pg.sql(
        "SELECT full_name, account_id, do_not_contact, language, created_by, id FROM crm.contacts"
        " WHERE email = 'ada@x.example'"
    )
    assert ada[:5] == ("Ada Lovelace", account["id"], True, "en", EMPLOYEE.user)
    assert ada[5].version == 7
    assert await there.pg.sql("SELECT data IS NULL FROM crm.imports WHERE id = %s", [row["id"]]) == [(True,)]
    with pytest.raises(Conflict, match="done"):
        await _do(there, EMPLOYEE, imports.run, row["id"])
    async with there.database.read() as connection:
        assert (await log.verify(connection)).sound


async def test_one_faulty_row_and_nothing_is_in(there: Crm) -> None:
    text = (
        "name,email,phone,account,do not contact\n"
        "Fine,fine@x.example,1,,no\n"
        ",nobody,1,Nowhere Ltd,perhaps\n"
        f"{'x' * 201},x@x.example,{'1' * 41},,\n"
        "two,three,four,five,six,seven\n"
        'Bell\x07,bell@x.example,"1\n2",,\n'
        "Last,,,,\n"
    )
    before = await _count(there)
    row = await _upload(there, text)
    done = await _do(there, EMPLOYEE, imports.run, row["id"])
    assert (done["status"], done["faulty"], done["rows"], done["finished_at"]) == ("refused", 5, 6, None)
    assert [(fault["row"], fault["column"]) for fault in done["faults"]] == [
        (3, "account"),
        (3, "do not contact"),
        (3, "email"),
        (3, "name"),
        (4, "name"),
        (4, "phone"),
        (5, ""),
        (6, "name"),
        (6, "phone"),
        (7, "email"),
    ]
    told = {(fault["row"], fault["column"]): fault for fault in done["faults"]}
    assert told[3, "account"]["what"] == "there is no account of this name"
    assert told[3, "account"]["hint"]
    assert "Nowhere" not in str(done["faults"])
    assert await _count(there) == before
    again = await _do(there, EMPLOYEE, imports.dry_run, row["id"])
    assert again["faulty"] == 5
    cancelled = await _do(there, EMPLOYEE, imports.cancel, row["id"])
    assert cancelled["status"] == "cancelled"
    with pytest.raises(Conflict):
        await _do(there, EMPLOYEE, imports.run, row["id"])


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("skip", ("done", 1, 0, 2, ["old", "", "new"])),
        ("update", ("refused", 0, 0, 0, [])),
        ("refuse", ("refused", 0, 0, 0, [])),
        ("create", ("done", 3, 0, 0, ["old", "changed", "new", "again", ""])),
    ],
)
async def test_who_is_there_already_is_skipped_changed_refused_or_made_again(
    there: Crm, policy: str, expected: tuple[Any, ...]
) -> None:
    mail = uuid4().hex
    await there.create("contacts", full_name="Old", email=f"{mail}@x.example", role="old")
    gone = await there.create("contacts", full_name="Gone", email=f"n{mail}@x.example")
    await there.delete("contacts", gone["id"])
    text = f"name,email,role\nOld,{mail.upper()}@x.example,changed\n"
    text += f"New,n{mail}@x.example,new\nTwice,N{mail}@x.example,again\n"
    row = await _upload(there, text)
    done = await _do(there, EMPLOYEE, imports.run, row["id"], None, policy)
    assert (done["status"], *expected[1:4]) == (expected[0], *_told(done))
    roles = await there.pg.sql("SELECT role FROM crm.contacts WHERE email LIKE %s", [f"%{mail}%"])
    if done["status"] == "done":
        assert sorted(role for (role,) in roles) == sorted(expected[4])
    else:
        assert sorted(role for (role,) in roles) == ["", "old"]
        assert "another row" in done["faults"][-1]["what"]


def _told(row: Any) -> tuple[int, int, int]:
    if row["status"] == "refused":
        return 0, 0, 0
    return row["created"], row["updated"], row["skipped"]


async def test_updating_takes_nothing_away_and_is_logged(there: Crm) -> None:
    mail = f"{uuid4().hex}@x.example"
    old = await there.create("contacts", full_name="Old", email=mail, role="Buyer", consent_mail=True)
    row = await _upload(there, f"name,email,role,phone,consent_mail\nNewer,{mail},,123,\n")
    done = await _do(there, EMPLOYEE, imports.run, row["id"], None, "update")
    assert (done["updated"], done["created"]) == (1, 0)
    new = await there.get("contacts", old["id"])
    assert (new["full_name"], new["role"], new["phone"], new["consent_mail"], new["version"]) == (
        "Newer",
        "Buyer",
        "123",
        True,
        2,
    )
    async with there.database.read() as connection:
        assert (await log.verify(connection)).sound


async def test_products_and_accounts_come_in_too(there: Crm) -> None:
    row = await _upload(there, 'SKU,Product,Price,Currency\nA-1,Router,"1.234",eur\nA-2,Cable,5,eur\n', PRODUCTS)
    refused = await _do(there, EMPLOYEE, imports.run, row["id"])
    assert [(fault["row"], fault["column"]) for fault in refused["faults"]] == [(2, "Price")]
    row = await _upload(there, 'SKU,Product,Price,Currency\nA-1,Router,"12,5",eur\nA-2,Cable,5,eur\n', PRODUCTS)
    assert (await _do(there, EMPLOYEE, imports.run, row["id"]))["created"] == 2
    found = await there.pg.sql("SELECT price_cents, currency FROM crm.products ORDER BY sku")
    assert found == [(1250, "EUR"), (500, "EUR")]
    row = await _upload(there, "company\tstaff\tcountry\nX\t12\tde\nY\t0\tde\nZ\tmany\tD\n", ACCOUNTS)
    refused = await _do(there, EMPLOYEE, imports.dry_run, row["id"])
    assert [(fault["row"], fault["column"]) for fault in refused["faults"]] == [
        (3, "staff"),
        (4, "country"),
        (4, "staff"),
    ]
    with pytest.raises(Invalid):
        await _upload(there, "a\n", KINDS["queries"])


@pytest.mark.parametrize(
    ("mapping", "wrong"),
    [
        ({"name": "full_name"}, "email"),
        ({"name": "full_name", "mail": "full_name"}, "full_name"),
        ({"name": "full_name", "mail": "email", "x": "phone"}, "x"),
        ({"name": "nonsense", "mail": "email"}, "name"),
        ({"name": 'full_name"; DROP TABLE crm.contacts; --', "mail": "email"}, "name"),
        ({"name": "first_name", "mail": "email", "third": "full_name"}, "full_name"),
    ],
)
async def test_a_mapping_that_cannot_be_is_refused(there: Crm, mapping: dict[str, str], wrong: str) -> None:
    row = await _upload(there, "name,mail,third\nA,a@x.example,b\n")
    with pytest.raises(Invalid) as raised:
        await _do(there, EMPLOYEE, imports.dry_run, row["id"], mapping)
    assert wrong in raised.value.fields
    with pytest.raises(NotThere):
        await _do(there, customer(uuid4()), imports.dry_run, row["id"])


async def test_apart_its_progress_shows_and_a_failure_is_its_status(there: Crm) -> None:
    many = "".join(f"P{number},p{number}.{uuid4().hex}@x.example\n" for number in range(12_000))
    row = await _upload(there, "name,email\n" + many)
    done = await imports.run_apart(there.database, SystemClock(), EMPLOYEE, row["id"])
    assert (done["status"], done["created"]) == ("done", 12_000)
    bad = await _upload(there, "name,email\nA,a@x.example\n")
    await there.pg.sql("UPDATE crm.imports SET mapping = '{}' WHERE id = %s", [bad["id"]])
    with pytest.raises(Invalid):
        await imports.run_apart(there.database, SystemClock(), EMPLOYEE, bad["id"])
    async with there.database.read() as connection:
        failed = await imports.get(connection, EMPLOYEE, bad["id"])
        assert failed["status"] == "failed"
        assert "email" in failed["faults"][0]["what"]
        assert (await imports.imports(connection, EMPLOYEE, 1))[0]["id"] == bad["id"]
    async with there.database.write(SYSTEM) as tx:
        await imports.dry_run(tx, bad["id"], {"name": "full_name", "email": "email"})
        with pytest.raises(Conflict, match="under way"):
            await _do(there, EMPLOYEE, imports.run, bad["id"])


async def test_news_of_its_progress_that_comes_late_does_not_hold_an_import_up(there: Crm) -> None:
    row = await _upload(there, f"name,email\nA,{uuid4().hex}@x.example\n")
    async with there.database.write(EMPLOYEE) as tx:
        done = await imports.run(tx, row["id"], {"name": "full_name", "email": "email"})
        await asyncio.wait_for(imports.note_progress(there.database, EMPLOYEE, row["id"], 1), 3)
    assert done["status"] == "done"
    async with there.database.read() as connection:
        assert (await imports.get(connection, EMPLOYEE, row["id"]))["status"] == "done"


async def test_a_file_that_nobody_went_on_with_is_forgotten_though_it_said_it_was_running(there: Crm) -> None:
    row = await _upload(there, "name,email\nA,a@x.example\n")
    await there.pg.sql(
        "UPDATE crm.imports SET status = 'running', created_at = now() - interval '25 hours' WHERE id = %s", [row["id"]]
    )
    await _upload(there, "name,email\nB,b@x.example\n")
    ((status, data),) = await there.pg.sql("SELECT status, data FROM crm.imports WHERE id = %s", [row["id"]])
    assert (status, data) == ("cancelled", None)


async def test_an_import_whose_process_died_has_failed_and_may_be_run_again(there: Crm) -> None:
    dead, alive = [await _upload(there, f"name,email\nA,{uuid4().hex}@x.example\n") for _ in range(2)]
    mapping = {"name": "full_name", "email": "email"}
    for row in (dead, alive):
        await imports.note_progress(there.database, EMPLOYEE, row["id"], 1)
    async with there.database.write(EMPLOYEE) as tx:
        await imports.dry_run(tx, alive["id"], mapping)  # whoever is at it has its lock
        async with there.database.write(SYSTEM) as starting:
            assert await imports.fail_broken_off(starting) == 1
    async with there.database.read() as connection:
        failed = await imports.get(connection, EMPLOYEE, dead["id"])
        assert (failed["status"], failed["done"]) == ("failed", 0)
        assert "stopped" in failed["faults"][0]["what"]
        assert (await imports.get(connection, EMPLOYEE, alive["id"]))["status"] == "checked"
    assert (await _do(there, EMPLOYEE, imports.run, dead["id"], mapping))["status"] == "done"


async def _export(there: Crm, kind: Any, asked: Asked, *columns: str, **more: Any) -> bytes:
    async with there.database.read() as connection:
        return b"".join([part async for part in exports.export(connection, EMPLOYEE, kind, asked, columns, **more)])


NASTY = ("=1+1", "+49 30", "-5", "@x", "'=quoted", "''", 'a"b', "a,b", "a;b", "ünï ✓", "'", "x'=", "\\N", "\\.", "NULL")


async def test_what_goes_out_comes_back_the_same(there: Crm) -> None:
    for number, nasty in enumerate(NASTY):
        about = {"role": "nasty", "phone": nasty, "language": "de", "consent_mail": number % 2 == 0}
        await there.create("contacts", full_name=nasty, email=f"nasty{number}@x.example", **about)
    asked = Asked((Filter("role", "eq", "nasty"),), "email")
    data = await _export(there, CONTACTS, asked, bom=True)
    assert data.startswith(exports.BOM)
    cells = list(csv.reader(io.StringIO(data.decode("utf-8-sig"))))
    assert len(cells) == len(NASTY) + 1
    assert not any(cell.startswith(("=", "+", "-", "@")) for row in cells for cell in row)
    names = ("full_name", "email", "phone", "language", "consent_mail", "role")
    read = f"SELECT {', '.join(names)} FROM crm.contacts WHERE role = 'nasty' ORDER BY email"
    before = await there.pg.sql(read)
    async with there.database.write(SYSTEM) as tx:
        await tx.connection.execute("UPDATE crm.contacts SET role = 'old', deleted_at = now() WHERE role = 'nasty'")
    row = await _upload(there, data)
    done = await _do(there, EMPLOYEE, imports.run, row["id"])
    assert (done["status"], done["created"], done["faults"]) == ("done", len(NASTY), [])
    assert await there.pg.sql(read) == before


async def test_an_export_is_the_list_whole_and_of_chosen_columns(there: Crm) -> None:
    for number in range(3):
        await there.create("tags", name=f"tag {number}")
    asked = parse(KINDS["tags"], [("name.starts", "tag "), ("sort", "-name"), ("limit", "1")])
    assert await _export(there, KINDS["tags"], asked, "name") == b"name\r\ntag 2\r\ntag 1\r\ntag 0\r\n"
    assert (await _export(there, KINDS["tags"], asked)).startswith(b"id,name,colour,created_at,updated_at\r\n")
    for columns in (["nonsense"], ["name", "name"], ["name; DROP"]):
        with pytest.raises(Invalid):
            await _export(there, KINDS["tags"], asked, *columns)
    async with there.database.read() as connection:
        with pytest.raises(NotThere):
            await anext(exports.export(connection, customer(uuid4()), CONTACTS, Asked()))


CELLS = (
    *("", "x", "de", "D", "x" * 61, "x" * 201, "é" * 200, "日本", "eur", "E", "a\nb", "a\tb", "a\x01b", "a\x7fb"),
    *("1", "0", "-1", "+7", "1.5", "9" * 17, "99999999", "007", "yes", "NO", "TRUE", "maybe"),
    *("a@b.example", "a b@c.example", "a@b", "a@b.c,", "@b.example", "a@b.example.", "a@@b.example"),
)


@pytest.mark.parametrize("name", import_rules.IMPORTED)
async def test_the_set_wise_rules_are_those_of_single_records(there: Crm, name: str) -> None:
    """Each field with each cell, by both."""
    kind = KINDS[name]
    needed = {field.name: "a@b.example" if field.type is Type.EMAIL else "1" for field in kind.fields if field.required}
    for field in kind.fields:
        if field.name not in import_rules.targets(kind) or field.name == "price_cents":
            continue
        columns = [*{**needed, field.name: ""}, "filled"]
        table = [[{**needed, field.name: cell, "filled": "x"}[column] for column in columns] for cell in CELLS]
        out = io.StringIO(newline="")
        csv.writer(out).writerows([columns, *table])
        row = await _upload(there, out.getvalue(), kind)
        mapping = {column: column for column in columns if column != "filled"}
        tried = await _do(there, EMPLOYEE, imports.dry_run, row["id"], mapping, "skip")
        refused = {CELLS[fault["row"] - 2] for fault in tried["faults"]}
        assert refused == {cell for cell in CELLS if not _alone(field, cell)}, field.name


def _alone(field: Field, cell: str) -> bool:
    """Whether a record of its own could have it."""
    if cell == "" and not field.required:
        return True  # no value: the default
    if field.name == "country" and len(cell) == 1:
        return False
    try:
        validating.from_text(field, cell)
    except ValueError:
        return False
    return True
