"""Proves the data log: that no entry was changed, taken out or put in, and that the records are what it says.

Everything is computed here, from what the database holds, and nothing is asked of the database's own functions. Each
record is walked back from its present state through its entries to the one that it was created with (history.py):
every hash on the way, every value and the digest of the creation have to agree. Where a person was erased, contents
are gone; the hashes still have to agree, and the values since.

What it cannot see: a record taken out together with its whole log. The copies in the stores and the changes feed's
readers know better; `entries` and `records` of two reports show it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from psycopg import sql

from threefold.crm.datalog import history
from threefold.crm.desk import Connection, Row
from threefold.crm.model.kinds import KINDS
from threefold.kernel.errors import Damaged, NotThere
from threefold.kernel.progress import Progress, Silent

_BATCH = 2_000
_TRIGGERS = ("log_insert", "log_update", "log_delete", "stamped")
_MOST_TOLD = 100
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_SILENT: Progress = Silent()


@dataclass(frozen=True, slots=True)
class Broken:
    kind: str
    id: UUID
    problem: str


@dataclass(slots=True)
class Report:
    """``broken``: the first hundred; ``wrong``: how many there are."""

    records: int = 0
    entries: int = 0
    erased: int = 0  # entries without contents
    wrong: int = 0
    broken: list[Broken] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        return self.wrong == 0


async def verify(connection: Connection, progress: Progress = _SILENT) -> Report:
    """All chains of all kinds, as of one moment. The connection is the caller's, not in a transaction yet."""
    report = Report()
    async with connection.transaction():
        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        await connection.execute("SET LOCAL timezone = 'UTC'; SET LOCAL statement_timeout = 0")
        for kind in await _kinds(connection):
            columns = await _columns(connection, kind)
            progress.step(kind, f"reading the history of {kind}", unit="records")
            async for id_, row, entries in _records(connection, kind):
                report.records += 1
                report.entries += len(entries)
                report.erased += sum(entry["salt"] is None for entry in entries)
                if problem := problem_of(id_, kind, columns, row, entries):
                    report.wrong += 1
                    if len(report.broken) < _MOST_TOLD:
                        report.broken.append(Broken(kind, id_, problem))
                progress.advance(1)
    return report


def problem_of(id_: UUID, kind: str, columns: Sequence[str], row: history.Values | None, entries: Sequence[Row]) -> str:
    """What is wrong with one record; empty: nothing. ``entries`` oldest first, ``changes`` as PostgreSQL's text."""
    if not entries:
        return "it has no log"
    before, previous = b"", 0
    for entry in entries:
        version = entry["version"]
        if version != previous + 1:
            return f"its log goes from version {previous} to {version}"
        came_back = version > 1 and entries[version - 2]["op"] == "delete"
        if (entry["op"] == "create") != (version == 1 or came_back):
            return f"version {version} is a {entry['op']}, which cannot come there"
        if hash_of(before, id_, entry) != entry["hash"] or entry["kind"] != kind:
            return f"version {version} of its log is not what was written"
        if (entry["salt"] is None or entry["op"] == "create") != (entry["changes"] is None):
            return f"version {version} of its log has lost or gained its contents"
        if entry["changes"] is not None and digest_of(entry["salt"], entry["changes"]) != entry["digest"]:
            return f"the contents of version {version} are not what was written"
        before, previous = entry["hash"], version
    return _states(columns, row, entries)


def _states(columns: Sequence[str], row: history.Values | None, entries: Sequence[Row]) -> str:
    """Whether the record, walked back, was at each time what the log says."""
    newest_first = [{**entry, "changes": _decoded(entry["changes"])} for entry in reversed(entries)]
    try:
        if row is None and newest_first[0]["op"] == "delete" and newest_first[0]["salt"] is None:
            return ""  # erased
        state = history.last_state(columns, row, newest_first)
        for entry in newest_first:
            if entry["op"] != "create":
                state = history.walk_back(state, entry)
            elif state["version"] != entry["version"]:
                return f"it is at version {state['version']}, and its log at {entry['version']}"
            elif entry["salt"] is None:
                return ""
            elif all(digest_of(entry["salt"], text) != entry["digest"] for text in history.created_texts(state)):
                return "it was not created like this: something of it was changed past the log"
            else:
                state = {**dict.fromkeys(columns), "version": entry["version"] - 1}
    except NotThere:
        return ""  # what was before is erased
    except Damaged as error:
        return error.message
    return ""


def _decoded(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def digest_of(salt: bytes, text: str) -> bytes:
    return hashlib.sha256(salt + text.encode()).digest()


def hash_of(before: bytes, id_: UUID, entry: Row) -> bytes:
    """`crm.log_hash` of 002-data-log.sql."""
    at = (entry["at"] - _EPOCH) // _MICROSECOND
    parts = (entry["kind"], entry["op"], at, entry["actor"], entry["device"], entry["reason"])
    header = "\n".join("" if part is None else str(part) for part in parts)
    version = entry["version"].to_bytes(4, "big")
    return hashlib.sha256(
        before + id_.bytes + version + hashlib.sha256(header.encode()).digest() + entry["digest"]
    ).digest()


_MICROSECOND = datetime.resolution


async def _kinds(connection: Connection) -> list[str]:
    """Those of the table of kinds, and what else the log knows: its entries have to belong somewhere."""
    found = await connection.execute(
        "SELECT tgrelid::regclass::text AS name, count(*) FILTER (WHERE tgenabled IN ('O', 'A')) AS awake"
        " FROM pg_trigger WHERE tgname = ANY(%s) GROUP BY 1 ORDER BY 1",
        (list(_TRIGGERS),),
    )
    awake = {row["name"].removeprefix("crm."): row["awake"] for row in await found.fetchall()}
    asleep = [name for name in {**dict.fromkeys(KINDS, 0), **awake} if awake.get(name, 0) < len(_TRIGGERS)]
    if asleep:
        raise Damaged(
            f"crm.{min(asleep)} is not under the data log any more", hint="its triggers were switched or taken off"
        )
    return sorted(awake)


async def _columns(connection: Connection, kind: str) -> list[str]:
    found = await connection.execute(
        "SELECT attname::text AS name FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0"
        " AND NOT attisdropped ORDER BY attnum",
        (f"crm.{kind}",),
    )
    return [row["name"] for row in await found.fetchall()]


async def _records(connection: Connection, kind: str) -> AsyncIterator[tuple[UUID, history.Values | None, list[Row]]]:
    """Each record with its entries, oldest first: rows and log are walked along their keys, side by side."""
    statement = sql.SQL(
        "SELECT coalesce(l.record_id, t.id) AS id, row_to_json(t)::text AS row, l.kind, l.version, l.op, l.at, l.actor,"
        " l.device, l.reason, l.changes::text AS changes, l.salt, l.digest, l.hash"
        " FROM (SELECT * FROM crm.log WHERE kind = {}) l FULL JOIN {} t ON t.id = l.record_id ORDER BY 1, l.version"
    ).format(sql.Literal(kind), sql.Identifier("crm", kind))
    async with connection.cursor(name="proof") as cursor:
        cursor.itersize = _BATCH
        await cursor.execute(statement)
        id_: UUID | None = None
        row: history.Values | None = None
        entries: list[Row] = []
        async for found in cursor:
            if found["id"] != id_:
                if id_ is not None:
                    yield id_, row, entries
                id_, entries = found["id"], []
                row = None if found["row"] is None else json.loads(found["row"])
            if found["version"] is not None:
                entries.append(found)
        if id_ is not None:
            yield id_, row, entries
