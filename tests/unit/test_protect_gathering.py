"""How long commits wait for each other: all of a slot near, a small part of it far."""

from __future__ import annotations

import pytest

from threefold.protect.gathering import GATHER_S, TOGETHER_S, Gathering


def _after(*took: float) -> Gathering:
    gathering = Gathering()
    for seconds in took:
        gathering.settled(seconds)
    return gathering


@pytest.mark.parametrize("took", [0.0005, 0.002, GATHER_S])
def test_near_stores_are_waited_for(took: float) -> None:
    gathering = _after(took)
    assert gathering.apart == GATHER_S
    assert gathering.together(2) == min(took / 2, TOGETHER_S)


@pytest.mark.parametrize("took", [0.006, 0.02, 0.07, 0.5])
def test_far_ones_are_not(took: float) -> None:
    gathering = _after(took)
    assert gathering.apart <= max(took / 8, 0.001)
    assert gathering.together(20) == 0.0


def test_nothing_is_known_at_first() -> None:
    assert Gathering().apart == GATHER_S
    assert Gathering().together(5) == 0.0


def test_one_commit_alone_waits_for_no_other() -> None:
    assert _after(0.002).together(1) == 0.0


def test_a_busy_machine_makes_no_store_far() -> None:
    busy = [0.002 if number % 20 == 0 else 0.015 for number in range(2000)]
    assert _after(*busy).apart == GATHER_S


def test_a_journey_that_got_longer_is_believed_and_a_shorter_one_at_once() -> None:
    longer = _after(0.001, *[0.03] * 300)
    assert longer.apart < GATHER_S
    longer.settled(0.001)
    assert longer.apart == GATHER_S
