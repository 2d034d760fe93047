"""A short campaign with a fixed seed; `make torture` runs long ones. And broken servers, which it has to notice."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.torture.campaign import run
from tests.torture.model import Violation
from tests.torture.variants import VARIANTS

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/fd"),
]
SEED = 1


async def test_kills_and_power_cuts_at_any_moment_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    said: list[str] = []
    try:
        figures = await run(tmp_path, SEED, 1500, say=said.append)
    except Violation:
        print(*said, sep="\n")
        raise
    assert figures.lives > 15
    assert figures.compacted > 10
    assert {"by kill -9", "at a system call"} <= figures.ends.keys()
    assert figures.sectors > 3  # the more, the less else the machine does: 7 were seen


@pytest.mark.soak
@pytest.mark.parametrize("variant", sorted(VARIANTS))
async def test_a_broken_server_is_noticed(tmp_path: Path, variant: str) -> None:
    """Moments are real time: what one seed meets by chance, another one does."""
    for seed in range(1, 6):
        try:
            await run(tmp_path / str(seed), seed, 1500, variant=variant)
        except Violation:
            return
    pytest.fail(f"nobody noticed that it {variant}")
