"""The protocol, broken on purpose: each a small patch of the production code, which the checker must catch.

A check that cannot fail is worthless. `VARIANTS` names each broken variant, how to break it, and the worlds in which
it is looked for; the correct protocol passes the same worlds (test_variants.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

from tests.simulation.leader import Client, Leader
from tests.simulation.replacing import Operator
from tests.simulation.scenario import Plan, plan_of
from tests.simulation.switching import Agent
from tests.simulation.world import STORES, World
from threefold.failover.steps import Kind as StepKind
from threefold.failover.steps import Step
from threefold.kernel.errors import Fenced, Unavailable
from threefold.quorum import (
    appender,
    claim,
    history,
    keys,
    lead,
    members,
    reading,
    segments,
    start,
    takeover,
    trim,
    view,
    walk,
)
from threefold.quorum.appender import Appender
from threefold.quorum.bundles import Bundler
from threefold.quorum.membership import FOUNDED, Named
from threefold.quorum.requests import Ask, Create, Delete, Pause, Read
from threefold.quorum.start import opening
from threefold.stores.store import Made, Unknown

Broken = Callable[[], Any]


def _patched(target: object, name: str, make: Callable[[Any], Any]) -> Any:
    return patch.object(target, name, make(getattr(target, name)))


def acks_at_one_store() -> Any:
    return _patched(appender._Item, "is_settled", lambda _: property(lambda item: len(item.on) >= 1))


def acks_out_of_order() -> Any:
    def make(stored: Any) -> Any:
        def hasty(self: Any, store: str, lane: Any, item: Any) -> None:
            ours = item in self._unsettled
            stored(self, store, lane, item)
            if ours and item.is_settled:
                self.settled = max(self.settled, item.end)

        return hasty

    return _patched(appender.Appender, "_stored", make)


def reads_without_sealing() -> Any:
    return patch.object(takeover, "seal_or_adopt", reading.believe)


def treats_a_timeout_as_absent() -> Any:
    def make(learn: Any) -> Any:
        def rash(self: Any, codec: Any, store: str, answer: Any) -> None:
            if isinstance(answer, Unknown):
                self.absent.add(store)
            learn(self, codec, store, answer)

        return rash

    return _patched(view.View, "learn", make)


def begins_in_the_trimmed_range() -> Any:
    """The newest segment says where to go on; this one begins at slot 1 nevertheless, and calls it the end."""

    def make(newest_epoch: Any) -> Any:
        return lambda scope, head, _segment, path, judge: newest_epoch(scope, head, None, path, judge)

    return _patched(walk, "_newest_epoch", make)


@contextmanager
def believes_an_absent_slot() -> Iterator[None]:
    """Does not look at the segments again before it declares an end."""

    def careless(scope: Any, head: Any, judge: Any) -> Any:
        start = head.entry
        spans, _ = history.decode_start(start.payload)
        while True:
            segment = yield from walk._newest(scope, spans, start, None, start.header.start)
            if segment is not None and segment.next_epoch > start.header.epoch:
                raise walk.SupersededError
            path = walk._Path()
            try:
                yield from walk._promised(scope, spans, head, segment, path)
                yield from walk._newest_epoch(scope, start, segment, path, judge)
            except walk._TrimmedError:
                yield Pause(0.2)
                continue
            return walk._found(spans, head, segment, path, scope.decisive)

    with patch.object(takeover, "walk", careless), patch.object(reading, "walk", careless):
        yield


def looks_at_one_segment() -> Any:
    """Does not walk on by key from the segment it knows of."""

    def lazy(scope: Any, timeline: int, known: Any, at: Any = None) -> Any:
        if known is not None:
            return known
        newest = None
        if at is not None:
            newest = yield from segments._segment(scope, timeline, segments.segment_of(scope, at))
        for number in [] if newest else (yield from segments._hints(scope, timeline)):
            newest = yield from segments._segment(scope, timeline, number)
            if newest is not None:
                break
        return newest

    return patch.object(walk, "newest_segment", lazy)


def does_not_check_again() -> Any:
    return patch.object(Leader, "_still_continues", lambda *_: True)


@contextmanager
def deletes_seals() -> Any:
    """Tidies up all of an epoch that is over, the seals behind its last slot included."""

    def make(trim_epoch: Any) -> Any:
        def everything(store: str, epoch: int, first: int, below: int) -> Any:
            return trim_epoch(store, epoch, first, below + 100)

        return everything

    with patch.object(trim, "SEAL_BYTES", 0), _patched(trim, "_trim_epoch", make):
        yield


def trusts_a_segment_on_one_store() -> Any:
    """The next leader goes on behind the newest segment without putting it on two stores."""

    def trusting(scope: Any, timeline: int, number: int) -> Any:
        while True:
            answers = yield Ask(tuple(Read(store, keys.segment_key(timeline, number)) for store in scope.stores))
            for answer in answers.values():
                if (found := view.opened(scope.codec, answer)) is not None:
                    return found
            yield Pause(0.2)

    return patch.object(lead, "segment_on_two", trusting)


def writes_segments_ahead() -> Any:
    """The next segment is begun when this one is on a single store."""

    def make(stored: Any) -> Any:
        def hasty(self: Any, store: str, lane: Any, item: Any) -> None:
            stored(self, store, lane, item)
            if self._segment is not None and self._segment[0] is item:
                self.covered = (self._segment[1].next_epoch, self._segment[1].next_slot)
                self._segment = None

        return hasty

    return _patched(appender.Appender, "_stored", make)


def skips_epoch_numbers() -> Any:
    def skipping(scope: Any) -> Any:
        body = scope.writer.encode()
        beaten = 0
        while True:
            highest = yield from claim.highest_claim(scope, decisive=2)
            number = max(highest, beaten) + 2
            answers = yield Ask(tuple(Create(store, keys.epoch_key(number), body) for store in scope.stores))
            if sum(answer is Made.CREATED for answer in answers.values()) >= 2:
                return number
            beaten = number
            yield Pause(0.3)

    return patch.object(lead, "claim", skipping)


def deletes_claims() -> Any:
    def make(trimmed: Any) -> Any:
        def tidy(scope: Any, spans: Any, epoch: int, covered: Any) -> Any:
            asked = yield from trimmed(scope, spans, epoch, covered)
            old = tuple(keys.epoch_key(span.epoch) for span in spans[:-1])
            if old:
                yield Ask(tuple(Delete(store, old) for store in scope.stores))
            return asked

        return tidy

    return _patched(trim, "trim", make)


def counts_an_amnesiac_store() -> Any:
    """Who answers votes, with or without its format object."""

    def meet(self: Client, stores: tuple[str, ...] | None = None, membership: Any = FOUNDED) -> Any:
        for _ in range(200):
            roll = yield from members.read_roll(stores or STORES)
            there = [*roll.members, *roll.strangers]
            if len(there) >= 2:
                for store in there:
                    found = roll.members.get(store)
                    self.pins[store] = int(found.incarnation) if found else self.world.stores[store].incarnation
                return self.run.scope(tuple(sorted(there)), self.writer, membership)
            yield Pause(0.5)
        raise Unavailable("fewer than two answer")

    return patch.object(Client, "meet", meet)


def reuses_an_epoch() -> Any:
    """A restarted instance goes on with the newest epoch instead of claiming one."""

    def make(claimed: Any) -> Any:
        def reusing(scope: Any) -> Any:
            highest = yield from claim.highest_claim(scope, decisive=2)
            return highest or (yield from claimed(scope))

        return reusing

    return _patched(lead, "claim", make)


def judges_a_lower_epoch_again() -> Any:
    """Although slot 0 of a higher epoch says where the lower one ended, looks whether there is more."""

    def make(taken: Any) -> Any:
        def judging(scope: Any, epoch: int) -> Any:
            found = yield from taken(scope, epoch)
            if found is None or len(found.spans) < 2:
                return found
            lower = found.spans[-2]
            (more,) = yield from view.look(scope, lower.epoch, [lower.last_slot + 1])
            if more.entry is None or more.entry.header.timeline != lower.timeline:
                return found
            longer = replace(lower, last_slot=lower.last_slot + 1, end=more.entry.header.end)
            return replace(found, spans=(*found.spans[:-2], longer, found.spans[-1]))

        return judging

    return _patched(lead, "take_over", make)


@contextmanager
def two_timelines_in_one_epoch() -> Iterator[None]:
    """A recovered primary's timeline goes on in an epoch that began with the old one."""

    def mixed(self: Leader, found: Any) -> Any:
        if found is None or found.timeline == self.primary.timeline.number:
            return opening(found, self.primary.timeline.number, 1000), True
        self.mixes = self.primary.timeline.leaves(self.run.checker.line_of(found))
        return opening(found, found.timeline, found.placed), True

    def make(pump: Any) -> Any:
        def mixing(self: Leader) -> None:
            if self.appender is not None and getattr(self, "mixes", None) is not None:
                self.appender._timeline = self.primary.timeline.number
                self.appender._cut, self.mixes = self.mixes, None
            pump(self)

        return mixing

    with patch.object(Leader, "_opening", mixed), _patched(Leader, "_pump", make):
        yield


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

    return _patched(Agent, "_propose", make)


