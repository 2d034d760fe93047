"""Answers that go on: watched, and cut as soon as their session does not hold any more.

A session is looked up when a request comes, and a stream is one request for hours. So while there are streams, one
query every half second asks for all of them at once whether they still hold; a revocation made in this very process is
looked into at once. While the database does not answer, nothing is cut: nothing new comes out of it either.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final
from uuid import UUID

import psycopg

from threefold.connectivity.ledger import STILL_VALID
from threefold.crm.database import Database
from threefold.kernel.clock import Clock
from threefold.kernel.errors import ThreefoldError

_EVERY_SECONDS: Final = 0.5


class Stream:
    """One answer on its way, and the task that sends it."""

    def __init__(self, session: UUID, task: asyncio.Task[Any]) -> None:
        self.session = session
        self.cut = False
        self._task = task

    def end(self) -> None:
        self.cut = True
        self._task.cancel()


class Streams:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._running: set[Stream] = set()
        self._any = asyncio.Event()

    def __len__(self) -> int:
        return len(self._running)

    def add(self, session: UUID, task: asyncio.Task[Any]) -> Stream:
        stream = Stream(session, task)
        self._running.add(stream)
        self._any.set()
        return stream

    def remove(self, stream: Stream) -> None:
        self._running.discard(stream)
        if not self._running:
            self._any.clear()

    async def run(self) -> None:
        while True:
            await self._any.wait()
            await self._clock.sleep(_EVERY_SECONDS)
            await self.look()

    async def look(self) -> None:
        """End those that do not hold any more; later, if the database does not answer now."""
        with contextlib.suppress(psycopg.Error, ThreefoldError, OSError):
            await self._look()

    async def _look(self) -> None:
        asked = {stream.session for stream in self._running}
        if not asked:
            return
        async with self._database.read() as connection:
            cursor = await connection.execute(STILL_VALID, (list(asked),))
            valid = {row["id"] for row in await cursor.fetchall()}
        for stream in [stream for stream in self._running if stream.session in asked - valid and not stream.cut]:
            stream.end()
