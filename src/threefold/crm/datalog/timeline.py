"""What became of a record: entry by entry, newest first, and as it was at any time."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import sql

from threefold.crm.datalog import history
from threefold.crm.desk import Connection, Row
from threefold.crm.model.actor import Actor
from threefold.crm.model.kinds import Kind
from threefold.crm.sql import repository
from threefold.kernel.errors import Damaged, NotThere


async def timeline(
    connection: Connection, actor: Actor, kind: Kind, id_: UUID, *, after: int | None = None, limit: int = 50
) -> list[Row]:
    """The data log of one record, newest first; ``after``: the version of the last entry that was seen.

    Each: version, op, at, actor and actor_name (both null: somebody at the database itself), device, reason,
    changes ({field: [old, new]}; null if they were erased) and erased.
    """
    _employees_only(actor, kind)
    cursor = await connection.execute(
        "SELECT l.version, l.op, l.at, l.actor, u.full_name AS actor_name, l.device, l.reason, l.changes,"
        " l.salt IS NULL AS erased FROM crm.log l LEFT JOIN crm.users u ON u.id = l.actor"
        " WHERE l.record_id = %s AND l.kind = %s AND l.version < %s ORDER BY l.version DESC LIMIT %s",
        (id_, kind.name, 2**31 - 1 if after is None else after, limit),
    )
    entries = await cursor.fetchall()
    if not entries and after is None:
        raise NotThere(f"there is no such {kind.one}")
    created = None
    if entries and entries[-1]["op"] == "create" and not entries[-1]["erased"]:
        try:
            created = await state(connection, kind, id_, entries[-1]["version"])
        except NotThere:
            created = None  # erased on the way
    for entry in entries:
        entry["changes"] = history.told(kind, entry, created)
    return entries


async def as_of(connection: Connection, actor: Actor, kind: Kind, id_: UUID, at: datetime) -> Row:
    """The record as it was then, also if it is gone now. NotThere if it was not made yet, was gone, or is erased."""
    _employees_only(actor, kind)
    cursor = await connection.execute(
        "SELECT version, op FROM crm.log WHERE record_id = %s AND kind = %s AND at <= %s ORDER BY version DESC LIMIT 1",
        (id_, kind.name, at),
    )
    found = await cursor.fetchone()
    if found is None or found["op"] == "delete":
        raise NotThere(f"there was no such {kind.one} then")
    return history.typed(kind, await state(connection, kind, id_, found["version"]))


async def state(connection: Connection, kind: Kind, id_: UUID, version: int) -> history.Values:
    """At one version, as JSON has it. One statement, so that the record and its log are of the same moment."""
    statement = sql.SQL(
        "SELECT (SELECT row_to_json(t) FROM {} t WHERE id = %(id)s) AS row,"
        " (SELECT coalesce(jsonb_agg(jsonb_build_object('version', version, 'op', op, 'changes', changes)"
        " ORDER BY version DESC), '[]') FROM crm.log WHERE record_id = %(id)s AND version > %(version)s) AS entries,"
        " (SELECT array_agg(attname::text ORDER BY attnum) FROM pg_attribute"
        " WHERE attrelid = %(table)s::regclass AND attnum > 0 AND NOT attisdropped) AS columns"
    ).format(repository.table(kind.name))
    params: dict[str, Any] = {"id": id_, "version": version, "table": f"crm.{kind.name}"}
    row = (await (await connection.execute(statement, params)).fetchall())[0]
    try:
        now = history.last_state(row["columns"], row["row"], row["entries"])
        return history.at_version(now, row["entries"], version)
    except Damaged as error:
        raise Damaged(
            f"the data log of the {kind.one} {id_} is broken: {error}", hint="run threefold crm verify-log"
        ) from None


def _employees_only(actor: Actor, kind: Kind) -> None:
    """Who did what inside of the company is not a customer's business."""
    if actor.is_customer:
        raise NotThere(f"there is no such {kind.one}")
