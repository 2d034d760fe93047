"""Work that goes on beside the protection for as long as that lasts, and that an error does not end.

It failed for a reason that nobody thought of, and the protection itself is well: it is told of, loudly, and the work is
begun again after a pause. A work that ended unheard would end what it keeps (the retention locks, the agent) unheard.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from threefold.kernel.clock import Clock
from threefold.kernel.report import Report

Work = Callable[[], Coroutine[Any, Any, None]]

_PAUSE_S: Final = 60.0


@asynccontextmanager
async def beside(work: Mapping[str, Work], clock: Clock, report: Report) -> AsyncIterator[None]:
    """``work``: what begins each, by the name that errors are told with."""
    tasks = [asyncio.create_task(_kept(what, begin, clock, report)) for what, begin in work.items()]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _kept(what: str, begin: Work, clock: Clock, report: Report) -> None:
    while True:
        try:
            await begin()
        except Exception as error:  # noqa: BLE001 - whatever it is: told of, and begun again
            reason = f"{type(error).__name__}: {error}"
            report("work beside the protection failed", level="error", what=what, reason=reason, again_s=_PAUSE_S)
            await clock.sleep(_PAUSE_S)
        else:
            return