def adds_a_surplus_at_any_time() -> Any:
    """What a copy received is put behind the log though a fence was decided, or the timeline was left."""

    def careless(self: Agent, switch: Any, line: Any, end: int) -> Any:
        del switch
        yield from ()
        return line.bytes(end, self.world.rng.randint(end, max(end, line.end)))

    return patch.object(Agent, "_surplus", careless)


def bundles_what_is_not_settled() -> Any:
    """What was cut is bundled at once, and a bundle is believed."""
    feed = Bundler.feed

    def at_once(spread: Any) -> Any:
        def careless(self: Appender, item: Any) -> None:
            spread(self, item)
            if item.part is not None and (bundle := feed(self._bundler, self._slot - 1, item.body)):
                self._bundles.append(bundle)

        return careless

    @contextmanager
    def both() -> Iterator[None]:
        with _patched(Appender, "_spread", at_once), patch.object(Bundler, "feed", lambda *_: None):
            yield

    return both()


def votes_before_it_is_full() -> Any:
    """The store that joins is counted in with nothing but its format object."""
    return patch.object(Operator, "copy", lambda *_: None)


def fills_before_the_old_three_are_fenced() -> Any:
    """What was copied ahead is believed to be all."""

    def make(copy: Any) -> Any:
        def ahead(self: Operator, leader: Leader, sources: Any, target: Any) -> None:
            if not leader.membership.is_joint:
                copy(self, leader, sources, target)

        return ahead

    return _patched(Operator, "copy", make)


