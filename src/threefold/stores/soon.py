"""Asking all stores at once, where the answers of those that answer soon are enough."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

from threefold.stores.store import ObjectStore, hangs

T = TypeVar("T")
_SOON_S: Final = 1.0
_LIFE_S: Final = 0.15
_ENOUGH: Final = 2  # with fewer than two others nobody can go on without the one that hangs
# One request that was left with each store that hangs: its answer, however late, is the sign of life.
_left: WeakKeyDictionary[ObjectStore, asyncio.Task[Any]] = WeakKeyDictionary()


async def answers_soon(
    stores: Mapping[str, ObjectStore],
    ask: Callable[[ObjectStore], Coroutine[Any, Any, T]],
    within: float = _SOON_S,
    *,
    patiently: bool = False,
) -> dict[str, T]:
    """The answers that come ``within`` so many seconds, by store; what has not come by then is given up.

    Of a store that is known to hang no more than a sign of life is waited for, unless ``patiently``: where what it says
    matters, and not only that somebody says it.
    """
    tasks = {name: asyncio.create_task(ask(store)) for name, store in stores.items()}
    alive = {task for name, task in tasks.items() if patiently or not hangs(stores[name])}
    if len(alive) < _ENOUGH:
        alive = set(tasks.values())
    try:
        await asyncio.wait(alive, timeout=within)
        if doubtful := {task for task in tasks.values() if task not in alive and not task.done()}:
            await asyncio.wait(doubtful, timeout=_LIFE_S)
        return {name: task.result() for name, task in tasks.items() if task.done()}
    finally:
        late = []
        for name, task in tasks.items():
            if not task.done() and not (task not in alive and _leave(stores[name], task)):
                task.cancel()
                late.append(task)
        await asyncio.gather(*late, return_exceptions=True)


def _leave(store: ObjectStore, task: asyncio.Task[Any]) -> bool:
    """Let this one go on, unless another does."""
    before = _left.get(store)
    if before is not None and not before.done():
        return False
    _left[store] = task
    return True
