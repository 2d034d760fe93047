"""What a customer sees of its cases: all of them in one list, and what was said in one.

Queries and requests are two tables; to the person who asked they are one thing. Both statements are bound to the
customer's own contact, and leave out what was written for employees only.
"""

from __future__ import annotations

from typing import Final, LiteralString, NamedTuple
from uuid import UUID

from psycopg import sql

from threefold.crm.desk import Connection, Row
from threefold.crm.model.actor import Actor
from threefold.crm.model.kinds import Kind
from threefold.crm.model.paging import Place, cut, turn

MOST_SAID: Final = 500


_SORT: Final = "-updated_at"


class Own(NamedTuple):
    """``prev`` and ``next``: what the pages before it and after it are asked for with; None: there is none."""

    rows: list[Row]
    prev: str | None
    next: str | None


# Each arm reads its newest rows along (contact_id, updated_at, id), whatever else the customer ever asked.
_ARM: Final[LiteralString] = """
    (SELECT '{kind}' AS kind_name, id, subject, status, product_id, created_at, updated_at, first_response_due_at,
            first_responded_at, resolution_due_at, resolved_at, satisfaction
     FROM crm.{kind}
     WHERE contact_id = %(contact)s AND deleted_at IS NULL AND merged_into_id IS NULL
       AND (%(at)s::timestamptz IS NULL OR (updated_at, id) {sign} (%(at)s, %(id)s::uuid))
     ORDER BY updated_at {way}, id {way} LIMIT %(limit)s)
"""
_PAGE: Final[LiteralString] = """
    SELECT own.*, products.name AS product FROM ({queries} UNION ALL {requests}) own
    LEFT JOIN crm.products ON products.id = own.product_id
    ORDER BY own.updated_at {way}, own.id {way} LIMIT %(limit)s
""".replace("{queries}", _ARM.replace("{kind}", "queries")).replace("{requests}", _ARM.replace("{kind}", "requests"))
# The customer's own words are those that came in by its user, or that an employee noted down as coming in.
_SAID: Final = sql.SQL(
    "SELECT said.id, said.body, said.channel, said.direction, said.created_at, users.full_name AS who, users.role"
    " FROM crm.interactions said LEFT JOIN crm.users ON users.id = said.created_by"
    " WHERE said.{column} = %(id)s AND said.contact_id = %(contact)s AND NOT said.internal AND said.deleted_at IS NULL"
    " ORDER BY said.created_at DESC, said.id DESC LIMIT %(limit)s"
)


async def page(
    connection: Connection, actor: Actor, *, after: str | None = None, before: str | None = None, limit: int = 30
) -> Own:
    """Newest first."""
    turned = turn(after, before, _SORT)
    way, sign = turned.walk(_SORT)
    params = {
        "contact": actor.contact,
        "at": turned.place.value if turned.place else None,
        "id": turned.place.id if turned.place else None,
        "limit": limit + 1,
    }
    statement = sql.SQL(_PAGE).format(way=sql.SQL(way), sign=sql.SQL(sign))
    rows = await (await connection.execute(statement, params)).fetchall()
    return Own(*cut(rows, limit, turned, lambda row: Place(_SORT, row["updated_at"].isoformat(), row["id"])))


async def said(connection: Connection, actor: Actor, kind: Kind, id_: UUID) -> list[Row]:
    """Oldest first; of a very long talk the newest `MOST_SAID`."""
    statement = _SAID.format(column=sql.Identifier(f"{kind.one}_id"))
    params = {"id": id_, "contact": actor.contact, "limit": MOST_SAID}
    rows = await (await connection.execute(statement, params)).fetchall()
    return rows[::-1]