def _unchecked() -> Any:
    """Production refuses to make such a step at all (membership.check_step)."""
    return patch.object(start, "check_step", lambda *_: None)


@contextmanager
def seals_on_two_of_the_new_three() -> Iterator[None]:
    """No middle: who goes by it counts the store that joins as well."""

    def make(voters: Any) -> Any:
        return lambda self, now: (*voters(self, now), now.joining) if now.is_joint else voters(self, now)

    def asked(_self: Leader, _change: Any, scope: Any) -> Any:
        return scope

    with _patched(Named, "voters", make), patch.object(Leader, "_asked_for", asked), _unchecked():
        yield


@contextmanager
def goes_back_by_two_of_the_old_three() -> Iterator[None]:
    """In the middle the store that leaves still counts, if the settings know it."""

    def make(voters: Any) -> Any:
        def more(self: Any, now: Any) -> Any:
            found = voters(self, now)
            return (*found, now.leaving) if now.is_joint and now.leaving in self.stores else found

        return more

    def asked(_self: Leader, _change: Any, scope: Any) -> Any:
        return scope

    with _patched(Named, "voters", make), patch.object(Leader, "_asked_for", asked), _unchecked():
        yield


@contextmanager
def takes_over_with_old_settings() -> Iterator[None]:
    """Whoever takes over goes by the membership that it knew, whatever it finds."""
    with patch.object(takeover, "same_membership", lambda *_: None), _unchecked():
        yield


def reads_with_old_settings() -> Any:
    return patch.object(reading, "same_membership", lambda *_: None)


# --- the worlds in which they are looked for ---

Bias = Callable[[World], Plan]


def any_world(world: World) -> Plan:
    return plan_of(world)


def _with(**changes: Any) -> Bias:
    return lambda world: replace(plan_of(world), **changes)


