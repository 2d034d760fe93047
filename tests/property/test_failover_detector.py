"""The detector against everything: what must hold whatever is seen, and bad hours in which nothing may be given up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.failover_hour import Hour, Trouble
from tests.failover_situations import DARK, GONE, STALLED, STARTING, STORES, UNROUTED, WELL, Sight, Stage

from threefold.failover.judgement import Patience
from threefold.failover.reports import PrimarySeen, Seen
from threefold.failover.suspicion import SILENT, Suspicion
from threefold.failover.verdicts import Kind

words = st.sampled_from(list(Seen))
sights_of_primary = st.one_of(
    st.sampled_from([WELL, GONE, STALLED, STARTING, DARK, UNROUTED]),
    st.builds(PrimarySeen, host=words, process=words, sql=words, write=words),
)
vantages = st.fixed_dictionaries({name: st.none() | sights_of_primary for name in ("beside", "third")})
stores = st.sets(st.sampled_from(STORES)).map(lambda chosen: tuple(sorted(chosen)))
enough = st.sampled_from([STORES, STORES[:2], STORES[1:]])


def sights(answering: st.SearchStrategy[tuple[str, ...]]) -> st.SearchStrategy[Sight]:
    return st.builds(
        Sight,
        seconds=st.integers(1, 80).map(lambda quarters: quarters / 4),
        own=sights_of_primary,
        others=vantages,
        stores=answering,
        wal=st.booleans(),
        draas=st.sampled_from(["streaming", "silent"]),
        asleep=st.booleans(),
    )


def gave_up(stage: Stage) -> Iterable[bool]:
    return (verdict.give_up for verdict in stage.verdicts)


@settings(max_examples=40, deadline=None)
@given(st.lists(sights(stores), min_size=1, max_size=6))
def test_every_verdict_has_evidence_and_one_sentence(played: list[Sight]) -> None:
    stage = Stage()
    stage.play(Sight(1, WELL), *played)
    for verdict in stage.verdicts:
        assert verdict.evidence
        assert all(line.strip() for line in verdict.evidence)
        assert verdict.sentence
        assert verdict.since <= stage.now
        assert verdict.lasted_s >= 0


@settings(max_examples=40, deadline=None)
@given(st.lists(sights(stores), max_size=4), sights_of_primary, vantages, st.sampled_from([(), ("S1",), ("S3",)]))
def test_who_has_no_quorum_never_gives_up(
    before: list[Sight], own: PrimarySeen, others: dict[str, PrimarySeen | None], left: tuple[str, ...]
) -> None:
    stage = Stage()
    stage.play(Sight(1, WELL), *before)
    stage.play(Sight(14, own, others, stores=left))  # until it is known that the others are silent
    stage.verdicts.clear()
    stage.play(Sight(60, own, others, stores=left))
    assert not any(gave_up(stage))
    assert {verdict.kind for verdict in stage.verdicts} <= {Kind.CUT_OFF, Kind.STORE_FAILURE}


@settings(max_examples=40, deadline=None)
@given(st.lists(sights(enough), max_size=3), sights_of_primary, sights_of_primary, st.sampled_from(["sql", "write"]))
def test_who_is_seen_alive_by_one_is_not_given_up(
    before: list[Sight], own: PrimarySeen, third: PrimarySeen, aspect: str
) -> None:
    """Whatever we and the third place see, and whatever was before."""
    stage = Stage()
    stage.play(Sight(1, WELL, {"beside": WELL}), *before)
    stage.play(Sight(2, own, {"beside": WELL, "third": third}))
    stage.verdicts.clear()
    lives = replace(DARK, **{aspect: Seen.OK})
    stage.play(Sight(60, own, {"beside": lives, "third": third}))
    assert not any(gave_up(stage))


@settings(max_examples=40, deadline=None)
@given(st.lists(sights(enough), max_size=4), st.sampled_from([DARK, GONE, STALLED, STARTING, UNROUTED]), vantages)
def test_while_nothing_changes_a_site_that_was_given_up_stays_so(
    before: list[Sight], own: PrimarySeen, others: dict[str, PrimarySeen | None]
) -> None:
    dead = {name: None if seen is None or Seen.OK in {seen.sql, seen.write} else own for name, seen in others.items()}
    stage = Stage()
    stage.play(Sight(1, WELL), *before, Sight(15, own, dead))  # until who says nothing is not heard any more
    stage.verdicts.clear()
    stage.play(Sight(60, own, dead))
    answers = list(gave_up(stage))
    assert answers == sorted(answers)
    assert answers[-1], stage.verdicts[-1]


@settings(max_examples=25, deadline=None)
@given(st.lists(sights(stores), min_size=1, max_size=5), st.sampled_from([-(2.0**30), 2.0**20, 2.0**30]))
def test_the_clock_may_begin_anywhere(played: list[Sight], shift: float) -> None:
    here, there = Stage(), Stage(start=shift)
    here.play(Sight(1, WELL), *played)
    there.play(Sight(1, WELL), *played)
    assert [(v.kind, v.give_up) for v in here.verdicts] == [(v.kind, v.give_up) for v in there.verdicts]


@settings(max_examples=40, deadline=None)
@given(st.floats(3, 3600), st.sampled_from([STALLED, DARK, GONE]))
def test_our_own_sleep_is_nobodys_silence(slept: float, own: PrimarySeen) -> None:
    """On waking we find what a time-out and an old answer make of it; nothing was given up in our dream."""
    stage = Stage()
    stage.play(Sight(20, WELL), Sight(slept, None, asleep=True), Sight(1.2, own))
    assert not any(gave_up(stage))


@settings(max_examples=40, deadline=None)
@given(st.floats(0.2, 3), st.lists(st.floats(0, 4), max_size=200), st.lists(st.floats(0, 100), min_size=2, max_size=20))
def test_suspicion_grows_while_nothing_comes(period: float, intervals: list[float], waits: list[float]) -> None:
    source, at = Suspicion(period), 0.0
    for interval in intervals:
        at += interval * period
        source.beat(at)
    assert source.phi(at) == 0
    found = [source.phi(at + wait) for wait in sorted(waits)]
    assert found == sorted(found)
    assert source.phi(at + 300 * period) > SILENT


HOURS = range(5)


@pytest.mark.parametrize("seed", HOURS)
def test_a_bad_hour_of_stalls_loss_and_load_is_no_disaster(seed: int) -> None:
    hour = Hour(seed)
    for verdict in hour.verdicts(3600):
        assert not verdict.give_up, (hour.now, verdict)


@pytest.mark.parametrize("seed", HOURS)
def test_nor_is_it_for_one_who_looks_alone(seed: int) -> None:
    hour = Hour(1000 + seed, Trouble(sentinels=False))
    for verdict in hour.verdicts(3600):
        assert not verdict.give_up, (hour.now, verdict)


def test_the_hour_can_fail() -> None:
    """With half of the patience the same hours are disasters: they are bad enough to prove something."""
    impatient = Patience(stall_s=12, process_gone_s=2, site_gone_s=2)
    lost = 0
    for seed in range(2):
        hour = Hour(seed, patience=impatient)
        lost += any(verdict.give_up for verdict in hour.verdicts(3600))
    assert lost == 2


@pytest.mark.parametrize(("what", "within"), [("process", 3.0), ("site", 10.0)])
def test_a_real_death_in_a_bad_hour_is_named_in_time(what: str, within: float) -> None:
    """In time that we were awake; nobody detects anything in his sleep. At least 99 of 100, all of them given up."""
    named_in_time, given_up, seeds = 0, 0, 100
    for seed in range(seeds):
        hour = Hour(seed, Trouble(starved=0.2))
        dies = 60.0 + hour.chance.uniform(0, 30)
        kind = Kind.SERVICE_DISRUPTION if what == "process" else Kind.SITE_FAILURE
        setattr(hour.primary, f"{what}_dead_at", dies)
        slept, named = 0.0, None
        for verdict in hour.verdicts(dies + 90):
            if hour.now < dies:
                slept = hour.us.slept
                continue
            if named is None and verdict.kind is kind and (what == "site" or "is gone" in verdict.sentence):
                named = hour.now - dies - (hour.us.slept - slept)
            if verdict.give_up:
                given_up += 1
                break
        named_in_time += named is not None and named <= within
    assert named_in_time >= 0.99 * seeds
    assert given_up == seeds
