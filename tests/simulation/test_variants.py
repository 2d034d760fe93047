"""Each broken variant of the protocol is caught, and the protocol itself passes in the same worlds.

(In those of "any", "switching" and "replacing" test_simulation.py has it pass.)
"""

from __future__ import annotations

import pytest

from tests.simulation.soak import command, judge
from tests.simulation.variants import VARIANTS
from tests.simulation.worlds import WORLDS

CORRECT_SEEDS = 40


@pytest.mark.parametrize("name", VARIANTS)
def test_a_broken_variant_is_caught(name: str) -> None:
    variant = VARIANTS[name]
    for seed in (variant.known, *range(variant.seeds)):
        with variant.broken():
            *_, wrong = judge((variant.world, seed))
        if wrong:
            return
    pytest.fail(f"not caught within {variant.seeds} seeds: {name}", pytrace=False)


@pytest.mark.parametrize("world", [world for world in WORLDS if world not in {"any", "switching", "replacing"}])
def test_the_protocol_passes_in_the_same_worlds(world: str) -> None:
    for seed in range(CORRECT_SEEDS):
        *_, wrong = judge((world, seed))
        if wrong:
            pytest.fail(f"{world} {seed}: {wrong}\nreproduce: {command(world, seed)}", pytrace=False)
