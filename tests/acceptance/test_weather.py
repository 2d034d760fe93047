"""A short campaign of faults at the HTTP level with a fixed seed; `make weather` runs long ones."""

from __future__ import annotations

import pytest

from tests.acceptance.weather import run


@pytest.mark.parametrize(
    ("seed", "plan"),
    [
        (1, ["take-over"]),
        pytest.param(2, ["snapshot", "disaster", "scrub", "prune", "take-over"], marks=pytest.mark.long),
    ],
)
async def test_nothing_is_lost_and_nothing_is_wedged_in_bad_weather(seed: int, plan: list[str]) -> None:
    said: list[str] = []
    try:
        acked, weather = await run(seed, plan, say=said.append)
    except BaseException:
        print(f"seed {seed}:", *said, sep="\n")
        raise
    assert acked > 100
    assert len({fault for fault, _ in weather.met}) > 8
    assert {"create", "read"} <= {kind for _, kind in weather.met}
