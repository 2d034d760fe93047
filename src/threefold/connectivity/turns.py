"""Turns at the database: one customer takes a few of its connections, never all of them.

A customer may ask for what takes long (all products that have some words in them), and as often as it likes. What is
more than a few at once waits for its own turn, so that everybody else's requests find a connection. Whoever works here
is not counted: they share what is left as they always did.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from uuid import UUID
from weakref import WeakValueDictionary

from threefold.connectivity.refusals import TooMany
from threefold.crm.model.actor import Actor

AT_ONCE: Final = 3  # of ten
_PATIENCE_SECONDS: Final = 5.0


class Turns:
    def __init__(self) -> None:
        self._of: WeakValueDictionary[UUID, asyncio.Semaphore] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, actor: Actor) -> AsyncIterator[None]:
        """Raises TooMany. Not to be taken within a turn."""
        if not actor.is_customer or actor.user is None:
            yield
            return
        turns = self._of.setdefault(actor.user, asyncio.Semaphore(AT_ONCE))
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await turns.acquire()
        except TimeoutError:
            raise TooMany("too many requests at once", 1, hint="wait for the answers to those before") from None
        try:
            yield
        finally:
            turns.release()
