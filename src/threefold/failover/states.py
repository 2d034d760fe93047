"""How a system stands, as one table: (state, event) -> state. Pure. docs/explanation/failover.md draws it from here.

The table is a view for people and for policy; nothing safe rests on it. What is true stands in the journal of
switches, and every agent that reads it comes to the same state by feeding it the journal's steps (`events_of`). A
pair that is not in the table means that a step was taken that the procedure does not know: it is refused, loudly.

*Deficient* is no state but a property beside it (deficiency.py): fewer than three stores, no standby, unprotected.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final

from threefold.failover.steps import Kind, Switch
from threefold.kernel.errors import Refused


class State(StrEnum):
    """As `threefold status` says it."""

    PROTECTED = "protected"
    SUSPECT = "suspect"
    CUT_OFF = "cut-off"
    FENCING = "fencing"
    RECOVERING = "recovering"
    SERVING_UNPROTECTED = "serving-unprotected"
    FAILING_BACK = "failing-back"
    ABANDONED = "abandoned"


class Event(StrEnum):
    """What happens: seen by the detector (the first four), or decided in the journal."""

    DOUBTED = "the active site looks ill"
    CLEARED = "the active site answers"
    LOST_STORES = "we see no two stores"
    HEARD_STORES = "two stores answer again"
    ORDERED = "a switch is ordered"
    ORDERED_BACK = "a planned switch is ordered"
    STOPPED = "the source has stopped"
    FENCED = "the log's end is fixed"
    PROMOTING = "the promotion is decided"
    SERVING = "the new site serves"
    PROTECTED = "it is protected again"
    ABANDONED = "the switch is abandoned"


_S, _E = State, Event
TABLE: Final[Mapping[tuple[State, Event], State]] = {
    (_S.PROTECTED, _E.DOUBTED): _S.SUSPECT,
    (_S.PROTECTED, _E.LOST_STORES): _S.CUT_OFF,
    (_S.PROTECTED, _E.ORDERED): _S.FENCING,
    (_S.PROTECTED, _E.ORDERED_BACK): _S.FAILING_BACK,
    (_S.SUSPECT, _E.CLEARED): _S.PROTECTED,
    (_S.SUSPECT, _E.LOST_STORES): _S.CUT_OFF,
    (_S.SUSPECT, _E.ORDERED): _S.FENCING,
    (_S.SUSPECT, _E.ORDERED_BACK): _S.FAILING_BACK,
    (_S.CUT_OFF, _E.HEARD_STORES): _S.PROTECTED,
    (_S.FENCING, _E.FENCED): _S.RECOVERING,
    (_S.FENCING, _E.ABANDONED): _S.ABANDONED,
    (_S.RECOVERING, _E.PROMOTING): _S.RECOVERING,
    (_S.RECOVERING, _E.SERVING): _S.SERVING_UNPROTECTED,
    (_S.RECOVERING, _E.ABANDONED): _S.ABANDONED,
    (_S.SERVING_UNPROTECTED, _E.PROTECTED): _S.PROTECTED,
    # NA14: the new site fails as well, before it is protected.
    (_S.SERVING_UNPROTECTED, _E.ORDERED): _S.FENCING,
    (_S.SERVING_UNPROTECTED, _E.ORDERED_BACK): _S.FAILING_BACK,
    (_S.FAILING_BACK, _E.STOPPED): _S.FAILING_BACK,
    (_S.FAILING_BACK, _E.FENCED): _S.FAILING_BACK,
    (_S.FAILING_BACK, _E.PROMOTING): _S.FAILING_BACK,
    (_S.FAILING_BACK, _E.SERVING): _S.SERVING_UNPROTECTED,
    (_S.FAILING_BACK, _E.ABANDONED): _S.ABANDONED,
    # After an abandoned switch the site that was active still is.
    (_S.ABANDONED, _E.CLEARED): _S.PROTECTED,
    (_S.ABANDONED, _E.DOUBTED): _S.SUSPECT,
    (_S.ABANDONED, _E.LOST_STORES): _S.CUT_OFF,
    (_S.ABANDONED, _E.ORDERED): _S.FENCING,
    (_S.ABANDONED, _E.ORDERED_BACK): _S.FAILING_BACK,
    (_S.ABANDONED, _E.SERVING): _S.SERVING_UNPROTECTED,
    # A switch that was decided and died before it served: the next one takes its place.
    (_S.RECOVERING, _E.ORDERED): _S.FENCING,
    (_S.RECOVERING, _E.ORDERED_BACK): _S.FAILING_BACK,
    (_S.FAILING_BACK, _E.ORDERED): _S.FENCING,
    (_S.FAILING_BACK, _E.ORDERED_BACK): _S.FAILING_BACK,
}

_OF_STEP: Final[Mapping[Kind, Event]] = {
    Kind.ORDERED: Event.ORDERED,
    Kind.STOPPED: Event.STOPPED,
    Kind.FENCED: Event.FENCED,
    Kind.PROMOTING: Event.PROMOTING,
    Kind.SERVING: Event.SERVING,
    Kind.PROTECTED: Event.PROTECTED,
    Kind.ABANDONED: Event.ABANDONED,
}


def after(state: State, event: Event) -> State:
    """Raises Refused for a pair that is not in the table."""
    try:
        return TABLE[state, event]
    except KeyError:
        raise Refused(
            f"{event.value!r} cannot happen while the system is {state.value}",
            hint="two programs of different versions may be at work: see `threefold status`",
        ) from None


def may(state: State, event: Event) -> bool:
    return (state, event) in TABLE


def events_of(switch: Switch, *, known_steps: int = 0) -> list[Event]:
    """What a switch's steps are to the table, from the step on that is not known yet."""
    events = []
    for step in switch.steps[known_steps:]:
        event = _OF_STEP[step.kind]
        events.append(Event.ORDERED_BACK if event is Event.ORDERED and switch.planned else event)
    return events


def state_after(switches: Iterable[Switch]) -> State:
    """Where the journal alone leads."""
    state = State.PROTECTED
    won: Switch | None = None
    for switch in switches:
        for event in events_of(switch):
            state = after(state, event)
        won = switch if switch.took_over else won
    if state is State.ABANDONED and won is not None and won.last.kind is Kind.SERVING:
        state = after(state, Event.SERVING)  # the site that it did not replace was not protected yet
    return state


def mermaid() -> str:
    """The table as a drawing, for docs/explanation/failover.md."""
    names = {state: state.value.replace("-", "_") for state in State}
    lines = ["stateDiagram-v2", f"    [*] --> {names[State.PROTECTED]}"]
    lines += [f"    {names[state]}: {state.value}" for state in State if names[state] != state.value]
    for (state, event), then in TABLE.items():
        if state is not then:
            lines.append(f"    {names[state]} --> {names[then]}: {event.value}")
    return "\n".join(lines)


def table() -> str:
    """The table as Markdown, every pair of it."""
    lines = ["| state | what happens | then |", "|---|---|---|"]
    lines += [f"| {state.value} | {event.value} | {then.value} |" for (state, event), then in TABLE.items()]
    return "\n".join(lines)
