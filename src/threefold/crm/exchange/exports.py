"""CSV exports: a list, whole, as it is filtered and sorted, streamed from the database row by row.

Cells that a spreadsheet would take for formulas get an apostrophe in front, and lose it again when the file is
imported: what goes out comes back the same. Money is in hundredths, times are UTC, several ids are parted by blanks.
"""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Sequence
from datetime import date, datetime
from typing import Any, Final

from psycopg import sql

from threefold.crm.desk import Connection, Row
from threefold.crm.exchange.csv_reading import neutral
from threefold.crm.model import asking, rules
from threefold.crm.model.actor import Actor
from threefold.crm.model.asking import Asked
from threefold.crm.model.errors import Invalid
from threefold.crm.model.kinds import COMMON, Kind
from threefold.crm.sql import repository

BOM: Final = "\ufeff".encode()
_AT_ONCE: Final = 1_000


def columns_of(kind: Kind, columns: Sequence[str] = ()) -> list[str]:
    """``columns``, if they can be meant; without any: the id, and all that can be imported again."""
    if unknown := [name for name in columns if kind.field(name) is None]:
        raise Invalid("there is no such column", {"columns": f"there is no column {unknown[0][:60]}"})
    if len(set(columns)) < len(columns):
        raise Invalid("a column is there twice", {"columns": "name each column once"})
    own = [field.name for field in kind.fields]
    return list(columns) or [COMMON[0].name, *own, "created_at", "updated_at"]


async def export(
    connection: Connection,
    actor: Actor,
    kind: Kind,
    asked: Asked,
    columns: Sequence[str] = (),
    *,
    bom: bool = False,
) -> AsyncIterator[bytes]:
    """The connection is the caller's until the last piece; ``asked.limit`` and ``after`` do not count here.

    ``bom``: for spreadsheets that know UTF-8 by it alone. Everything is of one moment.
    """
    rules.check(actor, rules.Operation.EXPORT, kind.name)
    chosen = columns_of(kind, columns)
    which = repository.where(actor, kind, asked)
    order = asked.sort or kind.sort
    if problem := asking.unsortable(kind, order):
        raise Invalid("it cannot be sorted so", {"sort": problem})
    direction = sql.SQL("DESC" if order.startswith("-") else "ASC")
    statement = sql.SQL("SELECT {} FROM {} WHERE {} ORDER BY {} {} NULLS LAST, id {}").format(
        sql.SQL(", ").join(map(sql.Identifier, chosen)),
        repository.table(kind.name),
        which.text,
        sql.Identifier(order.removeprefix("-")),
        direction,
        direction,
    )
    yield (BOM if bom else b"") + _lines([chosen])
    async with connection.transaction(), connection.cursor(name="export") as cursor:
        await connection.execute("SET LOCAL statement_timeout = 0")
        cursor.itersize = _AT_ONCE
        await cursor.execute(statement, which.params)
        while rows := await cursor.fetchmany(_AT_ONCE):
            yield _lines([[_cell(row, name) for name in chosen] for row in rows])


def _lines(rows: Sequence[Sequence[str]]) -> bytes:
    out = io.StringIO(newline="")
    csv.writer(out).writerows(rows)
    return out.getvalue().encode()


def _cell(row: Row, name: str) -> str:
    value: Any = row[name]
    if value is None:
        return ""
    if isinstance(value, str):
        return neutral(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, list):
        return " ".join(map(str, value))
    return str(value)
