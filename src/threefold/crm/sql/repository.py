"""The SQL of records: one statement for each thing that is asked, built from the table of kinds.

Nothing that came from outside is ever part of a statement's text; names of tables and columns are those of kinds.py.
Every statement that reads for somebody carries `scope`, so a row that is not the customer's is not even found.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, LiteralString
from uuid import UUID

from psycopg import sql

from threefold.crm.desk import Change, Connection, Row, Tx
from threefold.crm.model.actor import Actor
from threefold.crm.model.asking import Asked, Filter
from threefold.crm.model.errors import Invalid
from threefold.crm.model.kinds import COMMON, CUSTOMERS_READ, KINDS, LINKED, MERGED, Field, Kind, Type
from threefold.crm.model.paging import Place
from threefold.crm.model.validating import nullable
from threefold.crm.sql.locks import RANK
from threefold.kernel.errors import NotThere

Params = list[Any]

# What goes to the recycle bin with a record, and comes back with it: (kind, the column that names the record).
CHILDREN: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "accounts": (("affiliations", "account_id"), ("deals", "account_id")),
    "contacts": (("affiliations", "contact_id"),),
    "products": (("prices", "product_id"),),
    "queries": (("interactions", "query_id"),),
    "requests": (("interactions", "request_id"),),
    "tags": (("taggings", "tag_id"),),
}
_COMPARED: Final[dict[str, LiteralString]] = {
    "eq": "=",
    "ne": "IS DISTINCT FROM",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
}


@dataclass(frozen=True, slots=True)
class Condition:
    """A piece of WHERE with its parameters."""

    text: sql.SQL | sql.Composed
    params: Params


def children(kind: Kind) -> Iterable[tuple[Kind, str]]:
    """Tags and tasks hang on a record of any kind that may carry them."""
    for name, column in CHILDREN.get(kind.name, ()):
        yield KINDS[name], column
    if kind.name in LINKED:
        yield KINDS["taggings"], "record_id"
        if kind.name != "tasks":
            yield KINDS["tasks"], "record_id"


@lru_cache
def table(name: str) -> sql.Identifier:
    return sql.Identifier("crm", name)


@lru_cache
def columns(kind: Kind) -> tuple[Field, ...]:
    return (*COMMON, *kind.fields)


def flat(made: sql.Composed) -> sql.SQL:
    """As one piece: what is made once should not be put together anew with every statement that it is part of."""
    return sql.SQL(made.as_string(None))


@lru_cache
def selected(kind: Kind) -> sql.SQL:
    return flat(sql.SQL(", ").join(sql.Identifier(field.name) for field in columns(kind)))


@lru_cache
def as_json(kind: Kind) -> sql.SQL:
    """The same for JSON that PostgreSQL makes: times in UTC with Z."""
    made = sql.SQL(", ").join(
        sql.SQL("""to_char({0} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS {0}""").format(
            sql.Identifier(field.name)
        )
        if field.type is Type.TIME
        else sql.Identifier(field.name)
        for field in columns(kind)
    )
    return flat(made)


@lru_cache
def words(kind: Kind) -> sql.SQL:
    """As the indexes of 003-indexes.sql have it."""
    return flat(sql.SQL("crm.words({})").format(sql.SQL(" || ' ' || ").join(map(sql.Identifier, kind.searched))))


def scope(actor: Actor, kind: Kind) -> Condition:
    """Which rows there are for this person. NotThere if there is no such kind."""
    if not actor.is_customer:
        return Condition(sql.SQL("true"), [])
    if kind.name in CUSTOMERS_READ:
        return Condition(sql.SQL("true"), [])
    if not kind.owner or actor.contact is None:
        raise NotThere("there is no such thing here")
    more = sql.SQL(" AND NOT internal" if kind.name == "interactions" else "")
    return Condition(sql.SQL("{} = %s{}").format(sql.Identifier(kind.owner), more), [actor.contact])


def where(actor: Actor, kind: Kind, asked: Asked) -> Condition:
    if asked.deleted and actor.is_customer:
        raise NotThere("there is no such thing here")
    found = [scope(actor, kind)]
    found.append(Condition(sql.SQL("deleted_at IS NOT NULL" if asked.deleted else "deleted_at IS NULL"), []))
    found += [_filter(kind, one) for one in asked.filters]
    if asked.text:
        found.append(Condition(sql.SQL("{} @@ crm.asked_words(%s)").format(words(kind)), [asked.text]))
    return joined(found)


def joined(conditions: Sequence[Condition]) -> Condition:
    text = sql.SQL(" AND ").join(condition.text for condition in conditions)
    return Condition(text, [param for condition in conditions for param in condition.params])


_EMPTY: Final[dict[Type, LiteralString]] = {
    Type.TEXT: "{} = ''",
    Type.LONG: "{} = ''",
    Type.EMAIL: "{} = ''",
    Type.IDS: "{} = '{{}}'",
}


def _field(kind: Kind, name: str) -> Field:
    field = kind.field(name)
    if field is None:
        raise Invalid("some parameters cannot be meant", {name: "there is no such field"})
    return field


def _filter(kind: Kind, one: Filter) -> Condition:
    name = sql.Identifier(one.field)
    field = _field(kind, one.field)
    if one.op == "empty":
        text = sql.SQL(_EMPTY.get(field.type, "{} IS NULL")).format(name)
        return Condition(text if one.value else sql.SQL("NOT ({})").format(text), [])
    if field.type is Type.IDS:
        return Condition(sql.SQL("{} @> ARRAY[%s]::uuid[]").format(name), [one.value])
    if one.op == "in":
        return Condition(sql.SQL("{} = ANY(%s)").format(name), [list(one.value)])
    if one.op in ("contains", "starts"):
        escaped = one.value.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        pattern = f"%{escaped}%" if one.op == "contains" else f"{escaped}%"
        return Condition(sql.SQL("{} ILIKE %s").format(name), [pattern])
    return Condition(sql.SQL("{} {} %s").format(name, sql.SQL(_COMPARED[one.op])), [one.value])


def page(actor: Actor, kind: Kind, asked: Asked, shown: sql.Composable) -> Condition:
    """A SELECT of one row more than asked for, each with its place (``_value``, ``_id``); backwards, from its end.

    Values in order and then the records without one (backwards, those first): each part is one walk along an index,
    and the second is not begun while the first fills the page.
    """
    order = asked.sort or kind.sort
    name = order.removeprefix("-")
    field = _field(kind, name)
    turned = asked.turn(kind.sort)
    there = turned.place
    column = sql.Identifier(name)
    basis = where(actor, kind, asked)
    way, sign = turned.walk(order)
    direction, compared = sql.SQL(" " + way), sql.SQL(sign)

    def part(ordered: sql.Composable, *conditions: Condition) -> Condition:
        all_of = joined([basis, *conditions])
        return Condition(
            sql.SQL("(SELECT {}, r.{}::text AS _value, id AS _id FROM {} r WHERE {} ORDER BY {} LIMIT %s)").format(
                shown, column, table(kind.name), all_of.text, ordered
            ),
            [*all_of.params, asked.limit + 1],
        )

    # By the table's own columns: ORDER BY would take what is shown under the same name first, as text.
    by_id = sql.SQL("r.id{}").format(direction)
    if name == "id":
        rest = [Condition(sql.SQL("id {} %s").format(compared), [there.id])] if there else []
        return part(by_id, *rest)
    by_value = sql.SQL("r.{0}{1}, r.id{1}").format(column, direction)
    parts = []
    if there is None or there.value is not None or turned.back:
        rest = [] if there is None or there.value is None else [_beyond(column, compared, field, there)]
        given = [Condition(sql.SQL("{} IS NOT NULL").format(column), [])] if nullable(field) else []
        parts.append(part(by_value, *given, *rest))
    if nullable(field) and not (turned.back and there is not None and there.value is not None):
        missing = Condition(sql.SQL("{} IS NULL").format(column), [])
        on = [] if there is None or there.value is not None else [Condition(_id(compared), [there.id])]
        parts.append(part(by_id, missing, *on))
    if not parts or (there is not None and there.value is None and not nullable(field)):
        raise NotThere("there is no such place in the list")  # none that a list of ours ends at
    if turned.back:
        parts.reverse()
    if len(parts) == 1:
        return parts[0]
    text = sql.SQL(" UNION ALL ").join(each.text for each in parts) + sql.SQL(" LIMIT %s")
    return Condition(text, [*(param for each in parts for param in each.params), asked.limit + 1])


def _id(beyond: sql.SQL) -> sql.Composed:
    return sql.SQL("id {} %s").format(beyond)


_CASTS: Final[dict[Type, LiteralString]] = {
    Type.TIME: "timestamptz",
    Type.DATE: "date",
    Type.INTEGER: "bigint",
    Type.CENTS: "bigint",
    Type.BOOLEAN: "boolean",
    Type.ID: "uuid",
}


def _beyond(column: sql.Identifier, beyond: sql.SQL, field: Field, after: Place) -> Condition:
    cast_to = sql.SQL(_CASTS.get(field.type, "text"))
    text = sql.SQL("({}, id) {} (%s::{}, %s)").format(column, beyond, cast_to)
    return Condition(text, [after.value, after.id])


async def one(connection: Connection, actor: Actor, kind: Kind, id_: UUID, *, deleted: bool) -> Row:
    which = scope(actor, kind)
    key = (kind.name, actor.is_customer, deleted)  # what the text depends on
    statement = _ONE.get(key)
    if statement is None:
        statement = _ONE[key] = flat(
            sql.SQL("SELECT {} FROM {} WHERE id = %s AND {}{}").format(
                selected(kind), table(kind.name), which.text, sql.SQL("" if deleted else " AND deleted_at IS NULL")
            )
        )
    row = await (await connection.execute(statement, [id_, *which.params])).fetchone()
    if row is None:
        raise NotThere(f"there is no such {kind.one}")
    return row


_ONE: Final[dict[tuple[str, bool, bool], sql.SQL]] = {}


async def insert(tx: Tx, kind: Kind, values: Mapping[str, Any]) -> Row:
    """Values that were checked; nothing is asked of them here. The id is made if none is given."""
    given = {"id": values.get("id") or tx.new_id(), **{name: value for name, value in values.items() if name != "id"}}
    statement = sql.SQL("INSERT INTO {} ({}) VALUES ({}) RETURNING {}").format(
        table(kind.name),
        sql.SQL(", ").join(map(sql.Identifier, given)),
        sql.SQL(", ").join(sql.Placeholder() * len(given)),
        selected(kind),
    )
    row = (await (await tx.connection.execute(statement, list(given.values()))).fetchall())[0]
    note(tx, kind, row)
    return row


async def change(tx: Tx, kind: Kind, id_: UUID, changes: Mapping[str, Any], version: int | None) -> Row | None:
    """Only if it is there for this person, not deleted, and at ``version``; None if not: see why with `one`."""
    which = scope(tx.actor, kind)
    statement = sql.SQL("UPDATE {} SET {} WHERE id = %s AND deleted_at IS NULL AND {}{} RETURNING {}").format(
        table(kind.name),
        sql.SQL(", ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in changes),
        which.text,
        sql.SQL("" if version is None else " AND version = %s"),
        selected(kind),
    )
    params = [*changes.values(), id_, *which.params, *([] if version is None else [version])]
    row = await (await tx.connection.execute(statement, params)).fetchone()
    if row is not None:
        note(tx, kind, row)
    return row


def note(tx: Tx, kind: Kind, row: Mapping[str, Any]) -> None:
    """That this record was changed; the customer hears of it unless it is not for them."""
    contact = row[kind.owner] if kind.owner and not row.get("internal") else None
    tx.changed.add(Change(kind.name, row["id"], contact))


async def missing(connection: Connection, wanted: Sequence[tuple[str, str, UUID]], *, held: bool = False) -> set[str]:
    """Of (name, kind, id): the names whose record is not there or is deleted. One round trip.

    ``held``: those of kinds that are merged stay what they are until the transaction ends.
    """
    if not wanted:
        return set()
    wanted = sorted(wanted, key=lambda each: (RANK.get(each[1], len(RANK)), each[2]))
    parts = [
        sql.SQL("SELECT %s AS name WHERE NOT EXISTS (SELECT FROM {} WHERE id = %s AND deleted_at IS NULL{})").format(
            table(kind), sql.SQL(" FOR KEY SHARE" if held and kind in MERGED else "")
        )
        for _, kind, _ in wanted
    ]
    params = [param for name, _, id_ in wanted for param in (name, id_)]
    rows = await (await connection.execute(sql.SQL(" UNION ALL ").join(parts), params)).fetchall()
    return {row["name"] for row in rows}
