"""A store that locks what may not be lost to a thief: the copies that are made once and deleted late.

A stolen credential may delete whatever the DRaaS server may. Under a retention lock the store itself refuses, until a
time that no request can bring nearer. What lies under one of ``prefixes`` is created locked, whoever creates it: the
writer of segments, a snapshot, a scrub, the filling of a store. So a copy of a locked object is locked.

Not locked: log entries, claims and seals (they are trimmed, or sealed over, within minutes), beacons (overwritten), the
probe's objects. A manifest is locked after it was found to be unaffected (vault/marks.py): until then it may have to be
withdrawn.

A store that refuses the lock, and only the lock, gets the object without one: that nothing is lost comes before that
nothing is stolen, and a segment that could not be put would hold commits up. The renewal (upkeep/renew.py) and
`threefold check` tell of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from threefold.kernel.clock import Clock
from threefold.stores.store import Gone, Locked, Made, NotLocked, ObjectStore, Page, Unknown, create_at_once


class LockingStore:
    """An ObjectStore around ``store``; ``period``: how long a lock lasts."""

    def __init__(self, store: ObjectStore, clock: Clock, period: timedelta, prefixes: Sequence[str]) -> None:
        self._store = store
        self._clock = clock
        self._period = period
        self._prefixes = tuple(f"{prefix}/" for prefix in prefixes)

    @property
    def name(self) -> str:
        return self._store.name

    async def create(self, key: str, body: bytes) -> Made | Unknown:
        if key.startswith(self._prefixes):
            answer = await self._store.create_locked(key, body, self._clock.now() + self._period)
            if not isinstance(answer, NotLocked):
                return answer
        return await self._store.create(key, body)

    def create_at_once(self, key: str, body: bytes, hear: Callable[[Made | Unknown], None]) -> bool:
        """As `store.create_at_once`, for what is not locked."""
        return not key.startswith(self._prefixes) and create_at_once(self._store, key, body, hear)

    async def create_locked(self, key: str, body: bytes, until: datetime) -> Made | Unknown:
        return await self._store.create_locked(key, body, until)

    async def lock(self, key: str, until: datetime) -> None | Unknown:
        return await self._store.lock(key, until)

    async def locked_until(self, key: str) -> datetime | None | Unknown:
        return await self._store.locked_until(key)

    async def write(self, key: str, body: bytes) -> None | Unknown:
        return await self._store.write(key, body)

    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
        return await self._store.read(key, start=start, length=length)

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> Page | Unknown:
        return await self._store.list(prefix, after=after, limit=limit)

    async def delete(self, keys: Sequence[str]) -> None | Locked | Unknown:
        return await self._store.delete(keys)

    async def erase(self, key: str) -> None | Locked | Unknown:
        return await self._store.erase(key)

    async def close(self) -> None:
        await self._store.close()
