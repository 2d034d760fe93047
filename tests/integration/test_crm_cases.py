"""Cases under their clocks: opened, answered, paused, moved, escalated, merged; by whomever, on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from tests.crm import Crm, crm, customer

from threefold.crm.cases import cases
from threefold.crm.clocks import policies
from threefold.crm.clocks.sla import Office, State
from threefold.crm.desk import Row
from threefold.crm.model.actor import SYSTEM, Actor, Role
from threefold.crm.model.errors import Conflict, Forbidden, Invalid
from threefold.crm.model.kinds import KINDS
from threefold.crm.records import merge
from threefold.kernel.errors import NotThere

pytestmark = pytest.mark.asyncio(loop_scope="module")
QUERIES, REQUESTS = KINDS["queries"], KINDS["requests"]
MINUTE = timedelta(minutes=1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def there() -> AsyncIterator[Crm]:
    async with crm() as made:
        yield made


async def _employee(there: Crm) -> Actor:
    user = await there.create("users", full_name="Emma", email=f"{uuid4().hex}@x.example", role="employee")
    return Actor(Role.EMPLOYEE, user=user["id"], name="Emma")


async def _do(there: Crm, actor: Actor, what: Any, *args: Any, **more: Any) -> Any:
    async with there.database.write(actor) as tx:
        return await what(tx, *args, **more)


async def _earlier(there: Crm, case: Row, minutes: int, kind: str = "queries") -> Row:
    """As if it had been opened, and whatever happened to it so far, so many minutes ago."""
    names = ("first_response_due_at", "first_responded_at", "resolution_due_at", "resolved_at", "paused_at")
    moves = ", ".join(f"{name} = {name} - interval '{minutes} min'" for name in names)
    await there.pg.sql(f"ALTER TABLE crm.{kind} DISABLE TRIGGER stamped")
    query = f"UPDATE crm.{kind} SET {moves}, version = version + 1, created_at = created_at - interval '{minutes} min'"
    await there.pg.sql(query + f" WHERE id = '{case['id']}'")
    await there.pg.sql(f"ALTER TABLE crm.{kind} ENABLE TRIGGER stamped")
    return await there.get(kind, case["id"])


async def test_a_customers_case_is_theirs_and_due_by_the_house_default(there: Crm) -> None:
    account = await there.create("accounts", name="Acme")
    contact = await there.contact(account_id=account["id"])
    case = await _do(there, customer(contact["id"]), cases.open_case, QUERIES, {"subject": "Help", "body": "please"})
    assert (case["contact_id"], case["account_id"], case["status"]) == (contact["id"], account["id"], "new")
    assert case["first_response_due_at"] - case["created_at"] == 480 * MINUTE
    assert case["resolution_due_at"] - case["created_at"] == 4320 * MINUTE
    other = await there.contact()
    for wrong in ({"contact_id": str(other["id"])}, {"priority": 1}, {"status": "closed"}, {"assignee_id": None}):
        with pytest.raises((NotThere, Forbidden)):
            await _do(there, customer(contact["id"]), cases.open_case, QUERIES, {"subject": "Help", **wrong})


async def test_a_policy_and_office_hours_say_what_is_due(there: Crm) -> None:
    policy = {"first_response_minutes": 30, "resolution_minutes": 2400, "office_hours": True}
    await there.create("policies", name="Gold", record_kind="requests", priority=1, **policy)
    await _do(there, SYSTEM, policies.set_office, Office("Asia/Karachi", days=(0, 1, 2, 3, 5)), 1)
    with pytest.raises(Forbidden):
        await _do(there, await _employee(there), policies.set_office, Office(), 2)
    contact = await there.contact()
    case = await there.create("requests", subject="x", kind="repair", priority=1, contact_id=str(contact["id"]))
    office = Office("Asia/Karachi", days=(0, 1, 2, 3, 5))
    assert case["resolution_due_at"] == _due(case["created_at"], 2400, office)
    changed = await there.update("requests", case, priority=4)
    assert changed["resolution_due_at"] - case["created_at"] == 10_080 * MINUTE
    async with there.database.read() as connection:
        clocks = await cases.clocks(connection, "requests", changed)
    assert clocks["resolution"].state is State.GREEN


def _due(start: datetime, minutes: int, office: Office) -> datetime:
    from threefold.crm.clocks import sla

    return sla.due(start, minutes, office)


async def test_an_answer_stops_the_first_clock_and_a_note_does_not(there: Crm) -> None:
    emma, contact = await _employee(there), await there.contact()
    case = await there.create("queries", subject="x", contact_id=str(contact["id"]))
    note = await _do(there, emma, cases.answer, QUERIES, case["id"], "a thought", internal=True)
    assert (note["internal"], note["direction"], note["contact_id"]) == (True, "out", contact["id"])
    assert (await there.get("queries", case["id"]))["first_responded_at"] is None
    said = await _do(there, emma, cases.answer, QUERIES, case["id"], "Hello", status="waiting")
    after = await there.get("queries", case["id"])
    assert (after["first_responded_at"], after["status"]) == (said["created_at"], "waiting")
    assert after["paused_at"] is not None
    async with there.database.read() as connection:
        assert {each.state for each in (await cases.clocks(connection, "queries", after)).values()} == {
            State.MET,
            State.PAUSED,
        }


@pytest.mark.parametrize("status", ["waiting", "answered", "closed"])
async def test_a_customers_word_opens_the_case_again_with_the_time_that_was_left(there: Crm, status: str) -> None:
    contact = await there.contact()
    case = await there.create("queries", subject="x", contact_id=str(contact["id"]))
    await _do(there, SYSTEM, cases.answer, QUERIES, case["id"], "Hello", status=status)
    before = await _earlier(there, case, 100)
    left = before["resolution_due_at"] - (before["paused_at"] or before["resolved_at"])
    me = customer(contact["id"])
    said = await _do(there, me, cases.answer, QUERIES, case["id"], "Still broken")
    assert (said["direction"], said["channel"], said["internal"]) == ("in", "chat", False)
    after = await there.get("queries", case["id"])
    assert (after["status"], after["paused_at"], after["resolved_at"]) == ("open", None, None)
    assert abs(after["resolution_due_at"] - said["created_at"] - left) < timedelta(seconds=2)
    assert 6000 <= after["paused_seconds"] < 6100


async def test_the_plain_way_does_not_get_round_the_clocks(there: Crm) -> None:
    contact = await there.contact()
    case = await there.create("queries", subject="x", contact_id=str(contact["id"]))
    waiting = await there.update("queries", case, status="waiting")
    assert waiting["paused_at"] is not None
    closed = await there.update("queries", waiting, status="closed")
    assert (closed["paused_at"], closed["resolved_at"] is not None) == (None, True)
    with pytest.raises(Conflict, match="closed cannot become waiting"):
        await there.update("queries", closed, status="waiting")
    with pytest.raises(Invalid):
        await there.update("queries", closed, resolved_at=None)
    said = {"contact_id": str(contact["id"]), "query_id": str(case["id"]), "direction": "in", "body": "again"}
    await there.create("interactions", **said)
    assert (await there.get("queries", case["id"]))["status"] == "open"
    made = await there.create("queries", subject="x", contact_id=str(contact["id"]), status="closed")
    assert made["resolved_at"] == made["created_at"]


async def test_only_employees_work_on_cases_and_assigning_begins_them(there: Crm) -> None:
    emma, contact = await _employee(there), await there.contact()
    case = await there.create("requests", subject="x", kind="return", contact_id=str(contact["id"]))
    given = await _do(there, emma, cases.assign, REQUESTS, case["id"], assignee_id=emma.user)
    assert (given["status"], given["assignee_id"]) == ("assigned", emma.user)
    watched = await _do(there, emma, cases.watch, REQUESTS, case["id"])
    assert watched["watchers"] == [emma.user]
    again = await _do(there, emma, cases.watch, REQUESTS, case["id"])
    assert again["version"] == watched["version"]
    assert (await _do(there, emma, cases.watch, REQUESTS, case["id"], watching=False))["watchers"] == []
    back = await _do(there, emma, cases.assign, REQUESTS, case["id"], assignee_id=None)
    assert back["assignee_id"] is None
    person = await there.create(
        "users", full_name="C", email=f"{uuid4().hex}@x.example", role="customer", contact_id=str(contact["id"])
    )
    for nobody in (person["id"], uuid4()):
        with pytest.raises(Invalid) as raised:
            await _do(there, emma, cases.assign, REQUESTS, case["id"], assignee_id=nobody)
        assert "assignee_id" in raised.value.fields


async def test_of_two_who_take_a_case_one_has_it_and_the_other_is_told(there: Crm) -> None:
    emma, emil, contact = await _employee(there), await _employee(there), await there.contact()
    case = await there.create("queries", subject="whose?", contact_id=str(contact["id"]))
    taken = await _do(there, emma, cases.take, QUERIES, case["id"])
    assert (taken["assignee_id"], taken["status"]) == (emma.user, "open")
    with pytest.raises(Conflict, match="somebody else"):
        await _do(there, emil, cases.take, QUERIES, case["id"])
    assert (await _do(there, emma, cases.take, QUERIES, case["id"]))["version"] == taken["version"]
    with pytest.raises(NotThere):
        await _do(there, customer(contact["id"]), cases.take, QUERIES, case["id"])


async def test_a_customer_may_rate_its_own_once_resolved_and_nothing_else(there: Crm) -> None:
    mine, theirs = await there.contact(), await there.contact()
    me, other = customer(mine["id"]), customer(theirs["id"])
    case = await there.create("queries", subject="x", contact_id=str(mine["id"]))
    with pytest.raises(Conflict, match="resolved"):
        await _do(there, me, cases.rate, QUERIES, case["id"], 5)
    await _do(there, SYSTEM, cases.set_status, QUERIES, case["id"], "answered")
    assert (await _do(there, me, cases.rate, QUERIES, case["id"], 4))["satisfaction"] == 4
    with pytest.raises(Invalid):
        await _do(there, me, cases.rate, QUERIES, case["id"], 6)
    attempts: list[tuple[Actor, Any, tuple[Any, ...]]] = [
        (other, cases.rate, (QUERIES, case["id"], 1)),
        (other, cases.answer, (QUERIES, case["id"], "hm")),
        (me, cases.set_status, (QUERIES, case["id"], "closed")),
        (me, cases.assign, (QUERIES, case["id"], None)),
        (me, cases.watch, (QUERIES, case["id"])),
        (me, cases.merge_cases, (QUERIES, case["id"], uuid4())),
        (me, cases.answer, (REQUESTS, case["id"], "hm")),
    ]
    for actor, what, args in attempts:
        with pytest.raises(NotThere):
            await _do(there, actor, what, *args)
    with pytest.raises(Forbidden):
        await _do(there, me, cases.answer, QUERIES, case["id"], "hm", internal=True)
    async with there.database.read() as connection:
        with pytest.raises(NotThere):
            await cases.queue(connection, me)


async def test_the_queue_begins_with_what_is_due_first(there: Crm) -> None:
    emma, contact = await _employee(there), await there.contact()
    team = await there.create("teams", name="Front")
    common = {"contact_id": str(contact["id"]), "assignee_id": str(emma.user), "team_id": str(team["id"])}
    made = {
        name: await there.create("queries", subject=name, priority=priority, **common)
        for name, priority in (("low", 4), ("urgent", 1), ("high", 2), ("waiting", 1), ("closed", 1))
    }
    made["fix"] = await there.create("requests", subject="fix", kind="repair", priority=3, **common)
    for name in ("waiting", "closed"):
        await there.update("queries", made[name], status=name)
    async with there.database.read() as connection:
        rows = await cases.queue(connection, emma, mine=True)
        assert [row["subject"] for row in rows] == ["urgent", "high", "fix", "low", "waiting"]
        assert (rows[0]["assignee"], rows[0]["contact"], rows[2]["kind"]) == ("Emma", "Ada", "requests")
        assert len(await cases.queue(connection, emma, team=team["id"], limit=2)) == 2
        assert await cases.queue(connection, emma, team=uuid4()) == []
        assert len(await cases.queue(connection, emma)) > 5


async def test_what_is_late_is_escalated_once(there: Crm) -> None:
    contact = await there.contact()
    team = await there.create("teams", name="Second line")
    policy = {"first_response_minutes": 10, "resolution_minutes": 60, "escalate_to_id": str(team["id"])}
    await there.create("policies", name="Silver", record_kind="queries", priority=2, **policy)
    made = [
        await there.create("queries", subject=str(age), priority=2, contact_id=str(contact["id"]))
        for age in (5, 15, 15, 65)
    ]
    await there.update("queries", made[2], status="waiting")
    await _do(there, SYSTEM, cases.answer, QUERIES, made[3]["id"], "soon")
    for case, age in zip(made, (5, 15, 15, 65), strict=True):
        await _earlier(there, case, age)
    found = await _do(there, SYSTEM, cases.escalate_due)
    assert {row["id"] for row in found if row["contact_id"] == contact["id"]} == {made[1]["id"], made[3]["id"]}
    case = await there.get("queries", made[1]["id"])
    assert (case["priority"], case["team_id"], case["escalated_at"] is None) == (1, team["id"], False)
    assert not await _do(there, SYSTEM, cases.escalate_due)


async def test_two_cases_of_one_customer_become_one_and_two_again(there: Crm) -> None:
    contact, stranger = await there.contact(), await there.contact()
    emma, otto = await _employee(there), await _employee(there)
    one, two = [await there.create("queries", subject=name, contact_id=str(contact["id"])) for name in "ab"]
    await _do(there, emma, cases.watch, QUERIES, one["id"])
    await _do(there, otto, cases.watch, QUERIES, two["id"])
    said = await _do(there, SYSTEM, cases.answer, QUERIES, two["id"], "hello")
    before = [await there.get("queries", case["id"]) for case in (one, two)]
    foreign = await there.create("queries", subject="c", contact_id=str(stranger["id"]))
    with pytest.raises(Conflict, match="different customers"):
        await _do(there, emma, cases.merge_cases, QUERIES, one["id"], foreign["id"])
    with pytest.raises(Invalid):
        await _do(there, emma, cases.merge_cases, QUERIES, one["id"], one["id"])
    merged = await _do(there, emma, cases.merge_cases, QUERIES, one["id"], two["id"])
    assert set(merged["watchers"]) == {emma.user, otto.user}
    assert merged["first_responded_at"] == before[1]["first_responded_at"]
    gone = await there.get("queries", two["id"])
    assert (gone["status"], gone["merged_into_id"]) == ("closed", one["id"])
    assert (await there.get("interactions", said["id"]))["query_id"] == one["id"]
    with pytest.raises(Conflict, match="merged"):
        await there.update("queries", gone, status="open")
    late = await _do(there, customer(contact["id"]), cases.answer, QUERIES, two["id"], "to the old one")
    assert late["query_id"] == one["id"]
    async with there.database.read() as connection:
        (entry,) = await merge.merges(connection, QUERIES)
    assert (entry["kept"], entry["dropped"], entry["undoable"]) == ("a", "b", True)
    await _do(there, emma, merge.undo, entry["id"])
    after = [await there.get("queries", case["id"]) for case in (one, two)]
    for old, new in zip(before, after, strict=True):
        same = set(old) - {"version", "updated_at", "updated_by", "updated_on", "status"}
        assert {name: old[name] for name in same} == {name: new[name] for name in same}
    assert (await there.get("interactions", said["id"]))["query_id"] == two["id"]
    assert (await there.get("interactions", late["id"]))["query_id"] == one["id"]
    with pytest.raises(Conflict, match="undone already"):
        await _do(there, emma, merge.undo, entry["id"])


async def test_no_case_is_found_by_a_guess(there: Crm) -> None:
    for id_ in (uuid4(), UUID(int=0)):
        with pytest.raises(NotThere):
            await _do(there, SYSTEM, cases.set_status, QUERIES, id_, "open")
    assert datetime.now(UTC).tzinfo
