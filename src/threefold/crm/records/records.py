"""Records: made, read, listed, changed, deleted, brought back; for every kind, and for every actor within its bounds.

Whoever comes from the API, the pages, an import or a webhook goes through here. A change that is based on an older
version is refused (`Stale`), in the same statement that would make it, so that no update is ever lost. The history of
a record is in timeline.py, the search in search.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg import sql

from threefold.crm.clocks import case_clocks
from threefold.crm.datalog.timeline import as_of, timeline
from threefold.crm.desk import Connection, Row, Tx
from threefold.crm.model import rules
from threefold.crm.model.actor import Actor
from threefold.crm.model.asking import Asked
from threefold.crm.model.errors import Forbidden, Invalid, Stale
from threefold.crm.model.kinds import CASES, KINDS, Kind, Type
from threefold.crm.model.paging import Place, cut, ends
from threefold.crm.model.validating import changed_values, new_values
from threefold.crm.records.recycling import delete, restore
from threefold.crm.records.search import Hit, search
from threefold.crm.sql import locks, repository
from threefold.kernel.errors import NotThere

__all__ = [
    "Found",
    "Hit",
    "as_of",
    "create",
    "delete",
    "get",
    "page",
    "page_json",
    "pages",
    "restore",
    "search",
    "timeline",
    "update",
]


@dataclass(frozen=True, slots=True)
class Found:
    """``next``: what the next page is asked for with (`after`); ``prev``: the one before (`before`); None: none."""

    rows: list[Row]
    next: str | None
    prev: str | None = None


async def create(tx: Tx, kind: Kind, values: Mapping[str, Any]) -> Row:
    """Invalid, by field, if the values cannot be meant; Conflict if there is such a record."""
    rules.check(tx.actor, rules.Operation.CREATE, kind.name)
    return await make(tx, kind, customers_values(tx.actor, kind, values))


async def make(tx: Tx, kind: Kind, values: Mapping[str, Any]) -> Row:
    """Without asking who may: for services that have asked."""
    clean = new_values(kind, values)
    await check_references(tx.connection, kind, clean, tx.actor)
    row = await repository.insert(tx, kind, await case_clocks.before_create(tx, kind, clean))
    await case_clocks.after_create(tx, kind, row)
    return row


async def get(connection: Connection, actor: Actor, kind: Kind, id_: UUID, *, deleted: bool = False) -> Row:
    """``deleted``: also if it is in the recycle bin. NotThere alike for what is not there and what is not theirs."""
    return await repository.one(connection, actor, kind, id_, deleted=deleted and not actor.is_customer)


async def page(connection: Connection, actor: Actor, kind: Kind, asked: Asked) -> Found:
    built = repository.page(actor, kind, asked, repository.selected(kind))
    return _found(kind, asked, await (await connection.execute(built.text, built.params)).fetchall())


async def pages(connection: Connection, actor: Actor, several: Sequence[tuple[Kind, Asked]]) -> list[Found]:
    """Several in one round trip: waking the database for each of them costs more than finding a few rows."""
    built = [repository.page(actor, kind, asked, repository.selected(kind)) for kind, asked in several]
    async with connection.pipeline():
        cursors = [await connection.execute(each.text, each.params) for each in built]
    return [
        _found(kind, asked, await cursor.fetchall()) for (kind, asked), cursor in zip(several, cursors, strict=True)
    ]


def _found(kind: Kind, asked: Asked, rows: list[Row]) -> Found:
    sort = asked.sort or kind.sort
    rows, before, following = cut(
        rows, asked.limit, asked.turn(kind.sort), lambda row: Place(sort, row["_value"], row["_id"])
    )
    for row in rows:
        del row["_value"], row["_id"]
    return Found(rows, following, before)


async def page_json(
    connection: Connection, actor: Actor, kind: Kind, asked: Asked
) -> tuple[bytes, str | None, str | None]:
    """The rows as a JSON array that PostgreSQL makes, `prev` and `next`: what nobody looks at need not be objects."""
    built = repository.page(actor, kind, asked, repository.as_json(kind))
    names = repository.selected(kind)
    turned, sort, limit = asked.turn(kind.sort), asked.sort or kind.sort, asked.limit
    statement = sql.SQL(
        "WITH found AS MATERIALIZED (SELECT *, row_number() OVER () AS _number FROM ({}) page)"
        " SELECT convert_to(coalesce(json_agg((SELECT shown FROM (SELECT {}) shown) ORDER BY _number{})"
        " FILTER (WHERE _number <= %s), '[]')::text, 'UTF8') AS rows, count(*) AS many,"
        " max(_value) FILTER (WHERE _number = 1) AS near, (array_agg(_id) FILTER (WHERE _number = 1))[1] AS near_id,"
        " max(_value) FILTER (WHERE _number = last) AS far, (array_agg(_id) FILTER (WHERE _number = last))[1] AS far_id"
        " FROM found, (SELECT least(count(*), %s) AS last FROM found) l"
    ).format(built.text, names, sql.SQL(" DESC" if turned.back else ""))
    cursor = await connection.execute(statement, [*built.params, limit, limit], binary=True)
    row = (await cursor.fetchall())[0]
    near, far = (
        Place(sort, row[end], row[f"{end}_id"]) if row["many"] else None
        for end in (("far", "near") if turned.back else ("near", "far"))
    )
    return (bytes(row["rows"]), *ends(turned, near, far, more=row["many"] > limit))


async def update(tx: Tx, kind: Kind, id_: UUID, changes: Mapping[str, Any], version: int | None) -> Row:
    """``version``: what the change is based on; None where it holds whatever the record became meanwhile."""
    rules.check(tx.actor, rules.Operation.CHANGE, kind.name)
    return await change(tx, kind, id_, changes, version)


async def change(tx: Tx, kind: Kind, id_: UUID, changes: Mapping[str, Any], version: int | None) -> Row:
    """Without asking who may: for services that have asked."""
    is_case = kind.name in CASES
    if is_case and (pointed_at := locks.referred(kind.name, changes)):
        await locks.take(tx, [], shared=pointed_at)
    row = await (case_clocks.lock(tx, kind, id_) if is_case else get(tx.connection, tx.actor, kind, id_))
    if version is not None and row["version"] != version:
        raise stale(kind, row["version"], version)
    clean = changed_values(kind, changes, row)
    await check_references(tx.connection, kind, clean, tx.actor)
    clean = await case_clocks.before_update(tx, kind, clean, row)
    if not clean:
        return row
    changed = await repository.change(tx, kind, id_, clean, version)
    if changed is None:
        row = await get(tx.connection, tx.actor, kind, id_)
        raise stale(kind, row["version"], version or 0)
    return changed


def stale(kind: Kind, is_at: int, based_on: int) -> Stale:
    return Stale(
        f"the {kind.one} was changed meanwhile: it is at version {is_at}, and your change is based on {based_on}",
        hint="read it again and decide whether the change still holds",
    )


def customers_values(actor: Actor, kind: Kind, values: Mapping[str, Any]) -> dict[str, Any]:
    """What a customer gives of a record, made whole with what is not theirs to say."""
    given = dict(values)
    if not actor.is_customer:
        return given
    contact = given.pop("contact_id", actor.contact)
    if str(contact) != str(actor.contact):
        raise NotThere("there is no such contact", hint="leave contact_id out: it is yours")
    beyond = sorted(given.keys() - rules.REPORTED[kind.name] - {"id"} - _FORCED.get(kind.name, {}).keys())
    if beyond:
        raise Forbidden(f"this is not yours to set: {', '.join(beyond)}", hint="leave it out; we see to it")
    return {**given, **_FORCED.get(kind.name, {}), "contact_id": actor.contact}


_FORCED = {"interactions": {"direction": "in", "channel": "chat", "internal": False}}


async def check_references(connection: Connection, kind: Kind, values: Mapping[str, Any], actor: Actor) -> None:
    """What a record refers to has to be there; for a customer, among what is theirs, or it is not there either.

    A merge waits for it, or is waited for: what refers to a record that goes would be found with neither. What is said
    in a case goes with the case, which is locked; holding its customer too would cross with the merge's own order.
    """
    if actor.is_customer and kind.name == "interactions":
        await _own_case(connection, actor, values)
    wanted = []
    for field in kind.fields:
        value = values.get(field.name)
        if not field.refers or value is None or field.refers not in KINDS:
            continue
        wanted += [(field.name, field.refers, each) for each in (value if field.type is Type.IDS else (value,))]
    if values.get("record_kind") in KINDS and values.get("record_id") is not None:
        wanted.append(("record_id", values["record_kind"], values["record_id"]))
    if absent := await repository.missing(connection, wanted, held=case_clocks.case_of(values) is None):
        raise Invalid(
            "a record that is referred to is not there", dict.fromkeys(sorted(absent), "there is no such record")
        )


async def _own_case(connection: Connection, actor: Actor, values: Mapping[str, Any]) -> None:
    cases = [(name, values.get(column)) for name, column in (("queries", "query_id"), ("requests", "request_id"))]
    about = [(name, id_) for name, id_ in cases if id_ is not None]
    if not about:
        raise Invalid("say what it is about", {"query_id": "it takes a query or a request"})
    for name, id_ in about:
        await get(connection, actor, KINDS[name], id_)
