"""Reading the log for recovery: what there is, and its bytes, from any two stores (or, knowingly, from one).

Whole segments come from whichever store gives them soonest and verify; what is in no segment yet was read with the
extent. The bytes are checked for contiguity up to the end that was found, and for being there at all: order alone
is not enough.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from threefold.kernel.clock import Clock
from threefold.kernel.errors import BadInput, Damaged, NotThere, Refused, Unavailable
from threefold.kernel.keys import Keyring
from threefold.kernel.lsn import Lsn
from threefold.quorum import degraded, keys
from threefold.quorum.builder import Settled, lineage
from threefold.quorum.driver import Driver
from threefold.quorum.history import Piece, Span, pieces
from threefold.quorum.majority import QUORUM
from threefold.quorum.members import Format, Roll, read_roll
from threefold.quorum.membership import Membership, MovedError, Named
from threefold.quorum.objects import Codec, Kind
from threefold.quorum.reading import read_log
from threefold.quorum.timelines import open_history
from threefold.quorum.view import Scope
from threefold.quorum.walk import Found
from threefold.stores.reads import Reader
from threefold.stores.soon import answers_soon
from threefold.stores.store import ObjectStore, Page

PATIENCE_S = 60.0
_DEGRADED_PATIENCE_S = 2.0
_ROLL_PATIENCE_S = 2.0  # a store that refuses connections still refuses them a moment later
_ROLL_PAUSE_S = 0.1
_SEGMENTS_AHEAD = 4


@dataclass(frozen=True, slots=True)
class Extent:
    """The log as it stood when it was read: WAL [start, end), ending on ``timeline``."""

    format: Format
    stores: tuple[str, ...]
    found: Found
    history_files: Mapping[int, bytes]
    notes: Sequence[str]

    @property
    def system_identifier(self) -> int:
        return self.format.log

    @property
    def segment_size(self) -> int:
        """PostgreSQL's wal_segment_size, bytes."""
        return self.format.wal_segment_bytes

    @property
    def timeline(self) -> int:
        return self.found.timeline

    @property
    def start(self) -> Lsn:
        return self.found.start

    @property
    def end(self) -> Lsn:
        return self.found.end

    @property
    def epoch(self) -> int:
        """The newest epoch that started."""
        return max((entry.header.epoch for entry in self.found.recent), default=self.found.spans[-1].epoch)

    def pieces(self) -> list[Piece]:
        """The log in order, the tail included."""
        spans = list(self.found.spans)
        if self.end > self.found.placed:
            spans.append(Span(self.epoch, 0, self.timeline, self.found.placed, self.end))
        return list(pieces(spans))


async def read_extent(
    stores: Mapping[str, ObjectStore],
    keyring: Keyring,
    clock: Clock,
    note: Callable[[str], None] = lambda _: None,
    *,
    patience: float = PATIENCE_S,
    hurried: bool = False,
) -> Extent:
    """What the stores hold. One store alone is believed only where one alone was handed in.

    ``hurried``: a store that is known to hang is not waited for to hear whether it knows of an RPO > 0.

    Raises NotThere where there is no log (and only then), Damaged for one that does not read, BadInput for another key,
    Unavailable where two stores are needed and one answers, Refused where the stores hold different logs.
    """
    driver = Driver(stores, clock)
    decisive = min(QUORUM, len(stores))
    roll = await _roll(driver, tuple(stores), clock, decisive, min(patience, _ROLL_PATIENCE_S))
    found_format = agreed_format(roll, keyring, decisive)
    members = tuple(roll.members)
    notes = [f"{name} does not answer ({why}): the other stores are read" for name, why in roll.silent.items()]
    notes += [f"{name} holds no log (new, or emptied): it is not believed" for name in roll.strangers]
    for sentence in notes:
        note(sentence)
    codec = Codec(keyring, found_format.log)
    scope = Scope(members, codec, clock.new_id(), decisive, found_format.segment_bytes, thorough=True)
    while True:
        try:
            found = await driver.run(read_log(scope), patience=patience)
            break
        except MovedError as moved:
            scope = _moved(scope, tuple(stores), moved.membership)
    members = scope.stores
    if found is None:
        raise NotThere("the log has not begun: nothing was protected yet", hint="start `threefold protect`")
    for sentence in _damage(found):
        notes.append(sentence)
        note(sentence)
    for sentence in await _degraded(stores, keyring, patiently=not hurried):
        notes.append(sentence)
        note(sentence)
    reader = Reader({name: stores[name] for name in members}, clock, note)
    timelines = {span.timeline for span in found.spans} | {found.timeline}
    histories = {}
    for timeline in sorted(timelines - {1}):
        histories[timeline] = await _history(reader, keyring, timeline)
    return Extent(found_format, members, found, histories, tuple(notes))


