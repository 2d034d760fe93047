"""Webhooks: who is told of changes, what is on its way to them, and what did not arrive.

A delivery says which record changed, how far (its version) and which fields, and not what they hold: whoever may see
that asks the API. So no person's data lies in queues or in others' logs, and an erased person is erased there too.
Each change is told to each receiver at least once, under one ``Webhook-Id``. The sending is in courier.py.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from threefold.crm.datalog import feed
from threefold.crm.desk import Connection, Row, Tx
from threefold.crm.exchange import webhook_rules
from threefold.crm.model import rules
from threefold.crm.model.errors import Conflict, Invalid, Stale
from threefold.crm.model.kinds import KINDS
from threefold.crm.model.paging import Place, cut, turn
from threefold.kernel.errors import NotThere

MANY: Final = 50
_SORT: Final = "-created_at"
_SHOWN: Final = "id, url, description, kinds, active, version, created_at, created_by, updated_at, updated_by"
_DELIVERY: Final = (
    "id, webhook_id, kind, record_id, record_version, status, attempts, due_at, answered, error, created_at, settled_at"
)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_FIELDS: Final = ("url", "description", "kinds", "active")


async def subscribe(
    tx: Tx, url: str, kinds: Sequence[str] = (), description: str = "", *, private: bool = False
) -> Row:
    """With its secret, which is told this once. It hears of what changes from now on; ``kinds`` empty: of all."""
    rules.check(tx.actor, rules.Operation.ADMINISTER)
    _check({"url": url, "kinds": kinds, "description": description}, private=private)
    await _begin_feed(tx)
    many = (await (await tx.connection.execute("SELECT count(*) AS many FROM crm.webhooks")).fetchall())[0]["many"]
    if many >= MANY:
        raise Conflict(f"there are {MANY} webhooks already", hint="remove one that nobody needs")
    cursor = await tx.connection.execute(
        f"INSERT INTO crm.webhooks (id, url, description, kinds, secret)"  # noqa: S608 - the columns are ours
        f" VALUES (%s, %s, %s, %s, %s) RETURNING {_SHOWN}, secret",
        [tx.new_id(), url, description, sorted(set(kinds)), f"whsec_{secrets.token_urlsafe(32)}"],
    )
    return (await cursor.fetchall())[0]


async def subscriptions(connection: Connection) -> list[Row]:
    """Without their secrets, each with what waits and what is dead."""
    cursor = await connection.execute(f"SELECT {_SHOWN} FROM crm.webhooks ORDER BY created_at, id")  # noqa: S608 - ours
    return await cursor.fetchall()


async def subscription(connection: Connection, webhook: UUID) -> Row:
    cursor = await connection.execute(
        f"SELECT {_SHOWN} FROM crm.webhooks WHERE id = %s",  # noqa: S608 - the columns are ours
        [webhook],
    )
    row = await cursor.fetchone()
    if row is None:
        raise NotThere("there is no such webhook")
    return row


async def change(
    tx: Tx, webhook: UUID, changes: Mapping[str, Any], version: int | None = None, *, private: bool = False
) -> Row:
    """One that is switched off keeps what waits for it, and hears nothing of what changes meanwhile."""
    rules.check(tx.actor, rules.Operation.ADMINISTER)
    row = await _locked(tx, webhook, version)
    if unknown := [name for name in changes if name not in _FIELDS]:
        raise Invalid("some fields cannot be meant", dict.fromkeys(unknown, "there is no such field"))
    values = {name: changes.get(name, row[name]) for name in _FIELDS}
    if "url" in changes or "kinds" in changes or "description" in changes:
        _check(values, private=private or values["url"] == row["url"])
    if values["active"] and not row["active"]:
        await _begin_feed(tx)
    cursor = await tx.connection.execute(
        f"UPDATE crm.webhooks SET url = %s, description = %s, kinds = %s, active = %s, version = version + 1,"  # noqa: S608
        f" updated_at = now(), updated_by = crm.acting('user') WHERE id = %s RETURNING {_SHOWN}",
        [values["url"], values["description"], sorted(set(values["kinds"])), bool(values["active"]), webhook],
    )
    return (await cursor.fetchall())[0]


async def new_secret(tx: Tx, webhook: UUID) -> Row:
    """With the new secret, which is told this once; everything sent from now on is signed with it."""
    rules.check(tx.actor, rules.Operation.ADMINISTER)
    await _locked(tx, webhook, None)
    cursor = await tx.connection.execute(
        f"UPDATE crm.webhooks SET secret = %s, version = version + 1, updated_at = now(),"  # noqa: S608 - ours
        f" updated_by = crm.acting('user') WHERE id = %s RETURNING {_SHOWN}, secret",
        [f"whsec_{secrets.token_urlsafe(32)}", webhook],
    )
    return (await cursor.fetchall())[0]


async def unsubscribe(tx: Tx, webhook: UUID, version: int | None = None) -> None:
    """Gone, with what was on its way to it."""
    rules.check(tx.actor, rules.Operation.ADMINISTER)
    await _locked(tx, webhook, version)
    await tx.connection.execute("DELETE FROM crm.webhooks WHERE id = %s", [webhook])


async def deliveries(
    connection: Connection,
    webhook: UUID,
    *,
    status: str | None = None,
    after: str | None = None,
    before: str | None = None,
    limit: int = 50,
) -> tuple[list[Row], str | None, str | None]:
    """The newest first; and what the pages before and after are asked for with."""
    await subscription(connection, webhook)
    if status not in (None, "waiting", "delivered", "dead"):
        raise Invalid("that is no status", {"status": "has to be waiting, delivered or dead"})
    limit = min(max(limit, 1), 200)
    turned = turn(after, before, _SORT)
    way, sign = turned.walk(_SORT)
    cursor = await connection.execute(
        f"SELECT {_DELIVERY}, created_at::text AS _value FROM crm.deliveries"  # noqa: S608 - the columns are ours
        " WHERE webhook_id = %(webhook)s AND (%(status)s::text IS NULL OR status = %(status)s)"
        f" AND (%(at)s::timestamptz IS NULL OR (created_at, id) {sign} (%(at)s::timestamptz, %(id)s))"
        f" ORDER BY created_at {way}, id {way} LIMIT %(limit)s",
        {
            "webhook": webhook,
            "status": status,
            "at": turned.place.value if turned.place else None,
            "id": turned.place.id if turned.place else None,
            "limit": limit + 1,
        },
    )
    found = cut(await cursor.fetchall(), limit, turned, lambda row: Place(_SORT, row["_value"], row["id"]))
    for row in found[0]:
        del row["_value"]
    return found


async def resend(tx: Tx, webhook: UUID, delivery: UUID) -> Row:
    """Again from the start, whatever came of it: under the same id, so that a receiver can tell."""
    rules.check(tx.actor, rules.Operation.ADMINISTER)
    cursor = await tx.connection.execute(
        f"UPDATE crm.deliveries SET status = 'waiting', attempts = 0, due_at = now(), settled_at = NULL"  # noqa: S608
        f" WHERE id = %s AND webhook_id = %s RETURNING {_DELIVERY}",
        [delivery, webhook],
    )
    row = await cursor.fetchone()
    if row is None:
        raise NotThere("there is no such delivery")
    return row


async def resend_dead(tx: Tx, webhook: UUID) -> int:
    """All dead letters of one receiver, once it is back. How many."""
    rules.check(tx.actor, rules.Operation.ADMINISTER)
    await _locked(tx, webhook, None)
    cursor = await tx.connection.execute(
        "UPDATE crm.deliveries SET status = 'waiting', attempts = 0, due_at = now(), settled_at = NULL"
        " WHERE webhook_id = %s AND status = 'dead'",
        [webhook],
    )
    return cursor.rowcount


async def _begin_feed(tx: Tx) -> None:
    """While nobody listened the feed was not read; what changed meanwhile is not for who begins to."""
    await tx.connection.execute("SELECT FROM crm.webhook_feed FOR UPDATE")
    cursor = await tx.connection.execute("SELECT FROM crm.webhooks WHERE active LIMIT 1")
    if await cursor.fetchone() is None:
        await tx.connection.execute("UPDATE crm.webhook_feed SET cursor = %s", [await feed.latest(tx.connection)])


async def _locked(tx: Tx, webhook: UUID, version: int | None) -> Row:
    await tx.connection.execute("SELECT FROM crm.webhooks WHERE id = %s FOR UPDATE", [webhook])
    row = await subscription(tx.connection, webhook)
    if version is not None and row["version"] != version:
        raise Stale(
            f"the webhook was changed meanwhile: it is at version {row['version']}",
            hint="read it again and decide whether the change still holds",
        )
    return row


def _check(values: Mapping[str, Any], *, private: bool) -> None:
    wrong = {}
    if unknown := [kind for kind in values["kinds"] if kind not in KINDS]:
        wrong["kinds"] = f"there is no kind {str(unknown[0])[:60]}"
    if len(values["description"]) > 200 or _CONTROL.search(values["description"]):
        wrong["description"] = "has to be one line of at most 200 characters"
    try:
        webhook_rules.check_url(values["url"], private=private)
    except Invalid as error:
        wrong |= error.fields
    if wrong:
        raise Invalid("this webhook cannot be", wrong)
