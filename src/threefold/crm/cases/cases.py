"""What is done with queries and requests. The clocks follow by themselves (case_clocks.py).

A case belongs to one customer, who sees only what is theirs and writes only to what is theirs; two cases are merged
only if they are the same customer's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from psycopg import sql

from threefold.crm.clocks import case_clocks, case_states
from threefold.crm.clocks.escalation import escalate_due
from threefold.crm.clocks.policies import clocks
from threefold.crm.desk import Connection, Row, Tx
from threefold.crm.model import rules
from threefold.crm.model.actor import Actor
from threefold.crm.model.errors import Conflict, Forbidden, Invalid
from threefold.crm.model.kinds import CASES, KINDS, Kind
from threefold.crm.records import records
from threefold.crm.records.merge import merge_cases
from threefold.crm.sql import repository

__all__ = [
    "answer",
    "assign",
    "clocks",
    "escalate_due",
    "merge_cases",
    "open_case",
    "queue",
    "rate",
    "set_status",
    "take",
    "watch",
]

_ABOUT: Final = {"queries": "query_id", "requests": "request_id"}
_LEFT_AS_IT_IS: Final = UUID(int=0)


async def open_case(tx: Tx, kind: Kind, values: Mapping[str, Any]) -> Row:
    """A customer's is theirs whatever ``values`` say; what is due follows from the policy of its priority."""
    return await records.create(tx, kind, values)


async def answer(
    tx: Tx,
    kind: Kind,
    id_: UUID,
    body: str,
    *,
    channel: str = "mail",
    internal: bool = False,
    status: str | None = None,
) -> Row:
    """The interaction. An employee's stops the first clock unless it is internal; a customer's opens the case again."""
    rules.check(tx.actor, rules.Operation.ANSWER, kind.name)
    customer = tx.actor.is_customer
    if customer and (internal or status is not None):
        raise Forbidden("what a case becomes is for those who work on it", hint="leave status and internal out")
    case = await case_clocks.left(tx, kind, id_)
    row = await records.make(
        tx,
        KINDS["interactions"],
        {
            "contact_id": case["contact_id"],
            _ABOUT[kind.name]: case["id"],
            "channel": "chat" if customer else channel,
            "direction": "in" if customer else "out",
            "internal": internal,
            "body": body,
        },
    )
    if status is not None:
        await records.change(tx, kind, case["id"], {"status": status}, None)
    return row


async def set_status(tx: Tx, kind: Kind, id_: UUID, status: str) -> Row:
    """Conflict where it may not follow the present one; pausing and going on are the status 'waiting' and the next."""
    rules.check(tx.actor, rules.Operation.WORK, kind.name)
    return await records.change(tx, kind, id_, {"status": status}, None)


async def assign(
    tx: Tx,
    kind: Kind,
    id_: UUID,
    assignee_id: UUID | None = _LEFT_AS_IT_IS,
    team_id: UUID | None = _LEFT_AS_IT_IS,
) -> Row:
    """None takes it away; what is not given stays."""
    rules.check(tx.actor, rules.Operation.WORK, kind.name)
    given = {"assignee_id": assignee_id, "team_id": team_id}
    changes = {name: value for name, value in given.items() if value is not _LEFT_AS_IT_IS}
    if not changes:
        raise Invalid("nobody is named", {"assignee_id": "give this or team_id"})
    return await records.change(tx, kind, id_, changes, None)


async def take(tx: Tx, kind: Kind, id_: UUID) -> Row:
    """Whoever asks has it from now on. Conflict where somebody else has it already: of two, one is told."""
    rules.check(tx.actor, rules.Operation.WORK, kind.name)
    if tx.actor.user is None:
        raise Forbidden("only a person can take a case")
    case = await case_clocks.lock(tx, kind, id_)
    if case["assignee_id"] == tx.actor.user:
        return case
    if case["assignee_id"] is not None:
        raise Conflict("somebody else took it a moment ago", hint="open it to see who; there it can be given to you")
    return await records.change(tx, kind, id_, {"assignee_id": tx.actor.user}, None)


async def watch(tx: Tx, kind: Kind, id_: UUID, *, watching: bool = True) -> Row:
    """Whoever asks watches it, or no longer does."""
    rules.check(tx.actor, rules.Operation.WORK, kind.name)
    if tx.actor.user is None:
        raise Forbidden("only a person can watch a case")
    case = await case_clocks.lock(tx, kind, id_)
    others = [user for user in case["watchers"] if user != tx.actor.user]
    wanted = [*others, tx.actor.user] if watching else others
    if set(wanted) == set(case["watchers"]):
        return case
    changed = await repository.change(tx, kind, id_, {"watchers": wanted}, None)
    return changed or case


async def rate(tx: Tx, kind: Kind, id_: UUID, satisfaction: int) -> Row:
    """By its customer, once it is resolved; they may think better of it."""
    rules.check(tx.actor, rules.Operation.RATE, kind.name)
    case = await case_clocks.lock(tx, kind, id_)
    if case["status"] not in case_states.RESOLVED[kind.name]:
        raise Conflict(f"a {kind.one} is rated once it is resolved", hint="wait for the answer")
    return await records.change(tx, kind, id_, {"satisfaction": satisfaction}, None)


async def queue(
    connection: Connection,
    actor: Actor,
    *,
    mine: bool = False,
    team: UUID | None = None,
    unassigned: bool = False,
    limit: int = 50,
) -> list[Row]:
    """Queries and requests that are not over, what is due first at the top; those that wait for a customer below."""
    rules.check(actor, rules.Operation.WORK, "queries")
    parts, params = [], []
    for name in CASES:
        for status in (case_states.running(name), (case_states.WAITING,)):
            part = sql.SQL(_PART).format(
                kind=sql.Literal(name),
                table=repository.table(name),
                states=sql.SQL(", ").join(map(sql.Literal, status)),
                waiting=sql.Literal(status == (case_states.WAITING,)),
                mine=sql.SQL(" AND assignee_id = %s" if mine else " AND assignee_id IS NULL" if unassigned else ""),
                team=sql.SQL(" AND team_id = %s" if team else ""),
            )
            parts.append(part)
            params += [*([actor.user] if mine else []), *([team] if team else []), limit]
    statement = sql.SQL(_QUEUE).format(sql.SQL(" UNION ALL ").join(parts))
    return await (await connection.execute(statement, [*params, limit])).fetchall()


_PART: Final = """
    (SELECT {kind} AS kind, id, version, subject, status, priority, contact_id, account_id, assignee_id, team_id,
            crm.next_due(first_responded_at, first_response_due_at, resolution_due_at) AS due_at,
            first_response_due_at, first_responded_at, resolution_due_at, resolved_at, paused_at, paused_seconds,
            escalated_at, created_at, updated_at, {waiting} AS is_waiting
     FROM {table}
     WHERE status IN ({states}) AND deleted_at IS NULL{mine}{team}
     ORDER BY crm.next_due(first_responded_at, first_response_due_at, resolution_due_at), id LIMIT %s)
"""
_QUEUE: Final = """
    SELECT q.*, c.full_name AS contact, a.name AS account, u.full_name AS assignee
    FROM (SELECT * FROM ({}) cases ORDER BY is_waiting, due_at, id LIMIT %s) q
    LEFT JOIN crm.contacts c ON c.id = q.contact_id
    LEFT JOIN crm.accounts a ON a.id = q.account_id
    LEFT JOIN crm.users u ON u.id = q.assignee_id
    ORDER BY is_waiting, due_at, q.id
"""
