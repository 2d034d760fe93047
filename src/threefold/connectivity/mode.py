"""Read-only on purpose: an administrator's word, kept in the database, or this process's own flag.

The word is read with every look of the database's watch, so each edge holds to it within a second or so, and it
survives restarts and switches. It stops what people change; what the CRM does by itself (clocks, webhooks, the audit)
goes on. Who signs in or out still does: an administrator must be able to come and take it back.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from psycopg.types.json import Jsonb

from threefold.connectivity.audit import Note, add
from threefold.connectivity.refusals import ReadOnly
from threefold.crm.desk import Connection, Row, Tx
from threefold.crm.model.errors import Invalid

ASK: Final = b"SELECT value FROM edge.settings WHERE name = 'read-only'"
_REASON: Final = "maintenance"
_MOST_REASON: Final = 200
_LONGEST_WAIT: Final = 3600.0
_WAIT: Final = 30.0


@dataclass(frozen=True, slots=True)
class Mode:
    """``by_flag``: of this process alone, and for as long as it runs."""

    on: bool = False
    reason: str = ""
    until: datetime | None = None
    by_flag: bool = False

    @property
    def sentence(self) -> str:
        """``maintenance until 2026-11-24 22:00 UTC``."""
        return self.reason + (f" until {self.until:%Y-%m-%d %H:%M} UTC" if self.until else "")

    def told(self) -> dict[str, Any]:
        return {
            "read_only": self.on,
            "reason": self.reason or None,
            "until": self.until,
            "by_flag": self.by_flag,
        }


WRITABLE: Final = Mode()


def of_row(row: Row | None) -> Mode:
    value = dict(row["value"]) if row else {}
    until = value.get("until")
    return Mode(bool(value.get("on")), str(value.get("reason", "")), datetime.fromisoformat(until) if until else None)


def checked(reason: str, until: datetime | None) -> Mode:
    """Raises Invalid."""
    text = " ".join(reason.split()) or _REASON
    if len(text) > _MOST_REASON or not text.isprintable():
        raise Invalid("the reason cannot be shown", {"reason": f"one line, at most {_MOST_REASON} characters"})
    if until is not None and until.tzinfo is None:
        raise Invalid("the time has no zone", {"until": "write it with its zone, such as 2026-11-24T22:00:00Z"})
    return Mode(True, text, until)


async def read(connection: Connection) -> Mode:
    return of_row(await (await connection.execute(ASK)).fetchone())


async def keep(tx: Tx, mode: Mode) -> None:
    value = {"on": mode.on, "reason": mode.reason, "until": mode.until.isoformat() if mode.until else None}
    await tx.connection.execute(
        """INSERT INTO edge.settings (name, value, changed_by) VALUES ('read-only', %s, %s)
           ON CONFLICT (name) DO UPDATE SET value = excluded.value, changed_at = now(), changed_by = excluded.changed_by
        """,
        (Jsonb(value), tx.actor.user),
    )
    what = "read-only-on" if mode.on else "read-only-off"
    await add(tx.connection, Note(what, tx.actor, detail={"reason": mode.sentence} if mode.on else {}))


def refusal(mode: Mode, now: datetime) -> ReadOnly:
    wait = _WAIT if mode.until is None else (mode.until - now).total_seconds()
    return ReadOnly(
        f"the CRM is read-only: {mode.sentence or _REASON}",
        min(max(wait, 2.0), _LONGEST_WAIT),
        hint="reading goes on; what you write in our pages waits on your device",
    )
