"""What a store misses while it is away is not kept in the DRaaS server's memory."""

from __future__ import annotations

import pytest

from tests.acceptance.memory import measure

pytestmark = pytest.mark.long


async def test_a_store_away_under_full_load_costs_no_memory() -> None:
    curve = await measure(seconds=120, megabytes=400)
    assert curve.written > 200 * 10**6, curve.told()  # or there would be nothing to see
    half = len(curve.samples) // 2
    first, second = (max(each.rss for each in part) for part in (curve.samples[:half], curve.samples[half:]))
    assert curve.peak < 300 * 10**6, curve.told()
    assert second < first + 40 * 10**6, curve.told()
