"""Every pair of (answer to the create, answer to the read back)."""

from __future__ import annotations

import pytest

from threefold.stores.confirm import Stored, Taken, create_confirmed
from threefold.stores.memory import MemoryStore
from threefold.stores.store import ABSENT, Gone, Made, Unknown

LATE = Unknown("S1 did not answer in time")
DOWN = Unknown("S1 cannot be reached")


class _Says(MemoryStore):
    def __init__(self, to_create: Made | Unknown, to_read: bytes | Gone | Unknown) -> None:
        super().__init__("S1")
        self._to_create, self._to_read = to_create, to_read
        self.reads = 0

    async def create(self, key: str, body: bytes) -> Made | Unknown:
        return self._to_create

    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
        self.reads += 1
        return self._to_read


@pytest.mark.parametrize(
    ("to_create", "to_read", "outcome"),
    [
        (Made.CREATED, DOWN, Stored()),
        (Made.EXISTS, b"ours", Stored()),
        (Made.EXISTS, b"theirs", Taken(b"theirs")),
        (Made.EXISTS, b"", Taken(b"")),
        (Made.EXISTS, DOWN, DOWN),
        (Made.EXISTS, ABSENT, Unknown("S1 says both exists and absent")),
        (LATE, b"ours", Stored()),
        (LATE, b"theirs", Taken(b"theirs")),
        (LATE, ABSENT, LATE),  # it may land yet
        (LATE, DOWN, DOWN),
    ],
)
async def test_outcomes(to_create: Made | Unknown, to_read: bytes | Gone | Unknown, outcome: object) -> None:
    store = _Says(to_create, to_read)
    assert await create_confirmed(store, "k", b"ours") == outcome
    assert store.reads == (to_create is not Made.CREATED)
