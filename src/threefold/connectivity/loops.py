"""Work that goes on beside the requests, for as long as the application lives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import structlog

from threefold.kernel.clock import Clock
from threefold.kernel.errors import Unavailable

Loop = Callable[[], Awaitable[None]]

_AGAIN_SECONDS: Final = 1.0

log = structlog.get_logger(__name__)


@asynccontextmanager
async def running(loops: Sequence[Loop], clock: Clock) -> AsyncIterator[None]:
    """Until the block is left. A loop that fails is told of and begun again: nobody else would miss it in time."""
    tasks = [asyncio.ensure_future(_for_ever(loop, clock)) for loop in loops]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _for_ever(loop: Loop, clock: Clock) -> None:
    while True:
        try:
            await loop()
        except Unavailable as error:  # foreseen: the database is away
            log.info("background work waits", work=_name(loop), reason=error.message)
        except Exception:  # whatever it is, the loop goes on
            log.exception("background work failed and begins again", work=_name(loop))
        await clock.sleep(_AGAIN_SECONDS)


def _name(loop: Loop) -> str:
    """Of a partial: what it calls."""
    return str(getattr(getattr(loop, "func", loop), "__qualname__", loop))
