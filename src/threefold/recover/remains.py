"""What is left of a log that does not read to its end: up to the damage, or else what whole segments hold.

Entries are lost first: they are on their stores for minutes, and no lock holds them. Segments, timelines and manifests
stay under their locks. Together they are a log without its last minutes: segments are written in order, hold settled
bytes only, and name their timeline; where one timeline was left for the next is in PostgreSQL's own history file. So
nothing here is guessed, it only ends early; and it is used for no recovery but one to a point that was named.

The system's identity is in a format object that reads, or in the manifests. Whose formats are gone or damaged on two
stores counts all stores that were handed in: what any store has whole is authentic, and nothing is concluded from
absence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from threefold.kernel.clock import Clock
from threefold.kernel.errors import Damaged, NotThere, ThreefoldError
from threefold.kernel.keys import Keyring
from threefold.kernel.lsn import Lsn
from threefold.postgres.timeline import History, parse_history
from threefold.quorum import keys
from threefold.quorum.driver import Driver
from threefold.quorum.history import Span
from threefold.quorum.majority import QUORUM
from threefold.quorum.members import Format
from threefold.quorum.membership import MovedError
from threefold.quorum.objects import HEADER_BYTES, Codec, Header, Kind
from threefold.quorum.reader import Extent
from threefold.quorum.reading import read_log
from threefold.quorum.segments import SegmentAt
from threefold.quorum.timelines import open_history
from threefold.quorum.view import Scope
from threefold.quorum.walk import Found
from threefold.stores.reads import Reader
from threefold.stores.store import ObjectStore, Page, Unknown, Unreadable
from threefold.vault.manifest import Summary

_PATIENCE_S: Final = 10.0
_MOVES: Final = 4


async def read_remains(
    stores: Mapping[str, ObjectStore],
    keyring: Keyring,
    clock: Clock,
    snapshots: Sequence[Summary],
    note: Callable[[str], None],
) -> Extent | None:
    """None where nothing is left, or where a store does not answer: then it is not known what is lost."""
    bodies = {name: await store.read(keys.FORMAT) for name, store in stores.items()}
    if any(isinstance(body, Unknown) and not isinstance(body, Unreadable) for body in bodies.values()):
        return None
    work = _Remains(stores, keyring, clock, note)
    form = _format(bodies.values(), keyring) or await work.format_of(snapshots)
    if form is None:
        return None
    return await work.up_to_damage(form) or await work.of_segments(form)


def _lineage(history: History) -> list[tuple[int, Lsn]]:
    """The timeline and its ancestors, the newest first, each with where it was forked off."""
    forks = [Lsn(0), *(switch.at for switch in history.switches)]
    names = [*(switch.timeline for switch in history.switches), history.timeline]
    return list(zip(reversed(names), reversed(forks), strict=True))


def _format(bodies: Iterable[object], keyring: Keyring) -> Format | None:
    """The one that most stores tell."""
    found: Counter[tuple[int, int, int]] = Counter()
    for body in bodies:
        if isinstance(body, bytes):
            try:
                form = Format.decode(body)
            except Damaged:
                continue
            if form.key_id == keyring.founding:
                found[form.log, form.segment_bytes, form.wal_segment_bytes] += 1
    if not found:
        return None
    (log, segment_bytes, wal_segment_bytes), _ = found.most_common(1)[0]
    return Format(log, keyring.founding, "", segment_bytes, wal_segment_bytes)


class _Remains:
    def __init__(
        self, stores: Mapping[str, ObjectStore], keyring: Keyring, clock: Clock, note: Callable[[str], None]
    ) -> None:
        self._stores = stores
        self._keyring = keyring
        self._clock = clock
        self._reader = Reader(stores, clock, note, patience_seconds=_PATIENCE_S)

    async def format_of(self, snapshots: Sequence[Summary]) -> Format | None:
        """From the manifests, and from the first segment that tells how long segments are."""
        if not snapshots:
            return None
        newest = max(snapshots, key=lambda each: each.id)
        codec = Codec(self._keyring, newest.system_identifier)
        for timeline, numbers in (await self._listed()).items():
            for number in numbers:
                header = await self._header(codec, timeline, number)
                if header is None or header.end % (number + 1):
                    continue
                size = header.end // (number + 1)
                if header.start // size == number:
                    log = newest.system_identifier
                    return Format(log, self._keyring.founding, "", size, newest.segment_size)
        return None

    async def up_to_damage(self, form: Format) -> Extent | None:
        codec = Codec(self._keyring, form.log)
        names, decisive = tuple(self._stores), min(QUORUM, len(self._stores))
        scope = Scope(names, codec, self._clock.new_id(), decisive, form.segment_bytes, thorough=True)
        for _ in range(_MOVES):
            try:
                reading = read_log(scope, up_to_damage=True)
                found = await Driver(self._stores, self._clock).run(reading, patience=_PATIENCE_S)
            except MovedError as moved:  # a store was replaced: those that count now are read
                members = tuple(name for name in names if name in moved.membership.stores)
                scope = replace(scope, stores=members or names, membership=moved.membership)
            except ThreefoldError:
                return None
            else:
                return await self._extent(form, found) if found is not None else None
        return None

    async def of_segments(self, form: Format) -> Extent | None:
        """Along the newest timeline that has a segment, and its ancestors."""
        listed = await self._listed()
        codec = Codec(self._keyring, form.log)
        for timeline in sorted(listed, reverse=True):
            found = await self._along(codec, form, timeline, listed)
            if found is not None:
                return await self._extent(form, found)
        return None

    async def _along(self, codec: Codec, form: Format, newest: int, listed: Mapping[int, list[int]]) -> Found | None:
        try:
            history = parse_history(newest, await self._history(newest) if newest > 1 else None)
        except ThreefoldError:
            return None
        size = form.segment_bytes
        spans: list[Span] = []
        last: SegmentAt | None = None
        stop, held_from = None, None  # where the timeline was left; from where on the one after it has bytes
        for timeline, begin in _lineage(history):
            run = await self._run(codec, timeline, listed.get(timeline, []), stop, size)
            if run is None:
                break
            first, final = run
            end = final.end if stop is None else min(final.end, stop)
            if stop is not None and end < stop:
                # The bytes before a fork may be in the new timeline's segment alone.
                if held_from is None or held_from > end:
                    break
                end = stop
            start = max(first.start, begin)
            if start < end:
                spans.insert(0, Span(0, 0, timeline, Lsn(start), Lsn(end)))
            last = last or SegmentAt(timeline, final.start // size, final.start, final.end, final.epoch, final.slot)
            if first.start > begin:
                break
            stop, held_from = begin, first.start
        if not spans or last is None:
            return None
        hole = "its entries are gone: what is in whole segments is all there is"
        numbered = tuple(replace(span, epoch=number) for number, span in enumerate(spans, 1))
        return Found(numbered, newest, spans[-1].end, last, (), (), hole=hole)

    async def _run(
        self, codec: Codec, timeline: int, numbers: Sequence[int], stop: Lsn | None, size: int
    ) -> tuple[Header, Header] | None:
        """The first and the last segment of the last unbroken run before ``stop``; what is between is read later."""
        wanted = [number for number in numbers if stop is None or number * size < stop]
        final = None
        while wanted and (final := await self._header(codec, timeline, wanted[-1])) is None:
            wanted.pop()
        if final is None:
            return None
        first, at = final, len(wanted) - 1
        while at > 0 and wanted[at - 1] == wanted[at] - 1:
            at -= 1
        while wanted[at] < wanted[-1]:
            header = await self._header(codec, timeline, wanted[at])
            if header is not None:
                first = header
                break
            at += 1
        return first, final

    async def _extent(self, form: Format, found: Found) -> Extent:
        timelines = {span.timeline for span in found.spans} | {found.timeline}
        histories = {timeline: await self._history(timeline) for timeline in sorted(timelines - {1})}
        return Extent(form, tuple(self._stores), found, histories, ())

    async def _listed(self) -> dict[int, list[int]]:
        """Timeline → numbers of the segments that any store lists, in order."""
        found: dict[int, set[int]] = {}
        for store in self._stores.values():
            after = ""
            while isinstance(page := await store.list(keys.WAL, after=after), Page) and page.objects:
                for listed in page.objects:
                    parts = listed.key.split("/")
                    try:
                        found.setdefault(int(parts[1], 16), set()).add(int(parts[2], 16))
                    except (IndexError, ValueError):
                        continue
                after = page.objects[-1].key
                if page.last:
                    break
        return {timeline: sorted(numbers) for timeline, numbers in found.items()}

    async def _header(self, codec: Codec, timeline: int, number: int) -> Header | None:
        async def accept(body: bytes) -> Header:
            header = codec.open_header(body)
            if header.kind is not Kind.SEGMENT or header.timeline != timeline:
                raise Damaged("another object lies in the place of a segment")
            return header

        try:
            return await self._reader.read(keys.segment_key(timeline, number), accept, length=HEADER_BYTES)
        except ThreefoldError:
            return None

    async def _history(self, timeline: int) -> bytes:
        async def accept(body: bytes) -> bytes:
            return open_history(self._keyring, timeline, body)

        try:
            return await self._reader.read(keys.timeline_key(timeline), accept)
        except NotThere as error:
            raise Damaged(error.message, hint=error.hint) from None
