"""Finding the newest segment: where a reader leaves whole segments and goes on slot by slot.

Segments of a timeline are written in order, the next only when this one is on two stores, so existence *by key* is
what counts: from a segment that is there, walk forward until one is absent on as many stores as decide. A listing
only says where to begin (invariant 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from threefold.kernel.errors import Damaged
from threefold.kernel.lsn import Lsn
from threefold.quorum import keys
from threefold.quorum.majority import QUORUM, STORES
from threefold.quorum.objects import HEADER_BYTES, Header, Kind
from threefold.quorum.requests import Answer, Answers, Ask, List, Pause, Procedure, Read
from threefold.quorum.view import GRACE_S, Scope, opened
from threefold.stores.store import ABSENT, Page

ASK_AGAIN_S = 0.2


@dataclass(frozen=True, slots=True)
class SegmentAt:
    """A segment and where its header says to go on: ``next_slot`` of ``next_epoch`` holds the byte at ``end``."""

    timeline: int
    number: int
    start: Lsn
    end: Lsn
    next_epoch: int
    next_slot: int

    @property
    def position(self) -> tuple[int, int]:
        return self.next_epoch, self.next_slot


def segment_of(scope: Scope, lsn: int) -> int:
    """The number of the segment that holds the byte at ``lsn``."""
    return lsn // scope.segment_bytes


def newest_segment(
    scope: Scope, timeline: int, known: SegmentAt | None, at: Lsn | None = None
) -> Procedure[SegmentAt | None]:
    """The last segment of the timeline; None if there is none. Raises Damaged where that cannot be told (`_usable`).

    Walks on by key from ``known``, or else from the segment that holds the byte ``at``: if that byte was ever trimmed
    from the slots, its segment is there. Listings are asked only where neither gives a beginning.
    """
    newest = known
    if newest is None and at is not None:
        newest = yield from _segment(scope, timeline, segment_of(scope, at))
    if newest is None:
        for number in (yield from _hints(scope, timeline)):
            newest = yield from _segment(scope, timeline, number)
            if newest is not None:
                break
        else:
            return None
    while (following := (yield from _segment(scope, timeline, newest.number + 1))) is not None:
        newest = following
    if not (yield from _usable(scope, newest)):
        # Its author died after the first copy, and that one rotted: its entries were never trimmed.
        newest = yield from _segment(scope, timeline, newest.number - 1)
    return newest


def _segment(scope: Scope, timeline: int, number: int) -> Procedure[SegmentAt | None]:
    """One segment by key; None when as many stores as decide say that it is absent."""
    key = keys.segment_key(timeline, number)
    requests = tuple(Read(store, key, HEADER_BYTES) for store in scope.stores)

    def header(answer: Answer) -> Header | None:
        return _header(scope, timeline, number, answer)

    def absent(answers: Answers) -> int:
        return sum(answer is ABSENT for answer in answers.values())

    def enough(answers: Answers) -> bool:
        return absent(answers) >= scope.decisive or any(header(answer) for answer in answers.values())

    while True:
        answers: Answers = yield Ask(requests, enough)
        for answer in answers.values():
            found = header(answer)
            if found is not None:
                return SegmentAt(timeline, number, found.start, found.end, found.epoch, found.slot)
        if absent(answers) >= scope.decisive:
            if not scope.thorough or len(answers) == len(requests):
                return None
            answers = yield Ask(requests, enough, GRACE_S)
            for answer in answers.values():
                found = header(answer)
                if found is not None:
                    return SegmentAt(timeline, number, found.start, found.end, found.epoch, found.slot)
            return None
        yield Pause(ASK_AGAIN_S)


def _usable(scope: Scope, at: SegmentAt) -> Procedure[bool]:
    """Whether it stands on as many stores as decide, or whole on one: a header alone may be all that is left of it.

    Raises Damaged where the copies that answer are, and a store that is not asked may have it whole: then its entries
    may have been trimmed, and who went on from the segment before would take the first of them for the log's end.
    """
    key = keys.segment_key(at.timeline, at.number)

    def headers(answers: Answers) -> bool:
        found = sum(_header(scope, at.timeline, at.number, answer) is not None for answer in answers.values())
        return found >= scope.decisive

    answers: Answers = yield Ask(tuple(Read(store, key, HEADER_BYTES) for store in scope.stores), headers, GRACE_S)
    while not headers(answers):
        answers = yield Ask(tuple(Read(store, key) for store in scope.stores))
        if any(opened(scope.codec, answer) for answer in answers.values()):
            return True
        if all(answer is ABSENT or isinstance(answer, bytes) for answer in answers.values()):
            if QUORUM <= len(scope.stores) < STORES and scope.decisive == QUORUM:
                raise Damaged(
                    f"{key} is damaged, and whole on none of {', '.join(scope.stores)}",
                    hint="bring the third store back; or recover to an earlier point (--to)",
                )
            return False
        yield Pause(ASK_AGAIN_S)
        answers = {}
    return True


def _header(scope: Scope, timeline: int, number: int, answer: Answer) -> Header | None:
    if not isinstance(answer, bytes):
        return None
    try:
        found = scope.codec.open_header(answer)
    except Damaged:
        return None
    fits = found.kind is Kind.SEGMENT and found.timeline == timeline and segment_of(scope, found.start) == number
    return found if fits else None


def listed(decisive: int, answers: Answers) -> bool:
    """Whether as many pages came as decide: enough for a hint, a silent store is not waited for."""
    return sum(isinstance(answer, Page) for answer in answers.values()) >= decisive


def _hints(scope: Scope, timeline: int) -> Procedure[list[int]]:
    """The newest number each store lists, highest first."""
    hints: set[int] = set()
    after = dict.fromkeys(scope.stores, "")
    while after:
        stores = tuple(after)
        asked = tuple(List(store, keys.wal_prefix(timeline), after[store]) for store in stores)
        answers: Answers = yield Ask(asked, partial(listed, scope.decisive), GRACE_S)
        for place, store in enumerate(stores):
            page = answers.get(place)
            if isinstance(page, Page) and page.objects:
                after[store] = page.objects[-1].key
                if not page.last:
                    continue
            # The end, or as far as it was listed: an empty page may follow a full one.
            number = keys.last_number(after.pop(store))
            hints.update([] if number is None else [number])
    return sorted(hints, reverse=True)
