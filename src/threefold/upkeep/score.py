"""How well a provider does, from what was measured: so that one is chosen, or given up, on evidence. Pure.

    score = 100 * answered**10 * sqrt(speed) * soundness

- answered: the share of requests that got a definite answer, over the last 30 days (record.py). To the tenth
  power: a store that fails one request of a hundred (0.904) is worse by far than one that fails one of a thousand.
- speed: (best p99 + 50 ms) / (own p99 + 50 ms), the best of the three stores being 1. The 50 ms: below, nobody waits
  noticeably, since the slowest of three is not waited for. The root, because it costs convenience and not data.
- soundness: 1 / (1 + damaged copies for each 10 000 objects read). A copy that was missing is not held against it:
  that is how a store looks that was away, which `answered` shows.

A factor that nothing was measured for is 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from threefold.stores.health import Operation, StoreHealth

FORMULA: Final = "100 * answered^10 * sqrt((best p99 + 50 ms) / (p99 + 50 ms)) / (1 + damaged per 10 000 objects read)"
_UNNOTICED_MS: Final = 50.0
_PER_OBJECTS: Final = 10_000


@dataclass(slots=True)
class Tally:
    """How one store did on one day, as those who asked it on purpose saw it."""

    requests: int = 0
    failures: int = 0
    objects: int = 0  # read and verified
    damaged: int = 0
    missing: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0

    def took(self, health: StoreHealth) -> None:
        """What a process saw of it; small reads tell the latency."""
        self.requests += health.requests
        self.failures += health.failures
        for latency in health.latencies:
            if latency.operation is Operation.READ and latency.samples:
                self.p50_ms, self.p99_ms = round(1000 * latency.p50, 2), round(1000 * latency.p99, 2)


@dataclass(frozen=True, slots=True)
class Score:
    score: float
    answered: float
    speed: float
    soundness: float
    requests: int
    objects: int
    damaged: int


def scores(tallies: Mapping[str, Iterable[Tally]]) -> dict[str, Score]:
    """By store; the newest tally last: its latency counts."""
    days = {name: list(each) for name, each in tallies.items()}
    p99 = {name: next((day.p99_ms for day in reversed(each) if day.p99_ms), 0.0) for name, each in days.items()}
    best = min((each for each in p99.values() if each), default=0.0)
    return {name: _score(each, p99[name], best) for name, each in days.items()}


def _score(days: list[Tally], p99: float, best: float) -> Score:
    requests, failures = sum(day.requests for day in days), sum(day.failures for day in days)
    objects, damaged = sum(day.objects for day in days), sum(day.damaged for day in days)
    answered = 1 - failures / requests if requests else 1.0
    speed = (best + _UNNOTICED_MS) / (p99 + _UNNOTICED_MS) if p99 else 1.0
    soundness = 1 / (1 + damaged * _PER_OBJECTS / objects) if objects else 1.0
    score = 100 * answered**10 * speed**0.5 * soundness
    return Score(round(score, 1), answered, speed, soundness, requests, objects, damaged)
