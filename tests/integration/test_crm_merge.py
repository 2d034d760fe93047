"""Duplicates become one and are parted again; batches are all or nothing and taken back; files and views are kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from tests.crm import EMPLOYEE, Crm, crm, customer

from threefold.crm.cases import cases
from threefold.crm.desk import Row
from threefold.crm.model.actor import SYSTEM, Actor, Role
from threefold.crm.model.asking import Filter
from threefold.crm.model.errors import Conflict, Forbidden, Invalid, Stale
from threefold.crm.model.kinds import KINDS
from threefold.crm.records import attachments, batches, merge, records, views
from threefold.kernel.errors import NotThere

pytestmark = pytest.mark.asyncio(loop_scope="module")
CONTACTS, ACCOUNTS, QUERIES = KINDS["contacts"], KINDS["accounts"], KINDS["queries"]
MOVES = {"version", "updated_at", "updated_by", "updated_on"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def there() -> AsyncIterator[Crm]:
    async with crm() as made:
        yield made


async def _do(there: Crm, actor: Actor, what: Any, *args: Any, **more: Any) -> Any:
    async with there.database.write(actor) as tx:
        return await what(tx, *args, **more)


async def _contact(there: Crm, **values: Any) -> Row:
    return await there.create("contacts", **{"full_name": "Zoë  O'Neil", "email": f"{uuid4().hex}@x.example", **values})


async def _everything(there: Crm) -> dict[UUID, dict[str, Any]]:
    """Every row of every kind, deleted ones too, without what moves with each write."""
    found = {}
    for name in [*KINDS, "attachments"]:
        for (row,) in await there.pg.sql(f"SELECT to_jsonb(t) FROM crm.{name} t"):
            found[UUID(row["id"])] = {key: value for key, value in row.items() if key not in MOVES}
    return found


async def _full_contact(there: Crm, tag: Row, account: Row, **values: Any) -> Row:
    """With one of everything that refers to it."""
    contact = await _contact(there, **values)
    about: dict[str, Any] = {"contact_id": str(contact["id"])}
    case = await there.create("queries", subject="q", **about)
    await there.create("requests", subject="r", kind="repair", **about)
    await there.create("affiliations", account_id=str(account["id"]), role="Buyer", **about)
    await there.create("deals", name="d", account_id=str(account["id"]), **about)
    await _do(there, SYSTEM, cases.answer, QUERIES, case["id"], "hello")
    linked: dict[str, Any] = {"record_kind": "contacts", "record_id": str(contact["id"])}
    await there.create("tasks", subject="call", **linked)
    await there.create("taggings", tag_id=str(tag["id"]), **linked)
    await _do(there, SYSTEM, attachments.put, CONTACTS, contact["id"], "a.txt", "text/plain", b"a")
    mail = f"{uuid4().hex}@x.example"
    await there.create("users", full_name="u", email=mail, role="customer", **about)
    gone = await there.create("tasks", subject="old", **linked)
    await there.delete("tasks", gone["id"])
    return contact


async def test_duplicates_are_found_by_what_only_one_should_have(there: Crm) -> None:
    one = await _contact(there, email="Same@x.example")
    two = await _contact(there, email="same@X.example", full_name="Somebody Else")
    three = await _contact(there, full_name="Jürgen Groß", phone="+49 (30) 123-45")
    four = await _contact(there, full_name="jurgen  gross", phone="0049 30 12345")
    await _contact(there, full_name="Jürgen Groß")
    five = await _contact(there, email="same@x.example")
    await there.delete("contacts", five["id"])
    async with there.database.read() as connection:
        found = await merge.duplicates(connection, CONTACTS)
        assert {frozenset(row["id"] for row in group.rows) for group in found} == {
            frozenset({one["id"], two["id"]}),
            frozenset({three["id"], four["id"]}),
        }
        assert len(await merge.duplicates(connection, CONTACTS, 1)) == 1
        for name in ("Acme  GmbH", "ACME gmbh"):
            await there.create("accounts", name=name)
        assert len(await merge.duplicates(connection, ACCOUNTS)) == 1
        with pytest.raises(Invalid):
            await merge.duplicates(connection, QUERIES)


async def test_everything_moves_to_what_stays_and_back_again(there: Crm) -> None:
    tag, account = await there.create("tags", name="vip"), await there.create("accounts", name="A")
    keep = await _full_contact(there, tag, account, phone="", role="Owner", language="de")
    drop = await _full_contact(there, tag, account, phone="123", role="Buyer", do_not_contact=True)
    before = await _everything(there)
    merge_id = await _do(there, EMPLOYEE, merge.merge, CONTACTS, keep["id"], drop["id"], {"language": "drop"})
    kept = await there.get("contacts", keep["id"])
    assert (kept["phone"], kept["role"], kept["language"], kept["do_not_contact"]) == ("123", "Owner", "en", True)
    with pytest.raises(NotThere):
        await there.get("contacts", drop["id"])
    for name, column in merge.REFERENCES["contacts"]:
        left = f"SELECT count(*) FROM crm.{name} WHERE {column} = '{drop['id']}'"
        assert await there.pg.sql(left) == [(0,)], name
    alive = "SELECT count(*) FROM crm.{} WHERE {} = %s AND deleted_at IS NULL"
    assert await there.pg.sql(alive.format("taggings", "record_id"), [keep["id"]]) == [(1,)]
    assert await there.pg.sql(alive.format("affiliations", "contact_id"), [keep["id"]]) == [(1,)]
    later = await there.create("queries", subject="after", contact_id=str(keep["id"]))
    await _do(there, EMPLOYEE, merge.undo, merge_id)
    after = await _everything(there)
    assert after.pop(later["id"])["contact_id"] == str(keep["id"])
    assert after == before


async def test_what_is_reported_during_a_merge_goes_along_or_is_told_to_come_again(there: Crm) -> None:
    keep, drop = await _contact(there), await _contact(there)
    reporter = customer(drop["id"])
    async with there.database.write(reporter) as tx:
        reported = await records.create(tx, QUERIES, {"subject": "meanwhile"})
        merging = asyncio.create_task(_do(there, SYSTEM, merge.merge, CONTACTS, keep["id"], drop["id"]))
        await asyncio.sleep(0.3)
        assert not merging.done(), "it waits for what is under way"
    await merging
    assert (await there.get("queries", reported["id"]))["contact_id"] == keep["id"]

    third = await _contact(there)
    async with there.database.write(SYSTEM) as tx:
        await merge.merge(tx, CONTACTS, keep["id"], third["id"])
        late = asyncio.create_task(there.create("queries", customer(third["id"]), subject="too late"))
        await asyncio.sleep(0.3)
        assert not late.done()
    with pytest.raises(Invalid, match="is not there"):
        await late


async def test_accounts_are_merged_too(there: Crm) -> None:
    keep, drop = [await there.create("accounts", name=name) for name in ("B", "B ltd")]
    contact = await there.contact(account_id=str(drop["id"]))
    await there.create("queries", subject="q", contact_id=str(contact["id"]))
    before = await _everything(there)
    merge_id = await _do(there, EMPLOYEE, merge.merge, ACCOUNTS, keep["id"], drop["id"])
    assert (await there.get("contacts", contact["id"]))["account_id"] == keep["id"]
    await _do(there, EMPLOYEE, merge.undo, merge_id)
    assert await _everything(there) == before


async def test_what_was_changed_since_stands_against_undoing_and_nothing_is_undone(there: Crm) -> None:
    keep, drop, third = [await _contact(there) for _ in range(3)]
    case = await there.create("queries", subject="q", contact_id=str(drop["id"]))
    merge_id = await _do(there, EMPLOYEE, merge.merge, CONTACTS, keep["id"], drop["id"])
    moved = await there.get("queries", case["id"])
    assert moved["contact_id"] == keep["id"]
    renamed = await there.update("queries", moved, subject="another word")
    changed = await there.update("queries", renamed, contact_id=str(third["id"]))
    before = await _everything(there)
    with pytest.raises(Conflict) as raised:
        await _do(there, EMPLOYEE, merge.undo, merge_id)
    assert f"contact_id of queries {case['id']}" in raised.value.message
    assert await _everything(there) == before
    await there.update("queries", changed, contact_id=str(keep["id"]))
    await _do(there, EMPLOYEE, merge.undo, merge_id)
    back = await there.get("queries", case["id"])
    assert (back["contact_id"], back["subject"]) == (drop["id"], "another word")


async def test_merging_nonsense_is_refused(there: Crm) -> None:
    one, two = await _contact(there), await _contact(there)
    for choices in ({"nonsense": "keep"}, {"email": "both"}, {"version": "drop"}):
        with pytest.raises(Invalid):
            await _do(there, EMPLOYEE, merge.merge, CONTACTS, one["id"], two["id"], choices)
    with pytest.raises(Invalid):
        await _do(there, EMPLOYEE, merge.merge, CONTACTS, one["id"], one["id"])
    with pytest.raises(NotThere):
        await _do(there, EMPLOYEE, merge.merge, CONTACTS, one["id"], uuid4())
    with pytest.raises(NotThere):
        await _do(there, customer(one["id"]), merge.merge, CONTACTS, one["id"], two["id"])
    with pytest.raises(NotThere):
        await _do(there, EMPLOYEE, merge.undo, uuid4())


async def test_a_batch_is_all_or_nothing_and_says_what_stands_against_it(there: Crm) -> None:
    made = [await _contact(there) for _ in range(4)]
    items = [(row["id"], row["version"]) for row in made]
    await there.update("contacts", made[2], phone="1")
    with pytest.raises(Stale) as stale:
        await _do(there, EMPLOYEE, batches.apply, CONTACTS, items, {"language": "fr"})
    assert str(made[2]["id"]) in stale.value.message
    with pytest.raises(Invalid) as invalid:
        await _do(there, EMPLOYEE, batches.apply, CONTACTS, [*items, (uuid4(), None)], {"email": "x"})
    assert len(invalid.value.fields) == 5
    assert [(await there.get("contacts", row["id"]))["language"] for row in made] == ["en"] * 4
    assert await there.pg.sql("SELECT count(*) FROM crm.batches") == [(0,)]
    for wrong in ([], [items[0]] * 2, [(uuid4(), None)] * 1001):
        with pytest.raises(Invalid):
            await _do(there, EMPLOYEE, batches.apply, CONTACTS, wrong, {"language": "fr"})
    with pytest.raises(NotThere):
        await _do(there, customer(made[0]["id"]), batches.apply, CONTACTS, items[:1], {"language": "fr"})


async def test_undoing_a_batch_takes_back_what_nobody_changed_since(there: Crm) -> None:
    contact = await _contact(there)
    made = [await there.create("queries", subject="b", contact_id=str(contact["id"])) for _ in range(3)]
    before = [await there.get("queries", row["id"]) for row in made]
    batch = await _do(
        there, EMPLOYEE, batches.apply, QUERIES, [(row["id"], 1) for row in made], {"status": "closed", "priority": 1}
    )
    assert (batch["records"], batch["what"]) == (3, "set")
    closed = await there.get("queries", made[1]["id"])
    assert closed["resolved_at"] is not None
    await there.update("queries", closed, subject="mine now")
    undone = await _do(there, EMPLOYEE, batches.undo, batch["id"])
    assert [(left["id"], "version 3" in left["why"]) for left in undone["left_over"]] == [(str(made[1]["id"]), True)]
    for old in (before[0], before[2]):
        now = await there.get("queries", old["id"])
        assert {name: now[name] for name in old if name not in MOVES} == {
            name: old[name] for name in old if name not in MOVES
        }
    with pytest.raises(Conflict):
        await _do(there, EMPLOYEE, batches.undo, batch["id"])
    async with there.database.read() as connection:
        assert not (await batches.batches(connection, 1))[0]["undoable"]


async def test_tags_and_deletions_are_batches_as_well(there: Crm) -> None:
    tag, account = await there.create("tags", name="eu"), await there.create("accounts", name="C")
    made = [await _full_contact(there, await there.create("tags", name=name), account) for name in ("t1", "t2")]
    items = [(row["id"], None) for row in made]
    before = await _everything(there)
    put = await _do(there, EMPLOYEE, batches.tag, CONTACTS, items, tag["id"])
    again = await _do(there, EMPLOYEE, batches.tag, CONTACTS, items, tag["id"])
    count = "SELECT count(*) FROM crm.taggings WHERE tag_id = %s AND deleted_at IS NULL"
    assert await there.pg.sql(count, [tag["id"]]) == [(2,)]
    off = await _do(there, EMPLOYEE, batches.tag, CONTACTS, items, tag["id"], remove=True)
    assert await there.pg.sql(count, [tag["id"]]) == [(0,)]
    for batch in (off, again, put):
        assert (await _do(there, EMPLOYEE, batches.undo, batch["id"]))["left_over"] in ([], None) or batch is put
    gone = await _do(there, EMPLOYEE, batches.delete, CONTACTS, items)
    with pytest.raises(NotThere):
        await there.get("contacts", made[0]["id"])
    assert (await _do(there, EMPLOYEE, batches.undo, gone["id"]))["left_over"] == []
    after = await _everything(there)
    assert {id_: after[id_] for id_ in before} == before


async def test_files_are_kept_once_and_shown_to_whom_the_record_is(there: Crm) -> None:
    mine, other = await _contact(there), await _contact(there)
    case = await there.create("queries", subject="f", contact_id=str(mine["id"]))
    me, data = customer(mine["id"]), bytes(range(256)) * 40
    one = await _do(
        there, me, attachments.put, QUERIES, case["id"], "../../etc/pa\r\nss\u202egpj.exe", "text/html; x", data
    )
    assert (one["name"], one["media_type"], one["size"]) == ("pa_ss_gpj.exe", "text/html", len(data))
    two = await _do(there, EMPLOYEE, attachments.put, CONTACTS, mine["id"], "b", "nonsense", data)
    assert two["media_type"] == "application/octet-stream"
    blobs = "SELECT count(*) FROM crm.blobs WHERE size = %s"
    assert await there.pg.sql(blobs, [len(data)]) == [(1,)]
    async with there.database.read() as connection:
        assert (await attachments.get(connection, me, one["id"])) == (one, data)
        assert await attachments.of(connection, me, QUERIES, case["id"]) == [one]
        for actor, file in ((customer(other["id"]), one), (me, two)):
            with pytest.raises(NotThere):
                await attachments.get(connection, actor, file["id"])
    for kind, actor, body, refused in (
        (QUERIES, customer(other["id"]), b"x", NotThere),
        (CONTACTS, me, b"x", NotThere),
        (QUERIES, me, b"", Invalid),
        (QUERIES, me, bytes(10 * 2**20 + 1), Invalid),
        (KINDS["users"], SYSTEM, b"x", Invalid),
    ):
        with pytest.raises(refused):
            await _do(there, actor, attachments.put, kind, case["id"] if kind is QUERIES else mine["id"], "x", "", body)
    await _do(there, EMPLOYEE, attachments.delete, one["id"])
    async with there.database.read() as connection:
        with pytest.raises(NotThere):
            await attachments.get(connection, me, one["id"])
    await _do(there, EMPLOYEE, attachments.restore, one["id"])
    with pytest.raises(NotThere):
        await _do(there, me, attachments.delete, one["id"])


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("C:\\x\\report.pdf", "report.pdf"),
        ("", "file"),
        ("...", "file"),
        ('a"b.txt', "a_b.txt"),
        ("x" * 300 + ".pdf", "x" * 196 + ".pdf"),
        (".htaccess", "htaccess"),
    ],
)
async def test_a_files_name_is_harmless(given: str, kept: str) -> None:
    assert attachments.safe_name(given) == kept


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("Application/PDF; x=y", "application/pdf"),
        ("text/html", "text/html"),
        ("text/javascript", "application/octet-stream"),
        ("application/x-ecmascript", "application/octet-stream"),
        ("text/css", "application/octet-stream"),
        ("a/b\r\nX: y", "application/octet-stream"),
    ],
)
async def test_a_files_type_is_none_that_a_page_would_run(given: str, kept: str) -> None:
    assert attachments.safe_type(given) == kept


async def test_views_are_ones_own_or_everybodys(there: Crm) -> None:
    emma, otto = [Actor(Role.EMPLOYEE, user=uuid4(), name=name) for name in ("Emma", "Otto")]
    mine = await _do(there, emma, views.save, QUERIES, " My  open ", "?status=open&after=x&sort=-priority", ["subject"])
    assert (mine["name"], mine["asked"], mine["shared"]) == ("My open", "status=open&sort=-priority", False)
    asked = views.query(mine)
    assert (asked.filters, asked.sort) == ((Filter("status", "eq", "open"),), "-priority")
    ours = await _do(there, emma, views.save, QUERIES, "Urgent", "priority=1", shared=True)
    again = await _do(there, emma, views.save, QUERIES, "URGENT", "priority.le=2", shared=True)
    assert (again["id"], again["asked"]) == (ours["id"], "priority.le=2")
    async with there.database.read() as connection:
        assert [row["name"] for row in await views.views(connection, emma, QUERIES)] == ["My open", "URGENT"]
        assert [(row["name"], row["mine"]) for row in await views.views(connection, otto, QUERIES)] == [
            ("URGENT", False)
        ]
    with pytest.raises(Conflict):
        await _do(there, otto, views.save, QUERIES, "urgent", shared=True)
    with pytest.raises(Forbidden):
        await _do(there, otto, views.remove, ours["id"])
    with pytest.raises(NotThere):
        await _do(there, otto, views.remove, mine["id"])
    for bad in (
        {"asked": "nonsense=1"},
        {"columns": ["nonsense"]},
        {"columns": ["subject", "subject"]},
        {"name": ""},
        {"name": "\0"},
        {"name": "x" * 81},
    ):
        with pytest.raises(Invalid):
            await _do(there, emma, views.save, QUERIES, **{"name": "n", **bad})
    with pytest.raises(NotThere):
        await _do(there, customer(uuid4()), views.save, QUERIES, "n")
    await _do(there, SYSTEM, views.remove, ours["id"])
    await _do(there, emma, views.remove, mine["id"])
