"""From the newest segment to the end of the log, slot by slot: the reading that all readers share.

Where small entries were bundled (bundles.py), they are taken from there; what was bundled is settled.

What the history promises (the slots of epochs that are over) must be there; a promised slot that nobody has was
trimmed into a newer segment meanwhile, so the walk begins again from there. In the newest epoch the walk goes on until
a slot is vacant; whether a vacant slot is the end is for a *judge* to say: taking over seals it first (takeover.py),
plain reading believes two stores (reading.py). Either way the segments are looked at once more before an end is
believed: the slot may have been settled, put into a segment and trimmed before we looked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from threefold.kernel.errors import Damaged, Refused
from threefold.kernel.lsn import Lsn
from threefold.quorum.bundles import read_bundles, slots_of
from threefold.quorum.history import History, Span, decode_start, membership_of, wal_of
from threefold.quorum.membership import FOUNDED, Membership, MovedError
from threefold.quorum.objects import LogObject
from threefold.quorum.requests import Pause, Procedure
from threefold.quorum.segments import ASK_AGAIN_S, SegmentAt, newest_segment
from threefold.quorum.view import Scope, View, look, look_well

# Slots read side by side while walking over what is certainly there: the first time, and at the most. Twice as many
# each time while what comes is small, so that thousands of tiny slots do not cost a round trip for every few of them;
# no more than any store takes at once (each is a connection), nor than is read in one go without filling memory.
_STRIDE = 32
_STRIDE_MAX = 128
_STRIDE_BYTES = 8 * 2**20
# The same of bundles: a quiet day's entries are hundreds of them, each a round trip.
_BUNDLES_AT_ONCE = 4
_BUNDLES_AT_ONCE_MAX = 32
_IN_VAIN = 5  # looks at the segments for one that explains a slot that is gone
ELSEWHERE = "bring the third store back; or recover to an earlier point (--to)"

# Sees the first slots of the newest epoch that are not known to be on two stores; returns when each is decided:
# an entry it could bring to two stores, one it could not, or no entry.
Judge = Callable[[Scope, View], Procedure[None]]


@dataclass(frozen=True, slots=True)
class Found:
    """The log as it was found.

    ``spans``: the epochs that count, the newest last, each as far as it is on two stores.
    ``timeline``: of the newest epoch that started.
    ``placed``: the end of what is on two stores; ``end``: the end of the log, the tail included.
    ``recent``: the entries behind ``segment``, oldest first, slot 0s included.
    ``tail``: the last of them, those that are not known to be on two stores.
    ``damaged``: copies that were met and not used, (store, key) each.
    ``membership``: of the newest epoch that started.
    ``hole``: why it ends here, where that is not its end.
    """

    spans: History
    timeline: int
    placed: Lsn
    segment: SegmentAt | None
    recent: tuple[LogObject, ...]
    tail: tuple[LogObject, ...]
    damaged: tuple[tuple[str, str], ...] = ()
    membership: Membership = FOUNDED
    hole: str = ""

    @property
    def start(self) -> Lsn:
        """The first byte that was ever in the log."""
        return self.spans[0].start if self.spans else self.placed

    @property
    def end(self) -> Lsn:
        return self.tail[-1].header.end if self.tail else self.placed

    def tail_bytes(self) -> bytes:
        """The bytes [placed, end)."""
        return b"".join(wal_of(entry) for entry in self.tail)


class SupersededError(Exception):
    """The log goes on in a higher epoch than the one that was taken for the newest."""


def same_membership(scope: Scope, head: View) -> None:
    """Raises MovedError where slot 0 of the newest epoch says that other stores' answers count than we go by."""
    if head.entry is not None and scope.decisive > 1:
        found = membership_of(head.entry)
        if found != scope.membership:
            raise MovedError(found)


class _TrimmedError(Exception):
    """A slot that must have been there is not: it was trimmed while we walked.

    ``damage`` says what was found instead, ``missing`` what was not, for the case that no newer segment explains it.
    """

    def __init__(self, damage: str = "", *, missing: str = "") -> None:
        super().__init__()
        self.damage, self.missing = damage, missing


@dataclass(slots=True)
class _Path:
    """Where the walk stands: what it took so far, checked link by link and byte by byte."""

    recent: list[LogObject] = field(default_factory=list)
    tail: list[LogObject] = field(default_factory=list)
    damaged: list[tuple[str, str]] = field(default_factory=list)

    def reached(self) -> tuple[int, int] | None:
        """The last slot taken."""
        return (self.recent[-1].header.epoch, self.recent[-1].header.slot) if self.recent else None

    def take(self, view: View, entry: LogObject, *, placed: bool) -> None:
        self.damaged += [(store, view.key) for store in sorted(view.damaged)]
        before = self.recent[-1] if self.recent else None
        header = entry.header
        if before is not None and header.epoch == before.header.epoch:
            if header.link != before.digest or header.start != before.header.end:
                raise Refused(
                    f"slot {header.slot} of epoch {header.epoch} does not continue the slot before it",
                    hint="the log contradicts itself: keep all three stores as they are and report this",
                )
            if header.timeline != before.header.timeline:
                raise Refused(f"epoch {header.epoch} holds two timelines", hint="report this")
        self.recent.append(entry)
        if self.tail or not placed:
            self.tail.append(entry)


