"""Requests that read, while they run: watched, and cut as soon as their session does not hold any more.

A session is looked up when a request comes, and a stream is one request for hours; one that waits for changes has said
nothing yet, and would tell them to who is out meanwhile. So one query every half second asks for all that run at once
whether they still hold, and whether who asks still is who it was: a role or a customer's contact may change as well. A
revocation made in this very process is looked into at once. While the database does not answer, nothing is cut:
nothing new comes out of it either.

What changes something is left alone: it ends by itself, and its answer has to tell what became of it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import Any, Final

import psycopg

from threefold.connectivity.admission import Session
from threefold.connectivity.proof_ledger import STILL_VALID
from threefold.connectivity.refusals import TooMany
from threefold.crm.sql.database import Database
from threefold.kernel.clock import Clock
from threefold.kernel.errors import ThreefoldError

_EVERY_SECONDS: Final = 0.5
AT_ONCE: Final = 100  # of one person; a page has one that goes on


class Stream:
    """One request on its way, and the task that answers it. ``out``: it was cut because its session ended."""

    def __init__(self, session: Session, task: asyncio.Task[Any]) -> None:
        self.session = session
        self.cut = False
        self.out = False
        self._task = task

    def end(self, *, out: bool) -> None:
        self.cut, self.out = True, out
        self._task.cancel()


class Streams:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._running: set[Stream] = set()
        self._of: Counter[object] = Counter()  # by person
        self._any = asyncio.Event()

    def __len__(self) -> int:
        return len(self._running)

    def add(self, session: Session, task: asyncio.Task[Any]) -> Stream:
        """Raises TooMany: each takes a connection and a place in memory."""
        if self._of[session.actor.user] >= AT_ONCE:
            raise TooMany("too many requests at once", 1, hint="wait for the answers to those before")
        stream = Stream(session, task)
        self._running.add(stream)
        self._of[session.actor.user] += 1
        self._any.set()
        return stream

    def remove(self, stream: Stream) -> None:
        self._running.remove(stream)
        self._of[stream.session.actor.user] -= 1
        if not self._of[stream.session.actor.user]:
            del self._of[stream.session.actor.user]
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
        asked = {stream.session.id for stream in self._running}
        if not asked:
            return
        async with self._database.read() as connection:
            cursor = await connection.execute(STILL_VALID, (list(asked),))
            valid = {row["id"]: (row["role"], row["contact_id"]) for row in await cursor.fetchall()}
        for stream in [stream for stream in self._running if stream.session.id in asked and not stream.cut]:
            actor = stream.session.actor
            found = valid.get(stream.session.id)
            if found != (actor.role, actor.contact):
                stream.end(out=found is None)
