"""Which stores have what is needed: asked by key, a silent store being neither yes nor no (invariants 2 and 7)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from threefold.stores.store import ObjectStore, Unknown

T = TypeVar("T")

_AT_ONCE: Final = 16
_SILENT_IN_A_ROW: Final = 3


@dataclass(frozen=True, slots=True)
class Presence:
    """What the stores answered about one thing."""

    on: frozenset[str]
    absent: frozenset[str]
    unknown: frozenset[str]


async def presence_of(
    stores: Mapping[str, ObjectStore],
    things: Iterable[T],
    has: Callable[[ObjectStore, T], Awaitable[bool | Unknown]],
    *,
    enough: int | None = None,
) -> dict[T, Presence]:
    """``has`` asks one store about one thing, which may be a key or several of which one does.

    With ``enough``, the answers are as complete as it takes to find each thing on that many stores: a slow one is
    not waited for. A store that answered nothing a few times in a row is not asked about the rest.
    """
    answers: dict[T, dict[str, bool]] = {thing: {} for thing in things}

    async def ask_all(store: ObjectStore) -> None:
        room, silent = asyncio.Semaphore(_AT_ONCE), 0

        async def ask(thing: T) -> None:
            nonlocal silent
            async with room:
                if silent >= _SILENT_IN_A_ROW:
                    return
                answer = await has(store, thing)
            silent = silent + 1 if isinstance(answer, Unknown) else 0
            if not isinstance(answer, Unknown):
                answers[thing][store.name] = answer

        await asyncio.gather(*map(ask, answers))

    asking = {asyncio.create_task(ask_all(store)) for store in stores.values()}
    try:
        while asking:
            done, asking = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            if enough is not None and all(sum(found.values()) >= enough for found in answers.values()):
                break
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    return {
        thing: Presence(
            on=frozenset(name for name, there in found.items() if there),
            absent=frozenset(name for name, there in found.items() if not there),
            unknown=frozenset(stores.keys() - found.keys()),
        )
        for thing, found in answers.items()
    }


async def has_one(store: ObjectStore, keys: Sequence[str]) -> bool | Unknown:
    """Whether anything lies under one of those keys, of which the first is the likeliest."""
    found: bool | Unknown = False
    for key in keys:
        answer = await store.read(key, length=1)
        if isinstance(answer, bytes):
            return True
        if isinstance(answer, Unknown):
            found = answer
    return found
