"""What happens to a case, and to its clocks, with every record that is created or changed around it.

records.py asks here before and after it writes, so that nothing gets round the clocks: not the API's plain PATCH, not
a bulk edit, not an import. Invariant: a status and what it does to the clocks are written in one statement.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from psycopg import sql

from threefold.crm.clocks import case_states, sla
from threefold.crm.clocks.policies import Policy, policy_of
from threefold.crm.desk import Row, Tx
from threefold.crm.model import rules
from threefold.crm.model.errors import Conflict, Invalid
from threefold.crm.model.kinds import CASES, KINDS, Kind
from threefold.crm.sql import repository
from threefold.kernel.errors import NotThere

_COLUMNS: Final = {"queries": "query_id", "requests": "request_id"}  # of interactions
_MERGED_MOST: Final = 50  # cases on the way from one that was merged to the one that is left


async def before_create(tx: Tx, kind: Kind, values: Mapping[str, Any]) -> dict[str, Any]:
    """Checked values in, what is to be written out."""
    if kind.name == "interactions":
        return await _before_interaction(tx, dict(values))
    if kind.name not in CASES:
        return dict(values)
    made: dict[str, Any] = {**values}
    if tx.actor.is_customer:
        allowed = rules.REPORTED[kind.name]
        made = {name: value for name, value in made.items() if name in allowed or name == "id"}
        made.update(contact_id=tx.actor.contact, priority=3, status="new", watchers=[])
    if made.get("account_id") is None:
        made["account_id"] = await _account_of(tx, made["contact_id"])
    await _check_people(tx, made)
    status = made.get("status", "new")
    if status == "new" and made.get("assignee_id"):
        status = case_states.ASSIGNED[kind.name]
    policy = await policy_of(tx.connection, kind.name, int(made["priority"]))
    made |= _due(tx, policy)
    as_new = {**dict.fromkeys(_CLOCKS), **made, "status": "new", "paused_seconds": 0}
    return made | {"status": "new"} | case_states.become(kind.name, as_new, status, tx.now, policy.office)


async def before_update(tx: Tx, kind: Kind, changes: Mapping[str, Any], old: Row) -> dict[str, Any]:
    """Checked changes in, what is to be written out. ``old``: the case as it is."""
    if kind.name not in CASES or not changes:
        return dict(changes)
    if old["merged_into_id"]:
        raise Conflict("this case was merged into another one", hint="change that one, or undo the merge")
    made: dict[str, Any] = dict(changes)
    if tx.actor.is_customer:
        made = {name: value for name, value in made.items() if name == "satisfaction"}
    if "satisfaction" in made and made["satisfaction"] is not None:
        _check_rated(kind, old)
    await _check_people(tx, made)
    priority = {**old, **made}["priority"]
    status = made.pop("status", old["status"])
    if status == old["status"] == "new" and made.get("assignee_id"):
        status = case_states.ASSIGNED[kind.name]
    if priority == old["priority"] and status == old["status"]:
        return made
    policy = await policy_of(tx.connection, kind.name, priority)
    if priority != old["priority"] and not old["resolved_at"]:
        made |= _due_again(old, policy)
    return made | case_states.become(kind.name, {**old, **made}, status, tx.now, policy.office)


async def after_create(tx: Tx, kind: Kind, row: Row) -> None:
    """An interaction moves its case on: an answer stops the first clock, a customer's word opens it again."""
    if kind.name != "interactions":
        return
    found = case_of(row)
    if found is None or row["internal"]:
        return
    name, id_ = found
    case = await lock(tx, KINDS[name], id_)
    changes: dict[str, Any] = {}
    status = case["status"]
    if row["direction"] == "in":
        if status == case_states.WAITING or status in case_states.ENDED[name]:
            status = case_states.REOPENED[name]
    else:
        if case["first_responded_at"] is None:
            changes["first_responded_at"] = tx.now
        if status == "new":
            status = case_states.REOPENED[name]
    if status != case["status"]:
        policy = await policy_of(tx.connection, name, case["priority"])
        changes |= case_states.become(name, {**case, **changes}, status, tx.now, policy.office)
    if changes:
        await repository.change(tx, KINDS[name], id_, changes, None)


def case_of(interaction: Mapping[str, Any]) -> tuple[str, UUID] | None:
    """The kind and id of the case that an interaction is about."""
    for name, column in _COLUMNS.items():
        if interaction.get(column):
            return name, interaction[column]
    return None


