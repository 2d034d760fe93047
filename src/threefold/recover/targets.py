"""Up to where to recover, as the operator says it.

A position in the log is reached by giving PostgreSQL the WAL up to it and no more, not by ``recovery_target_lsn``:
replay then ends with the last whole record before it, and the log's very end is as good a position as any other
(PostgreSQL aborts when a configured target is not passed). Times and names are left to PostgreSQL, which alone
reads commit times.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from threefold.kernel.errors import BadInput
from threefold.kernel.lsn import Lsn

_HINT = "say latest, an LSN (16/B374D848), a time with its zone (2026-11-22T10:15:00Z), name:NAME, or immediate"


@dataclass(frozen=True, slots=True)
class Latest:
    """Everything that is in the log."""

    def __str__(self) -> str:
        return "latest"


@dataclass(frozen=True, slots=True)
class Immediate:
    """The moment a snapshot becomes consistent: as little replay as possible."""

    def __str__(self) -> str:
        return "immediate"


@dataclass(frozen=True, slots=True)
class Position:
    """Every record that ends at or before ``lsn``."""

    lsn: Lsn

    def __str__(self) -> str:
        return str(self.lsn)


@dataclass(frozen=True, slots=True)
class Time:
    """Every transaction committed up to ``at``, by the primary's clock."""

    at: datetime

    def __str__(self) -> str:
        return self.at.isoformat()


@dataclass(frozen=True, slots=True)
class RestorePoint:
    """What ``pg_create_restore_point('name')`` marked."""

    name: str

    def __str__(self) -> str:
        return f"name:{self.name}"


Target = Latest | Immediate | Position | Time | RestorePoint


def parse_target(text: str) -> Target:
    """Read what stands after ``--to``. Raises BadInput."""
    text = text.strip()
    if text == "latest":
        return Latest()
    if text == "immediate":
        return Immediate()
    kind, colon, name = text.partition(":")
    if kind == "name" and colon:
        if not 0 < len(name.encode()) < 64:
            raise BadInput("the name of a restore point has 1 to 63 bytes", hint=_HINT)
        return RestorePoint(name)
    if "/" in text:
        return Position(Lsn.parse(text))
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(f"not a recovery target: {text!r}", hint=_HINT) from None
    if at.tzinfo is None:
        raise BadInput(
            f"the time {text!r} has no zone", hint="add it: Z for UTC, or the offset, as in 2026-11-22T15:15:00+05:00"
        )
    return Time(at)
