"""People at work while the sites fail: connections that write, follow the active site, and note what they were told.

    python -m tests.scenarios.clients --who third --ledger FILE --hosts A,B --connections 3

Two kinds of work, each one statement and one transaction: an entry is appended to one of the lists, or money is moved
between two accounts. *Tried* is written down before it is sent, *acked* after PostgreSQL said that it is committed,
without its warning that it stopped waiting for the standby. What was tried and never acked may be there or not.

A line of the ledger: ``{"try": item, "kind": "append"|"transfer", "to": .., "at": s}``,
``{"ack": item, "position": n, "timeline": n, "site": host, "at": s}``. Times are CLOCK_MONOTONIC, which all processes
of a machine share: the order of two changes is judged by it (checker.py), and clocks that jump do not matter.

A connection that hangs for `_PATIENCE_S` is given up, without asking the server to cancel: it would make a change
visible that nobody keeps. Hosts are tried in turn, because a server that was cut off still says that it takes writes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

KEYS = 8
ACCOUNTS = 10
BALANCE = 1000
_PATIENCE_S = 8.0

SCHEMA = f"""
CREATE TABLE keys (key int PRIMARY KEY, count int NOT NULL);
INSERT INTO keys SELECT i, 0 FROM generate_series(1, {KEYS}) i;
CREATE TABLE entries (key int, position int, item text NOT NULL, PRIMARY KEY (key, position));
CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL);
INSERT INTO accounts SELECT i, {BALANCE} FROM generate_series(1, {ACCOUNTS}) i;
CREATE TABLE transfers (item text, debtor int, creditor int, amount int);
"""

_APPEND = b"""
WITH next AS (UPDATE keys SET count = count + 1 WHERE key = %s RETURNING key, count)
INSERT INTO entries SELECT key, count, %s FROM next RETURNING position
"""
# The two accounts are locked in order, so that two transfers do not wait for each other.
_TRANSFER = b"""
WITH both_of_them AS (SELECT id FROM accounts WHERE id IN (%(debtor)s, %(creditor)s) ORDER BY id FOR UPDATE),
     moved AS (UPDATE accounts SET balance = balance + CASE WHEN accounts.id = %(debtor)s THEN -%(amount)s
               ELSE %(amount)s END FROM both_of_them WHERE accounts.id = both_of_them.id)
INSERT INTO transfers VALUES (%(item)s, %(debtor)s, %(creditor)s, %(amount)s) RETURNING 0
"""


class Client:
    """One connection after the other."""

    def __init__(self, who: str, ledger: int, hosts: list[str], dsn: str, pause: float, seed: int) -> None:
        self._who = who
        self._ledger = ledger
        self._hosts = hosts
        self._dsn = dsn
        self._pause = pause
        self._chance = random.Random(f"{seed} {who}")
        self._number = 0
        self._warned = False

    async def work(self) -> None:
        turn = self._chance.randrange(len(self._hosts))
        while True:
            host = self._hosts[turn % len(self._hosts)]
            with suppress(psycopg.Error, TimeoutError, OSError):
                await self._at(host)
            turn += 1
            await asyncio.sleep(0.1 + 0.2 * self._chance.random())

    async def _at(self, host: str) -> None:
        conninfo = make_conninfo(self._dsn, host=host)
        async with asyncio.timeout(4):
            connection = await psycopg.AsyncConnection.connect(conninfo, autocommit=True)
        try:
            connection.add_notice_handler(self._notice)
            async with asyncio.timeout(_PATIENCE_S):
                cursor = await connection.execute("SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)")
                row = await cursor.fetchone()
            timeline = int(row[0], 16) if row else 0
            while True:
                async with asyncio.timeout(_PATIENCE_S):
                    await self._change(connection, host, timeline)
                await asyncio.sleep(self._pause * (0.5 + self._chance.random()))
        finally:
            # Closed, not cancelled: psycopg would ask the server to cancel, and it would stop waiting for the standby.
            connection.pgconn.finish()

    async def _change(self, connection: psycopg.AsyncConnection[Any], host: str, timeline: int) -> None:
        self._number += 1
        item = f"{self._who}-{self._number}"
        self._warned = False
        if self._chance.random() < 0.6:
            key = self._chance.randint(1, KEYS)
            self._note(item, kind="append", to=key)
            cursor = await connection.execute(_APPEND, (key, item))
        else:
            debtor, creditor = self._chance.sample(range(1, ACCOUNTS + 1), 2)
            amount = self._chance.randint(1, 50)
            self._note(item, kind="transfer", to=[debtor, creditor, amount])
            values = {"debtor": debtor, "creditor": creditor, "amount": amount, "item": item}
            cursor = await connection.execute(_TRANSFER, values)
        row = await cursor.fetchone()
        if not self._warned and row is not None:
            self._write({"ack": item, "position": row[0], "timeline": timeline, "site": host})

    def _note(self, item: str, **what: Any) -> None:
        self._write({"try": item, **what})

    def _write(self, line: dict[str, Any]) -> None:
        os.write(self._ledger, json.dumps({**line, "at": time.monotonic()}).encode() + b"\n")

    def _notice(self, notice: psycopg.errors.Diagnostic) -> None:
        self._warned |= notice.severity_nonlocalized == "WARNING"


async def work(given: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    ledger = os.open(given.ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    # A host that is gone without a word is noticed in seconds; a primary that waits for its standby is alive.
    dsn = make_conninfo(
        given.dsn,
        target_session_attrs="read-write",
        connect_timeout="3",
        tcp_user_timeout="6000",
        keepalives_idle="2",
        keepalives_interval="1",
        keepalives_count="3",
    )
    hosts = given.hosts.split(",")
    who = f"{given.who}{os.getpid()}-"  # started again they are others: no change may have another's name
    people = [Client(f"{who}{n}", ledger, hosts, dsn, given.pause, given.seed) for n in range(given.connections)]
    tasks = [asyncio.create_task(each.work()) for each in people]
    print("at work", flush=True)
    await asyncio.wait([asyncio.create_task(stop.wait()), *tasks], return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        if task.done():
            task.result()  # nobody goes home by himself
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Clients of the scenarios, with a ledger of what they were told")
    parser.add_argument("--who", required=True)
    parser.add_argument("--ledger", type=Path, required=True)
    parser.add_argument("--dsn", required=True, help="without hosts and password: PGPASSWORD has that")
    parser.add_argument("--hosts", required=True)
    parser.add_argument("--connections", type=int, default=3)
    parser.add_argument("--pause", type=float, default=0.03)
    parser.add_argument("--seed", type=int, default=1)
    asyncio.run(work(parser.parse_args()))


if __name__ == "__main__":
    main()
