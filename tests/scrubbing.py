"""What the tests of scrub and repair share: one run of either, and the ways in which a copy can be damaged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.stored import CLOCK, KEYRING, NAMES, Stored, flip
from threefold.kernel.progress import Silent
from threefold.stores.health import HealthBook
from threefold.stores.memory import MemoryStore
from threefold.upkeep.scrub import Scrub, ScrubReport


async def scrub(here: Stored, *, only: str | None = None, fresh: bool = False, **more: Any) -> ScrubReport:
    work = Scrub(here.stores, KEYRING, CLOCK, HealthBook(NAMES), Silent(), **more)
    return await (work.everything(fresh=fresh) if only is None else work.repair(only))


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "removed": lambda _: None,
    "first byte": lambda body: flip(body, 0),
    "middle byte": lambda body: flip(body, len(body) // 2),
    "last byte": lambda body: flip(body, len(body) - 1),
    "cut": lambda body: body[: len(body) // 2],
    "emptied": lambda _: b"",
    "longer": lambda body: body + b"!",
}


def damage(store: MemoryStore, key: str, how: str) -> None:
    body = DAMAGES[how](store.objects[key])
    if body is None:
        del store.objects[key]
    else:
        store.objects[key] = body
