"""Keeping what is needed under retention lock: each lock is made longer well before it ends.

An object is locked for one ``period`` when it is made. As long as a recovery point needs it, it must not come free:
a pass looks what is needed (reach.py, as prune does), and makes every lock longer that has less than half a period to
go. Passes are far closer than that, so what is needed is locked for more than a third of the period ahead, always; a
DRaaS server that is kept from running has that long to be missed. What nothing needs comes free, and prune takes it.

Where it cannot be told what is needed (the log does not read, a thief took the entries), all that is there counts as
needed. Manifests that were not there `_SETTLED` ago are passed over: their snapshot may still be withdrawn
(vault/marks.py), and `threefold snapshot` locks its own when it is sure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from threefold.kernel.clock import Clock
from threefold.kernel.errors import ThreefoldError
from threefold.kernel.keys import Keyring
from threefold.kernel.progress import Progress, Silent
from threefold.kernel.report import Report
from threefold.quorum.keys import MEMBERS, TIMELINES, WAL
from threefold.stores.store import ObjectStore, Unknown
from threefold.upkeep.listing import union
from threefold.upkeep.survey import Surveyor
from threefold.upkeep.wrapped import copies
from threefold.vault.chunk_store import Vault
from threefold.vault.manifest import snapshot_key
from threefold.vault.retention import Policy

MANIFESTS: Final = "snapshots"
AT_CREATION: Final = (
    "keys",
    TIMELINES,
    WAL,
    "packs",
    "switches",
    MEMBERS,
)  # locked from their first moment on (stores/locking.py)
_AT_ONCE: Final = 8
_SETTLED: Final = timedelta(hours=1)
_OLD: Final = timedelta(days=1)  # nobody hesitates that long: a process that begins need not wait with those
_PASSES: Final = 8  # in one period, at least
_PASS_MOST_S: Final = 3600.0


@dataclass(slots=True)
class Renewed:
    """One pass. ``locked``: needed objects that a store holds under a lock for long enough; ``longer`` of them now."""

    until: datetime
    locked: dict[str, int] = field(default_factory=dict)
    longer: dict[str, int] = field(default_factory=dict)
    failed: dict[str, list[str]] = field(default_factory=dict)  # store → keys that could not be locked
    why: dict[str, str] = field(default_factory=dict)  # store → the first reason
    notes: list[str] = field(default_factory=list)


class Renewal:
    """``locking``: the stores on which objects are locked. Remembers, so that a later pass asks little."""

    def __init__(
        self,
        stores: Mapping[str, ObjectStore],
        locking: Collection[str],
        keyring: Keyring,
        clock: Clock,
        policy: Policy,
        period: timedelta,
        *,
        progress: Progress | None = None,
        once: bool = False,
    ) -> None:
        """``once``: there is one pass only, and none to wait for."""
        self._stores = stores
        self._locking = {name: store for name, store in stores.items() if name in locking}
        self._keyring = keyring
        self._clock = clock
        self._period = period
        self._progress = progress or Silent()
        self._surveyor = Surveyor(stores, keyring, clock, self._progress, policy)
        self._known: dict[tuple[str, str], datetime] = {}
        self._old = _SETTLED if once else min(_OLD, period / 2)
        self._first_seen: dict[str, float] = {}  # snapshots, by the monotonic clock

    async def everything(self) -> Renewed:
        """One pass. Does not raise for what stores do."""
        now = self._clock.now()
        done = Renewed(now + self._period)
        free, settled = await self._not_needed(done)
        free |= await self._replaced_keys()
        self._progress.step("lock", "making locks longer", unit="objects")
        for prefix in (*AT_CREATION, MANIFESTS):
            silent: dict[str, str] = {}
            async for seen in union(self._locking, prefix, self._clock, silent):
                if seen.key in free or (prefix == MANIFESTS and settled is not None and seen.key not in settled):
                    continue
                await self._on_each(done, [seen.key], seen.sizes)
                self._progress.advance(1)
            for name, reason in silent.items():
                done.why.setdefault(name, f"it does not list its {prefix}: {reason}")
                done.failed.setdefault(name, []).append(f"{prefix}/")
        return done

    async def _replaced_keys(self) -> set[str]:
        """Wrapped keys that a newer copy replaces: theirs are the locks that have to end. Unknown: they stay locked."""
        try:
            return {copy.key for copy in await copies(self._stores, self._keyring) if copy.replaced}
        except ThreefoldError:
            return set()

    async def snapshot(self, vault: Vault, snapshot: str) -> Renewed:
        """A new snapshot: its packs, those of earlier ones that it shares as well, then its manifest."""
        done = Renewed(self._clock.now() + self._period)
        keys = sorted((await vault.manifest(snapshot)).pack_keys())
        for at in range(0, len(keys), _AT_ONCE):
            await self._on_each(done, keys[at : at + _AT_ONCE], self._locking)
        await self._on_each(done, [snapshot_key(snapshot)], self._locking)
        return done

    async def _not_needed(self, done: Renewed) -> tuple[set[str], set[str] | None]:
        """Keys that may come free; and manifests that stay for certain, None: all."""
        try:
            seen = await self._surveyor.look()
        except ThreefoldError as error:
            done.notes.append(f"what is needed cannot be told ({error.message}): everything counts as needed")
            return set(), None
        now, patience = self._clock.monotonic(), min(_SETTLED, self._period / 4).total_seconds()
        young = {
            name
            for name, summary in seen.survey.summaries.items()
            # Between a backup's end, by the primary's clock, and its manifest lie uploads of any length.
            if now - self._first_seen.setdefault(name, now) < patience
            and self._clock.now() - summary.stopped < self._old
        }
        return seen.verdict.keys, {snapshot_key(name) for name in seen.survey.summaries.keys() - young}

    async def _on_each(self, done: Renewed, keys: Iterable[str], names: Collection[str]) -> None:
        wanted = [(name, key) for key in keys for name in self._locking if name in names]
        await asyncio.gather(*(self._longer(done, self._locking[name], key) for name, key in wanted))

    async def _longer(self, done: Renewed, store: ObjectStore, key: str) -> None:
        name, enough = store.name, self._clock.now() + self._period / 2
        held: datetime | Unknown | None = self._known.get((name, key))
        if not isinstance(held, datetime) or held < enough:
            held = await store.locked_until(key)
        if not isinstance(held, datetime) or held < enough:
            answer = await store.lock(key, done.until)
            if isinstance(answer, Unknown):
                done.why.setdefault(name, answer.reason)
                done.failed.setdefault(name, []).append(key)
                return
            held = done.until
            done.longer[name] = done.longer.get(name, 0) + 1
        if not key.startswith(f"{MANIFESTS}/"):  # they are few, and one that was copied back comes without its lock
            self._known[name, key] = held
        done.locked[name] = done.locked.get(name, 0) + 1


async def keep_locked(renewal: Renewal, clock: Clock, report: Report, period: timedelta) -> None:
    """Pass after pass, until cancelled."""
    told: dict[str, str] = {}
    while True:
        done = await renewal.everything()
        for name, why in done.why.items():
            if told.get(name) != why:
                count, first = len(done.failed[name]), done.failed[name][0]
                report("copies are not locked", level="error", store=name, objects=count, first=first, reason=why)
        told = done.why
        if done.longer:
            report("locks made longer", until=f"{done.until:%Y-%m-%d %H:%M:%S}", objects=sum(done.longer.values()))
        await clock.sleep(min(period.total_seconds() / _PASSES, _PASS_MOST_S))
