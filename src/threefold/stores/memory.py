"""The perfect model of a store: what every real one is compared with, and what tests of the layers above use.

It keeps everything in one dictionary, answers at once, and never says Unknown.
"""

from __future__ import annotations

from collections.abc import Sequence

from threefold.stores.store import ABSENT, Gone, Listed, Made, Page, Unknown


class MemoryStore:
    """One store in memory. ``objects`` is open to tests, which damage and remove what they like."""

    def __init__(self, name: str = "memory") -> None:
        self._name = name
        self.objects: dict[str, bytes] = {}

    @property
    def name(self) -> str:
        return self._name

    async def create(self, key: str, body: bytes) -> Made | Unknown:
        if key in self.objects:
            return Made.EXISTS
        self.objects[key] = bytes(body)
        return Made.CREATED

    async def write(self, key: str, body: bytes) -> None | Unknown:
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

    async def delete(self, keys: Sequence[str]) -> None | Unknown:
        for key in keys:
            self.objects.pop(key, None)
        return None

    async def close(self) -> None:
        """Nothing is held."""
