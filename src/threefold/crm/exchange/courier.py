"""Carries changes to webhooks: turns the changes feed into deliveries, and sends what is due.

The feed's cursor moves in the transaction that writes the deliveries, so each change becomes one delivery to each
receiver, once. A delivery is taken for a while (its `due_at` moves past the time limit of a try) before it is sent,
and what came of it is written afterwards: if this process dies in between, it is due again. Each receiver has a task
of its own, so one that hangs or refuses delays nobody else.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from threefold.crm.datalog import feed
from threefold.crm.desk import Connection, Row, Tx
from threefold.crm.exchange import webhook_rules
from threefold.crm.exchange.webhook_sending import Answer, Sender
from threefold.crm.model.actor import SYSTEM
from threefold.crm.sql.database import Database
from threefold.kernel.clock import Clock
from threefold.kernel.errors import Unavailable

_AT_ONCE: Final = 500  # changes in one transaction
_TAKEN: Final = 20  # deliveries of one receiver, one after the other
_KEPT: Final = timedelta(days=30)  # what was delivered; dead letters stay
_TIDY_EVERY: Final = 3600.0
EVERY_S: Final = 1.0
_log = logging.getLogger(__name__)


async def collect(tx: Tx) -> int:
    """Turns some of what changed since into deliveries. How many changes; another process at it: none."""
    found = await tx.connection.execute("SELECT cursor FROM crm.webhook_feed FOR UPDATE SKIP LOCKED")
    row = await found.fetchone()
    hooks = await (await tx.connection.execute("SELECT id, kinds FROM crm.webhooks WHERE active")).fetchall()
    if row is None or not hooks:
        return 0
    changes, cursor = await feed.changes(tx.connection, SYSTEM, row["cursor"], _AT_ONCE)
    if not changes:
        return 0
    made = [
        (tx.new_id(), hook["id"], body(change), change["kind"], change["record_id"], change["version"])
        for change in changes
        for hook in hooks
        if not hook["kinds"] or change["kind"] in hook["kinds"]
    ]
    async with tx.connection.cursor() as insert:
        await insert.executemany(
            "INSERT INTO crm.deliveries (id, webhook_id, body, kind, record_id, record_version)"
            " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
            made,
        )
    await tx.connection.execute("UPDATE crm.webhook_feed SET cursor = %s", [cursor])
    return len(changes)


def body(change: Mapping[str, Any]) -> bytes:
    """What a receiver gets: which fields changed, and not to what."""
    told = {
        "kind": change["kind"],
        "id": str(change["record_id"]),
        "version": change["version"],
        "op": change["op"],
        "at": change["at"].isoformat().replace("+00:00", "Z"),
        "fields": sorted(change["changes"] or ()),
        "reason": change["reason"],
    }
    return json.dumps(told, separators=(",", ":")).encode()


class Courier:
    """Several processes may each have one."""

    def __init__(self, database: Database, clock: Clock, sender: Sender) -> None:
        self._database = database
        self._clock = clock
        self._sender = sender
        self._busy: dict[UUID, asyncio.Task[None]] = {}
        self._tidied = float("-inf")

    async def run(self, every: float = EVERY_S) -> None:
        """Goes on until it is cancelled; while the database is away it waits."""
        try:
            while True:
                try:
                    more = await self.step()
                except Unavailable as error:
                    _log.info("webhooks wait: %s", error)
                    more = False
                if not more:
                    await self._clock.sleep(every)
        finally:
            for task in self._busy.values():
                task.cancel()
            await asyncio.gather(*self._busy.values(), return_exceptions=True)

    async def step(self) -> bool:
        """Collect once, and set a task on each receiver that something is due for. Whether more is to be collected."""
        async with self._database.read() as connection:
            rows = await (await connection.execute(_DUE)).fetchall()
            news = any(row["active"] for row in rows) and await _news(connection)
        untidy = bool(rows) and self._clock.monotonic() - self._tidied > _TIDY_EVERY
        collected = 0
        if news or untidy:  # a transaction that writes waits for the stores, so not one each second for nothing
            async with self._database.write(SYSTEM) as tx:
                collected = await collect(tx)
                if untidy:
                    await _tidy(tx)
                    self._tidied = self._clock.monotonic()
            async with self._database.read() as connection:
                rows = await (await connection.execute(_DUE)).fetchall()
        for row in rows:
            if row["due"] and row["id"] not in self._busy:
                task = asyncio.create_task(self._serve(row["id"]))
                self._busy[row["id"]] = task
        return collected == _AT_ONCE

    async def settle(self) -> None:
        """Until whoever is being served has been; for tests and for an orderly end."""
        await asyncio.gather(*self._busy.values())

    async def _serve(self, webhook: UUID) -> None:
        try:
            while taken := await self._take(webhook):
                for delivery in taken:
                    answer = await self._send(delivery)
                    await self._write_down(delivery, answer)
        except Unavailable as error:
            _log.info("a webhook waits: %s", error)  # what was taken is due again in a while
        except Exception:  # noqa: BLE001 - one receiver's trouble, whatever it is, must not end the others' tasks
            _log.exception("a webhook could not be served")
        finally:
            del self._busy[webhook]

    async def _take(self, webhook: UUID) -> Sequence[Row]:
        async with self._database.write(SYSTEM) as tx:
            found = await tx.connection.execute(_TAKE, {"webhook": webhook, "many": _TAKEN, "lease": _LEASE})
            return sorted(await found.fetchall(), key=lambda row: row["number"])

    async def _send(self, delivery: Row) -> Answer:
        at = int(self._clock.now().timestamp())
        payload = bytes(delivery["body"])
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "threefold-webhooks",
            "Webhook-Id": str(delivery["id"]),
            "Webhook-Signature": webhook_rules.sign(delivery["secret"], at, payload),
        }
        return await self._sender.post(delivery["url"], payload, headers)

    async def _write_down(self, delivery: Row, answer: Answer) -> None:
        attempts = delivery["attempts"] + 1
        pause = webhook_rules.pause(attempts, self._clock.random())
        dead = not answer.taken and (pause is None or answer.status == 410)  # 410: it will never want it
        status = "delivered" if answer.taken else "dead" if dead else "waiting"
        async with self._database.write(SYSTEM) as tx:
            await tx.connection.execute(
                _SETTLE,
                {
                    "id": delivery["id"],
                    "attempts": attempts,
                    "status": status,
                    "pause": timedelta(seconds=pause or 0),
                    "answered": answer.status or None,
                    "error": answer.error[:500],
                },
            )
        if dead:
            _log.warning("a delivery to the webhook %s is a dead letter: %s", delivery["webhook_id"], answer.error)


async def _news(connection: Connection) -> bool:
    row = (await (await connection.execute("SELECT cursor FROM crm.webhook_feed")).fetchall())[0]
    return bool((await feed.changes(connection, SYSTEM, row["cursor"], 1))[0])


async def _tidy(tx: Tx) -> None:
    await tx.connection.execute(
        "DELETE FROM crm.deliveries WHERE status = 'delivered' AND settled_at < now() - %s", [_KEPT]
    )


_LEASE: Final = timedelta(minutes=10)  # longer than `_TAKEN` tries take together

_DUE: Final = """
    SELECT id, active, EXISTS (
        SELECT FROM crm.deliveries d WHERE d.webhook_id = w.id AND status = 'waiting' AND due_at <= now()
    ) AND active AS due FROM crm.webhooks w
"""
_TAKE: Final = """
    UPDATE crm.deliveries d SET due_at = now() + %(lease)s FROM crm.webhooks w
    WHERE w.id = d.webhook_id AND w.active AND d.id IN (
        SELECT id FROM crm.deliveries WHERE webhook_id = %(webhook)s AND status = 'waiting' AND due_at <= now()
        ORDER BY due_at, number LIMIT %(many)s FOR UPDATE SKIP LOCKED)
    RETURNING d.id, d.number, d.webhook_id, d.body, d.attempts, w.url, w.secret
"""
_SETTLE: Final = """
    UPDATE crm.deliveries SET attempts = %(attempts)s, status = %(status)s, answered = %(answered)s, error = %(error)s,
        due_at = now() + %(pause)s, settled_at = CASE WHEN %(status)s = 'waiting' THEN NULL ELSE now() END
    WHERE id = %(id)s AND status = 'waiting'
"""
