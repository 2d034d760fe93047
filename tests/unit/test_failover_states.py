"""The table of states: it knows every path of a switch, refuses what the procedure does not know, and is drawn."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
from tests.failover_docs import DOCUMENT, drawn

from threefold.failover.states import TABLE, Event, State, after, events_of, may, state_after
from threefold.failover.steps import Kind, Step, Switch, may_follow
from threefold.kernel.errors import Refused


def _switch(number: int, *kinds: Kind, planned: bool = False) -> Switch:
    facts = {"to": "b", "source": "a", "planned": planned}
    return Switch(number, tuple(Step(kind, "", "", 0.0, facts) for kind in kinds), len(kinds))


def _paths() -> list[tuple[Kind, ...]]:
    """Every sequence of steps that the journal may hold."""
    whole: list[tuple[Kind, ...]] = []
    growing: list[tuple[Kind, ...]] = [(Kind.ORDERED,)]
    while growing:
        path = growing.pop()
        whole.append(path)
        growing += [(*path, kind) for kind in sorted(may_follow(path[-1]))]
    return whole


def _plans(path: tuple[Kind, ...]) -> list[bool]:
    """Only a planned switch stops its source."""
    return [True] if Kind.STOPPED in path else [False, True]


@pytest.mark.parametrize("path", _paths(), ids="-".join)
def test_whatever_the_journal_holds_the_table_knows(path: tuple[Kind, ...]) -> None:
    for planned in _plans(path):
        state_after([_switch(1, *path, planned=planned)])


@pytest.mark.parametrize("first", [path for path in _paths() if not _switch(1, *path).under_way], ids="-".join)
def test_a_switch_may_be_ordered_whenever_the_one_before_cannot_go_back(first: tuple[Kind, ...]) -> None:
    for before, second in product(_plans(first), [False, True]):
        state = state_after([_switch(1, *first, planned=before), _switch(2, Kind.ORDERED, planned=second)])
        assert state is (State.FAILING_BACK if second else State.FENCING)


def test_the_way_there_and_back() -> None:
    there = (Kind.ORDERED, Kind.FENCED, Kind.PROMOTING, Kind.SERVING, Kind.PROTECTED)
    back = (Kind.ORDERED, Kind.STOPPED, Kind.FENCED, Kind.PROMOTING, Kind.SERVING, Kind.PROTECTED)
    states = [State.SUSPECT]
    for event in events_of(_switch(1, *there)):
        states.append(after(states[-1], event))
    assert states[1:] == [
        State.FENCING,
        State.RECOVERING,
        State.RECOVERING,
        State.SERVING_UNPROTECTED,
        State.PROTECTED,
    ]
    states = states[-1:]
    for event in events_of(_switch(2, *back, planned=True)):
        states.append(after(states[-1], event))
    assert states[1:] == [*[State.FAILING_BACK] * 4, State.SERVING_UNPROTECTED, State.PROTECTED]


def test_an_abandoned_switch_does_not_make_an_unprotected_site_protected() -> None:
    first = _switch(1, Kind.ORDERED, Kind.FENCED, Kind.PROMOTING, Kind.SERVING)
    second = _switch(2, Kind.ORDERED, Kind.ABANDONED)
    assert state_after([first, second]) is State.SERVING_UNPROTECTED
    assert state_after([_switch(1, Kind.ORDERED, Kind.ABANDONED)]) is State.ABANDONED


def test_every_other_pair_is_refused() -> None:
    for state, event in product(State, Event):
        assert may(state, event) == ((state, event) in TABLE)
        if (state, event) not in TABLE:
            with pytest.raises(Refused, match="cannot happen"):
                after(state, event)
    assert not may(State.CUT_OFF, Event.ORDERED)  # who is cut off acts on nothing
    assert not may(State.PROTECTED, Event.SERVING)  # nobody serves without a fence


def test_no_state_is_a_trap() -> None:
    for state in State:
        reached = {state}
        while True:
            more = {then for (one, _), then in TABLE.items() if one in reached} | reached
            if more == reached:
                break
            reached = more
        assert State.PROTECTED in reached, state


def test_the_drawing_in_the_documentation_is_current() -> None:
    text = Path(DOCUMENT).read_text()
    assert drawn(text) == text, "the table of states has changed: python -m tests.failover_docs"
