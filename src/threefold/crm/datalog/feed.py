"""What was changed since a place in the order of changes: for integrations, and for webhooks.

Gap-safe: PostgreSQL hands out positions before it commits, so an entry can become visible after one that comes later
in the order. What is told here ends before the oldest transaction that still runs; nothing that is not there yet can
come in front of that. A long transaction makes the feed wait, and never skip.
"""

from __future__ import annotations

import base64
import binascii

from threefold.crm.desk import Connection, Row
from threefold.crm.model import rules
from threefold.crm.model.actor import Actor
from threefold.kernel.errors import BadInput

MOST = 1000
_START = (0, 0)

_SINCE = """
    SELECT kind, record_id, version, op, at, actor, device, reason, changes, tx::text AS xid, position
    FROM crm.log
    WHERE (tx, position) > (%s::text::xid8, %s) AND tx < pg_snapshot_xmin(pg_current_snapshot())
    ORDER BY tx, position LIMIT %s
"""


async def changes(connection: Connection, actor: Actor, cursor: str | None, limit: int = 100) -> tuple[list[Row], str]:
    """What came after ``cursor`` (None: from the beginning), oldest first, and the cursor to go on from.

    Each: kind, record_id, version, op, at, actor, device, reason, changes. Each comes once; a record's in order.
    """
    rules.check(actor, rules.Operation.FEED)
    found = await connection.execute(_SINCE, (*_place(cursor), min(max(limit, 1), MOST)))
    rows = await found.fetchall()
    last = (rows[-1]["xid"], rows[-1]["position"]) if rows else None
    for row in rows:
        del row["xid"], row["position"]
    return rows, cursor_of(*last) if last is not None else cursor or cursor_of(*_START)


async def latest(connection: Connection) -> str:
    """The cursor after everything that can be told now: where somebody begins who wants only what comes."""
    found = await connection.execute(
        "SELECT tx::text AS xid, position FROM crm.log WHERE tx < pg_snapshot_xmin(pg_current_snapshot())"
        " ORDER BY tx DESC, position DESC LIMIT 1"
    )
    row = await found.fetchone()
    return cursor_of(row["xid"], row["position"]) if row is not None else cursor_of(*_START)


def cursor_of(tx: int | str, position: int) -> str:
    return base64.urlsafe_b64encode(f"{tx}.{position}".encode()).decode().rstrip("=")


def _place(cursor: str | None) -> tuple[str, int]:
    if cursor is None:
        return str(_START[0]), _START[1]
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
        tx, position = text.split(".")
        if not (tx.isdigit() and position.isdigit() and int(tx) < 2**64 and int(position) < 2**63):
            raise ValueError
    except (ValueError, binascii.Error):
        raise BadInput(
            "this is no cursor of the changes feed", hint="take it from the answer before, as it is"
        ) from None
    return tx, int(position)
