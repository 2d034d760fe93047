"""Knows every acknowledgement, and judges the log by it.

1 Durable: what was acknowledged on a timeline is, up to its last whole record, in whatever any later reader rebuilds.
  The promise covers the loss of one store's memory at a time (with a fill in between), or one damaged copy of an
  object; a reader asks two members that answer. After a damaged copy two stores may be too few *to decide*: then
  the reading must not end, rather than end wrongly.
2 One history: bytes read of a timeline are that timeline's bytes; where slot 0s on a quorum tell of the same epoch,
  they tell the same.
3 Fenced: once slot 0 of an epoch was on two stores, a lower epoch acknowledges only what that epoch's log contains (a
  reply may be read late; what it confirms had then been adopted).
4 Live is checked by ending.py.
5 Clean: no deletion ever hits a claim, or a seal whose slot is not in segments on two stores. That nothing needed is
  deleted shows in 1.
6 One site: once a switch promoted at the end that it fixed, nothing beyond that end is acknowledged for any site that
  was active before; and who was promoted continues the log: nobody finds it to end anywhere else.
7 One membership: at the end, any two stores of a membership of the past show that another one is in force
  (replacing.py). That nothing is lost on the way shows in 1, 2 and 3.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from tests.simulation.wal import ORIGIN, Timeline
from tests.simulation.world import STORES
from threefold.kernel.errors import Damaged
from threefold.kernel.lsn import Lsn
from threefold.quorum import keys
from threefold.quorum.builder import lineage
from threefold.quorum.history import decode_start, membership_of
from threefold.quorum.majority import QUORUM
from threefold.quorum.objects import SEAL_BYTES, Codec, Header, Kind
from threefold.quorum.requests import Ask, Create, Delete, Pause, Read, Request
from threefold.quorum.view import Scope
from threefold.quorum.walk import Found
from threefold.stores.store import Made

if TYPE_CHECKING:
    from tests.simulation.leader import Client, Leader
    from tests.simulation.world import SimStore, World


class Violation(AssertionError):
    """The log broke a promise."""


class Checker:
    """The auditor of one run."""

    def __init__(self, world: World, codec: Codec) -> None:
        self.world = world
        self.codec = codec
        self.acks = 0
        self.settled_reading = False  # at the end, when all stores answer
        self._acked: dict[Timeline, int] = {}
        self._owners: dict[int, str] = {}
        self._lines: dict[int, Timeline] = {}  # by epoch
        self._slot_zero_on: dict[int, set[str]] = {}
        self._ends: dict[int, tuple[int, int]] = {}  # epoch: last slot and end, as slot 0s on a quorum tell
        self._newest: tuple[int, Header] | None = None  # the highest epoch whose slot 0 was on two stores
        self.switches = 0
        self._switched: tuple[int, Timeline] | None = None  # the newest switch that promoted, and what it promoted
        world.watchers.append(self._watch)
        world.guards.append(self._guard)

    # --- what the leaders tell ---

    def claimed(self, epoch: int, leader: Client) -> None:
        self._owners.setdefault(epoch, leader.name)
        if self._owners[epoch] != leader.name:
            self._fail(f"epoch {epoch} belongs to {self._owners[epoch]} and to {leader.name}")

    def starts(self, epoch: int, number: int, leader: Leader) -> None:
        line = leader.primary.timeline.numbered(number)
        if line is None:
            self._fail(f"{leader.name} begins epoch {epoch} on timeline {number}, which its primary never had")
        self._lines[epoch] = line

    def fences(self, epoch: int, found: Found, agent: Client) -> Timeline:
        """A switch's epoch goes on where the log is, and adds nothing."""
        self.claimed(epoch, agent)
        line = self._lines[epoch] = self.line_of(found)
        return line

    def acknowledged(self, leader: Leader, lsn: Lsn) -> None:
        self.acks += 1
        line = leader.primary.timeline
        self._acked[line] = max(self._acked.get(line, ORIGIN), lsn)
        self.world.note(f"{leader.name} acknowledges {int(lsn)}")
        if self._switched is not None and leader.primary.switch < self._switched[0]:
            number, promoted = self._switched
            fork = promoted.leaves(line)
            if fork is None or line.whole(lsn) > fork:
                self._fail(
                    f"6 one site: {leader.name} acknowledged {int(lsn)} of {line}; switch {number} left at {fork}"
                )
        if self._newest is None or self._newest[0] <= leader.epoch:
            return
        epoch, header = self._newest
        fork = self._lines[epoch].leaves(line)
        held = -1 if fork is None else min(fork, header.end) if self._lines[epoch] is line else fork
        if line.whole(lsn) > held:
            self._fail(f"3 fenced: epoch {leader.epoch} acknowledged {int(lsn)} although epoch {epoch} began at {held}")

    def promotes(self, number: int, promoted: Timeline, who: str) -> None:
        """A switch is about to serve at its target."""
        if self._switched is not None and self._switched[0] >= number:
            return
        self.switches += 1
        self._switched = number, promoted
        for line, lsn in self._acked.items():
            fork = promoted.leaves(line)
            if line.whole(lsn) > (-1 if fork is None else fork):
                self._fail(f"1 durable: {who} promotes {promoted} at {fork}, but {line} was acknowledged up to {lsn}")

    def refused(self, leader: Leader, found: Found) -> None:
        if self._switched is not None and leader.primary.switch == self._switched[0]:
            self._fail(f"6 one site: {leader.name} finds the log to end at {int(found.end)}, not where it was promoted")

    def line_of(self, found: Found) -> Timeline:
        """The timeline that the log ends on: what a production leader knows from history files and bytes."""
        epoch = max([span.epoch for span in found.spans[-1:]] + [entry.header.epoch for entry in found.recent[-1:]])
        line = self._lines.get(epoch)
        if line is None or line.number != found.timeline:
            self._fail(f"2 one history: epoch {epoch} is said to be on timeline {found.timeline}, and is on {line}")
        return line

    # --- what the stores see ---

    def _watch(self, store: SimStore, request: Request, answer: Any) -> None:
        if type(request) is not Create or answer is not Made.CREATED or len(request.body) <= SEAL_BYTES:
            return
        if request.key.startswith(keys.LOG) and keys.last_number(request.key) == 0:
            self._slot_zero(store.name, request.body)

    def _slot_zero(self, store: str, body: bytes) -> None:
        entry = self.codec.open(body)
        header = entry.header
        on = self._slot_zero_on.setdefault(header.epoch, set())
        if store not in (membership_of(entry).stores or STORES):
            return
        on.add(store)
        if len(on) != 2 or header.kind is not Kind.START:
            return
        if self._newest is None or self._newest[0] < header.epoch:
            self._newest = header.epoch, header
        for span in decode_start(entry.payload)[0]:
            before = self._ends.setdefault(span.epoch, (span.last_slot, span.end))
            if before != (span.last_slot, span.end):
                self._fail(f"2 one history: epoch {span.epoch} ends at {before}, and at {span.last_slot, span.end}")

    def _guard(self, store: SimStore, request: Delete) -> None:
        for key in request.keys:
            if key.startswith(keys.EPOCHS):
                self._fail(f"5 clean: the claim {key} is deleted on {store.name}")
            sealed = key.startswith(keys.LOG) and len(store.objects.get(key, b"-")) == SEAL_BYTES
            if sealed and not self._covered(int(key.split("/")[1], 16), int(key.split("/")[2], 16)):
                self._fail(f"5 clean: the seal {key} is deleted on {store.name}")

    def _covered(self, epoch: int, slot: int) -> bool:
        """Whether segments on two stores hold this slot's entry.

        A delete of a trimmed entry may land late, on a seal that a taker put into the empty slot meanwhile. That seal
        holds nothing up: its slot was settled, the taker goes on from the segment, and so does everybody after it.
        """
        beyond: dict[str, int] = {}
        for store in self.world.stores.values():
            for key, body in store.objects.items():
                if key.startswith(keys.WAL) and self._names_beyond(body, epoch, slot):
                    beyond[key] = beyond.get(key, 0) + 1
        return max(beyond.values(), default=0) >= QUORUM

    def _names_beyond(self, body: bytes, epoch: int, slot: int) -> bool:
        try:
            header = self.codec.open_header(body)
        except Damaged:
            return True  # it was counted while it was whole
        if header.epoch == epoch:
            return header.slot > slot
        return header.epoch > epoch and slot <= self._ends.get(epoch, (-1, 0))[0]

    # --- reading ---

    def promises(self) -> dict[Timeline, int]:
        """What has been acknowledged by now."""
        return dict(self._acked)

    def never_began(self, acked: dict[Timeline, int], who: str) -> None:
        if acked:
            self._fail(f"1 durable: {who} found no log, although {acked} was acknowledged before")

    def verify(
        self, scope: Scope, found: Found, acked: dict[Timeline, int], who: str, *, last_segments: int | None = None
    ) -> Generator[Any, Any, Timeline]:
        """Rebuild the log (or its last segments) from what was found, and compare: the timeline it ends on."""
        line = self.line_of(found)
        for acked_line, lsn in acked.items():
            fork = line.leaves(acked_line)
            held = -1 if fork is None else min(fork, found.end) if acked_line is line else fork
            if acked_line.whole(lsn) > held:
                self._fail(
                    f"1 durable: {who} found the log of {line} up to {int(found.end)}, "
                    f"although {acked_line} was acknowledged up to {lsn} before (it counts up to {held})"
                )
        if found.end > line.end:
            self._fail(f"2 one history: {who} found {line} up to {int(found.end)}, it was written up to {line.end}")
        if found.start != ORIGIN:
            self._fail(f"2 one history: {who} found a log that starts at {int(found.start)}")
        begin = ORIGIN
        if last_segments is not None and found.segment is not None:
            begin = max(ORIGIN, (found.segment.number - last_segments + 1) * scope.segment_bytes)
        data = yield from self._rebuild(scope, found, begin)
        if data is not None and data != line.bytes(begin, found.end):
            right = line.bytes(begin, found.end)
            wrong = next(i for i, (a, b) in enumerate(zip(data, right, strict=True)) if a != b)
            self._fail(f"2 one history: {who} found other bytes at {begin + wrong} of {line} than were written")
        return line

    def _rebuild(self, scope: Scope, found: Found, begin: int) -> Generator[Any, Any, bytes | None]:
        size = scope.segment_bytes
        data, known = bytearray(found.end - begin), bytearray(found.end - begin)

        def lay(start: int, wal: bytes) -> None:
            skip = max(0, begin - start)
            wal = wal[skip : found.end - start]
            at = start + skip - begin
            if wal:
                data[at : at + len(wal)] = wal
                known[at : at + len(wal)] = bytes([1]) * len(wal)

        if found.segment is not None:
            numbers = list(dict.fromkeys([found.timeline, *(span.timeline for span in reversed(found.spans))]))
            for number in range(begin // size, found.segment.number + 1):
                segment = yield from self._segment(scope, numbers, number)
                if segment is not None:
                    lay(segment.header.start, segment.payload)
        for part in lineage(found.recent):
            lay(part.start, part.data)
        if 0 in known:
            if not self.settled_reading:
                return None  # a segment on one store only, which does not answer now: production asks again
            self._fail(f"1 durable: byte {begin + known.index(0)} of {self.line_of(found)} is nowhere")
        return bytes(data)

    def _segment(self, scope: Scope, timelines: list[int], number: int) -> Generator[Any, Any, Any]:
        """From the newest timeline that has it; a copy that does not open is passed over."""
        for timeline in timelines:
            requests = tuple(Read(store, keys.segment_key(timeline, number)) for store in scope.stores)
            while True:
                answers = yield Ask(requests, lambda answers: any(self._opens(a) for a in answers.values()))
                found = next((f for f in map(self._opens, answers.values()) if f), None)
                if found is not None:
                    return found
                if sum(not isinstance(a, bytes) and type(a).__name__ == "Gone" for a in answers.values()) >= 2:
                    break
                yield Pause(0.3)
        return None

    def _opens(self, answer: object) -> Any:
        from tests.simulation.leader import opened

        return opened(self.codec, answer)

    def _fail(self, what: str) -> None:
        self.world.note(f"VIOLATION {what}")
        raise Violation(what)
