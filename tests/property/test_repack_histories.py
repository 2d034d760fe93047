"""Random histories of snapshots, changes, prunes and repacks, killed between any two requests: what is kept is there.

After every step every snapshot that retention keeps is restored, byte for byte, from each two of the three stores.
"""

from __future__ import annotations

import asyncio
from itertools import combinations
from typing import Any, Final

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from tests.churning import DAY, HOUR, Churning, Life, churning
from tests.stored import NAMES, flip

from threefold.vault.retention import Policy

_CHUNKS: Final = 10

Step = tuple[Any, ...]  # what is done, and how

# A prune that writes packs anew and deletes takes some four hundred requests, a snapshot some forty.
lives = st.none() | st.tuples(st.integers(0, 500), st.booleans())
takes = st.tuples(
    st.just("take"),
    st.sets(st.integers(0, _CHUNKS - 1), max_size=5),
    st.none() | st.none() | st.tuples(st.integers(0, 60), st.booleans()),
)
prunes = st.tuples(st.just("prune"), st.integers(0, 40), lives)
beside = st.tuples(st.just("beside"), st.sets(st.integers(0, _CHUNKS - 1), max_size=5), st.integers(0, 400))
policies = st.tuples(st.just("policy"), st.integers(0, 6), st.integers(0, 3))
damages = st.tuples(st.just("damage"), st.integers(0, 50), st.integers(0, 3000))
steps = st.one_of(takes, takes, prunes, prunes, prunes, beside, policies)
histories = st.one_of(
    st.tuples(st.just("none"), st.lists(steps, min_size=4, max_size=16)),
    st.tuples(st.just("damage"), st.lists(st.one_of(steps, damages), min_size=4, max_size=16)),
    st.tuples(st.just("away"), st.lists(st.one_of(steps, st.tuples(st.just("away"))), min_size=4, max_size=16)),
)


def _life(drawn: tuple[int, bool] | None) -> Life | None:
    return None if drawn is None else Life(*drawn)


async def _step(here: Churning, step: tuple, deeds: set[str]) -> None:  # type: ignore[type-arg]
    match step:
        case ("take", changed, life):
            here.clock.at += 12 * HOUR
            await here.take(changed, life=_life(life))
        case ("prune", hours, life):
            report = await here.prune(hours * HOUR, life=_life(life))
            if report is None:
                deeds.add("a prune was killed")
            elif report.repack.revised:
                deeds.add("packs were written anew")
            if report is not None and any(key.startswith("packs/") for key in report.marked):
                deeds.add("packs were marked")
        case ("beside", changed, pause):
            here.clock.at += HOUR
            await asyncio.gather(here.take(changed, pause=pause), here.prune(), here.prune())
        case ("policy", days, daily):
            here.policy = Policy(pitr=days * DAY, daily=daily, grace=here.policy.grace)
        case ("damage", which, at):
            store = here.here.stores["S2"]
            keys = sorted(key for key in store.objects if key.startswith("packs/"))
            if keys:
                key = keys[which % len(keys)]
                store.objects[key] = flip(store.objects[key], at % len(store.objects[key]))
        case ("away",):
            here.away = frozenset() if here.away else frozenset({"S3"})


async def _holds(history: tuple[str, list[Step]], seed: int, grace: int) -> None:
    here = await churning(_CHUNKS, seed)
    here.policy = Policy(pitr=DAY, grace=grace * HOUR)
    await here.take()
    deeds: set[str] = set()
    for step in history[1]:
        await _step(here, step, deeds)
        for two in combinations(NAMES, 2):
            await here.whole(two)
    for deed in deeds:
        event(deed)
    # And when all is quiet, nothing is left that is not needed, and nothing sparse.
    here.away = frozenset()
    for _ in range(4):
        await here.take({1})
        await here.prune(2 * DAY)
    await here.whole(NAMES)


@pytest.mark.parametrize("examples", [40, pytest.param(120, marks=pytest.mark.long)])
def test_whatever_happens_every_kept_snapshot_restores_from_any_two_stores(examples: int) -> None:
    @given(histories, st.integers(0, 2**16), st.sampled_from([0, 0, 24]))
    @settings(max_examples=examples, deadline=None)
    def holds(history: tuple[str, list[Step]], seed: int, grace: int) -> None:
        asyncio.run(_holds(history, seed, grace))

    holds()