async def lock(tx: Tx, kind: Kind, id_: UUID) -> Row:
    """The case, which nobody else changes until this transaction ends; one that was merged is found where it went.

    Its account stays what it is meanwhile, and is held first (locks.py): what is said in the case refers to it too.
    """
    which = repository.scope(tx.actor, kind)
    statement = sql.SQL(
        "WITH account AS MATERIALIZED ("
        " SELECT id FROM crm.accounts WHERE id = (SELECT account_id FROM {table} WHERE id = %s) FOR KEY SHARE)"
        " SELECT {shown} FROM {table}"
        " WHERE id = %s AND (SELECT count(*) FROM account) >= 0 AND deleted_at IS NULL AND {scope} FOR UPDATE"
    ).format(shown=repository.selected(kind), table=repository.table(kind.name), scope=which.text)
    row = await (await tx.connection.execute(statement, [id_, id_, *which.params])).fetchone()
    if row is None:
        raise NotThere(f"there is no such {kind.one}")
    return row


async def left(tx: Tx, kind: Kind, id_: UUID) -> Row:
    """`lock`, of the case that is left where this one was merged away: what a customer writes to it gets there."""
    for _ in range(_MERGED_MOST):
        row = await lock(tx, kind, id_)
        if row["merged_into_id"] is None:
            return row
        id_ = row["merged_into_id"]
    raise Conflict("these cases were merged in a circle", hint="undo one of the merges")


_CLOCKS: Final = (
    "first_response_due_at",
    "first_responded_at",
    "resolution_due_at",
    "resolved_at",
    "paused_at",
    "paused_seconds",
)


async def _before_interaction(tx: Tx, values: dict[str, Any]) -> dict[str, Any]:
    found = case_of(values)
    if tx.actor.is_customer:
        if found is None:
            raise Invalid(
                "it has to be about a case",
                {"query_id": "give this or request_id"},
                hint="report an issue first, then write to it",
            )
        allowed = rules.REPORTED["interactions"]
        values = {name: value for name, value in values.items() if name in allowed or name == "id"}
        values |= {"channel": "chat", "direction": "in", "internal": False}
    if found is None:
        if values.get("account_id") is None:
            values["account_id"] = await _account_of(tx, values["contact_id"])
        return values
    name, id_ = found
    case = await left(tx, KINDS[name], id_)
    values[_COLUMNS[name]] = case["id"]
    if tx.actor.is_customer or values.get("contact_id") is None:
        values["contact_id"] = case["contact_id"]
    if values.get("account_id") is None:
        values["account_id"] = case["account_id"]
    return values


async def _account_of(tx: Tx, contact: UUID | None) -> UUID | None:
    cursor = await tx.connection.execute("SELECT account_id FROM crm.contacts WHERE id = %s", [contact])
    row = await cursor.fetchone()
    return row["account_id"] if row else None


async def _check_people(tx: Tx, values: Mapping[str, Any]) -> None:
    """Cases are worked on by employees who are still here."""
    named = {name: values[name] for name in ("assignee_id",) if values.get(name)}
    watchers = list(values.get("watchers") or ())
    if not named and not watchers:
        return
    cursor = await tx.connection.execute(
        "SELECT id FROM crm.users WHERE id = ANY(%s) AND role <> 'customer' AND active AND deleted_at IS NULL",
        [[*named.values(), *watchers]],
    )
    there = {row["id"] for row in await cursor.fetchall()}
    wrong = {name: "there is no such employee" for name, id_ in named.items() if id_ not in there}
    if set(watchers) - there:
        wrong["watchers"] = "not all of these are employees"
    if wrong:
        raise Invalid("some fields cannot be meant", wrong, hint="see the fields")


def _check_rated(kind: Kind, case: Row) -> None:
    if case["status"] not in case_states.RESOLVED[kind.name]:
        raise Conflict(f"a {kind.one} is rated once it is resolved", hint="wait for the answer")


def _due(tx: Tx, policy: Policy) -> dict[str, Any]:
    return {
        "first_response_due_at": sla.due(tx.now, policy.first_response, policy.office),
        "resolution_due_at": sla.due(tx.now, policy.resolution, policy.office),
    }


def _due_again(case: Row, policy: Policy) -> dict[str, Any]:
    """With another priority, as if it had had that from the start."""
    start, paused = case["created_at"], case["paused_seconds"]
    due = {"resolution_due_at": sla.due(start, policy.resolution, policy.office, paused)}
    if not case["first_responded_at"]:
        due["first_response_due_at"] = sla.due(start, policy.first_response, policy.office, paused)
    return due
