"""Lists that somebody wants to see again: which records, in which order, with which columns. Own, or for everybody."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import parse_qsl, urlencode
from uuid import UUID

from psycopg.errors import UniqueViolation

from threefold.crm.desk import Change, Connection, Row, Tx
from threefold.crm.model import asking, rules
from threefold.crm.model.actor import Actor
from threefold.crm.model.errors import Conflict, Forbidden, Invalid
from threefold.crm.model.kinds import KINDS, Kind
from threefold.kernel.errors import NotThere

NAME_MOST: Final = 80
MANY: Final = 200  # of one person, and of everybody's
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_PLACE: Final = ("after", "limit")  # of one look at the list, not of the list


async def views(connection: Connection, actor: Actor, kind: Kind) -> list[Row]:
    """Everybody's and one's own, by name. ``shared``: everybody's; ``mine``: may be changed by who asks."""
    rules.check(actor, rules.Operation.VIEW)
    cursor = await connection.execute(
        """
        SELECT id, kind, name, asked, columns, user_id IS NULL AS shared, created_by, created_at, updated_at,
               (user_id = %(user)s OR created_by = %(user)s OR %(all)s) IS TRUE AS mine
        FROM crm.views WHERE kind = %(kind)s AND (user_id IS NULL OR user_id = %(user)s)
        ORDER BY user_id IS NULL, lower(name), id
        """,
        {"user": actor.user, "all": actor.is_administrator, "kind": kind.name},
    )
    return await cursor.fetchall()


async def save(
    tx: Tx,
    kind: Kind,
    name: str,
    asked: str = "",
    columns: Sequence[str] = (),
    *,
    shared: bool = False,
) -> Row:
    """``asked``: the list's query string. A view of that name is replaced, if it is one's own to change."""
    rules.check(tx.actor, rules.Operation.VIEW)
    name = " ".join(name.split())
    wrong = {}
    if not 0 < len(name) <= NAME_MOST or _CONTROL.search(name):
        wrong["name"] = f"has to have from 1 to {NAME_MOST} characters"
    if unknown := [column for column in columns if kind.field(column) is None]:
        wrong["columns"] = f"there is no such column: {unknown[0][:60]}"
    elif len(set(columns)) < len(columns):
        wrong["columns"] = "name each column once"
    if wrong:
        raise Invalid("this view cannot be kept", wrong)
    pairs = [pair for pair in parse_qsl(asked.removeprefix("?"), keep_blank_values=True) if pair[0] not in _PLACE]
    asking.parse(kind, pairs)
    owner = None if shared else tx.actor.user
    same = "kind = %s AND user_id IS NOT DISTINCT FROM %s"
    cursor = await tx.connection.execute(
        f"SELECT id, created_by, count(*) OVER () AS many, lower(name) = lower(%s) AS this"  # noqa: S608 - ours
        f" FROM crm.views WHERE {same} ORDER BY this DESC LIMIT 1",
        [name, kind.name, owner],
    )
    there = await cursor.fetchone()
    if there is not None and not there["this"]:
        if there["many"] >= MANY:
            raise Conflict(f"there are {MANY} views already", hint="remove one that nobody needs")
        there = None
    if there is not None and not _may_change(tx.actor, owner, there["created_by"]):
        raise Conflict("somebody else keeps a view of this name for everybody", hint="choose another name")
    values = {"kind": kind.name, "name": name, "asked": urlencode(pairs), "columns": list(columns), "owner": owner}
    if there is None:
        view = tx.new_id()
        statement = """INSERT INTO crm.views (id, user_id, kind, name, asked, columns)
            VALUES (%(id)s, %(owner)s, %(kind)s, %(name)s, %(asked)s, %(columns)s)"""
    else:
        view = there["id"]
        statement = """UPDATE crm.views SET name = %(name)s, asked = %(asked)s, columns = %(columns)s,
            updated_at = now() WHERE id = %(id)s"""
    returned = (
        "RETURNING id, kind, name, asked, columns, user_id IS NULL AS shared, created_by, created_at,"
        " updated_at, true AS mine"
    )
    try:
        saved = await tx.connection.execute(f"{statement} {returned}".encode(), {**values, "id": view})
    except UniqueViolation:
        raise Conflict("a view of this name was made at this moment", hint="ask again") from None
    tx.changed.add(Change("views", view))
    return (await saved.fetchall())[0]


async def remove(tx: Tx, view: UUID) -> None:
    """One's own; everybody's by who made it or an administrator."""
    rules.check(tx.actor, rules.Operation.VIEW)
    cursor = await tx.connection.execute("SELECT user_id, created_by FROM crm.views WHERE id = %s FOR UPDATE", [view])
    row = await cursor.fetchone()
    if row is None or row["user_id"] not in (None, tx.actor.user):
        raise NotThere("there is no such view")
    if not _may_change(tx.actor, row["user_id"], row["created_by"]):
        raise Forbidden("this view is everybody's, and somebody else made it", hint="ask them or an administrator")
    await tx.connection.execute("DELETE FROM crm.views WHERE id = %s", [view])


def query(row: Row) -> asking.Asked:
    """What to ask `records.page` for."""
    return asking.parse(KINDS[row["kind"]], parse_qsl(row["asked"], keep_blank_values=True))


def _may_change(actor: Actor, owner: UUID | None, maker: UUID | None) -> bool:
    return owner is not None or actor.is_administrator or (maker is not None and maker == actor.user)