def walk(scope: Scope, head: View, judge: Judge, *, up_to_damage: bool = False) -> Procedure[Found]:
    """The whole log, given slot 0 of its newest epoch. Waits while too few stores answer.

    ``up_to_damage``: in place of Damaged, what lies before the first slot that is whole on no store.

    Raises SupersededError where a segment tells of a still newer epoch, Refused where the log contradicts itself,
    Damaged where what must be there is whole on no store.
    """
    start = head.entry
    if start is None:
        raise ValueError("the head of a walk is a slot 0 that was found")
    history, _ = decode_start(start.payload)
    segment = yield from _newest(scope, history, start, None, start.header.start)
    in_vain = 0
    while True:
        if segment is not None and segment.next_epoch > start.header.epoch:
            raise SupersededError
        path = _Path()
        try:
            yield from _promised(scope, history, head, segment, path)
            yield from _newest_epoch(scope, start, segment, path, judge)
            whole, damage, missing = True, "", ""
        except _TrimmedError as trimmed:
            whole, damage, missing = False, trimmed.damage, trimmed.missing
        # Look again: what seems to be the end may have been settled, put into a segment and trimmed before we came.
        end = path.recent[-1].header.end if path.recent else start.header.start
        again = yield from _newest(scope, history, start, segment, end)
        reached = path.reached()
        if whole and (again is None or (reached is not None and again.position <= reached)):
            return _found(history, head, segment, path, scope.decisive)
        in_vain = in_vain + 1 if again == segment else 0
        if missing and scope.thorough and in_vain >= _IN_VAIN:
            damage = f"{missing} must be there, and is on no store that answers"
        if again == segment:
            if damage and up_to_damage:
                return _cut(history, start, segment, path, damage)
            if damage:
                raise Damaged(damage, hint=ELSEWHERE)
            yield Pause(ASK_AGAIN_S)
        segment = again


def _newest(
    scope: Scope, history: History, head: LogObject, known: SegmentAt | None, at: Lsn
) -> Procedure[SegmentAt | None]:
    """The newest segment of the newest timeline that has one; ``at`` is a byte of the newest timeline."""
    timelines = list(dict.fromkeys([head.header.timeline, *(span.timeline for span in reversed(history))]))
    for timeline in timelines:
        same = known if known is not None and known.timeline == timeline else None
        near = at if timeline == head.header.timeline else None
        newest = yield from newest_segment(scope, timeline, same, near)
        if newest is not None:
            return newest
    return None


def _promised(scope: Scope, history: History, head: View, segment: SegmentAt | None, path: _Path) -> Procedure[None]:
    """The slots of epochs that are over, from where the segment says to go on, and the head."""
    epoch, slot = segment.position if segment else (0, 0)
    for span in history:
        if span.epoch < epoch:
            continue
        following, stride = slot if span.epoch == epoch else 0, _STRIDE
        if following == 0:
            yield from _take_promised(scope, span, range(1), path)
            following = 1
        while following <= span.last_slot:
            following = yield from _bundled(scope, span.epoch, following, span.last_slot, path)
            stop = min(_bundle_end(scope, following), span.last_slot + 1)
            while following < stop:
                slots = range(following, min(following + stride, stop))
                views = yield from _take_promised(scope, span, slots, path)
                following, stride = slots.stop, _next_stride(stride, views)
    if head.entry is not None and (head.epoch, 0) >= (epoch, slot):
        path.take(head, head.entry, placed=len(head.copies) >= scope.decisive)


def _bundled(scope: Scope, epoch: int, slot: int, last: int | None, path: _Path) -> Procedure[int]:
    """Take what bundles hold from ``slot`` on, to ``last`` at the most; the slot after it. All of it is settled."""
    at_once = _BUNDLES_AT_ONCE
    while True:
        first = slot // scope.bundle_slots
        numbers = [
            number
            for number in range(first, first + at_once)
            if last is None or slots_of(number, scope.bundle_slots)[-1] <= last
        ]
        found = (yield from read_bundles(scope, epoch, numbers)) if numbers else {}
        for number in numbers:
            if number not in found:
                return slot
            for entry in found[number]:
                if entry.header.slot >= slot:
                    path.take(View(epoch, entry.header.slot), entry, placed=True)
            slot = _bundle_end(scope, slot)
        if not numbers:
            return slot
        came = len(scope.stores) * sum(len(entry.body) for entries in found.values() for entry in entries)
        at_once = min(2 * at_once, _BUNDLES_AT_ONCE_MAX) if 2 * came <= _STRIDE_BYTES else _BUNDLES_AT_ONCE


