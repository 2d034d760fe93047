"""What each store holds and how it does: `threefold store status`. Lists and a few small reads, nothing is changed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from threefold.kernel.clock import Clock
from threefold.kernel.keys import Keyring
from threefold.quorum import keys
from threefold.stores.health import HealthBook
from threefold.stores.store import ObjectStore
from threefold.upkeep.decide import PREFIXES, PURPOSES
from threefold.upkeep.listing import Holding, holdings
from threefold.upkeep.record import Record, read_record
from threefold.upkeep.score import Score, Tally, scores

_ASKED: Final = 20  # small reads of each store, so that its latency is of now


@dataclass(slots=True)
class StoreStatus:
    """One store. ``holds``: by purpose; the rest (claims, keys, timelines) is `other`."""

    name: str
    holds: dict[str, Holding] = field(default_factory=dict)
    trouble: str = ""  # why its lists are not complete
    found: Mapping[str, int] = field(default_factory=dict)  # by the last scrub: missing, damaged, mended
    today: Tally = field(default_factory=Tally)
    score: Score | None = None


@dataclass(slots=True)
class Inventory:
    stores: list[StoreStatus]
    scrub: Record


async def take_inventory(
    stores: Mapping[str, ObjectStore], keyring: Keyring, clock: Clock, health: HealthBook
) -> Inventory:
    """A store that does not answer is in it, with its trouble."""
    found = {name: StoreStatus(name) for name in stores}
    record = await read_record(stores, keyring)
    await asyncio.gather(
        *(_time(store) for store in stores.values()), *(_count(stores, prefix, clock, found) for prefix in PREFIXES)
    )
    for health_now in health.snapshot(clock.monotonic()):
        today = found[health_now.name].today
        today.took(health_now)
    tallies = {
        name: [*(day[name] for _, day in sorted(record.days.items()) if name in day), status.today]
        for name, status in found.items()
    }
    for name, score in scores(tallies).items():
        found[name].score = score
        found[name].found = record.counts.get(name, {})
    return Inventory(list(found.values()), record)


async def _time(store: ObjectStore) -> None:
    for _ in range(_ASKED):
        await store.read(keys.FORMAT)


async def _count(
    stores: Mapping[str, ObjectStore], prefix: str, clock: Clock, found: Mapping[str, StoreStatus]
) -> None:
    silent: dict[str, str] = {}
    purpose = PURPOSES.get(prefix, "other")
    for name, holding in (await holdings(stores, prefix, clock, silent)).items():
        total = found[name].holds.setdefault(purpose, Holding())
        total.objects += holding.objects
        total.bytes += holding.bytes
    for name, why in silent.items():
        found[name].trouble = why
