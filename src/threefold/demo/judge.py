"""Compares a recovered database with the ledger: is everything there that was promised, and nothing that was not?

For every row that a change touched, by version:

- older than its last acked change, or absent: **lost**;
- exactly that version: every column must be the same, or the row is **altered**;
- newer: only a change that was tried, and whose ack never came, explains it, column by column; else it is
  **unexplained** (a change applied twice shows here, since each application takes the version one further).

Every row that no change touched must be there with the same hash as before the first change; no other row may be.
A point in time is judged the same way: what was acked after it may be there or not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from threefold.crm.sql.schema import TABLES
from threefold.demo.ledger import GONE, Ledger, Row

Key = tuple[str, str]  # table, id
_BATCH = 5_000


@dataclass(slots=True)
class Promise:
    """What the ledger knows of one row."""

    acked: Row | None = None
    change: str = ""  # that made it so
    perhaps: list[Row] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Verdict:
    acked: int  # changes promised
    in_flight: int  # tried, never acked: promised to nobody
    rows: Mapping[str, int]  # found and checked, by table
    lost: tuple[str, ...]
    altered: tuple[str, ...]
    unexplained: tuple[str, ...]
    lost_changes: int

    @property
    def exact(self) -> bool:
        return not (self.lost or self.altered or self.unexplained)


def promises(ledger: Ledger, until: datetime | None = None) -> dict[Key, Promise]:
    """By row: the newest state that was acked (not later than ``until``), and what else may have come."""
    found: dict[Key, Promise] = {}
    for change, rows in ledger.tried.items():
        ack = ledger.acked.get(change)
        promised = ack is not None and (until is None or ack.at <= until)
        for row in rows:
            promise = found.setdefault((row.table, row.id), Promise())
            if not promised:
                promise.perhaps.append(row)
            elif promise.acked is None or _order(row) > _order(promise.acked):
                promise.acked, promise.change = row, change
    return found


def judge_row(key: Key, promise: Promise, row: Mapping[str, Any] | None) -> tuple[str, str] | None:
    """What is wrong with a row that the ledger knows: (kind, sentence). Pure."""
    last, name = promise.acked, " ".join(key)
    version = GONE if row is None else int(row["version"])
    if any(perhaps.version == version and (row is None or row == perhaps.values) for perhaps in promise.perhaps):
        return None
    if last is None:
        tried = min((p.version for p in promise.perhaps if p.version != GONE), default=version + 1)
        return None if version < tried else ("unexplained", f"{name} is at version {version}, which no change made")
    if version == last.version:
        if row is None or row == last.values:
            return None
        columns = ", ".join(sorted(column for column in row if row[column] != last.values.get(column)))
        return "altered", f"{name} differs in {columns} from what {promise.change} wrote"
    if last.version == GONE:
        return "lost", f"{name} is there, and {promise.change} deleted it"
    if row is None:
        return "lost", f"{name} is not there, and {promise.change} wrote it"
    if version < last.version:
        return "lost", f"{name} is at version {version}, and {promise.change} took it to {last.version}"
    return "unexplained", f"{name} is at version {version}, and the last change took it to {last.version}"


def judge(
    connection: psycopg.Connection[Any], ledger: Ledger, base: Mapping[Key, str], until: datetime | None = None
) -> Verdict:
    """``connection`` must see all rows (no row-level security); it is used for one transaction."""
    promised = promises(ledger, until)
    with connection.transaction():
        present = hashes(connection)
        found = _fetch(connection, promised)
    wrong: dict[str, list[str]] = {"lost": [], "altered": [], "unexplained": []}
    changes: set[str] = set()
    for key, promise in promised.items():
        problem = judge_row(key, promise, found.get(key))
        if problem is None and promise.acked is None and key in base and key not in present:
            no_deletion = all(p.version != GONE for p in promise.perhaps)
            problem = ("lost", f"{' '.join(key)} is not there, and no change deleted it") if no_deletion else None
        if problem is not None:
            wrong[problem[0]].append(problem[1])
            changes.add(promise.change)
    for key in base.keys() - promised.keys():
        if key not in present:
            wrong["lost"].append(f"{' '.join(key)} is not there, and no change touched it")
        elif present[key] != base[key]:
            wrong["altered"].append(f"{' '.join(key)} differs, and no change touched it")
    wrong["unexplained"] += [
        f"{' '.join(key)} is there, and no change made it" for key in present.keys() - base.keys() - promised.keys()
    ]
    return Verdict(
        acked=sum(1 for ack in ledger.acked.values() if until is None or ack.at <= until),
        in_flight=len(ledger.tried) - len(ledger.acked),
        rows=Counter(table for table, _ in present),
        lost=tuple(wrong["lost"]),
        altered=tuple(wrong["altered"]),
        unexplained=tuple(wrong["unexplained"]),
        lost_changes=len(changes - {""}),
    )


def hashes(connection: psycopg.Connection[Any]) -> dict[Key, str]:
    """Every row's hash, the same on every server: within a transaction, for its settings."""
    connection.execute("SET LOCAL timezone = 'UTC'")
    connection.execute("SET LOCAL datestyle = 'ISO'")
    found = {}
    for table in TABLES:
        query = sql.SQL("SELECT id::text, hashtextextended(t::text, 0)::text FROM {} t").format(_name(table))
        for row_id, value in connection.execute(query):
            found[table, row_id] = value
    return found


def save_base(connection: psycopg.Connection[Any], path: Path) -> dict[str, int]:
    """Before the first change: write down every row's hash. Rows per table."""
    with connection.transaction():
        found = hashes(connection)
    path.write_text("".join(f"{table} {row_id} {value}\n" for (table, row_id), value in found.items()))
    return Counter(table for table, _ in found)


def read_base(path: Path) -> dict[Key, str]:
    lines = (line.split() for line in path.read_text().splitlines())
    return {(table, row_id): value for table, row_id, value in lines}


def _order(row: Row) -> float:
    return float("inf") if row.version == GONE else row.version


def _fetch(connection: psycopg.Connection[Any], keys: Iterable[Key]) -> dict[Key, dict[str, Any]]:
    by_table: dict[str, list[str]] = {}
    for table, row_id in keys:
        by_table.setdefault(table, []).append(row_id)
    found: dict[Key, dict[str, Any]] = {}
    for table, ids in by_table.items():
        query = sql.SQL("SELECT to_jsonb(t) FROM {} t WHERE id = ANY(%s::uuid[])").format(_name(table))
        for start in range(0, len(ids), _BATCH):
            for (row,) in connection.execute(query, (ids[start : start + _BATCH],)):
                found[table, row["id"]] = row
    return found


def _name(table: str) -> sql.Identifier:
    return sql.Identifier("crm", table)
