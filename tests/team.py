"""People at work in tests: connections that commit as fast as they are told "saved", and a judge who remembers it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import psycopg

from tests.processes import Failed, until
from tests.promise import keep

if TYPE_CHECKING:
    from tests.protect_process import Site


class Team:
    """Several connections that commit as fast as they are told "saved", and remember exactly that."""

    TABLE = "CREATE TABLE IF NOT EXISTS saved (who int, number int, what text, PRIMARY KEY (who, number))"

    def __init__(self, site: Site, size: int = 4, *, level: str = "on", pause: float = 0.02) -> None:
        self._site = site
        self._level = level
        self._pause = pause
        self.tried: set[tuple[int, int]] = set()
        self.acked: set[tuple[int, int]] = set()
        self.times: list[tuple[float, float]] = []  # (when it was acked, how long it took)
        self._may = asyncio.Event()
        self._may.set()
        self._tasks = [asyncio.create_task(self._work(who)) for who in range(size)]
        self._busy = dict.fromkeys(range(size), False)

    async def _work(self, who: int) -> None:
        loop = asyncio.get_running_loop()
        number = 0
        while True:
            # Read-only: it was made the other site's standby under our feet.
            with suppress(
                psycopg.OperationalError, psycopg.errors.UndefinedTable, psycopg.errors.ReadOnlySqlTransaction
            ):
                dsn = self._site.primary.dsn(connect_timeout="5")
                async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
                    warned: list[str] = []
                    connection.add_notice_handler(lambda notice, warned=warned: warned.append(str(notice)))
                    await connection.execute(f"SET synchronous_commit = {self._level}")
                    while True:
                        await self._may.wait()
                        number += 1
                        self.tried.add((who, number))
                        self._busy[who] = True
                        began = loop.time()
                        await connection.execute(
                            "INSERT INTO saved VALUES (%s, %s, %s)", (who, number, os.urandom(100).hex())
                        )
                        self._busy[who] = False
                        if not warned:
                            self.acked.add((who, number))
                            self.times.append((loop.time(), loop.time() - began))
                        await asyncio.sleep(self._pause)
            self._busy[who] = False
            await asyncio.sleep(0.1)

    def pause(self) -> None:
        self._may.clear()

    def resume(self) -> None:
        self._may.set()

    async def progress(self, more: int = 20, within: float = 90) -> None:
        """Until so many more commits were acked."""
        before = len(self.acked)
        said = self._site.processes
        await until(
            lambda: len(self.acked) >= before + more,
            f"{more} more commits",
            within,
            lambda: "\n".join(each.said[-1500:] for each in said[-2:]),
        )

    async def stop(self) -> None:
        """Where it can be, between two commits."""
        self.pause()
        with suppress(Failed):
            await until(lambda: not any(self._busy.values()), "quiet", 1)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def judge(self) -> None:
        """Everything that was acked is there, and nothing that was not tried."""
        # A recovered primary takes their writes again: what it acknowledges while it is asked is not in the answer.
        acked = set(self.acked)
        rows = {(who, number) for who, number in await self._site.primary.sql("SELECT who, number FROM saved")}
        lost = acked - rows
        keep(not lost, f"{len(lost)} of {len(acked)} acknowledged changes are lost, {sorted(lost)[:5]} first")
        keep(rows <= self.tried, "there is what nobody wrote")


@asynccontextmanager
async def team(here: Site, size: int = 4, **more: Any) -> AsyncIterator[Team]:
    await here.primary.sql(Team.TABLE)
    working = Team(here, size, **more)
    try:
        yield working
    finally:
        await working.stop()
