"""What the stores list under a prefix, side by side and in the keys' order. Hints, never the truth (invariant 2).

A store that does not answer fully is named in ``silent``: of it nothing may be concluded from what is not listed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Final

from threefold.kernel.clock import Clock
from threefold.stores.store import Listed, ObjectStore, Page, Unknown

_TRIES: Final = 3
_PAUSE_S: Final = 0.3


@dataclass(frozen=True, slots=True)
class Seen:
    """A key, and the size that each store lists it with."""

    key: str
    sizes: Mapping[str, int]


async def union(
    stores: Mapping[str, ObjectStore], prefix: str, clock: Clock, silent: dict[str, str], *, after: str = ""
) -> AsyncIterator[Seen]:
    """Every key that any store lists, in order; ``silent`` learns why a store does not list to the end."""
    lanes = {name: _Lane(store, prefix, after) for name, store in stores.items() if name not in silent}
    while lanes:
        await asyncio.gather(*(lane.fill(clock) for lane in lanes.values()))
        for name, lane in list(lanes.items()):
            if lane.trouble:
                silent[name] = lane.trouble
            if lane.trouble or (lane.last and not lane.page):
                del lanes[name]
        # In order up to where every lane is known; then the next pages.
        known = min((lane.page[-1].key for lane in lanes.values() if not lane.last), default=None)
        heads: dict[str, dict[str, int]] = {}
        for name, lane in lanes.items():
            for listed in lane.take(known):
                heads.setdefault(listed.key, {})[name] = listed.size
        for key in sorted(heads):
            yield Seen(key, heads[key])


class _Lane:
    """One store's listing, a page at a time."""

    def __init__(self, store: ObjectStore, prefix: str, after: str) -> None:
        self._store = store
        self._prefix = prefix
        self._after = after
        self.page: list[Listed] = []
        self.last = False
        self.trouble = ""

    async def fill(self, clock: Clock) -> None:
        for again in range(_TRIES):
            if self.page or self.last:
                return
            answer = await self._store.list(self._prefix, after=self._after)
            if isinstance(answer, Page):
                self.page = list(answer.objects)
                self.last = answer.last or not answer.objects
                self._after = answer.objects[-1].key if answer.objects else self._after
                return
            if again + 1 < _TRIES:
                await clock.sleep(_PAUSE_S * (1 + again))
        self.trouble = answer.reason if isinstance(answer, Unknown) else "it does not list"

    def take(self, known: str | None) -> list[Listed]:
        """What lies at or before ``known``; all of it where every lane is at its end."""
        taken = [listed for listed in self.page if known is None or listed.key <= known]
        self.page = self.page[len(taken) :]
        return taken


@dataclass(slots=True)
class Holding:
    """What one store lists under one prefix."""

    objects: int = 0
    bytes: int = 0


async def holdings(
    stores: Mapping[str, ObjectStore], prefix: str, clock: Clock, silent: dict[str, str]
) -> dict[str, Holding]:
    """Counted store by store, in no memory to speak of."""

    async def count(name: str, store: ObjectStore) -> None:
        lane = _Lane(store, prefix, "")
        while not (lane.last and not lane.page):
            await lane.fill(clock)
            if lane.trouble:
                silent[name] = lane.trouble
                return
            found[name].objects += len(lane.page)
            found[name].bytes += sum(listed.size for listed in lane.page)
            lane.page = []

    found = {name: Holding() for name in stores}
    await asyncio.gather(*(count(name, store) for name, store in stores.items()))
    return found
