"""Switches of the site, broken on purpose: who asks too early, promotes too early, or adds too late."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from tests.simulation.broken.patching import patched
from tests.simulation.leader import Leader
from tests.simulation.switching import Agent
from threefold.failover.steps import Kind as StepKind
from threefold.failover.steps import Step
from threefold.kernel.errors import Fenced
from threefold.quorum import lead, reading
from threefold.quorum.requests import Pause


def does_not_ask_before_slot_0() -> Any:
    """Who leads never hears of switches but by being fenced."""

    def trusting(self: Leader) -> Any:
        yield from ()
        return True

    return patch.object(Leader, "_may_still_lead", trusting)


@contextmanager
def asks_before_the_claim() -> Iterator[None]:
    """The order is looked for when the epoch is not claimed yet: it may come in between, and the fence with it."""
    ask = Leader._may_still_lead

    def claim_then(self: Leader, scope: Any) -> Any:
        if not (yield from ask(self)):
            raise Fenced("a switch was ordered")
        yield Pause(1.0)  # anybody may be that slow, anywhere
        return (yield from lead.fence(scope))

    with patch.object(Leader, "_claim", claim_then), does_not_ask_before_slot_0():
        yield


@contextmanager
def promotes_before_fencing() -> Iterator[None]:
    """The end is read, not fixed."""

    def reading_only(self: Agent, switch: Any) -> Any:
        scope = yield from self.meet()
        found = yield from reading.read_log(scope)
        self.run.ends[-switch.number] = self.run.checker.line_of(found)
        return -switch.number, int(found.end)

    def believed(self: Agent, switch: Any) -> Any:
        yield from ()
        return switch.last.facts["epoch"], switch.last.facts["end"]

    with patch.object(Agent, "_fence", reading_only), patch.object(Agent, "_end", believed):
        yield


def promotes_what_was_abandoned() -> Any:
    """An agent that does not look who won the place of ``promoting``."""

    def make(propose: Any) -> Any:
        def stubborn(self: Agent, switch: Any, kind: Any, **facts: Any) -> Any:
            after = yield from propose(self, switch, kind, **facts)
            if kind is not StepKind.PROMOTING or not after.abandoned:
                return after
            return replace(after, steps=(*after.steps[:-1], Step(kind, self.name, "", 0.0, facts)))

        return stubborn

    return patched(Agent, "_propose", make)


def adds_a_surplus_at_any_time() -> Any:
    """What a copy received is put behind the log though a fence was decided, or the timeline was left."""

    def careless(self: Agent, switch: Any, line: Any, end: int) -> Any:
        del switch
        yield from ()
        return line.bytes(end, self.world.rng.randint(end, max(end, line.end)))

    return patch.object(Agent, "_surplus", careless)
