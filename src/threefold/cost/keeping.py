"""The counts kept across restarts, in the stores themselves: `beacons/traffic-{verb}`, overwritten.

The DRaaS server has no disk of its own. A process adds what it counted every ten minutes and when it ends: three reads
and three writes, never one for a commit. Nothing safe rests on it (invariant 2); two processes of one verb that write
in the same moment may lose each other's last minutes. A store that does not answer soon is passed over: its silence is
no "there is none" (invariant 7), and without two answers nothing is written. The next time adds what was not.

`status` is not kept: people run it every two seconds (`watch`), and keeping what it asks would cost as much again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine, Iterable, Mapping
from typing import Any, Final, TypeVar

from threefold.cost.traffic import (
    PREFIX,
    Cell,
    Count,
    Recovered,
    TrafficRecord,
    cells,
    decode,
    encode,
    key_of,
    since,
)
from threefold.kernel.clock import Clock
from threefold.kernel.errors import Damaged
from threefold.kernel.keys import NONCE_BYTES, Keyring
from threefold.stores.health import HealthBook, State
from threefold.stores.observed import ObservedStore
from threefold.stores.store import ABSENT, ObjectStore, Page

FIRST_S: Final = 60.0
EVERY_S: Final = 600.0
NOT_KEPT: Final = frozenset({"", "status"})
_SOON_S: Final = 1.0
_ANSWERS: Final = 2  # of three: one of them heard what was written last

T = TypeVar("T")


class Keeper:
    """Of one process, which runs ``verb``."""

    def __init__(
        self, verb: str, stores: Mapping[str, ObservedStore], health: HealthBook, keyring: Keyring, clock: Clock
    ) -> None:
        self._verb = verb
        self._stores = stores
        self._health = health
        self._keyring = keyring
        self._clock = clock
        self._began = clock.now()  # of what was not added yet
        self._kept: dict[Cell, Count] = {}
        self._recovered: list[Recovered] = []

    def recovered(self, seconds: float, size: int) -> None:
        """A recovery was carried out: it tells how long the next one takes."""
        at = self._clock.now().isoformat(timespec="seconds")
        self._recovered.append(Recovered(at, round(seconds, 2), size))

    async def run(self) -> None:
        """Until it is cancelled; whoever cancels it calls `flush` once more."""
        pause = FIRST_S
        while True:
            await self._clock.sleep(pause)
            await self.flush()
            pause = EVERY_S

    async def flush(self) -> None:
        """Add what was counted since the last time."""
        if self._verb in NOT_KEPT:
            return
        # What this flush asks itself is counted by the next one, or never: six requests.
        now = cells(self._verb, (each for store in self._stores.values() for each in store.traffic()))
        new = since(now, self._kept)
        health = self._health.snapshot(self._clock.monotonic())
        answering = {each.name for each in health if each.state is not State.LOST and not each.consecutive_failures}
        stores = {name: store for name, store in self._stores.items() if name in answering}
        if not new or not stores:
            return
        found, absent = await _answers(stores, self._verb, self._keyring)
        if len(found) + absent < _ANSWERS:
            return  # a record would be begun anew, or an old one gone on with, over one that holds more
        record = max(found, key=lambda each: each.beat, default=TrafficRecord())
        record.beat += 1
        at = self._clock.now()
        record.add(self._began, at, new, self._recovered)
        body = encode(record, self._verb, self._keyring, bytes.fromhex(self._clock.new_id())[:NONCE_BYTES])
        await _soon({name: store.write(key_of(self._verb), body) for name, store in stores.items()})
        self._kept, self._recovered, self._began = now, [], at


async def read_record(stores: Mapping[str, ObjectStore], verb: str, keyring: Keyring) -> TrafficRecord:
    """The newest that any store gives; a new one where none does."""
    found, _ = await _answers(stores, verb, keyring)
    return max(found, key=lambda each: each.beat, default=TrafficRecord())


async def _answers(stores: Mapping[str, ObjectStore], verb: str, keyring: Keyring) -> tuple[list[TrafficRecord], int]:
    """The records that open, and how many stores say that they have none. What does not open is neither."""
    found, absent = [], 0
    for body in (await _soon({name: store.read(key_of(verb)) for name, store in stores.items()})).values():
        absent += body is ABSENT
        if isinstance(body, bytes):
            try:
                found.append(decode(body, verb, keyring))
            except Damaged:
                continue
    return found, absent


async def read_traffic(stores: Mapping[str, ObjectStore], keyring: Keyring) -> dict[str, TrafficRecord]:
    """By verb."""
    pages = await _soon({name: store.list("beacons") for name, store in stores.items()})
    verbs = _verbs(page for page in pages.values() if isinstance(page, Page))
    return {verb: await read_record(stores, verb, keyring) for verb in verbs}


def _verbs(pages: Iterable[Page]) -> Collection[str]:
    keys = {each.key for page in pages for each in page.objects}
    return sorted(key.removeprefix(PREFIX) for key in keys if key.startswith(PREFIX))


async def _soon(requests: Mapping[str, Coroutine[Any, Any, T]]) -> dict[str, T]:
    """The answers that come within `_SOON_S`, by store."""
    tasks = {name: asyncio.create_task(request) for name, request in requests.items()}
    done, late = await asyncio.wait(tasks.values(), timeout=_SOON_S)
    for task in late:
        task.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    return {name: task.result() for name, task in tasks.items() if task in done}
