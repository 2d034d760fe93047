"""The recycle bin: a record goes in with what only makes sense with it, and comes back with exactly that.

One deletion has one id (crm.deletions): a child that was in the bin before its parent is not part of the parent's
deletion, and stays there when the parent comes back. A case keeps its customer and account whatever becomes of them,
so cases are never deleted along with those.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from psycopg import sql

from threefold.crm.desk import Row, Tx
from threefold.crm.model import rules
from threefold.crm.model.errors import Conflict, Stale
from threefold.crm.model.kinds import KINDS, Kind
from threefold.crm.sql import locks, repository
from threefold.kernel.errors import NotThere


async def delete(tx: Tx, kind: Kind, id_: UUID, version: int | None, *, held: bool = False) -> None:
    """Stale if it is at another version; NotThere if it is in the bin already.

    ``held``: the caller has locked it, `with_all_below`.
    """
    rules.check(tx.actor, rules.Operation.DELETE, kind.name)
    if not held:
        await locks.take(tx, await with_all_below(tx, kind, [id_]))
    gone = await _mark(tx, kind, "id", [id_], version)
    if not gone:
        row = await repository.one(tx.connection, tx.actor, kind, id_, deleted=False)
        raise Stale(
            f"the {kind.one} was changed meanwhile: it is at version {row['version']}",
            hint="read it again and decide whether it should go",
        )
    deletion = tx.new_id()
    taken: list[tuple[str, UUID]] = []
    level = [(kind, [id_])]
    while level:
        below: list[tuple[Kind, list[UUID]]] = []
        for parent, ids in level:
            for child, column in repository.children(parent):
                if found := await _mark(tx, child, column, ids, None):
                    below.append((child, found))
                    taken += [(child.name, each) for each in found]
        level = below
    async with tx.connection.cursor() as cursor:
        await cursor.executemany(
            "INSERT INTO crm.deletions (id, kind, record_id, root) VALUES (%s, %s, %s, %s)",
            [(deletion, kind.name, id_, True), *((deletion, name, each, False) for name, each in taken)],
        )


async def with_all_below(tx: Tx, kind: Kind, ids: Sequence[UUID]) -> list[locks.One]:
    """The records, and what goes to the bin with them."""
    found = [(kind.name, id_) for id_ in ids]
    level: list[tuple[Kind, Sequence[UUID]]] = [(kind, ids)]
    while level:
        below: list[tuple[Kind, Sequence[UUID]]] = []
        for parent, of in level:
            for child, column in repository.children(parent):
                statement = sql.SQL("SELECT id FROM {} WHERE {} = ANY(%s) AND deleted_at IS NULL").format(
                    repository.table(child.name), sql.Identifier(column)
                )
                rows = await (await tx.connection.execute(statement, [list(of)])).fetchall()
                if rows:
                    below.append((child, [row["id"] for row in rows]))
                    found += [(child.name, row["id"]) for row in rows]
        level = below
    return found


async def with_all_deleted_with(tx: Tx, kind: Kind, ids: Sequence[UUID]) -> list[locks.One]:
    """The records, and what comes out of the bin with them."""
    cursor = await tx.connection.execute(
        "SELECT kind, record_id FROM crm.deletions WHERE id IN"
        " (SELECT id FROM crm.deletions WHERE record_id = ANY(%s) AND root)",
        [list(ids)],
    )
    return [(kind.name, id_) for id_ in ids] + [(row["kind"], row["record_id"]) for row in await cursor.fetchall()]


async def _mark(tx: Tx, kind: Kind, column: str, ids: list[UUID], version: int | None) -> list[UUID]:
    statement = sql.SQL(
        "UPDATE {} SET deleted_at = now() WHERE {} = ANY(%s) AND deleted_at IS NULL{} RETURNING {}"
    ).format(
        repository.table(kind.name),
        sql.Identifier(column),
        sql.SQL("" if version is None else " AND version = %s"),
        repository.selected(kind),
    )
    params: list[Any] = [ids] if version is None else [ids, version]
    rows = await (await tx.connection.execute(statement, params)).fetchall()
    for row in rows:
        repository.note(tx, kind, row)
    return [row["id"] for row in rows]


async def restore(tx: Tx, kind: Kind, id_: UUID, *, held: bool = False) -> Row:
    """With all that was deleted with it. Conflict if what it hangs on is in the bin, or its like is there anew.

    ``held``: the caller has locked it, `with_all_deleted_with`.
    """
    rules.check(tx.actor, rules.Operation.DELETE, kind.name)
    if not held:
        await locks.take(tx, await with_all_deleted_with(tx, kind, [id_]))
    row = await repository.one(tx.connection, tx.actor, kind, id_, deleted=True)
    if row["deleted_at"] is None:
        raise NotThere(f"the {kind.one} is not in the recycle bin")
    await _parents_there(tx, kind, row)
    found = await tx.connection.execute("SELECT id, root FROM crm.deletions WHERE record_id = %s FOR UPDATE", [id_])
    deletion = await found.fetchone()
    together: dict[str, list[UUID]] = {kind.name: [id_]}
    if deletion is not None and deletion["root"]:
        rows = await tx.connection.execute(
            "DELETE FROM crm.deletions WHERE id = %s RETURNING kind, record_id, root", [deletion["id"]]
        )
        for each in await rows.fetchall():
            if not each["root"]:
                together.setdefault(each["kind"], []).append(each["record_id"])
    else:
        await tx.connection.execute("DELETE FROM crm.deletions WHERE record_id = %s", [id_])
    restored: Row | None = None
    for name, ids in together.items():
        statement = sql.SQL(
            "UPDATE {} SET deleted_at = NULL WHERE id = ANY(%s) AND deleted_at IS NOT NULL RETURNING {}"
        ).format(repository.table(name), repository.selected(KINDS[name]))
        for back in await (await tx.connection.execute(statement, [ids])).fetchall():
            repository.note(tx, KINDS[name], back)
            restored = back if back["id"] == id_ else restored
    if restored is None:
        raise NotThere(f"the {kind.one} is not in the recycle bin")
    return restored


async def _parents_there(tx: Tx, kind: Kind, row: Row) -> None:
    wanted = []
    for parent in KINDS.values():
        for child, column in repository.children(parent):
            about = row.get("record_kind", parent.name) if column == "record_id" else parent.name
            if child is kind and about == parent.name and row.get(column) is not None:
                wanted.append((parent.one, parent.name, row[column]))
    if absent := await repository.missing(tx.connection, wanted):
        one = min(absent)
        raise Conflict(f"its {one} is in the recycle bin", hint=f"restore the {one}: this comes back with it")
