"""The take-over, broken on purpose: what it believes, where it begins, and what it does not look at again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from tests.simulation.broken.patching import patched
from tests.simulation.leader import Leader
from threefold.quorum import history, keys, lead, reading, segments, takeover, view, walk
from threefold.quorum.requests import Ask, Pause, Read
from threefold.quorum.start import opening
from threefold.stores.store import Unknown


def reads_without_sealing() -> Any:
    return patch.object(takeover, "seal_or_adopt", reading.believe)


def treats_a_timeout_as_absent() -> Any:
    def make(learn: Any) -> Any:
        def rash(self: Any, codec: Any, store: str, answer: Any) -> None:
            if isinstance(answer, Unknown):
                self.absent.add(store)
            learn(self, codec, store, answer)

        return rash

    return patched(view.View, "learn", make)


def begins_in_the_trimmed_range() -> Any:
    """The newest segment says where to go on; this one begins at slot 1 nevertheless, and calls it the end."""

    def make(newest_epoch: Any) -> Any:
        return lambda scope, head, _segment, path, judge: newest_epoch(scope, head, None, path, judge)

    return patched(walk, "_newest_epoch", make)


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

    return patched(lead, "take_over", make)


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

    with patch.object(Leader, "_opening", mixed), patched(Leader, "_pump", make):
        yield
