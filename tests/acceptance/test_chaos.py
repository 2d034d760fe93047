"""A few rounds of chaos with a fixed seed; `make chaos` runs many."""

from __future__ import annotations

import pytest

from tests.acceptance.chaos import run

pytestmark = pytest.mark.long


@pytest.mark.parametrize(
    ("seed", "rounds", "major"), [(1, 5, 18), pytest.param(2, 2, 15, marks=pytest.mark.postgres15)]
)
async def test_whatever_is_killed_nothing_acknowledged_is_lost(seed: int, rounds: int, major: int) -> None:
    said: list[str] = []
    try:
        assert await run(seed, rounds, major=major, say=said.append) > 100
    except BaseException:
        print(f"seed {seed}:", *said, sep="\n")
        raise
