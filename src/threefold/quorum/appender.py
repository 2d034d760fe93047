"""The writing side of one epoch, as a state machine: bytes in, requests out, answers in, a settled LSN out.

What makes it safe:

- The bytes of a slot are fixed once they were cut, and go to all members. A slot is *settled* when it is on two
  stores and every slot below is settled; only the end of the settled prefix is ever acknowledged (invariant 1).
- At most WINDOW slots are under way that are not settled (the take-over relies on it).
- "Exists" is read back. Our own bytes: it was our lost reply. A seal or anybody else's bytes: *fenced*, for good;
  from then on nothing settles (invariant 3).
- Unknown is asked again with the same bytes, after a growing pause. It may land later, which is harmless.

A store that is slow or down costs nothing: the other two settle. What waits for it is bounded in bytes; beyond that
it is forgotten here and noted as missing, and fill.py copies it from the others when the store is back.

Segments are written in order by the same machine: the next one only when this one is on two stores. Bundles of small
entries (bundles.py) go the same way, and nothing waits for them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from threefold.kernel.errors import Damaged, OtherKey
from threefold.kernel.lsn import Lsn
from threefold.quorum import bundles, keys
from threefold.quorum.builder import LARGE_BYTES, SegmentBuilder, Settled, WholeSegment
from threefold.quorum.majority import QUORUM, WINDOW
from threefold.quorum.objects import Frame, Header, Kind, LogObject
from threefold.quorum.requests import Answer, Create, Read
from threefold.quorum.segments import segment_of
from threefold.quorum.view import Scope
from threefold.stores.store import ABSENT, Made, Unknown


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, pauses in seconds."""

    entry_bytes: int = 1024 * 1024  # larger ones would hold up the small commits behind them
    lag_bytes: int = 32 * 1024 * 1024  # what may wait for a store that is behind
    # With so many bytes of entries under way, in all or to one store, the next one waits: a slow line that gets more of
    # them at once is late with all.
    flying_bytes: int = 4 * 1024 * 1024
    large_bytes: int = LARGE_BYTES  # of entries whose frames go into their segment as they are
    segments_waiting: int = 3  # beyond it no new entries are cut, so that memory stays bounded
    retry_first: float = 0.05
    retry_most: float = 2.0


LIMITS = Limits()
# After that many damaged readings the store's own copy is damaged, and the other two have to do.
_DOUBTS = 3


@dataclass(frozen=True, slots=True)
class Encode:
    """Ask for a segment or a bundle to be encoded (elsewhere: it takes a while), by `Codec.encode_parts`."""

    header: Header
    parts: tuple[bytes | Frame, ...]


@dataclass(frozen=True, slots=True)
class Encoded:
    """The answer to it: the object's bytes."""

    body: bytes


@dataclass(frozen=True, slots=True)
class Send:
    """Perform this, and answer with the token."""

    token: int
    request: Create | Read | Encode


@dataclass(slots=True)
class _Item:
    """Something to be put on all members: an entry, a segment, or a bundle."""

    key: str
    body: bytes
    end: Lsn
    part: Settled | None  # an entry's bytes, until they are settled and on their way into a segment
    segment: bool = False
    optional: bool = False  # a bundle: nothing rests on it
    turn: int = 0  # the order in which they were spread
    doubts: dict[str, int] = field(default_factory=dict)  # by store: how often its copy was read back and does not open
    on: set[str] = field(default_factory=set)
    foreign: set[str] = field(default_factory=set)  # where another master key's object stands in its place

    @property
    def is_settled(self) -> bool:
        return self.optional or len(self.on) >= QUORUM


@dataclass(slots=True)
class Lane:
    """What one member still has to get."""

    waiting: deque[tuple[_Item, bool]] = field(default_factory=deque)  # by turn; with: read it back first
    waiting_bytes: int = 0
    flying: int = 0
    flying_bytes: int = 0  # of entries and bundles
    flying_segments: int = 0
    failures: int = 0  # answers that were none, since it stored something
    pauses: int = 0  # and after how many of them it was left alone
    retry_at: float = 0.0
    missing: int = 0  # objects forgotten for lack of room; fill.py brings them
    reason: str = ""

    def may_send(self, flying_bytes: int) -> bool:
        """One segment at a time: a store that hangs keeps what flies for as long as a bulk request may take."""
        if not self.waiting or self.flying >= WINDOW:
            return False
        if self.waiting[0][0].segment:
            return not self.flying_segments
        return self.flying_bytes < flying_bytes

    def put_back(self, item: _Item, *, read: bool) -> None:
        """In its turn: a lower slot that failed goes before a higher one, which cannot settle without it."""
        before = 0
        while before < len(self.waiting) and self.waiting[before][0].turn < item.turn:
            before += 1
        self.waiting.insert(before, (item, read))
        self.waiting_bytes += len(item.body)

    def count(self, item: _Item, sign: int) -> None:
        """``sign``: 1 where it takes off, -1 where it has landed."""
        self.flying += sign
        if item.segment:
            self.flying_segments += sign
        else:
            self.flying_bytes += sign * len(item.body)