def expected_segments(extent: Extent, start: Lsn) -> Iterator[tuple[str, ...]]:
    """What holds [start, the newest segment's end) as it counts: of each, the keys of which one has to be there.

    Where a fork lies within a segment, the newer timeline's holds it all. One that ends where a timeline does may have
    been closed by the next one's first entry, under that one's name, as `read_wal` knows. Of a timeline that has no
    segment yet, nothing is expected.
    """
    size, newest = extent.format.segment_bytes, extent.found.segment
    if newest is None:
        return
    pieces = [piece for piece in extent.pieces() if piece.timeline <= newest.timeline]
    for place, piece in enumerate(pieces):
        timelines = dict.fromkeys(each.timeline for each in pieces[place:])
        first, stop = max(piece.start, start), min(piece.end, newest.end)
        for number in range(first // size, -(-stop // size)):
            last_of_all = piece.timeline == newest.timeline and number == newest.number
            if last_of_all or (number + 1) * size <= stop:
                yield tuple(keys.segment_key(timeline, number) for timeline in timelines)


async def _roll(driver: Driver, stores: tuple[str, ...], clock: Clock, decisive: int, patience: float) -> Roll:
    """Asked again for a moment: beside a store that is dead, one error of another must not end a recovery."""
    until, pause = clock.monotonic() + patience, _ROLL_PAUSE_S
    while True:
        roll = await driver.run(read_roll(stores))
        if len(roll.members) >= decisive or not roll.silent or clock.monotonic() + pause > until:
            return roll
        await clock.sleep(pause * (0.5 + clock.random()))
        pause *= 2


def _moved(scope: Scope, named: tuple[str, ...], now: Membership) -> Scope:
    """The same under the membership that is in force. Raises Refused where we know too few of its stores."""
    voters = Named(named).known(now)
    members = tuple(store for store in scope.stores if store in voters)
    if len(members) < scope.decisive:
        raise Unavailable(
            f"of the log's stores ({', '.join(now.stores)}) only {', '.join(members) or 'none'} answers with the log",
            hint="wait until the stores answer",
        )
    return replace(scope, stores=members, membership=now)


async def _degraded(stores: Mapping[str, ObjectStore], keyring: Keyring, *, patiently: bool) -> list[str]:
    """What was declared to be on one disk alone (degraded.py), and is not known to have come back."""
    patience = _DEGRADED_PATIENCE_S
    pages = await answers_soon(stores, lambda store: store.list(degraded.DEGRADED), patience, patiently=patiently)
    listed = {each.key: name for name, page in pages.items() if isinstance(page, Page) for each in page.objects}
    sentences = []
    for key in degraded.standing(listed):
        body = await stores[listed[key]].read(key)
        try:
            sentences.append(degraded.decode(body if isinstance(body, bytes) else b"", key, keyring).sentence)
        except Damaged:
            sentences.append(f"changes may be missing: {key} says so, and is not readable on {listed[key]}")
    return sentences


def _damage(found: Found) -> list[str]:
    keys_on: dict[str, list[str]] = {}
    for store, key in found.damaged:
        keys_on.setdefault(store, []).append(key)
    return [
        f"{bad[0]}{f' and {len(bad) - 1} more are' if len(bad) > 1 else ' is'} damaged on {store}: "
        "another store's copy is used"
        for store, bad in sorted(keys_on.items())
    ]


def agreed_format(roll: Roll, keyring: Keyring, decisive: int) -> Format:
    """The format that enough stores agree on. Raises as `read_extent` does."""
    if len(roll.members) < decisive:
        silent = "; ".join(f"{name}: {why}" for name, why in roll.silent.items())
        if roll.silent:
            known = f"only {', '.join(roll.members)} answers with the log" if roll.members else "no store answers"
            lone = next(iter(roll.members), "") or next(iter(roll.strangers), "")
            alone = f"; or recover from {lone} alone, which says what that proves: --from {lone}"
            raise Unavailable(
                f"{known}, {decisive} of {len(roll.members) + len(roll.silent) + len(roll.strangers)} must ({silent})",
                hint=f"wait until the stores answer{alone if lone else ''}",
            )
        if roll.members:
            only = ", ".join(roll.members)
            raise Unavailable(
                f"only {only} holds the log, the other stores are empty",
                hint=f"recover with --from {only}: it has what reached it, the last changes may be missing",
            )
        raise NotThere("the stores hold no log of this system", hint="check the stores' urls and the [system] name")
    first = next(iter(roll.members.values()))
    for name, other in roll.members.items():
        if (other.log, other.key_id) != (first.log, first.key_id):
            raise Refused(
                f"{name} holds the log of another database system ({other.log}, not {first.log})",
                hint="two deployments share a place: give each a prefix of its own",
            )
    if first.key_id != keyring.founding:
        raise BadInput(
            f"the first master key of this key file ({keyring.founding}) is not the one of the log ({first.key_id})",
            hint="use the key file that `threefold init` wrote, or the passphrase of this log",
        )
    return first


async def read_wal(
    stores: Mapping[str, ObjectStore],
    keyring: Keyring,
    clock: Clock,
    extent: Extent,
    *,
    start: Lsn,
    end: Lsn,
    note: Callable[[str], None] = lambda _: None,
) -> AsyncIterator[tuple[int, Lsn, bytes]]:
    """The bytes [start, end) in order, in parts of (timeline, LSN, bytes); verified, contiguous.

    Raises NotThere for bytes that no store has, Damaged for bytes that no store has whole, Unavailable.
    """
    if not extent.start <= start <= end <= extent.end:
        raise BadInput(f"the log holds {extent.start} to {extent.end}, not {start} to {end}")
    log = _LogBytes(stores, keyring, clock, extent, note)
    under_way: deque[asyncio.Task[bytes]] = deque()
    wanted = deque(log.parts(start, end))
    plan = deque(wanted)
    position = start
    try:
        while plan:
            while wanted and len(under_way) < _SEGMENTS_AHEAD:
                under_way.append(asyncio.create_task(log.read(wanted.popleft())))
            part = plan.popleft()
            data = await under_way.popleft()
            if part.start != position or len(data) != part.end - part.start:
                raise Damaged(f"the log has a gap at {position}", hint="run `threefold verify` for the whole picture")
            yield part.timeline, part.start, data
            position = part.end
    finally:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
    if position != end:
        raise Damaged(f"the log ends at {position}, before {end}")


class _LogBytes:
    """Bytes of the log, out of segments and of the recent entries."""

    def __init__(
        self,
        stores: Mapping[str, ObjectStore],
        keyring: Keyring,
        clock: Clock,
        extent: Extent,
        note: Callable[[str], None],
    ) -> None:
        self._reader = Reader({name: stores[name] for name in extent.stores}, clock, note)
        self._extent = extent
        self._codec = Codec(keyring, extent.format.log)
        self._recent = lineage(extent.found.recent)

    def parts(self, start: Lsn, end: Lsn) -> list[Piece]:
        """[start, end) cut where segments and timelines end, and where the recent entries begin."""
        size = self._extent.format.segment_bytes
        cuts = {start, end}
        if self._recent:
            cuts.add(self._recent[0].start)
        cuts.update(Lsn(boundary) for boundary in range(start - start % size + size, end, size))
        parts = []
        for piece in self._extent.pieces():
            inside = sorted(cut for cut in cuts | {piece.start, piece.end} if piece.start <= cut <= piece.end)
            parts += [Piece(piece.timeline, one, two) for one, two in pairwise(inside) if start <= one and two <= end]
        return parts

    async def read(self, part: Piece) -> bytes:
        if self._recent and part.start >= self._recent[0].start:
            return _slice(self._recent, part.start, part.end)
        number = part.start // self._extent.format.segment_bytes
        # The bytes before a fork are in the old timeline's segment, if it was ever whole, and in the new one's.
        later = [piece.timeline for piece in self._extent.pieces() if piece.timeline >= part.timeline]
        for timeline in later:
            try:
                return await self._from_segment(timeline, number, part)
            except NotThere:
                if timeline == later[-1]:
                    raise
        raise NotThere(f"no segment holds {part.start}")

    async def _from_segment(self, timeline: int, number: int, part: Piece) -> bytes:
        async def accept(body: bytes) -> bytes:
            found = await asyncio.to_thread(self._codec.fork().open, body)
            header = found.header
            if header.kind is not Kind.SEGMENT or header.timeline != timeline:
                raise Damaged("another object lies in the place of a segment")
            if not header.start <= part.start <= part.end <= header.end:
                raise Damaged(f"the segment holds {header.start} to {header.end} only")
            return found.payload[part.start - header.start : part.end - header.start]

        return await self._reader.read(
            keys.segment_key(timeline, number), accept, expected_bytes=self._extent.format.segment_bytes
        )


def _slice(line: Sequence[Settled], start: Lsn, end: Lsn) -> bytes:
    parts = []
    for part in line:
        one, two = max(part.start, start), min(part.start + len(part.data), end)
        if one < two:
            parts.append(part.data[one - part.start : two - part.start])
    return b"".join(parts)


async def _history(reader: Reader, keyring: Keyring, timeline: int) -> bytes:
    async def accept(body: bytes) -> bytes:
        return open_history(keyring, timeline, body)

    try:
        return await reader.read(keys.timeline_key(timeline), accept)
    except NotThere as error:
        # A hole in a log that is there: who takes NotThere for "no log yet" must not meet it.
        raise Damaged(
            f"the log has no history file of its timeline {timeline}: {error.message}",
            hint="run `threefold verify` for the whole picture",
        ) from None
