"""The clocks of cases as pages show them: which counts next, and how long is left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from threefold.crm.clocks import sla
from threefold.crm.desk import Connection


@dataclass(frozen=True, slots=True)
class Shown:
    """A case's clock. ``what``: "Answer" or "Resolution"."""

    what: str
    state: str
    due: datetime
    late: bool = False
    remaining: int = 0


async def now_of(connection: Connection) -> datetime:
    """The database's time: what is due was set by it."""
    rows = await (await connection.execute("SELECT now() AS now")).fetchall()
    found: datetime = rows[0]["now"]
    return found


def next_clock(
    kind: str, row: Mapping[str, Any], now: datetime, offices: Mapping[tuple[str, int], sla.Office]
) -> Shown | None:
    """What a case is due for next: an answer while nobody answered, then its resolution. As on its own page."""
    answered = row["first_responded_at"] is not None
    what, due = ("Resolution", row["resolution_due_at"]) if answered else ("Answer", row["first_response_due_at"])
    if due is None:
        return None
    reading = sla.read(
        now,
        start=row["created_at"],
        due_at=due,
        paused_at=row["paused_at"],
        paused_seconds=row["paused_seconds"],
        office=offices.get((kind, row["priority"])),
    )
    return of_reading(what, reading, now)


def of_reading(what: str, reading: sla.Reading, now: datetime) -> Shown:
    """Office hours count only when somebody is there; the time that a person waits is the same until it is due."""
    state = str(reading.state)
    due = reading.due if state != "paused" else now + timedelta(seconds=reading.remaining)
    return Shown(what, state, due, reading.late, reading.remaining)
