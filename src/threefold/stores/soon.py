"""Asking all stores at once, where the answers of those that answer soon are enough."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, TypeVar

from threefold.stores.store import ObjectStore, hangs

T = TypeVar("T")
_SOON_S: Final = 1.0
_LIFE_S: Final = 0.15


async def answers_soon(
    stores: Mapping[str, ObjectStore], ask: Callable[[ObjectStore], Coroutine[Any, Any, T]], within: float = _SOON_S
) -> dict[str, T]:
    """The answers that come ``within`` so many seconds, by store; what has not come by then is given up.

    Of a store that is known to hang no more than a sign of life is waited for.
    """
    tasks = {name: asyncio.create_task(ask(store)) for name, store in stores.items()}
    alive = {task for name, task in tasks.items() if not hangs(stores[name])}
    try:
        if alive:
            await asyncio.wait(alive, timeout=within)
        if doubtful := {task for task in tasks.values() if task not in alive and not task.done()}:
            await asyncio.wait(doubtful, timeout=_LIFE_S)
        return {name: task.result() for name, task in tasks.items() if task.done()}
    finally:
        late = [task for task in tasks.values() if not task.done()]
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
