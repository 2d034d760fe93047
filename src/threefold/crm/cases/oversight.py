"""What administrators look at over the whole CRM: how much there is, who may come in, what was changed last.

Each statement is one walk along an index, or counts no further than it has to: `MANY` and more is "many". None is for
others: whoever calls has asked rules.py.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Final, LiteralString, NamedTuple
from uuid import UUID

from psycopg import sql

from threefold.crm.desk import Connection, Row
from threefold.crm.model.paging import Place, cut, turn
from threefold.kernel.errors import BadInput

MANY: Final = 1000
LOOKED: Final = 2000  # entries of the log that one page of changes looks through
DID: Final = ("create", "update", "binned", "restored", "delete")
_WITHIN: Final = timedelta(hours=1)
_BY_NAME: Final = "full_name"
_BY_TIME: Final = "-at"


class Listed(NamedTuple):
    """A page: ``prev`` and ``next`` are what the pages before it and after it are asked for with."""

    rows: list[Row]
    prev: str | None
    next: str | None


async def figures(connection: Connection) -> Row:
    """For the page that leads to all others. Counts of what may be many stop at `MANY`."""
    return (await (await connection.execute(_FIGURES, {"many": MANY})).fetchall())[0]


async def customers(
    connection: Connection, text: str = "", after: str | None = None, most: int = 50, *, before: str | None = None
) -> Listed:
    """Customers who may come in, by name; ``text``: the name begins so."""
    turned = turn(after, before, _BY_NAME)
    way, sign = turned.walk(_BY_NAME)
    cursor = await connection.execute(
        sql.SQL(_CUSTOMERS).format(way=sql.SQL(way), sign=sql.SQL(sign)),
        {
            "text": text.replace("\\", "\\\\").replace("%", r"\%").replace("_", r"\_") + "%",
            "name": turned.place.value if turned.place else None,
            "id": turned.place.id if turned.place else None,
            "limit": most + 1,
        },
    )
    return Listed(*cut(await cursor.fetchall(), most, turned, lambda row: Place(_BY_NAME, row["full_name"], row["id"])))


async def erasures(
    connection: Connection, after: str | None = None, most: int = 50, *, before: str | None = None
) -> Listed:
    """Who was erased, the last first: ids and times only, and who did it."""
    turned = turn(after, before, _BY_TIME)
    way, sign = turned.walk(_BY_TIME)
    cursor = await connection.execute(
        sql.SQL(_ERASURES).format(way=sql.SQL(way), sign=sql.SQL(sign)),
        {
            "at": turned.place.value if turned.place else None,
            "id": turned.place.id if turned.place else None,
            "limit": most + 1,
        },
    )
    return Listed(
        *cut(await cursor.fetchall(), most, turned, lambda row: Place(_BY_TIME, row["_value"], row["contact_id"]))
    )


async def changes(
    connection: Connection,
    *,
    kind: str = "",
    user: UUID | None = None,
    did: str = "",
    since: datetime | None = None,
    until: datetime | None = None,
    before: str | None = None,
    most: int = 50,
) -> tuple[list[Row], str | None]:
    """What was changed in any record, the last first, and where to go on. ``did``: one of `DID`.

    The log is ordered by time alone, so a filter looks through `LOOKED` entries at a time: a page may be short, or
    empty, and yet be followed by another.
    """
    tx, position = _place(before)
    asked = {"kind": kind, "user": user, "did": did, "since": since, "until": until}
    bounds = {
        "from_tx": await _tx_at(connection, since - _WITHIN) if since else None,
        "to_tx": await _tx_at(connection, until + _WITHIN) if until else None,
    }
    cursor = await connection.execute(
        _CHANGES, {"tx": tx, "position": position, "looked": LOOKED, "most": most, **asked, **bounds}
    )
    rows = await cursor.fetchall()
    entries = [row for row in rows if row["record_id"] is not None]
    if not rows:
        return [], None
    looked = rows[-1]
    last = entries[-1] if len(entries) == most else looked
    if looked["end_of_log"] and last["position"] == looked["position"]:
        return entries, None
    return entries, f"{last['tx']}.{last['position']}"


async def files(connection: Connection, ids: Collection[UUID]) -> Mapping[UUID, Row]:
    """Their names, and the records that they are at; of those that are there."""
    if not ids:
        return {}
    cursor = await connection.execute(
        "SELECT id, name, record_kind, record_id FROM crm.attachments WHERE id = ANY(%s)", [list(ids)]
    )
    return {row["id"]: row for row in await cursor.fetchall()}


async def waiting(connection: Connection) -> Mapping[UUID, Row]:
    """By webhook: what waits for it, and what is a dead letter."""
    rows = await (await connection.execute(_WAITING)).fetchall()
    return {row["webhook_id"]: row for row in rows}


async def _tx_at(connection: Connection, moment: datetime) -> str | None:
    """A transaction that began at ``moment`` or later, the one before it in the log having begun earlier.

    The log has no index by time, which every import would pay for. Its own order is nearly that of time: a transaction
    takes its number within `_WITHIN` of its beginning. So the place is found by halving, in one statement; whoever
    asks leaves that much room on the outer side.
    """
    row = (await (await connection.execute(_TX_AT, {"moment": moment})).fetchall())[0]
    return None if row["tx"] is None else str(row["tx"])


def _place(before: str | None) -> tuple[str | None, int | None]:
    if not before:
        return None, None
    tx, _, position = before.partition(".")
    good = all(part.isascii() and part.isdigit() and len(part) < 19 for part in (tx, position))
    if not good:
        raise BadInput("this is no place in the changes", hint="begin at the newest")
    return tx, int(position)


_FIGURES: Final = """
    SELECT
        (SELECT count(*) FROM crm.users WHERE role <> 'customer' AND active AND deleted_at IS NULL) AS staff,
        (SELECT count(*) FROM crm.users WHERE role = 'administrator' AND active AND deleted_at IS NULL)
            AS administrators,
        (SELECT count(*) FROM (SELECT FROM crm.users WHERE role = 'customer' AND deleted_at IS NULL LIMIT %(many)s) s)
            AS customers,
        (SELECT count(*) FROM crm.teams WHERE deleted_at IS NULL) AS teams,
        (SELECT count(*) FROM (SELECT FROM crm.products WHERE deleted_at IS NULL LIMIT %(many)s) s) AS products,
        (SELECT count(*) FROM crm.policies WHERE deleted_at IS NULL) AS policies,
        (SELECT count(*) FROM crm.webhooks) AS webhooks,
        (SELECT count(*) FROM crm.webhooks WHERE NOT active) AS paused,
        (SELECT count(*) FROM (SELECT FROM crm.deliveries WHERE status = 'dead' LIMIT %(many)s) s) AS dead,
        (SELECT count(*) FROM (SELECT FROM crm.erasures LIMIT %(many)s) s) AS erasures
