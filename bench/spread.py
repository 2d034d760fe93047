"""Reads spread over three stores: how much of three stores' bandwidth they give, and what hedging costs in requests.

The stores are simulated, each behind a line of its own with a bandwidth, a latency and a tail, because on one machine
the processor, and not the line, would be what is measured; the reader is the real one (stores/reads.py). Time is real.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any, Final

from threefold.kernel.clock import SystemClock
from threefold.stores.memory import MemoryStore
from threefold.stores.reads import Reader
from threefold.stores.store import Gone, Unknown

_READ_BYTES: Final = 1 << 20
_AT_ONCE: Final = 12
_LINE_BYTES: Final = 40e6  # a second: 320 Mbit/s
_LATENCY_S: Final = 0.03
_KEY: Final = "packs/x"


class Line(MemoryStore):
    """A store at the far end of a line: what is sent shares the bandwidth in turn, and some replies are late."""

    def __init__(self, name: str, chance: random.Random, *, bandwidth: float = _LINE_BYTES, late: float = 0.0) -> None:
        super().__init__(name)
        self.objects[_KEY] = bytes(_READ_BYTES)
        self.asked = 0
        self.stalls_after: int | None = None
        self._chance = chance
        self._bandwidth = bandwidth
        self._late = late
        self._free_at = 0.0

    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
        self.asked += 1
        if self.stalls_after is not None and self.asked > self.stalls_after:
            await asyncio.sleep(3600)
        now = time.monotonic()
        wait = self._chance.expovariate(1 / _LATENCY_S)
        if self._chance.random() < self._late:
            wait += 1.5
        self._free_at = max(self._free_at, now) + _READ_BYTES / self._bandwidth
        await asyncio.sleep(max(self._free_at - now, 0) + wait)
        return await super().read(key, start=start, length=length)


async def _accept(data: bytes) -> int:
    return len(data)


async def _run(lines: list[Line], reads: int) -> dict[str, Any]:
    reader = Reader({line.name: line for line in lines}, SystemClock(), lambda _: None)
    left = iter(range(reads))
    took: list[float] = []

    async def work() -> None:
        for _ in left:
            began = time.monotonic()
            await reader.read(_KEY, _accept, length=_READ_BYTES)
            took.append(time.monotonic() - began)

    began = time.monotonic()
    await asyncio.gather(*(work() for _ in range(_AT_ONCE)))
    seconds = time.monotonic() - began
    took.sort()
    return {
        "mb_per_s": round(reads * _READ_BYTES / seconds / 1e6, 1),
        "more_requests": round(sum(line.asked for line in lines) / reads - 1, 4),
        "p50_ms": round(1000 * took[len(took) // 2], 1),
        "p99_ms": round(1000 * took[len(took) * 99 // 100], 1),
        "shares": {line.name: line.asked for line in lines},
    }


def _three(**more: Any) -> Callable[[random.Random], list[Line]]:
    return lambda chance: [Line(name, chance, **more) for name in ("S1", "S2", "S3")]


def _one_slow(chance: random.Random) -> list[Line]:
    return [Line("S1", chance), Line("S2", chance), Line("S3", chance, bandwidth=_LINE_BYTES / 5)]


def _one_stalls(chance: random.Random) -> list[Line]:
    lines = _three()(chance)
    lines[2].stalls_after = 40
    return lines


WORLDS: Final[dict[str, Callable[[random.Random], list[Line]]]] = {
    "one store": lambda chance: [Line("S1", chance)],
    "three stores": _three(),
    "three, 1 % of replies 1.5 s late": _three(late=0.01),
    "three, one with a fifth of the bandwidth": _one_slow,
    "three, one stalls in the middle": _one_stalls,
}


def compare(reads: int = 600) -> dict[str, Any]:
    """Every world with the same seed. ``of_three``: of three times what one store gave."""
    found = {}
    for name, world in WORLDS.items():
        chance = random.Random(7)
        found[name] = asyncio.run(_run(world(chance), reads))
    alone = found["one store"]["mb_per_s"]
    for run in found.values():
        run["of_three"] = round(run["mb_per_s"] / (3 * alone), 2)
    return found


def show(found: dict[str, Any]) -> None:
    print("\n| reads of 1 MiB, 12 at once | MB/s | of three times one store | p50 ms | p99 ms | more requests |")
    print("|---|--:|--:|--:|--:|--:|")
    for name, run in found.items():
        print(
            f"| {name} | {run['mb_per_s']:.0f} | {run['of_three']:.2f} | {run['p50_ms']:.0f} | {run['p99_ms']:.0f} | "
            f"{100 * run['more_requests']:.1f} % |"
        )


if __name__ == "__main__":
    show(compare())
