"""Changes that can be taken back: to which records, from what, to what.

Merges are made of them. An edit is undone only where the fields still hold what it put there: what somebody changed
afterwards is theirs, and the undoing says so instead of writing over it. What nobody looked at since is put back to
the letter. Values are kept as PostgreSQL's own JSON of them, and compared as PostgreSQL's own values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg import errors, sql
from psycopg.types.json import Jsonb

from threefold.crm.desk import Tx
from threefold.crm.model.errors import Conflict
from threefold.crm.sql import locks
from threefold.crm.sql.repository import table

# The transaction's time zone is UTC (database.py), so that a time has one spelling in JSON.


@dataclass(frozen=True, slots=True)
class Edit:
    """``kind``: the table. ``old`` and ``new``: the same fields."""

    kind: str
    ids: tuple[UUID, ...]
    old: Mapping[str, Any]
    new: Mapping[str, Any]

    def stored(self) -> dict[str, Any]:
        return {"kind": self.kind, "ids": [str(id_) for id_ in self.ids], "old": self.old, "new": self.new}


def loaded(stored: Iterable[Mapping[str, Any]]) -> list[Edit]:
    return [Edit(each["kind"], tuple(map(UUID, each["ids"])), each["old"], each["new"]) for each in stored]


async def move(tx: Tx, kind: str, column: str, old: UUID, new: UUID) -> list[Edit]:
    """Every record, deleted ones too, that refers to ``old`` refers to ``new`` from now on."""
    statement = sql.SQL("UPDATE {} SET {} = %s WHERE {} = %s RETURNING id").format(
        table(kind), sql.Identifier(column), sql.Identifier(column)
    )
    rows = await (await tx.connection.execute(statement, [new, old])).fetchall()
    if not rows:
        return []
    return [Edit(kind, tuple(row["id"] for row in rows), {column: str(old)}, {column: str(new)})]


async def put(tx: Tx, kind: str, id_: UUID, new: Mapping[str, Any]) -> list[Edit]:
    """Change fields of one record, locked by the caller. ``new`` in JSON's values; what is so already is left out."""
    if not new:
        return []
    statement = sql.SQL("SELECT to_jsonb(t) AS row, to_jsonb(r) AS wanted FROM {} t, {} r WHERE t.id = %s").format(
        table(kind), _populated(kind)
    )
    row = (await (await tx.connection.execute(statement, [Jsonb(dict(new)), id_])).fetchall())[0]
    changed = [name for name in new if row["row"][name] != row["wanted"][name]]
    if not changed:
        return []
    edit = Edit(
        kind, (id_,), {name: row["row"][name] for name in changed}, {name: row["wanted"][name] for name in changed}
    )
    await _write(tx, kind, edit.ids, edit.new)
    return [edit]


async def undo_one(tx: Tx, edit: Edit) -> None:
    """One whose records the caller has locked and found unchanged."""
    try:
        await _write(tx, edit.kind, edit.ids, edit.old)
    except errors.UniqueViolation:
        raise Conflict("what comes back is there already, made anew since") from None


async def hold(tx: Tx, edits: Sequence[Edit]) -> None:
    """Locks all that undoing them may touch."""
    wanted = [(edit.kind, id_) for edit in edits for id_ in edit.ids]
    await locks.take(tx, wanted, shared=[one for edit in edits for one in locks.referred(edit.kind, edit.old)])


async def undo(tx: Tx, edits: Sequence[Edit]) -> None:
    """All of them, last first; or Conflict with what stands against it, and nothing. The caller holds them."""
    against = [problem for edit in edits for problem in await _changed_since(tx, edit)]
    if against:
        more = f", and {len(against) - 3} more" if len(against) > 3 else ""
        raise Conflict(
            f"it cannot be undone: {'; '.join(against[:3])}{more}",
            hint="these were changed since; change them back first, or leave it as it is",
        )
    try:
        for edit in reversed(edits):
            await _write(tx, edit.kind, edit.ids, edit.old)
    except errors.UniqueViolation:
        raise Conflict(
            "it cannot be undone: what comes back is there already, made anew since", hint="remove the new one first"
        ) from None


async def _changed_since(tx: Tx, edit: Edit) -> list[str]:
    """One that is gone for good (a person was erased) stands against nothing."""
    names = list(edit.new)
    statement = sql.SQL("SELECT t.id, {} FROM {} t, {} r WHERE t.id = ANY(%s) AND ({}) ORDER BY t.id LIMIT 100").format(
        sql.SQL(", ").join(
            sql.SQL("t.{0} IS DISTINCT FROM r.{0} AS {0}").format(sql.Identifier(name)) for name in names
        ),
        table(edit.kind),
        _populated(edit.kind),
        sql.SQL(" OR ").join(sql.SQL("t.{0} IS DISTINCT FROM r.{0}").format(sql.Identifier(name)) for name in names),
    )
    rows = await (await tx.connection.execute(statement, [Jsonb(dict(edit.new)), list(edit.ids)])).fetchall()
    return [f"{', '.join(name for name in names if row[name])} of {edit.kind} {row['id']}" for row in rows]


async def _write(tx: Tx, kind: str, ids: Sequence[UUID], values: Mapping[str, Any]) -> None:
    statement = sql.SQL("UPDATE {} t SET {} FROM {} r WHERE t.id = ANY(%s)").format(
        table(kind),
        sql.SQL(", ").join(sql.SQL("{0} = r.{0}").format(sql.Identifier(name)) for name in values),
        _populated(kind),
    )
    await tx.connection.execute(statement, [Jsonb(dict(values)), list(ids)])


def _populated(kind: str) -> sql.Composed:
    return sql.SQL("jsonb_populate_record(NULL::{}, %s)").format(table(kind))
