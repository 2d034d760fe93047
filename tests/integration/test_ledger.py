"""The judge finds every way in which a recovered database can differ from what was promised."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from threefold.crm.sample.sample import Sizes, load
from threefold.demo.judge import Verdict, judge, read_base, save_base
from threefold.demo.ledger import read_ledger
from threefold.postgres.binaries import find_binaries
from threefold.postgres.server import Server

SMALL = Sizes(accounts=100, contacts=400, products=20, queries=400, requests=300, interactions=800)


class Site:
    """A PostgreSQL that writers worked on, was killed with -9 and came back by itself."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.server = Server(find_binaries(), folder / "data", port)
        self.dsn = f"host=127.0.0.1 port={port} user=postgres dbname=postgres password=secret"
        self.ledger, self.base = folder / "ledger", folder / "base"

    def run(self) -> None:
        asyncio.run(self._up(password="secret"))
        with psycopg.connect(self.dsn) as connection:
            load(connection, 1, SMALL)
            save_base(connection, self.base)
        command = [sys.executable, "-m", "threefold.demo.writers", "--desks", "4", "--pause", "0.002"]
        dsn = self.dsn.replace(" password=secret", "")
        writers = subprocess.Popen(
            [*command, "--dsn", dsn, "--ledger", str(self.ledger)], env={**os.environ, "PGPASSWORD": "secret"}
        )
        deadline = time.monotonic() + 30
        while not (self.ledger.exists() and len(read_ledger(self.ledger).acked) > 300):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        self.server.kill()
        assert writers.wait(20) == 0
        asyncio.run(self._up(password=None))

    async def _up(self, password: str | None) -> None:
        if password:
            await self.server.initdb(password=password, sync=False)
        await self.server.start()

    def judge_after(self, *tampering: str) -> Verdict:
        """With changes that are rolled back afterwards."""
        with psycopg.connect(self.dsn) as connection:
            connection.execute("SET session_replication_role = replica")  # past the triggers, as damage would be
            for statement in tampering:
                assert connection.execute(statement.encode()).rowcount > 0, statement
            verdict = judge(connection, read_ledger(self.ledger), read_base(self.base))
            connection.rollback()
            return verdict


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    folder = Path(tempfile.mkdtemp(prefix="threefold-ledger-", dir="/tmp"))
    folder.chmod(0o755)
    site = Site(folder)
    try:
        site.run()
        yield site
    finally:
        with contextlib.suppress(Exception):
            site.server.kill()
        shutil.rmtree(folder)


def last_row(site: Site, table: str, accept: Callable[[Any], bool]) -> str:
    """A row whose newest change was acked."""
    ledger = read_ledger(site.ledger)
    unsettled = {row.id for change, rows in ledger.tried.items() if change not in ledger.acked for row in rows}
    rows = [row for change in ledger.acked for row in ledger.tried[change]]
    return next(row.id for row in reversed(rows) if row.table == table and row.id not in unsettled and accept(row))


def test_after_a_crash_everything_acknowledged_is_there(site: Site) -> None:
    verdict = site.judge_after()
    assert verdict.exact, verdict
    assert verdict.acked > 300
    assert verdict.rows["accounts"] == SMALL.accounts


def test_a_lost_insert_a_lost_update_and_an_altered_value_are_told_apart(site: Site) -> None:
    mail = last_row(site, "interactions", lambda row: row.version == 1)
    request = last_row(site, "requests", lambda row: row.version >= 2)
    verdict = site.judge_after(f"DELETE FROM crm.interactions WHERE id = '{mail}'")
    assert (len(verdict.lost), verdict.lost_changes) == (1, 1)
    verdict = site.judge_after(f"UPDATE crm.requests SET version = version - 1 WHERE id = '{request}'")
    assert (len(verdict.lost), verdict.altered) == (1, ())
    verdict = site.judge_after(f"UPDATE crm.requests SET subject = 'x' WHERE id = '{request}'")
    assert "differs in subject" in verdict.altered[0]


def test_a_change_applied_twice_and_a_row_from_nowhere_are_unexplained(site: Site) -> None:
    request = last_row(site, "requests", lambda row: row.version >= 2)
    verdict = site.judge_after(f"UPDATE crm.requests SET version = version + 1 WHERE id = '{request}'")
    assert len(verdict.unexplained) == 1
    verdict = site.judge_after(
        "INSERT INTO crm.accounts (id, name, industry, country, city, employees)"
        " VALUES (gen_random_uuid(), 'x', 'x', 'DE', 'x', 1)"
    )
    assert "no change made it" in verdict.unexplained[0]


def test_rows_that_no_change_touched_are_compared_too(site: Site) -> None:
    verdict = site.judge_after("UPDATE crm.products SET price_cents = 1 WHERE sku LIKE '%-0003'")
    assert "no change touched it" in verdict.altered[0]
    verdict = site.judge_after(
        "UPDATE crm.queries SET product_id = NULL",
        "UPDATE crm.requests SET product_id = NULL",
        "DELETE FROM crm.products",
    )
    assert sum("products" in line for line in verdict.lost) == SMALL.products


def test_a_point_in_time_needs_only_what_was_acknowledged_before(site: Site) -> None:
    ledger = read_ledger(site.ledger)
    moment = sorted(ack.at for ack in ledger.acked.values())[100]
    with psycopg.connect(site.dsn) as connection:
        verdict = judge(connection, ledger, read_base(site.base), until=moment)
    assert verdict.exact
    assert verdict.acked == 101
