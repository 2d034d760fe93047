"""What a page shows around a record: names instead of ids, what belongs to it, what was said, how a board stands.

Lists and single records are records.py's; here is only what it has no word for. Each statement is one walk along an
index (003-indexes.sql, 020-pages.sql), whatever the size of the CRM, and none is for customers: whoever calls has
asked rules.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

from psycopg import sql

from threefold.crm.desk import Connection, Row
from threefold.crm.model.actor import Actor
from threefold.crm.model.asking import Asked, Filter
from threefold.crm.model.kinds import CASES, COMMON, KINDS, LINKED, Kind, Type
from threefold.crm.records import records
from threefold.crm.sql.repository import flat, table

Titles = dict[UUID, str]

# What is shown beside a record of a kind: (kind, the column that names the record).
AROUND: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "accounts": (
        ("contacts", "account_id"),
        ("queries", "account_id"),
        ("requests", "account_id"),
        ("deals", "account_id"),
    ),
    "contacts": (("queries", "contact_id"), ("requests", "contact_id"), ("deals", "contact_id")),
    "products": (("prices", "product_id"), ("queries", "product_id"), ("requests", "product_id")),
    "queries": (("queries", "merged_into_id"),),
    "requests": (("requests", "merged_into_id"),),
    "teams": (("users", "team_id"), ("queries", "team_id"), ("requests", "team_id")),
    "tags": (("taggings", "tag_id"),),
}
# Both ends of an affiliation show it, under the name of the other end.
_AFFILIATED: Final = {"accounts": ("account_id", "contact_id"), "contacts": ("contact_id", "account_id")}
COUNTED_MOST: Final = 1000


@dataclass(frozen=True, slots=True)
class Group:
    """Some records of one kind that belong to another; ``more``: there are further ones."""

    kind: Kind
    column: str
    rows: Sequence[Row]
    more: bool


@dataclass(frozen=True, slots=True)
class Lane:
    """One column of a board. ``count`` stops at `COUNTED_MOST`."""

    value: str
    count: int
    rows: Sequence[Row]


async def titles(connection: Connection, wanted: Mapping[str, Iterable[UUID]]) -> Titles:
    """By id; deleted records too, because a name is better than none. One statement for all kinds."""
    parts, params = [], list[Any]()
    for name, ids in sorted(wanted.items()):  # in one order, so that it is one statement, which is prepared once
        kind = KINDS.get(name)
        found = None if kind is None else kind.field(kind.title)
        if kind is None or found is None or found.type is Type.ID or not (several := list(set(ids))):
            continue
        parts.append(
            sql.SQL("SELECT id, left({}, 200) AS title FROM {} WHERE id = ANY(%s)").format(
                sql.Identifier(kind.title), table(kind.name)
            )
        )
        params.append(several)
    if not parts:
        return {}
    rows = await (await connection.execute(sql.SQL(" UNION ALL ").join(parts), params)).fetchall()
    return {row["id"]: row["title"] for row in rows}


def referred(kind: Kind, rows: Iterable[Mapping[str, Any]]) -> dict[str, set[UUID]]:
    """The ids in these rows, by the kind that each is of."""
    found: dict[str, set[UUID]] = {}
    for row in rows:
        for field in (*kind.fields, *COMMON):
            value = row.get(field.name)
            if value is None or field.name == "id":
                continue
            if field.type is Type.IDS:
                found.setdefault(field.refers, set()).update(value)
            elif field.name == "record_id":
                found.setdefault(str(row.get("record_kind")), set()).add(value)
            elif field.name == "merged_into_id":
                found.setdefault(kind.name, set()).add(value)
            elif field.type is Type.ID and field.refers in KINDS:
                found.setdefault(field.refers, set()).add(value)
    return found


async def titles_in(connection: Connection, kind: Kind, rows: Iterable[Mapping[str, Any]]) -> Titles:
    return await titles(connection, referred(kind, rows))


async def staff(connection: Connection) -> list[Row]:
    """Who works here and may be given something."""
    query = (
        "SELECT id, full_name, email, team_id, role, active FROM crm.users WHERE role <> 'customer'"
        " AND deleted_at IS NULL ORDER BY full_name, id LIMIT 1000"
    )
    return [row for row in await (await connection.execute(query)).fetchall() if row["active"]]


async def small(connection: Connection, kind: Kind) -> list[tuple[UUID, str]]:
    """All of a kind of which a team has few (teams, tags), to choose from."""
    return [(row["id"], row["title"]) for row in await (await connection.execute(_small(kind))).fetchall()]


@lru_cache
def _small(kind: Kind) -> sql.SQL:
    statement = sql.SQL("SELECT id, {0} AS title FROM {1} WHERE deleted_at IS NULL ORDER BY {0}, id LIMIT 500")
    return flat(statement.format(sql.Identifier(kind.title), table(kind.name)))


async def around(connection: Connection, actor: Actor, kind: Kind, id_: UUID, most: int = 6) -> list[Group]:
    """What belongs to a record, the newest of each kind."""
    wanted = list(AROUND.get(kind.name, ()))
    if kind.name in _AFFILIATED:
        wanted.append(("affiliations", _AFFILIATED[kind.name][0]))
    if kind.name in LINKED and kind.name != "tasks":
        wanted.append(("tasks", "record_id"))
    several = []
    for name, column in wanted:
        asked = Asked((Filter(column, "eq", id_),), KINDS[name].sort, None, most)
        several.append((KINDS[name], asked))
    found = await records.pages(connection, actor, several)
    return [
        Group(KINDS[name], column, each.rows, each.next is not None)
        for (name, column), each in zip(wanted, found, strict=True)
    ]


def other_end(kind: Kind) -> str:
    """Of an affiliation seen from ``kind``: the column that names the other one."""
    return _AFFILIATED.get(kind.name, ("", ""))[1]


async def said(connection: Connection, kind: Kind, id_: UUID, most: int = 200) -> list[Row]:
    """The conversation of a case or with a contact: the last of it, in order of time, with who said it."""
    column = {"queries": "query_id", "requests": "request_id", "contacts": "contact_id"}[kind.name]
    statement = sql.SQL(
        "SELECT * FROM (SELECT i.id, i.channel, i.direction, i.internal, i.body, i.created_at, i.query_id,"
        " i.request_id, i.contact_id, u.full_name AS author FROM crm.interactions i"
        " LEFT JOIN crm.users u ON u.id = i.created_by"
        " WHERE i.{} = %s AND i.deleted_at IS NULL ORDER BY i.created_at DESC, i.id DESC LIMIT %s) AS last"
        " ORDER BY created_at, id"
    ).format(sql.Identifier(column))
    return await (await connection.execute(statement, [id_, most])).fetchall()


async def tags_of(connection: Connection, id_: UUID) -> tuple[list[Row], list[tuple[UUID, str]]]:
    """Those of a record, and all to choose from. One round trip."""
    query = (
        "SELECT g.id, g.version, t.id AS tag_id, t.name, t.colour FROM crm.taggings g"
        " JOIN crm.tags t ON t.id = g.tag_id"
        " WHERE g.record_id = %s AND g.deleted_at IS NULL AND t.deleted_at IS NULL ORDER BY t.name"
    )
    async with connection.pipeline():
        its = await connection.execute(query, [id_])
        there = await connection.execute(_small(KINDS["tags"]))
    return await its.fetchall(), [(row["id"], row["title"]) for row in await there.fetchall()]


async def tag_called(connection: Connection, name: str) -> UUID | None:
    query = "SELECT id FROM crm.tags WHERE lower(name) = lower(%s) AND deleted_at IS NULL"
    rows = await (await connection.execute(query, [name])).fetchall()
    return rows[0]["id"] if rows else None


async def last_merge(connection: Connection, kept: UUID, dropped: UUID) -> UUID | None:
    """The merge of these two, for undoing it."""
    query = "SELECT id FROM crm.merges WHERE kept_id = %s AND dropped_id = %s ORDER BY at DESC, id DESC LIMIT 1"
    rows = await (await connection.execute(query, [kept, dropped])).fetchall()
    return rows[0]["id"] if rows else None


async def lane(connection: Connection, actor: Actor, kind: Kind, value: str, *, mine: bool, most: int = 30) -> Lane:
    """One column of a board: the newest of it, and how many there are."""
    column = "stage" if kind.name == "deals" else "status"
    filters = [Filter(column, "eq", value)]
    if mine and actor.user is not None:
        filters.append(Filter("owner_id" if kind.name == "deals" else "assignee_id", "eq", actor.user))
    found = await records.page(connection, actor, kind, Asked(tuple(filters), "-updated_at", None, most))
    if found.next is None:
        return Lane(value, len(found.rows), found.rows)
    whose = sql.SQL(" AND {} = %s").format(sql.Identifier(filters[1].field)) if len(filters) > 1 else sql.SQL("")
    statement = sql.SQL(
        "SELECT count(*) AS number FROM (SELECT FROM {} WHERE deleted_at IS NULL AND {} = %s{} LIMIT %s) AS found"
    ).format(table(kind.name), sql.Identifier(column), whose)
    params = [value, *(one.value for one in filters[1:]), COUNTED_MOST]
    counted = await (await connection.execute(statement, params)).fetchone()
    return Lane(value, counted["number"] if counted else len(found.rows), found.rows)


def is_case(kind: Kind) -> bool:
    return kind.name in CASES


async def users(connection: Connection) -> list[Row]:
    """Everybody who works here or did, with the team's name; customers are found at their contact."""
    query = (
        "SELECT u.id, u.full_name, u.email, u.role, u.active, u.version, t.name AS team FROM crm.users u"
        " LEFT JOIN crm.teams t ON t.id = u.team_id WHERE u.role <> 'customer' AND u.deleted_at IS NULL"
        " ORDER BY u.full_name, u.id LIMIT 1000"
    )
    return await (await connection.execute(query)).fetchall()


async def erasures(connection: Connection, most: int = 200) -> list[Row]:
    """Who was erased: ids and times only, and who did it."""
    query = (
        "SELECT e.contact_id, e.at, e.reason, e.records, u.full_name AS who FROM crm.erasures e"
        " LEFT JOIN crm.users u ON u.id = e.by ORDER BY e.at DESC, e.contact_id LIMIT %s"
    )
    return await (await connection.execute(query, [most])).fetchall()
