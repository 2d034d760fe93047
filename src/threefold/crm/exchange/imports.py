"""CSV imports: a file is uploaded once, its columns mapped, tried without writing anything, and then taken in.

All of its rows or none, in one transaction. The rows go through COPY into a table of the transaction's own, and are
checked and inserted set-wise there (import_rules.py): rows are only looked at one by one to tear the file into cells.
Faults name row and column and never quote a cell, since they are kept.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import asdict
from itertools import islice
from typing import Any, Final, cast
from uuid import UUID

from psycopg.types.json import Jsonb

from threefold.crm.desk import Change, Connection, Row, Tx
from threefold.crm.exchange import csv_reading, import_rules
from threefold.crm.exchange.csv_reading import Fault, Sheet
from threefold.crm.exchange.import_load import FAULTS_KEPT, Load, Progress
from threefold.crm.model import rules
from threefold.crm.model.actor import Actor
from threefold.crm.model.errors import Conflict, Invalid
from threefold.crm.model.kinds import KINDS, Kind
from threefold.crm.sql.database import Database
from threefold.kernel.clock import Clock
from threefold.kernel.errors import NotThere, ThreefoldError

_log = logging.getLogger(__name__)
_running: set[asyncio.Task[Row]] = set()  # the loop itself keeps no hold of them
_SHOWN: Final = (
    "id, kind, filename, status, encoding, delimiter, header, mapping, duplicates, rows, done, created, updated,"
    " skipped, faulty, faults, created_at, created_by, finished_at"
)


async def upload(tx: Tx, kind: Kind, filename: str, data: bytes, *, encoding: str = "", delimiter: str = "") -> Row:
    """Its columns are guessed from their names. Invalid where it is no table."""
    rules.check(tx.actor, rules.Operation.BULK, kind.name)
    known = import_rules.words(kind)
    sheet = await asyncio.to_thread(csv_reading.open_sheet, data, encoding, delimiter)
    mapping = csv_reading.guess(sheet.header, known)
    await tx.connection.execute(_ABANDONED)
    tx.bulky = True
    cursor = await tx.connection.execute(
        f"INSERT INTO crm.imports (id, kind, filename, encoding, delimiter, header, mapping, data)"  # noqa: S608 - ours
        f" VALUES (%s, %s, %s, %s, %s, %s, %s, %b) RETURNING {_SHOWN}",
        [
            tx.new_id(),
            kind.name,
            filename[:200],
            sheet.encoding,
            sheet.delimiter,
            list(sheet.header),
            Jsonb(mapping),
            data,
        ],
    )
    row = (await cursor.fetchall())[0]
    tx.changed.add(Change("imports", row["id"]))
    return row


async def imports(connection: Connection, actor: Actor, limit: int = 50) -> list[Row]:
    """The newest first, without their faults."""
    rules.check(actor, rules.Operation.BULK)
    shown = _SHOWN.replace(" faults,", "")
    cursor = await connection.execute(
        f"SELECT {shown} FROM crm.imports ORDER BY created_at DESC, id DESC LIMIT %s".encode(),  # noqa: S608 - ours
        [limit],
    )
    return await cursor.fetchall()


async def get(connection: Connection, actor: Actor, import_id: UUID) -> Row:
    rules.check(actor, rules.Operation.BULK)
    cursor = await connection.execute(
        f"SELECT {_SHOWN} FROM crm.imports WHERE id = %s",  # noqa: S608 - the columns are ours
        [import_id],
    )
    row = await cursor.fetchone()
    if row is None:
        raise NotThere("there is no such import")
    return row


async def preview(connection: Connection, actor: Actor, import_id: UUID, many: int = 5) -> list[list[str]]:
    """The first rows, for whoever maps the columns."""
    row = await get(connection, actor, import_id)
    sheet = await _sheet(connection, row)
    return [cells for _, cells in islice(csv_reading.rows(sheet, []), many)]


async def dry_run(
    tx: Tx, import_id: UUID, mapping: Mapping[str, str] | None = None, duplicates: str | None = None
) -> Row:
    """What `run` would do, in counts and faults; the mapping is kept for it."""
    row = await _begin(tx, import_id, mapping, duplicates)
    tx.bulky = True
    result = await _go(tx, row, write=False)
    return await _settle(tx, row, "refused" if result["faulty"] else "checked", result)


async def run(
    tx: Tx,
    import_id: UUID,
    mapping: Mapping[str, str] | None = None,
    duplicates: str | None = None,
    progress: Progress | None = None,
) -> Row:
    """Everything is in when the transaction commits; with one faulty row nothing is, and the status is 'refused'."""
    row = await _begin(tx, import_id, mapping, duplicates)
    tx.bulky = True
    await tx.connection.execute("SET LOCAL statement_timeout = 0; SELECT set_config('crm.reason', 'import', true)")
    result = await _go(tx, row, write=True, progress=progress)
    status = "refused" if result["faulty"] else "done"
    tx.changed.add(Change("imports", import_id))
    return await _settle(tx, row, status, result)


async def run_apart(database: Database, clock: Clock, actor: Actor, import_id: UUID) -> Row:
    """`run` in its own transaction, its progress readable meanwhile with `get`; what breaks it off is its status."""
    told = clock.monotonic()
    waiting: set[asyncio.Task[None]] = set()

    def progress(done: int) -> None:
        nonlocal told
        if not waiting and clock.monotonic() - told > 0.5:
            told = clock.monotonic()
            task = asyncio.create_task(note_progress(database, actor, import_id, done))
            waiting.add(task)
            task.add_done_callback(waiting.discard)

    try:
        async with database.write(actor) as tx:
            row = await run(tx, import_id, progress=progress)
            await asyncio.gather(*waiting, return_exceptions=True)
    except Exception as error:
        await asyncio.gather(*waiting, return_exceptions=True)
        if not isinstance(error, Conflict):
            await _failed(database, actor, import_id, error)
        raise
    return row


def start(run: Callable[[Actor, UUID], Coroutine[Any, Any, Row]], actor: Actor, import_id: UUID) -> asyncio.Task[Row]:
    """`run_apart`, apart from the request that asks for it: a large file outlasts what a client waits for."""
    task = asyncio.create_task(run(actor, import_id))
    _running.add(task)
    task.add_done_callback(_ended)
    return task


def _ended(task: asyncio.Task[Row]) -> None:
    _running.discard(task)
    if task.cancelled():
        return
    error = task.exception()
    if isinstance(error, ThreefoldError):  # the import's own status says it
        _log.info("an import was refused: %s", error.message)
    elif error is not None:
        _log.error("an import broke off", exc_info=error)


async def fail_broken_off(tx: Tx) -> int:
    """Imports that say they are running, and whose lock nobody has: their process is gone. How many."""
    cursor = await tx.connection.execute(_BROKEN_OFF, [Jsonb([asdict(Fault(0, "", *_GONE))])])
    return cursor.rowcount


_GONE: Final = ("the server was stopped while it ran; nothing was taken in", "run it again")
_BROKEN_OFF: Final = """
    WITH running AS MATERIALIZED (SELECT id FROM crm.imports WHERE status = 'running')
    UPDATE crm.imports i SET status = 'failed', done = 0, faults = %s FROM running r
    WHERE i.id = r.id AND pg_try_advisory_xact_lock(hashtextextended(r.id::text, 7))
