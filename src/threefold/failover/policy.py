"""What is to be done about a verdict. Pure; every decision has its sentence.

The rules, in this order, each of them a reason to do nothing:

1. Who sees no two stores acts on nothing: it may be the one that is cut off.
2. A switch is under way: it is carried on, and no other is ordered.
3. We are the active site.
4. The active site is not to be given up: ill is not dead, and a stall is not a disaster.
5. The operator wants to be asked (``confirm``) or wants to do it himself (``manual``).
6. Our copy cannot get to the log's end, so a switch would only stop the service.
7. No back and forth: from the site that an unplanned switch made active nobody goes back by himself; nor on from it
   before it is protected again. Both times a person has to look, because what failed once may be what fails now.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal, Protocol

from threefold.failover.steps import Active, Kind, Switches

Policy = Literal["automatic", "confirm", "manual"]
_CONFIRM: Final = "confirm with: threefold failover"


class Judged(Protocol):
    """A verdict (detector.py), as far as it matters here."""

    @property
    def sentence(self) -> str: ...
    @property
    def give_up(self) -> bool: ...


class Action(StrEnum):
    NOTHING = "nothing"
    ASK = "ask"  # tell a person, and wait
    ORDER = "order"


@dataclass(frozen=True, slots=True)
class Copy:
    """Our own copy: whether it can be brought to the log's end, and if not, why."""

    ready: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class Advice:
    action: Action
    sentence: str


def advise(
    *, policy: Policy, site: str, switches: Switches | None, active: Active | None, verdict: Judged, copy: Copy
) -> Advice:
    """What the agent at ``site`` does. ``switches`` and ``active``: None while the journal cannot be read."""
    if switches is None or active is None:
        return _nothing("two stores do not answer us: we may be the ones that are cut off, and do nothing")
    if active.under_way and active.switch is not None:
        return _nothing(f"switch {active.switch_number} to {active.switch.target} is under way ({active.step})")
    if active.site == site:
        return _nothing(f"{site} is the active site")
    if not verdict.give_up:
        return _nothing(verdict.sentence)
    if policy == "manual":
        return Advice(Action.ASK, f"{verdict.sentence}; the policy is manual: threefold failover")
    if policy == "confirm":
        return Advice(Action.ASK, f"{verdict.sentence}; {_CONFIRM}")
    if not copy.ready:
        return Advice(Action.ASK, f"{verdict.sentence}; but the copy at {site} is not ready: {copy.why}")
    flapping = _flapping(switches, site)
    if flapping:
        return Advice(Action.ASK, f"{verdict.sentence}; {flapping}: {_CONFIRM}")
    return Advice(Action.ORDER, verdict.sentence)


def _flapping(switches: Switches, site: str) -> str:
    """Why nobody goes on by himself from the active site; "" where he may."""
    won = next((each for each in reversed(switches.all) if each.took_over), None)
    if won is None:
        return ""
    if won.last.kind is not Kind.PROTECTED:
        return f"{won.target} was not protected yet when it failed, and a person has to look"
    if won.source == site and not won.planned:
        return f"switch {won.number} came from {site}, and nobody goes back by himself"
    return ""


def _nothing(sentence: str) -> Advice:
    return Advice(Action.NOTHING, sentence)
