"""How fast a scrub reads, and what it says of the providers."""

from __future__ import annotations

import pytest

from threefold.upkeep.pace import Pace
from threefold.upkeep.score import Tally, scores


async def test_the_rate_is_kept_for_each_store() -> None:
    class Stopwatch:
        now = 0.0
        slept = 0.0

        def monotonic(self) -> float:
            return self.now

        async def sleep(self, seconds: float) -> None:
            self.slept += seconds
            self.now += seconds

    clock = Stopwatch()
    pace = Pace(clock, 1000.0)  # type: ignore[arg-type]
    for _ in range(10):
        await pace.passed("S1", 500)
    assert clock.slept == pytest.approx(5.0)
    clock.now += 100  # idle time is not saved up
    await pace.passed("S2", 500)
    assert clock.slept == pytest.approx(5.5)


def test_the_score_tells_who_fails_who_is_slow_and_who_spoils() -> None:
    good = Tally(requests=10_000, objects=10_000, p99_ms=20)
    table = scores(
        {
            "good": [good],
            "fails": [Tally(requests=10_000, failures=100, objects=10_000, p99_ms=20)],
            "slow": [Tally(requests=10_000, objects=10_000, p99_ms=300)],
            "spoils": [Tally(requests=10_000, objects=10_000, damaged=1, p99_ms=20)],
            "new": [],
        }
    )
    assert {name: round(each.score) for name, each in table.items()} == {
        "good": 100,
        "fails": 90,
        "slow": 45,
        "spoils": 50,
        "new": 100,
    }