def _bundle_end(scope: Scope, slot: int) -> int:
    return (slot // scope.bundle_slots + 1) * scope.bundle_slots


def _take_promised(scope: Scope, span: Span, slots: range, path: _Path) -> Procedure[list[View]]:
    waiting = list(slots)
    views: dict[int, View] = {}
    while waiting:
        for view in (yield from look(scope, span.epoch, waiting)):
            views[view.slot] = view
            if view.entry is None and view.vacant() >= scope.decisive:
                view.become((yield from look_well(scope, view)))
        for slot in waiting:
            view = views[slot]
            if view.hopeless(scope):
                _take_before(slot, slots, views, path)
                raise _TrimmedError(view.damage)
            if view.entry is None and view.vacant() >= scope.decisive:
                _take_before(slot, slots, views, path)
                raise _TrimmedError(missing=view.key)
        waiting = [slot for slot in waiting if views[slot].entry is None]
        if waiting:
            yield Pause(ASK_AGAIN_S)
    for slot in slots:
        entry = views[slot].entry
        if entry is not None:
            path.take(views[slot], entry, placed=True)
    return list(views.values())


def _take_before(slot: int, slots: range, views: Mapping[int, View], path: _Path) -> None:
    """What of a stride lies before the slot that nobody has, as far as it is known."""
    for each in range(slots.start, slot):
        entry = views[each].entry
        if entry is None:
            return
        path.take(views[each], entry, placed=True)


def _next_stride(stride: int, views: Sequence[View]) -> int:
    """How many slots to read next, judged by the bytes that the last ``stride`` brought from all stores."""
    came = sum(len(view.entry.body) * len(view.copies) for view in views if view.entry is not None)
    if came > _STRIDE_BYTES:
        return max(stride // 2, _STRIDE)
    return min(stride * 2, _STRIDE_MAX) if 2 * came <= _STRIDE_BYTES else stride


def _newest_epoch(
    scope: Scope, head: LogObject, segment: SegmentAt | None, path: _Path, judge: Judge
) -> Procedure[None]:
    """Slot by slot until the judge finds a slot without an entry."""
    epoch = head.header.epoch
    settled = segment.next_slot if segment is not None and segment.next_epoch == epoch else 0
    slot, stride = max(1, settled), _STRIDE
    while True:
        slot = yield from _bundled(scope, epoch, slot, None, path)
        stop = _bundle_end(scope, slot)
        while slot < stop:
            slots = range(slot, min(slot + stride, stop))
            views: list[View] = yield from look(scope, epoch, slots)
            for view in views:
                if len(view.copies) < scope.decisive:
                    yield from judge(scope, view)
                if view.entry is None and view.hopeless(scope):
                    raise _TrimmedError(view.damage)
                if view.entry is None:
                    if view.slot <= settled:
                        raise _TrimmedError(missing=view.key)
                    return
                path.take(view, view.entry, placed=len(view.copies) >= scope.decisive)
            slot, stride = slots.stop, _next_stride(stride, views)


def _found(history: History, head: View, segment: SegmentAt | None, path: _Path, decisive: int) -> Found:
    """Sum up: the newest epoch's span ends where its entries are on two stores without a gap."""
    if head.entry is None:
        raise ValueError("the head of a walk is a slot 0 that was found")
    header, membership = head.entry.header, membership_of(head.entry)
    recent, tail, damaged = tuple(path.recent), tuple(path.tail), tuple(path.damaged)
    unplaced = {entry.digest for entry in path.tail}
    begun = segment is not None and segment.next_epoch == header.epoch
    if len(head.copies) < decisive and not begun:
        # It is not known to have begun: what it brought along, and what may stand behind it, travels on as the tail.
        return Found(history, header.timeline, header.start, segment, recent, tail, damaged, membership)
    span = Span(header.epoch, 0, header.timeline, header.start, header.end)
    if segment is not None and begun and segment.next_slot > 0:
        span = replace(span, last_slot=segment.next_slot - 1, end=segment.end)
    for entry in path.recent:
        if entry.header.epoch == header.epoch and entry.digest not in unplaced:
            span = replace(span, last_slot=entry.header.slot, end=entry.header.end)
    return Found((*history, span), header.timeline, span.end, segment, recent, tail, damaged, membership)


def _cut(history: History, head: LogObject, segment: SegmentAt | None, path: _Path, hole: str) -> Found:
    """What lies before ``hole``. Raises Damaged where nothing does."""
    last = path.recent[-1].header if path.recent else None
    if last is None and segment is None:
        raise Damaged(hole, hint=ELSEWHERE)
    (epoch, slot) = (last.epoch, last.slot) if last is not None else segment.position if segment else (0, 0)
    end = last.end if last is not None else segment.end if segment else head.header.start
    spans = [span for span in history if span.epoch <= epoch]
    if head.header.epoch <= epoch:
        spans.append(Span(head.header.epoch, slot, head.header.timeline, head.header.start, end))
    spans[-1] = replace(spans[-1], last_slot=slot, end=end)
    recent, damaged = tuple(path.recent), tuple(path.damaged)
    return Found(tuple(spans), spans[-1].timeline, end, segment, recent, (), damaged, membership_of(head), hole)