# Small segments, a live old leader that trims while it is taken over, one slow line.
trimming = _with(segment_bytes=64, entry_bytes=6, write_every=0.08, stall_every=2.0, stall_seconds=3.0, wipe_every=0.0)
# Stores that come and go.
shaky = _with(outage_every=2.5, fault=0.06, damage_every=0.0, wipe_every=0.0)
# Leaders that die early, sites that recover twice.
contended = _with(contend_every=1.5, disaster_every=4.0, blind=0.9, crash_every=4.0, wipe_every=0.0, damage_every=0.0)
# Lines that fail often, leaders that die in the middle of a segment.
hasty = _with(
    segment_bytes=64, entry_bytes=40, write_every=0.05, fault=0.15, crash_every=1.5, contend_every=1.5, stall_every=0.0,
    outage_every=3.0, wipe_every=0.0, damage_every=0.0,
)  # fmt: skip
# Disks that are lost.
forgetful = _with(wipe_every=4.0, damage_every=0.0, contend_every=2.0, outage_every=4.0)

# Sites that are left while they live, and come and go.
switching_sites = _with(
    switch_every=3.0, contend_every=4.0, blind=0.7, crash_every=9.0, outage_every=3.0, damage_every=0.0, wipe_every=0.0
)

# Stores that are replaced, one after the other, while everything else goes on.
replacing_stores = _with(
    replace_every=4.0, contend_every=4.0, blind=0.5, crash_every=8.0, outage_every=8.0, stall_every=5.0,
    stall_seconds=4.0, disaster_every=20.0, damage_every=0.0, wipe_every=0.0, read_every=2.0, seconds=60.0, fault=0.02,
)  # fmt: skip

WORLDS: dict[str, Bias] = {
    "any": any_world,
    "trimming": trimming,
    "shaky": shaky,
    "contended": contended,
    "hasty": hasty,
    "forgetful": forgetful,
    "switching": switching_sites,
    "replacing": replacing_stores,
}


@dataclass(frozen=True)
class Variant:
    """``seeds``: within how many it must be caught."""

    broken: Broken
    world: str = "any"
    seeds: int = 150


VARIANTS: dict[str, Variant] = {
    "acks at one store": Variant(acks_at_one_store),
    "acks out of order": Variant(acks_out_of_order),
    "reads without sealing": Variant(reads_without_sealing),
    "treats a time-out as absent": Variant(treats_a_timeout_as_absent, "shaky"),
    "begins a take-over in the trimmed range": Variant(begins_in_the_trimmed_range),
    "believes an absent slot without looking at the segments again": Variant(believes_an_absent_slot, "trimming"),
    "looks at one segment only": Variant(looks_at_one_segment, "trimming"),
    "does not check the primary again": Variant(does_not_check_again, "contended"),
    "deletes seals": Variant(deletes_seals),
    "trusts a newest segment that is on one store": Variant(trusts_a_segment_on_one_store, "trimming"),
    "writes the next segment before this one is on two stores": Variant(writes_segments_ahead, "hasty", seeds=500),
    "skips epoch numbers": Variant(skips_epoch_numbers, "contended"),
    "deletes claims": Variant(deletes_claims),
    "counts an amnesiac store": Variant(counts_an_amnesiac_store, "forgetful"),
    "reuses an epoch after a restart": Variant(reuses_an_epoch),
    "judges a lower epoch again": Variant(judges_a_lower_epoch_again, "contended"),
    "two timelines in one epoch": Variant(two_timelines_in_one_epoch, "contended"),
    "does not ask before slot 0 whether it may still lead": Variant(does_not_ask_before_slot_0, "switching"),
    "asks whether it may lead before the claim instead of after": Variant(
        asks_before_the_claim, "switching", seeds=400
    ),
    "promotes before fencing": Variant(promotes_before_fencing, "switching"),
    "promotes a switch that was abandoned": Variant(promotes_what_was_abandoned, "switching", seeds=500),
    "bundles what is not settled": Variant(bundles_what_is_not_settled),
    "adds a surplus at any time": Variant(adds_a_surplus_at_any_time, "switching"),
    "the new store votes before it is full": Variant(votes_before_it_is_full, "replacing"),
    "fills the new store before the old three are fenced": Variant(fills_before_the_old_three_are_fenced, "replacing"),
    "seals on two of the new three": Variant(seals_on_two_of_the_new_three, "replacing"),
    "goes back by any two of the old three": Variant(goes_back_by_two_of_the_old_three, "replacing"),
    "takes over with old settings": Variant(takes_over_with_old_settings, "replacing", seeds=400),
    "reads with old settings": Variant(reads_with_old_settings, "replacing"),
}
