"""The perfect model of a store: what every real one is compared with, and what tests of the layers above use.

It keeps everything in one dictionary, answers at once, and never says Unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from threefold.kernel.clock import Clock
from threefold.stores.store import ABSENT, Gone, Listed, Locked, Made, NotLocked, Page, Unknown


class MemoryStore:
    """One store in memory. ``objects`` is open to tests, which damage and remove what they like."""

    def __init__(self, name: str = "memory", clock: Clock | None = None) -> None:
        """``clock``: for locks to end by; without it they last."""
        self._name = name
        self._clock = clock
        self.locks: dict[str, datetime] = {}
        self.objects: dict[str, bytes] = {}

    @property
    def name(self) -> str:
        return self._name

    async def create(self, key: str, body: bytes) -> Made | Unknown:
        if key in self.objects:
            return Made.EXISTS
        self.objects[key] = bytes(body)
        return Made.CREATED

    async def create_locked(self, key: str, body: bytes, until: datetime) -> Made | Unknown:
        made = await self.create(key, body)
        if made is Made.CREATED:
            self.locks[key] = until
        return made

    async def lock(self, key: str, until: datetime) -> None | Unknown:
        if key not in self.objects or (self._held(key) and self.locks[key] > until):
            return NotLocked(f"{self._name} does not lock that")
        self.locks[key] = until
        return None

    async def locked_until(self, key: str) -> datetime | None | Unknown:
        return self.locks.get(key)

    def _held(self, key: str) -> bool:
        until = self.locks.get(key)
        return until is not None and (self._clock is None or until > self._clock.now())

    async def write(self, key: str, body: bytes) -> None | Unknown:
        if self._held(key):
            return Unknown(f"{self._name} holds a lock on it")
        self.objects[key] = bytes(body)
        return None

    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
        body = self.objects.get(key)
        if body is None:
            return ABSENT
        return body[start:] if length is None else body[start : start + length]

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> Page | Unknown:
        under = f"{prefix.rstrip('/')}/" if prefix else ""
        keys = sorted(key for key in self.objects if key.startswith(under) and key > after)
        listed = tuple(Listed(key, len(self.objects[key])) for key in keys[:limit])
        return Page(listed, last=len(keys) <= limit)

    async def delete(self, keys: Sequence[str]) -> None | Locked | Unknown:
        held = [key for key in keys if self._held(key)]
        for key in set(keys).difference(held):
            self.objects.pop(key, None)
            self.locks.pop(key, None)
        return Locked(held[0], self.locks[held[0]]) if held else None

    async def erase(self, key: str) -> None | Locked | Unknown:
        return await self.delete([key])

    async def close(self) -> None:
        """Nothing is held."""
