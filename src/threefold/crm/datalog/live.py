"""Tells open pages what was changed, while it happens.

A page shows what the database has, and this only says that it is time to look again: an event may be missed or come
twice without harm. After a lost connection, or when a page cannot keep up, it is told that anything may have changed.

What this process changed is told to its own pages at once. Others hear by NOTIFY, which is sent after the commit on
a connection of its own: a NOTIFY inside a writing transaction would take a lock of the whole database and hold it
until the stores have answered, so that no two commits could wait for them together.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from typing import Final
from uuid import UUID

import psycopg

from threefold.crm.desk import Change
from threefold.crm.model.actor import Actor
from threefold.crm.model.kinds import CUSTOMERS_READ
from threefold.crm.sql.database import Database
from threefold.kernel.clock import Clock

_CHANNEL: Final = "crm_live"
_NAME: Final = "threefold live"
_MOST_WAITING = 500  # events of one page; more of them are told as one
_MOST_UNSENT = 10_000  # while the connection is lost
_PAYLOAD = 7_500  # bytes: PostgreSQL takes fewer than 8000
_AGAIN_S = 1.0
_TURN_S = 0.2  # how long what is to be sent may lie; what comes is heard at once

EVERYTHING: Final = ("*", UUID(int=0))  # anything may have changed: look at all that is shown

Event = tuple[str, UUID]


class Subscription(AsyncIterator[Event]):
    """What one page hears, from the moment that it asked; `aclose` ends it."""

    def __init__(self, actor: Actor, pages: set[Subscription]) -> None:
        self.actor = actor
        self._pages = pages
        self._waiting: dict[Event, None] = {}
        self._something = asyncio.Event()
        pages.add(self)

    async def __anext__(self) -> Event:
        while not self._waiting:
            if self not in self._pages:
                raise StopAsyncIteration
            self._something.clear()
            await self._something.wait()
        event = next(iter(self._waiting))
        del self._waiting[event]
        return event

    async def aclose(self) -> None:
        self._pages.discard(self)
        self._something.set()

    def tell(self, changed: Iterable[Change]) -> None:
        for change in changed:
            if change.kind == EVERYTHING[0]:
                self.tell_everything()
            elif self._may_hear(change):
                self._add((change.kind, change.id))

    def tell_everything(self) -> None:
        self._waiting = {}
        self._add(EVERYTHING)

    def _add(self, event: Event) -> None:
        if len(self._waiting) >= _MOST_WAITING:
            self._waiting, event = {}, EVERYTHING
        if EVERYTHING not in self._waiting:
            self._waiting[event] = None
        self._something.set()

    def _may_hear(self, change: Change) -> bool:
        if not self.actor.is_customer or change.kind in CUSTOMERS_READ:
            return True
        return change.contact is not None and change.contact == self.actor.contact


class Live:
    """One for each process. It hears of every saved transaction by itself."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._me = clock.new_id()[:12]
        self._pages: set[Subscription] = set()
        self._unsent: dict[Change, None] = {}
        self._task: asyncio.Task[None] | None = None
        database.after_commit.append(self.publish)

    def publish(self, changed: Iterable[Change]) -> None:
        """After the commit. Neither waits nor raises."""
        changed = list(changed)
        if not changed:
            return
        self._tell(changed)
        if self._task is not None:
            self._unsent.update(dict.fromkeys(changed))
            if len(self._unsent) > _MOST_UNSENT:
                self._unsent = {Change(*EVERYTHING): None}

    def subscribe(self, actor: Actor) -> Subscription:
        """(kind, id) of what this person may see, each as it changes; `EVERYTHING` when some were missed."""
        return Subscription(actor, self._pages)

    async def open(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        for page in list(self._pages):
            await page.aclose()

    def _tell(self, changed: Iterable[Change]) -> None:
        for page in self._pages:
            page.tell(changed)

    async def _run(self) -> None:
        first = True
        while True:
            with suppress(psycopg.Error):
                async with await psycopg.AsyncConnection.connect(
                    self._database.conninfo, autocommit=True, application_name=_NAME
                ) as connection:
                    await connection.execute(f"SET synchronous_commit = off; LISTEN {_CHANNEL}")
                    if not first:
                        for page in self._pages:
                            page.tell_everything()
                    first = False
                    await self._serve(connection)
            first = False
            await self._clock.sleep(_AGAIN_S)

    async def _serve(self, connection: psycopg.AsyncConnection[tuple[object, ...]]) -> None:
        """Sends and listens by turns: one connection does one thing at a time."""
        while True:
            while self._unsent:
                await self._send(connection)
            async for notify in connection.notifies(timeout=_TURN_S, stop_after=1):
                self._heard(notify.payload)

    async def _send(self, connection: psycopg.AsyncConnection[tuple[object, ...]]) -> None:
        part: list[list[str]] = []
        size = 0
        sent = []
        for change in self._unsent:
            packed = [change.kind, str(change.id), str(change.contact or "")]
            size += len(json.dumps(packed)) + 2
            if size > _PAYLOAD:
                break
            part.append(packed)
            sent.append(change)
        await connection.execute("SELECT pg_notify(%s, %s)", (_CHANNEL, json.dumps([self._me, part])))
        for change in sent:
            self._unsent.pop(change, None)

    def _heard(self, payload: str) -> None:
        with suppress(ValueError, TypeError):  # somebody else's NOTIFY
            sender, part = json.loads(payload)
            if sender == self._me:
                return
            self._tell([Change(kind, UUID(id_), UUID(contact) if contact else None) for kind, id_, contact in part])
