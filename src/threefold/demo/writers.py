"""People at work on the CRM: several connections in a process of their own, and the ledger of what they were told.

Each does what a support team does all day - a customer asks, somebody answers, a request moves on, a contact's
telephone number changes - one transaction at a time, with a little thinking in between. A change is acked when
COMMIT returned without the warning that PostgreSQL gives when it stopped waiting for its standby.

When the connection breaks, the change under way stays *tried*: the person was never told "saved". With
``--reconnect`` they log in again and go on, otherwise they go home.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import DictRow, dict_row

from threefold.crm.model.uuid7 import uuid7
from threefold.demo.ledger import LedgerWriter, Row
from threefold.kernel.clock import Clock, SystemClock

Connection = psycopg.AsyncConnection[DictRow]
_POOL = 3_000  # rows of each table that the team works on


class Desk:
    """One person and one connection."""

    def __init__(self, number: int, seed: int, ledger: LedgerWriter, clock: Clock, pause: float) -> None:
        self._chance = random.Random(f"{seed} {number}")
        self._ledger = ledger
        self._clock = clock
        self._pause = pause
        self._warned = False
        self._open: dict[str, list[str]] = {}
        self._accounts: list[str] = []

    async def work(self, dsn: str, stop: asyncio.Event, *, reconnect: bool) -> None:
        while not stop.is_set():
            try:
                async with await psycopg.AsyncConnection.connect(dsn, row_factory=dict_row) as connection:
                    connection.add_notice_handler(self._notice)
                    await self._prepare(connection)
                    while not stop.is_set():
                        await self._change(connection)
                        await self._clock.sleep(self._pause * (0.5 + self._chance.random()))
            except psycopg.OperationalError:
                if not reconnect:
                    return
                await self._clock.sleep(0.2)

    def _notice(self, notice: psycopg.errors.Diagnostic) -> None:
        self._warned |= notice.severity_nonlocalized == "WARNING"

    async def _prepare(self, connection: Connection) -> None:
        await connection.execute("SET timezone = 'UTC'")
        for table in ("queries", "requests", "contacts"):
            newest = sql.SQL("SELECT id::text FROM {} ORDER BY updated_at DESC LIMIT %s")
            rows = await connection.execute(newest.format(sql.Identifier("crm", table)), (_POOL,))
            self._open[table] = [row["id"] for row in await rows.fetchall()]
        rows = await connection.execute("SELECT id::text FROM crm.accounts LIMIT 500")
        self._accounts = [row["id"] for row in await rows.fetchall()]
        await connection.commit()

    async def _change(self, connection: Connection) -> None:
        """One transaction: tried, committed, acked."""
        kinds: tuple[Callable[[Connection], Awaitable[list[Row]]], ...]
        kinds = (self._ask, self._answer, self._move_on, self._edit_contact)
        kind = self._chance.choices(kinds, (25, 35, 20, 20))[0]
        self._warned = False
        began = self._clock.monotonic()
        rows = await kind(connection)
        change = self._ledger.tried(rows)
        await connection.commit()
        took = self._clock.monotonic() - began
        if not self._warned:
            await self._ledger.acked(change, self._clock.now(), took * 1000)

    async def _ask(self, connection: Connection) -> list[Row]:
        """A customer asks: a query and the mail that it came with."""
        account, contact = self._chance.choice(self._accounts), self._pick("contacts")
        query = await self._run(
            connection,
            "queries",
            "INSERT INTO crm.queries (id, account_id, contact_id, subject, body, status, priority)"
            " VALUES (%s, %s, %s, %s, %s, 'new', %s) RETURNING to_jsonb(queries) AS row",
            (self._key(), account, contact, self._said("Question"), self._said("Good day"), self._chance.randint(1, 4)),
        )
        self._open["queries"].append(query[0].id)
        return query + await self._speak(connection, query[0], "in")

    async def _answer(self, connection: Connection) -> list[Row]:
        query = await self._run(
            connection,
            "queries",
            "UPDATE crm.queries SET status = %s, version = version + 1, updated_at = now()"
            " WHERE id = %s RETURNING to_jsonb(queries) AS row",
            (self._chance.choice(("open", "waiting", "answered", "closed")), self._pick("queries")),
        )
        return query + await self._speak(connection, query[0], "out")

    async def _speak(self, connection: Connection, query: Row, direction: str) -> list[Row]:
        case = (query.values["account_id"], query.values["contact_id"], query.id)
        return await self._run(
            connection,
            "interactions",
            "INSERT INTO crm.interactions (id, account_id, contact_id, query_id, channel, direction, body)"
            " VALUES (%s, %s, %s, %s, 'mail', %s, %s) RETURNING to_jsonb(interactions) AS row",
            (self._key(), *case, direction, self._said("Mail")),
        )

    async def _move_on(self, connection: Connection) -> list[Row]:
        return await self._run(
            connection,
            "requests",
            "UPDATE crm.requests SET status = %s, version = version + 1, updated_at = now()"
            " WHERE id = %s RETURNING to_jsonb(requests) AS row",
            (self._chance.choice(("assigned", "in progress", "done", "cancelled")), self._pick("requests")),
        )

    async def _edit_contact(self, connection: Connection) -> list[Row]:
        phone = f"+{self._chance.randrange(1, 99)} {self._chance.randrange(10**8, 10**9)}"
        rows = await self._run(
            connection,
            "contacts",
            "UPDATE crm.contacts SET phone = %s, version = version + 1, updated_at = now()"
            " WHERE id = %s RETURNING to_jsonb(contacts) AS row",
            (phone, self._pick("contacts")),
        )
        return rows or await self._register(connection, phone)

    async def _register(self, connection: Connection, phone: str) -> list[Row]:
        """The contact is not there (any more): the customer is entered anew."""
        name = f"Customer {self._chance.randrange(10**6)}"
        rows = await self._run(
            connection,
            "contacts",
            "INSERT INTO crm.contacts (id, account_id, full_name, email, phone, role)"
            " VALUES (%s, %s, %s, %s, %s, 'Buyer') RETURNING to_jsonb(contacts) AS row",
            (self._key(), self._chance.choice(self._accounts), name, "someone@example.com", phone),
        )
        self._open["contacts"].append(rows[0].id)
        return rows

    async def _run(self, connection: Connection, table: str, statement: str, values: tuple[Any, ...]) -> list[Row]:
        cursor = await connection.execute(statement.encode(), values)
        rows = [found["row"] for found in await cursor.fetchall()]
        return [Row(table, row["id"], row["version"], row) for row in rows]

    def _pick(self, table: str) -> str:
        return self._chance.choice(self._open[table])

    def _said(self, what: str) -> str:
        return f"{what} {self._chance.getrandbits(64):016x}"

    def _key(self) -> str:
        milliseconds = int(self._clock.now().timestamp() * 1000)
        return str(uuid7(milliseconds, self._chance.getrandbits(74)))


async def write(dsn: str, path: Path, *, desks: int, seed: int, pause: float, reconnect: bool, who: str) -> None:
    """Until SIGTERM or SIGINT; without ``reconnect``, until every connection is lost."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    ledger, clock = LedgerWriter(path, who), SystemClock()
    staff = [Desk(number, seed, ledger, clock, pause) for number in range(desks)]
    working = [asyncio.create_task(desk.work(dsn, stop, reconnect=reconnect)) for desk in staff]
    stopped = asyncio.create_task(stop.wait())
    while not stop.is_set() and any(not task.done() for task in working):
        await asyncio.wait({stopped, *(t for t in working if not t.done())}, return_when=asyncio.FIRST_COMPLETED)
    # Whoever is in the middle of a commit is given a moment, no more: with two stores down it would not return.
    if any(not task.done() for task in working):
        await asyncio.wait(working, timeout=2)
    for task in (*working, stopped):
        task.cancel()
    results = await asyncio.gather(*working, return_exceptions=True)
    ledger.close()
    for result in results:
        if isinstance(result, Exception):
            raise result


def main() -> None:
    parser = argparse.ArgumentParser(description="Writers on the CRM, with a ledger of what was acknowledged")
    parser.add_argument("--dsn", required=True, help="without a password: PGPASSWORD has it")
    parser.add_argument("--ledger", type=Path, required=True)
    parser.add_argument("--desks", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pause", type=float, default=0.01, help="seconds between two changes of one desk")
    parser.add_argument("--reconnect", action="store_true")
    parser.add_argument("--who", default="writers")
    given = parser.parse_args()
    asyncio.run(
        write(
            given.dsn,
            given.ledger,
            desks=given.desks,
            seed=given.seed,
            pause=given.pause,
            reconnect=given.reconnect,
            who=given.who,
        )
    )


if __name__ == "__main__":
    main()