"""


async def note_progress(database: Database, actor: Actor, import_id: UUID, done: int) -> None:
    """Nothing, where the import itself has its row in hand already: it waits for this before it ends."""
    async with database.write(actor) as tx:
        await tx.connection.execute(
            "UPDATE crm.imports SET status = 'running', done = %s WHERE id ="
            " (SELECT id FROM crm.imports WHERE id = %s AND status <> 'done' FOR UPDATE SKIP LOCKED)",
            [done, import_id],
        )


async def cancel(tx: Tx, import_id: UUID) -> Row:
    """Forget the file."""
    row = await _begin(tx, import_id, None, None)
    cursor = await tx.connection.execute(
        f"UPDATE crm.imports SET status = 'cancelled', data = NULL, finished_at = now() WHERE id = %s"  # noqa: S608
        f" RETURNING {_SHOWN}",
        [row["id"]],
    )
    return (await cursor.fetchall())[0]


async def _begin(tx: Tx, import_id: UUID, mapping: Mapping[str, str] | None, duplicates: str | None) -> Row:
    """One at a time; a lock that ends with the transaction says so, and not the status, which a crash would leave."""
    lock = await tx.connection.execute(
        "SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 7)) AS it", [str(import_id)]
    )
    if not (await lock.fetchall())[0]["it"]:
        raise Conflict("this import is under way", hint="wait until it is done")
    row = await get(tx.connection, tx.actor, import_id)
    rules.check(tx.actor, rules.Operation.BULK, row["kind"])
    if row["status"] in ("done", "cancelled"):
        raise Conflict(f"this import is {row['status']}", hint="upload the file again")
    return {
        **row,
        "mapping": dict(mapping if mapping is not None else row["mapping"]),
        "duplicates": duplicates or row["duplicates"],
    }


async def _go(tx: Tx, row: Row, *, write: bool, progress: Progress | None = None) -> dict[str, Any]:
    kind = KINDS[row["kind"]]
    mapping: dict[str, str] = {column: target for column, target in row["mapping"].items() if target}
    import_rules.check_mapping(kind, tuple(row["header"]), mapping, row["duplicates"])
    sheet = await _sheet(tx.connection, row)
    faults: list[Fault] = []
    load = Load(tx, kind, mapping, row["duplicates"])
    rows = await load.copy(sheet, faults, progress)
    torn = len(faults)
    await load.match()
    found, faulty = await load.faults()
    counts = await load.counts()
    result = {"rows": rows + torn, "faulty": faulty + torn, "faults": sorted([*faults, *found], key=_place), **counts}
    if write and not result["faulty"]:
        await load.write()
    return result


def _place(fault: Fault) -> tuple[int, str]:
    return fault.row, fault.column


# Files that nobody went on with are not kept: they are full of persons. One that says it is running may have been
# broken off; one that runs has been read already, and says itself what came of it.
_ABANDONED: Final = """
    UPDATE crm.imports SET status = 'cancelled', data = NULL, finished_at = now()
    WHERE data IS NOT NULL AND created_at < now() - interval '1 day'
