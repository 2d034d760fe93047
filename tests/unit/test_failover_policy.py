"""What is done about a verdict, and every reason to do nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from threefold.failover.policy import Action, Copy, advise
from threefold.failover.steps import Kind, Step, Switch, Switches

READY = Copy(ready=True)
FULL = (Kind.ORDERED, Kind.FENCED, Kind.PROMOTING, Kind.SERVING, Kind.PROTECTED)


@dataclass
class Said:
    sentence: str = "nobody sees karachi for 9 s"
    give_up: bool = True


def _switch(number: int, to: str, source: str, kinds: tuple[Kind, ...] = FULL, *, planned: bool = False) -> Switch:
    facts = {"to": to, "source": source, "planned": planned}
    return Switch(number, tuple(Step(kind, "", "", 0.0, facts) for kind in kinds), len(kinds))


def _advise(*switches: Switch, site: str = "eu", **more: Any) -> tuple[Action, str]:
    journal = Switches(switches)
    facts: dict[str, Any] = {
        "policy": "automatic",
        "switches": journal,
        "active": journal.active("karachi"),
        "verdict": Said(),
        "copy": READY,
    }
    advice = advise(site=site, **{**facts, **more})
    return advice.action, advice.sentence


def test_a_site_that_is_given_up_is_left() -> None:
    assert _advise() == (Action.ORDER, Said().sentence)


@pytest.mark.parametrize("policy", ["automatic", "confirm", "manual"])
def test_who_sees_no_two_stores_does_nothing(policy: str) -> None:
    action, why = _advise(policy=policy, switches=None, active=None)
    assert action is Action.NOTHING
    assert "cut off" in why


def test_ill_is_not_dead() -> None:
    assert _advise(verdict=Said("slow", give_up=False)) == (Action.NOTHING, "slow")


def test_while_a_switch_is_under_way_no_other_is_ordered() -> None:
    action, why = _advise(_switch(1, "third", "karachi", (Kind.ORDERED, Kind.FENCED)))
    assert action is Action.NOTHING
    assert "switch 1 to third is under way (fenced)" in why


def test_the_active_site_does_not_take_over_from_itself() -> None:
    assert _advise(_switch(1, "eu", "karachi"))[0] is Action.NOTHING


@pytest.mark.parametrize("policy", ["confirm", "manual"])
def test_a_person_decides_where_a_person_wants_to(policy: str) -> None:
    action, why = _advise(policy=policy)
    assert action is Action.ASK
    assert "threefold failover" in why


def test_a_copy_that_cannot_reach_the_end_takes_nothing_over() -> None:
    action, why = _advise(copy=Copy(ready=False, why="it is being restored"))
    assert action is Action.ASK
    assert "it is being restored" in why


def test_nobody_goes_back_by_himself() -> None:
    """eu took over from karachi; now eu fails, and karachi's agent must ask."""
    action, why = _advise(_switch(1, "eu", "karachi"), site="karachi")
    assert action is Action.ASK
    assert "nobody goes back by himself" in why


def test_after_a_failback_in_good_order_the_next_disaster_is_taken_over() -> None:
    there, back = _switch(1, "eu", "karachi"), _switch(2, "karachi", "eu", planned=True)
    assert _advise(there, back)[0] is Action.ORDER


def test_an_abandoned_switch_changes_nothing() -> None:
    assert _advise(_switch(1, "eu", "karachi", (Kind.ORDERED, Kind.ABANDONED)))[0] is Action.ORDER


def test_from_a_site_that_was_not_protected_yet_nobody_goes_on_by_himself() -> None:
    action, why = _advise(_switch(1, "eu", "karachi", FULL[:-1]), site="third")
    assert action is Action.ASK
    assert "not protected yet" in why