"""
_CUSTOMERS: Final[LiteralString] = """
    SELECT id, full_name, email, active, contact_id, version FROM crm.users
    WHERE role = 'customer' AND deleted_at IS NULL AND full_name ILIKE %(text)s
      AND (%(name)s::text IS NULL OR (full_name, id) {sign} (%(name)s::text, %(id)s::uuid))
    ORDER BY full_name {way}, id {way} LIMIT %(limit)s
"""
_ERASURES: Final[LiteralString] = """
    SELECT e.contact_id, e.at, e.at::text AS _value, e.reason, e.records, u.full_name AS who
    FROM crm.erasures e LEFT JOIN crm.users u ON u.id = e.by
    WHERE %(at)s::timestamptz IS NULL OR (e.at, e.contact_id) {sign} (%(at)s::timestamptz, %(id)s::uuid)
    ORDER BY e.at {way}, e.contact_id {way} LIMIT %(limit)s
"""
# The last row looked at comes along, with its record left out if the filter does not want it: from there one goes on.
_CHANGES: Final = """
    WITH looked AS MATERIALIZED (
        SELECT kind, record_id, version, op, at, actor, reason, changes, salt IS NULL AS erased,
               CASE WHEN op <> 'update' OR NOT coalesce(changes ? 'deleted_at', false) THEN op
                    WHEN changes -> 'deleted_at' ->> 1 IS NULL THEN 'restored' ELSE 'binned' END AS did,
               tx::text AS tx, position, row_number() OVER (ORDER BY l.tx DESC, position DESC) AS number
        FROM crm.log l
        WHERE (%(tx)s::text IS NULL OR (l.tx, position) < (%(tx)s::text::xid8, %(position)s::bigint))
          AND (%(from_tx)s::text IS NULL OR l.tx >= %(from_tx)s::text::xid8)
          AND (%(to_tx)s::text IS NULL OR l.tx < %(to_tx)s::text::xid8)
        ORDER BY l.tx DESC, position DESC LIMIT %(looked)s
    ), wanted AS (
        SELECT * FROM looked
        WHERE (%(kind)s = '' OR kind = %(kind)s) AND (%(user)s::uuid IS NULL OR actor = %(user)s)
          AND (%(did)s = '' OR did = %(did)s)
          AND (%(since)s::timestamptz IS NULL OR at >= %(since)s)
          AND (%(until)s::timestamptz IS NULL OR at < %(until)s)
        ORDER BY number LIMIT %(most)s
    ), shown AS (
        SELECT * FROM wanted
        UNION ALL
        SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, tx, position, number FROM looked
        WHERE number = (SELECT max(number) FROM looked)
    )
    SELECT s.*, u.full_name AS who, (SELECT count(*) FROM looked) < %(looked)s AS end_of_log
    FROM shown s LEFT JOIN crm.users u ON u.id = s.actor ORDER BY s.number, s.record_id NULLS LAST
"""
_TX_AT: Final = """
    WITH RECURSIVE search (low, high) AS (
        SELECT (SELECT l.tx::text::bigint FROM crm.log l ORDER BY l.tx, position LIMIT 1),
               (SELECT l.tx::text::bigint + 1 FROM crm.log l ORDER BY l.tx DESC, position DESC LIMIT 1)
        UNION ALL
        SELECT CASE WHEN reached THEN low ELSE middle + 1 END, CASE WHEN reached THEN middle ELSE high END
        FROM search, LATERAL (SELECT (low + high) / 2 AS middle) m, LATERAL (
            SELECT coalesce((SELECT at >= %(moment)s FROM crm.log WHERE tx >= middle::text::xid8
                             ORDER BY tx, position LIMIT 1), true) AS reached) r
        WHERE low < high
    ) SELECT high AS tx FROM search ORDER BY high - low LIMIT 1
"""
_WAITING: Final = """
    SELECT webhook_id, count(*) FILTER (WHERE status = 'waiting') AS waiting,
           count(*) FILTER (WHERE status = 'dead') AS dead
    FROM (SELECT webhook_id, status FROM crm.deliveries WHERE status = 'waiting'
          UNION ALL SELECT webhook_id, status FROM crm.deliveries WHERE status = 'dead') d GROUP BY webhook_id
"""