class Appender:
    """One epoch's writer, from slot 1 on."""

    def __init__(
        self, scope: Scope, first: LogObject, recent: Sequence[Settled], begin: Lsn, limits: Limits = LIMITS
    ) -> None:
        """``first``: our slot 0, settled. ``recent``: settled bytes that are in no segment yet, from ``begin`` on."""
        self._scope = scope
        self._epoch = first.header.epoch
        self._timeline = first.header.timeline
        self._slot = 1
        self._link = first.digest
        self._cut = first.header.end
        self._buffer = bytearray()
        self._unsettled: deque[_Item] = deque()
        self._token = self._turn = 0
        self._flying: dict[int, tuple[str, _Item, bool]] = {}
        self.lanes = {store: Lane() for store in scope.stores}
        self._limits = limits
        self._builder = SegmentBuilder(begin, scope.segment_bytes, limits.large_bytes)
        self._bundler = bundles.Bundler(scope.bundle_slots)
        self._bundles: list[tuple[int, bytes]] = []  # number and payload
        self._segment: tuple[_Item, WholeSegment] | None = None  # the one that is not on two stores yet
        self.settled = first.header.end
        self.fenced = ""
        # Every slot below this position is in segments on two stores, and may be trimmed.
        self.covered: tuple[int, int] | None = None
        for part in recent:
            self._builder.feed(part)

    @property
    def received(self) -> Lsn:
        """The end of all bytes offered."""
        return Lsn(self._cut + len(self._buffer))

    @property
    def settled_slot(self) -> int:
        """The last slot of the settled prefix."""
        return self._slot - 1 - len(self._unsettled)

    @property
    def unsettled(self) -> int:
        """Slots under way that are not settled."""
        return len(self._unsettled)

    @property
    def buffered(self) -> int:
        """Bytes offered that are in no slot yet."""
        return len(self._buffer)

    def unsettled_wal(self) -> bytes:
        """The bytes from `settled` to `received`."""
        cut = (item.part.data for item in self._unsettled if item.part is not None)
        return b"".join(cut) + bytes(self._buffer)

    @property
    def idle(self) -> bool:
        """Nothing is under way or waiting, on any member."""
        lanes = self.lanes.values()
        return not (self._buffer or self._unsettled or self._flying or any(lane.waiting for lane in lanes))

    def offer(self, data: bytes | memoryview) -> None:
        """The next bytes of the log, from `received` on."""
        self._buffer += data

    def drop(self, store: str) -> None:
        """The member lost its memory: what it holds and answers no longer counts in this epoch."""
        self.lanes.pop(store, None)
        for item in (*self._unsettled, *([self._segment[0]] if self._segment is not None else [])):
            item.on.discard(store)
            item.foreign.discard(store)

    def poll(self, now: float) -> list[Send]:
        """What to do next; ``now`` in monotonic seconds."""
        if self.fenced:
            return []
        self._cut_entries()
        sends = [*self._next_segment(), *self._next_bundles()]
        for store, lane in self.lanes.items():
            while lane.may_send(self._limits.flying_bytes) and lane.retry_at <= now:
                item, read = lane.waiting.popleft()
                lane.waiting_bytes -= len(item.body)
                sends.append(self._send(store, lane, item, read))
        return sends

    def next_retry(self) -> float | None:
        """When to poll again though nothing happens (monotonic seconds)."""
        if self.fenced:
            return None
        at = [lane.retry_at for lane in self.lanes.values() if lane.may_send(self._limits.flying_bytes)]
        return min(at) if at else None

    def answer(self, token: int, answer: Answer | Encoded, now: float) -> None:
        """What a request came to."""
        store, item, was_read = self._flying.pop(token)
        if isinstance(answer, Encoded):
            item.body = answer.body
            self._spread(item)
            return
        lane = self.lanes.get(store)
        if lane is None or self.fenced:
            return
        lane.count(item, -1)
        if was_read and isinstance(answer, bytes):
            self._compare(store, lane, item, answer)
        elif item.optional:
            pass  # whatever came of it: it is not offered again, and says nothing about the store
        elif answer is Made.CREATED:
            self._stored(store, lane, item)
        elif answer is Made.EXISTS:
            lane.put_back(item, read=True)
        else:
            # Unknown; or absent on reading back, which only says that the create has not landed.
            lane.reason = answer.reason if isinstance(answer, Unknown) else ""
            lane.failures += 1
            if now >= lane.retry_at:  # what flew beside the first that failed fails with it, and says no more than it
                pause = self._limits.retry_first * 2 ** min(lane.pauses, 16)
                lane.pauses += 1
                lane.retry_at = now + min(pause, self._limits.retry_most)
            lane.put_back(item, read=was_read and answer is not ABSENT)

    def _compare(self, store: str, lane: Lane, item: _Item, found: bytes) -> None:
        """Something stood there. Ours, or, of a segment, the same WAL under another leader's name: just as good."""
        ours = found == item.body
        if not ours:
            try:
                other = self._scope.codec.open(found)
            except OtherKey as foreign:
                # On two stores: who has a newer master key took over. One alone may lie: as good as damaged.
                item.foreign.add(store)
                if len(item.foreign) >= QUORUM:
                    self.fenced = f"the log goes on under key {foreign.key_id}, which this server does not have"
                    return
                lane.reason, lane.missing = f"{item.key}: {foreign}", lane.missing + 1
                return
            except Damaged as damage:
                # Not a rival: a copy of ours that does not open, or was hurt on its way here.
                lane.reason = f"{item.key}: {damage}"
                item.doubts[store] = item.doubts.get(store, 0) + 1
                if item.doubts[store] < _DOUBTS:
                    lane.put_back(item, read=True)
                else:
                    lane.missing += 1
                return
            same = item.segment and other.payload == self._scope.codec.open(item.body).payload
            ours = same and other.header.epoch <= self._epoch
        if ours:
            self._stored(store, lane, item)
        else:
            self.fenced = f"{item.key} on {store} was written by somebody else"

    def _stored(self, store: str, lane: Lane, item: _Item) -> None:
        lane.failures = lane.pauses = 0
        lane.retry_at, lane.reason = 0.0, ""
        item.on.add(store)
        while self._unsettled and self._unsettled[0].is_settled:
            entry = self._unsettled.popleft()
            self.settled = entry.end
            bundle = self._bundler.feed(self.settled_slot, entry.body)
            if bundle is not None:
                self._bundles.append(bundle)
            part, entry.part = entry.part, None
            if part is not None:
                self._builder.feed(part)
        if self._segment is not None and self._segment[0].is_settled:
            self.covered = (self._segment[1].next_epoch, self._segment[1].next_slot)
            self._segment = None

    def _send(self, store: str, lane: Lane, item: _Item, read: bool) -> Send:
        self._token += 1
        self._flying[self._token] = (store, item, read)
        lane.count(item, 1)
        return Send(self._token, Read(store, item.key) if read else Create(store, item.key, item.body))

    def _cut_entries(self) -> None:
        scope = self._scope
        while self._buffer and self._has_room():
            # An entry never crosses a segment's end, so that a segment covers whole slots.
            room = scope.segment_bytes - self._cut % scope.segment_bytes
            with memoryview(self._buffer) as view:  # a slice of the buffer itself would be copied twice
                payload = bytes(view[: min(room, self._limits.entry_bytes)])
            del self._buffer[: len(payload)]
            end = Lsn(self._cut + len(payload))
            header = Header(
                Kind.ENTRY, self._epoch, self._slot, scope.writer, self._timeline, self._cut, end, self._link
            )
            compressed = scope.codec.compress(payload)
            entry = scope.codec.encode(header, payload, compressed)
            part = Settled(self._timeline, self._cut, payload, self._epoch, self._slot, compressed)
            item = _Item(keys.slot_key(self._epoch, self._slot), entry.body, end, part)
            self._slot, self._link, self._cut = self._slot + 1, entry.digest, end
            self._unsettled.append(item)
            self._spread(item)

    def _has_room(self) -> bool:
        under_way = sum(len(item.body) for item in self._unsettled)
        return (
            len(self._unsettled) < WINDOW
            and under_way < self._limits.flying_bytes
            and len(self._builder.whole) < self._limits.segments_waiting
        )

    def _spread(self, item: _Item) -> None:
        self._turn += 1
        item.turn = self._turn
        for lane in self.lanes.values():
            lane.waiting.append((item, False))
            lane.waiting_bytes += len(item.body)
            # Only what is settled may be forgotten: the rest is needed to settle.
            while lane.waiting_bytes > self._limits.lag_bytes and lane.waiting[0][0].is_settled:
                forgotten = lane.waiting.popleft()[0]
                lane.waiting_bytes -= len(forgotten.body)
                lane.missing += not forgotten.optional

    def _next_segment(self) -> list[Send]:
        if self._segment is not None or not self._builder.whole:
            return []
        whole = self._builder.whole.popleft()
        scope = self._scope
        header = Header(
            Kind.SEGMENT, whole.next_epoch, whole.next_slot, scope.writer, whole.timeline, whole.start, whole.end
        )
        key = keys.segment_key(whole.timeline, segment_of(scope, whole.start))
        item = _Item(key, b"", whole.end, None, segment=True)
        self._segment = (item, whole)
        self._token += 1
        self._flying[self._token] = ("", item, False)
        return [Send(self._token, Encode(header, whole.parts))]

    def _next_bundles(self) -> list[Send]:
        sends = []
        for number, payload in self._bundles:
            item = _Item(keys.bundle_key(self._epoch, number), b"", self.settled, None, optional=True)
            self._token += 1
            self._flying[self._token] = ("", item, False)
            sends.append(Send(self._token, Encode(bundles.header(self._scope, self._epoch, number), (payload,))))
        self._bundles.clear()
        return sends