"""


async def _sheet(connection: Connection, row: Row) -> Sheet:
    cursor = await connection.execute("SELECT data FROM crm.imports WHERE id = %s", [row["id"]], binary=True)
    data = (await cursor.fetchall())[0]["data"]
    del cursor  # it holds the file once more
    if data is None:
        raise Conflict("the file of this import is gone", hint="upload it again")
    return await asyncio.to_thread(csv_reading.open_sheet, data, row["encoding"], row["delimiter"])


async def _settle(tx: Tx, row: Row, status: str, result: Mapping[str, Any]) -> Row:
    faults = [asdict(fault) for fault in cast("list[Fault]", result["faults"])[:FAULTS_KEPT]]
    cursor = await tx.connection.execute(
        f"""
        UPDATE crm.imports SET status = %(status)s, mapping = %(mapping)s, duplicates = %(duplicates)s, rows = %(rows)s,
            done = CASE WHEN %(status)s = 'done' THEN %(rows)s ELSE 0 END, created = %(created)s,
            updated = %(updated)s, skipped = %(skipped)s, faulty = %(faulty)s, faults = %(faults)s,
            data = CASE WHEN %(status)s = 'done' THEN NULL ELSE data END,
            finished_at = CASE WHEN %(status)s = 'done' THEN now() END
        WHERE id = %(id)s RETURNING {_SHOWN}
        """.encode(),  # noqa: S608 - the columns are ours
        {
            **result,
            "status": status,
            "mapping": Jsonb(row["mapping"]),
            "duplicates": row["duplicates"],
            "faults": Jsonb(faults),
            "id": row["id"],
        },
    )
    return (await cursor.fetchall())[0]


async def _failed(database: Database, actor: Actor, import_id: UUID, error: Exception) -> None:
    what = error.message if isinstance(error, ThreefoldError) else "it broke off: see the CRM's log"
    if isinstance(error, Invalid) and error.fields:
        what += ": " + "; ".join(f"{name}: {why}" for name, why in error.fields.items())
    hint = error.hint if isinstance(error, ThreefoldError) else ""
    async with database.write(actor) as tx:
        await tx.connection.execute(
            "UPDATE crm.imports SET status = 'failed', done = 0, faults = %s WHERE id = %s AND status <> 'done'",
            [Jsonb([asdict(Fault(0, "", what, hint))]), import_id],
        )
