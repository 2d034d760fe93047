"""What was promised, written down on the other side of the disaster.

Every change is *tried* before its COMMIT leaves and *acked* after PostgreSQL said that it is committed. An ack
counts once its line is on the ledger's own disk, which the disaster does not reach. What was tried and never acked
may have survived or not: nobody was promised anything (a lost reply is not a lost change).

One JSON object a line; several processes append to one file, each change named ``{who}-{number}``:

- ``{"try": "writers-17", "rows": [["queries", id, version, {whole row}], ...]}`` - one transaction: the rows as it
  leaves them; version 0: the row is gone;
- ``{"ack": "writers-17", "at": "2026-11-01T12:00:00+00:00", "ms": 7.4}`` - and how long it took.

Versions, not the order of lines, say which change of a row came last: acks of two connections may be written down
in another order than their commits were.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

GONE = 0


@dataclass(frozen=True, slots=True)
class Row:
    """One row as a change left it."""

    table: str
    id: str
    version: int  # GONE: deleted
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ack:
    at: datetime
    ms: float


@dataclass(slots=True)
class Ledger:
    """What the file says."""

    tried: dict[str, tuple[Row, ...]] = field(default_factory=dict)
    acked: dict[str, Ack] = field(default_factory=dict)


def read_ledger(path: Path) -> Ledger:
    """The whole file; a last line torn by a kill of its writer was promised to nobody."""
    ledger = Ledger()
    for line in _lines(path.read_bytes()):
        if "try" in line:
            ledger.tried[line["try"]] = tuple(Row(*row) for row in line["rows"])
        else:
            ledger.acked[line["ack"]] = _ack(line)
    return ledger


class AckReader:
    """Follows the acks of a ledger while it grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0

    def new(self) -> list[Ack]:
        """Those since the last call."""
        with self._path.open("rb") as file:
            file.seek(self._at)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._at += len(whole)
        return [_ack(json.loads(line)) for line in whole.splitlines() if line.startswith(b'{"ack"')]


class LedgerWriter:
    """Appends; the acks of the same moment share one fsync. ``who`` is unique to this writer of the file."""

    def __init__(self, path: Path, who: str) -> None:
        self._file = path.open("ab", buffering=0)
        self._who = who
        self._tried = 0
        self._flush: asyncio.Task[None] | None = None

    def tried(self, rows: Sequence[Row]) -> str:
        """Before COMMIT is sent. Not synced: this process outlives the primary, or nothing was acked."""
        self._tried += 1
        change = f"{self._who}-{self._tried}"
        self._append({"try": change, "rows": [[row.table, row.id, row.version, row.values] for row in rows]})
        return change

    async def acked(self, change: str, at: datetime, ms: float) -> None:
        """Returns when the line is on disk: from then on the change counts as promised."""
        self._append({"ack": change, "at": at.isoformat(), "ms": round(ms, 2)})
        if self._flush is None:
            self._flush = asyncio.create_task(self._sync())
        await asyncio.shield(self._flush)

    async def _sync(self) -> None:
        await asyncio.to_thread(int)  # one turn, in which the acks of the same moment come along
        self._flush = None  # whoever comes from here on needs the next one
        await asyncio.to_thread(os.fdatasync, self._file.fileno())

    def _append(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")

    def close(self) -> None:
        os.fdatasync(self._file.fileno())
        self._file.close()


def _lines(data: bytes) -> Iterator[dict[str, Any]]:
    for line in data[: data.rfind(b"\n") + 1].splitlines():
        yield json.loads(line)


def _ack(line: Mapping[str, Any]) -> Ack:
    return Ack(datetime.fromisoformat(line["at"]), float(line["ms"]))
