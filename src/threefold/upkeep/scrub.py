"""Reading and verifying everything on every store at a bounded rate, and mending what is missing or damaged.

All prefixes in turn, each in the keys' order, so that a cursor (record.py) says what is done; a scrub that was stopped
goes on from there. What may be done about a copy is argued in decide.py. The log is read once, before anything else:
what it says of its slots stays true while leaders come, append, trim and take over, and slots that are newer than that
are not judged. What is not listed is missing only once the store has said so by key.

``repair`` of one store is the same over the keys that this store lists otherwise than the others do, or that the last
scrub found damaged there: quick, because the lists say where to look.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from threefold.kernel.clock import Clock
from threefold.kernel.errors import BadInput, Damaged, NotThere, Unavailable
from threefold.kernel.keys import Keyring
from threefold.kernel.lsn import Lsn
from threefold.kernel.progress import Progress
from threefold.quorum import keys
from threefold.quorum.check import counting
from threefold.quorum.driver import Driver
from threefold.quorum.history import Piece
from threefold.quorum.members import Format, read_roll
from threefold.quorum.objects import Codec
from threefold.quorum.reader import Extent, agreed_format, expected_segments, read_extent
from threefold.quorum.wrapped import replaced_on
from threefold.stores.health import HealthBook
from threefold.stores.store import ObjectStore
from threefold.upkeep.decide import PREFIXES, LogFacts
from threefold.upkeep.listing import Seen, holdings, union
from threefold.upkeep.loss import Point, newest_point, wal_begin
from threefold.upkeep.mend import Finding, Mender
from threefold.upkeep.pace import Pace
from threefold.upkeep.record import Record, read_record, write_record
from threefold.vault.chunk_store import Vault
from threefold.vault.manifest import Summary
from threefold.vault.marks import read_marks

_AT_ONCE: Final = 8
_LARGE_AT_ONCE: Final = 3  # segments and packs: so many are in memory
_LARGE: Final = {keys.WAL, "packs", "snapshots"}
_SAVE_EVERY_S: Final = 5.0
_TRUE_FOR_S: Final = 60.0  # what prune is at, and what snapshots need, is asked anew after that
_KEPT_STARTS: Final = 3  # slot 0 of the newest epochs is never trimmed (quorum/trim.py)


@dataclass(frozen=True, slots=True)
class Needs:
    """What one snapshot needs: packs, by key, and the log from there on."""

    packs: frozenset[str]
    begin: Lsn


@dataclass(slots=True)
class ScrubReport:
    """What was read, found and done."""

    run: str
    resumed: bool
    seconds: float
    objects: Mapping[str, int]
    bytes: Mapping[str, int]
    findings: Sequence[Finding]
    counts: Mapping[str, Mapping[str, int]]
    away: Mapping[str, str]
    notes: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    newest_point: Point | None = None  # where something is lost: what can still be had

    @property
    def unmended(self) -> list[Finding]:
        return [finding for finding in self.findings if not finding.mended]


class Scrub:
    """One run over all stores, or the repair of one."""

    def __init__(
        self,
        stores: Mapping[str, ObjectStore],
        keyring: Keyring,
        clock: Clock,
        health: HealthBook,
        progress: Progress,
        *,
        bytes_per_second: float | None = None,
    ) -> None:
        self._all = stores
        self._stores = stores
        self._keyring = keyring
        self._clock = clock
        self._health = health
        self._progress = progress
        self._pace = Pace(clock, bytes_per_second)
        self._record = Record()
        self._notes: list[str] = []
        self._extent: Extent | None = None
        self._facts: LogFacts | None = None
        self._saved_at = clock.monotonic()
        self._vault = Vault(stores, keyring, clock)
        self._snapshots: dict[str, Summary] = {}
        self._packs_of: dict[str, list[str]] = {}
        self._lost_log = ""
        self._segment_bytes = keys.SEGMENT_BYTES
        self._format_findings: list[Finding] = []
        self._found_now: dict[str, dict[str, int]] = {}  # by this run, store → what → how many
        self._marked = self._sentenced = frozenset[str]()
        self._marks_at = self._needs_at = -math.inf
        self._needs: dict[str, Needs] = {}
        self._needed: dict[str, Needs] | None = None
        self._wal_seen: dict[int, int] = {}  # timeline → highest segment that is whole somewhere

    async def everything(self, *, fresh: bool = False) -> ScrubReport:
        """Raises Unavailable where fewer than two stores answer, NotThere where there is no log."""
        before = await read_record(self._all, self._keyring)
        return await self._run(before, fresh=fresh, only=None)

    async def repair(self, only: str) -> ScrubReport:
        """What ``only`` lacks, or has damaged as far as is known, from the others."""
        if only not in self._all:
            raise BadInput(f"there is no store {only}", hint=f"there are {', '.join(self._all)}")
        before = await read_record(self._all, self._keyring)
        return await self._run(before, fresh=True, only=only)

    async def _run(self, before: Record, *, fresh: bool, only: str | None) -> ScrubReport:
        began = self._clock.monotonic()
        mender = await self._begin(only)
        resumed = bool(before.run) and not before.finished and not fresh
        known = {finding.key for finding in before.findings if finding.store == only and not finding.mended}
        self._record = (
            before
            if resumed
            else Record(
                run=self._clock.new_id()[:16], started=self._clock.now().isoformat(timespec="seconds"), days=before.days
            )
        )
        self._record.away = {}
        for finding in [] if resumed else self._format_findings:
            self._record.add(finding)
        if resumed:
            self._progress.note(f"a scrub that was stopped is gone on with, from {self._record.after or 'the start'}")
        read_before = dict(self._record.objects), dict(self._record.bytes)
        try:
            for prefix in PREFIXES[PREFIXES.index(self._record.prefix) if resumed and self._record.prefix else 0 :]:
                after = self._record.after if prefix == self._record.prefix else ""
                self._record.prefix, self._record.after = prefix, after
                await self._prefix(mender, prefix, after, only, known)
            self._record.finished = True
        finally:
            self._sum_up(mender, *read_before)
            kept = self._record if only is None else before.repaired(only, self._record.findings)
            await write_record(self._all, kept, self._keyring, self._clock)
        return await self._report(resumed, began)

    async def _begin(self, only: str | None) -> Mender:
        self._progress.step("scrub-log-end", "finding the end of the log", unit="objects")
        roll = await Driver(self._all, self._clock).run(read_roll(tuple(self._all)))
        agreed = agreed_format(roll, self._keyring, 2)
        await self._read_marks()
        self._stores = {name: store for name, store in self._all.items() if name in roll.members or name == only}
        for name in roll.strangers:
            if name != only:
                self._notes.append(f"{name} holds no log (new, or emptied): a running `threefold protect` fills it")
        try:
            self._extent = await read_extent(self._all, self._keyring, self._clock, self._progress.note)
            self._facts = log_facts(self._extent)
        except Damaged as damage:
            self._notes.append(f"the log cannot be read, so its slots are only verified: {damage.message}")
            self._lost_log = damage.message
        codec = Codec(self._keyring, agreed.log)
        size = self._segment_bytes = agreed.segment_bytes
        mender = Mender(
            self._stores,
            self._keyring,
            codec,
            self._clock,
            self._pace,
            segment_bytes=size,
            replaced=await replaced_on(self._all.values(), self._keyring),
        )
        for name in roll.silent:
            body = await self._all[name].read(keys.FORMAT)
            if isinstance(body, bytes):
                self._damaged_format(name, body)
        return mender

    def _damaged_format(self, name: str, body: bytes) -> None:
        try:
            Format.decode(body)
        except Damaged as damage:
            why = f"{damage.message}; the store does not vote so: delete it there by hand, and the store is filled anew"
            self._format_findings.append(Finding(name, keys.FORMAT, "damaged", why))

    async def _prefix(self, mender: Mender, prefix: str, after: str, only: str | None, known: set[str]) -> None:
        total = None
        silent: dict[str, str] = {}
        if only is None:
            counted = await holdings(self._stores, prefix, self._clock, silent)
            total = sum(each.bytes for each in counted.values())
        self._progress.step(f"scrub-{prefix}", f"{'comparing' if only else 'verifying'} {prefix}", total=total)
        at_once = _LARGE_AT_ONCE if prefix in _LARGE else _AT_ONCE
        expected = await self._expected(prefix)
        instead = {other: first for first, others in expected.items() for other in others}
        batch: list[Seen] = []
        async for seen in union(self._stores, prefix, self._clock, silent, after=after):
            expected.pop(seen.key, None)
            expected.pop(instead.get(seen.key, ""), None)
            if only is not None and _alike(seen, only) and seen.key not in known:
                continue
            if await self._is_going(seen.key):
                continue  # prune deletes it store by store: it is not to be put back
            batch.append(seen)
            if len(batch) == at_once:
                await self._batch(mender, batch, only)
                batch = []
        # What is needed and listed nowhere: asked by key.
        batch += [Seen(key, {}) for key in sorted(expected.keys() - self._sentenced) if key > after]
        for at in range(0, len(batch), at_once):
            await self._batch(mender, batch[at : at + at_once], only)
        for name, why in silent.items():
            mender.away.setdefault(name, why)

    async def _batch(self, mender: Mender, batch: Sequence[Seen], only: str | None) -> None:
        before = sum(mender.read_bytes.values())
        found = await asyncio.gather(
            *(mender.mend(seen, self._facts, only=only, first=place) for place, seen in enumerate(batch))
        )
        for at, findings in enumerate(found):
            # A scrub may take days, and prune has let go what was needed when it began.
            if any(finding.what == "lost" for finding in findings) and await self._was_let_go(batch[at].key):
                found[at] = []
        for finding in (each for findings in found for each in findings):
            self._record.add(finding)
            now = self._found_now.setdefault(finding.store, {})
            now[finding.what] = now.get(finding.what, 0) + 1
            self._say(finding)
        if batch[0].key.startswith(f"{keys.WAL}/"):
            self._note_segments(batch, found)
        self._record.after = batch[-1].key
        self._progress.advance(sum(mender.read_bytes.values()) - before)
        if only is None and self._clock.monotonic() - self._saved_at >= _SAVE_EVERY_S:
            self._saved_at = self._clock.monotonic()
            await write_record(self._all, self._record, self._keyring, self._clock)

    def _note_segments(self, batch: Sequence[Seen], found: Sequence[Sequence[Finding]]) -> None:
        for seen, findings in zip(batch, found, strict=True):
            at = keys.segment_of(seen.key)
            if at is not None and not any(finding.what == "lost" for finding in findings):
                timeline, number = at
                self._wal_seen[timeline] = max(self._wal_seen.get(timeline, 0), number)

    def _say(self, finding: Finding) -> None:
        done = "mended" if finding.mended else finding.why
        where = f" on {finding.store}" if finding.store else ""
        self._progress.note(f"{finding.key} is {finding.what}{where}: {done}")

    async def _expected(self, prefix: str) -> dict[str, Sequence[str]]:
        """Keys that must be there, or another instead: packs by the manifests, segments by the log's extent."""
        if prefix == "packs":
            await self._read_manifests()
            return {key: () for packs in self._packs_of.values() for key in packs}
        if prefix == keys.WAL and self._extent is not None and self._extent.found.segment is not None:
            await self._read_manifests()
            start = min((wal_begin(each) for each in self._snapshots.values()), default=self._extent.end)
            return {first: others for first, *others in expected_segments(self._extent, start)}
        return {}

    async def _read_marks(self) -> None:
        marks = await read_marks(self._all, self._keyring)
        self._marked, self._sentenced = marks.doomed(), marks.sentenced()
        self._marks_at = self._clock.monotonic()

    async def _is_going(self, key: str) -> bool:
        """Whether a prune deletes it at this moment; a minute later it is asked anew."""
        if key in self._marked and self._clock.monotonic() - self._marks_at > _TRUE_FOR_S:
            await self._read_marks()
        return key in self._sentenced

    async def _was_let_go(self, key: str) -> bool:
        """Whether nothing that is listed now needs it; what cannot be told counts as needed."""
        prefix = key.partition("/")[0]
        if prefix not in {"snapshots", "packs", keys.WAL}:
            return False
        if self._clock.monotonic() - self._needs_at > _TRUE_FOR_S:
            self._needed = await self._needs_now()
            self._needs_at = self._clock.monotonic()
        if self._needed is None:
            return False
        if prefix == "snapshots":
            return key not in self._needed
        if prefix == "packs":
            return not any(key in needs.packs for needs in self._needed.values())
        end = (int(key.rpartition("/")[2], 16) + 1) * self._segment_bytes
        return all(end <= needs.begin for needs in self._needed.values())

    async def _needs_now(self) -> dict[str, Needs] | None:
        """By the manifests' keys; None where a store does not list them all, or one does not read, or there is none."""
        silent: dict[str, str] = {}
        listed = [seen.key async for seen in union(self._stores, "snapshots", self._clock, silent)]
        try:
            for key in listed:
                if key not in self._needs:  # they never change
                    manifest = await self._vault.manifest(key.rpartition("/")[2])
                    self._needs[key] = Needs(frozenset(manifest.pack_keys()), wal_begin(manifest.summary))
        except (Damaged, NotThere, Unavailable):
            return None
        return {key: self._needs[key] for key in listed} if listed and not silent else None

    async def _read_manifests(self) -> None:
        if self._snapshots:
            return
        for summary in (await self._vault.catalogue()).summaries:
            try:
                manifest = await self._vault.restorable(summary.id)
            except (Damaged, NotThere, Unavailable):
                continue
            self._snapshots[summary.id] = summary
            self._packs_of[summary.id] = manifest.pack_keys()

    def _sum_up(self, mender: Mender, objects: Mapping[str, int], size: Mapping[str, int]) -> None:
        now = self._clock.monotonic()
        day = f"{self._clock.now():%Y-%m-%d}"
        health = {each.name: each for each in self._health.snapshot(now)}
        self._record.away = dict(mender.away)
        for name in self._stores:
            self._record.objects[name] = objects.get(name, 0) + mender.read_objects[name]
            self._record.bytes[name] = size.get(name, 0) + mender.read_bytes[name]
            tally = self._record.tally(day, name)
            tally.objects += mender.read_objects[name]
            tally.damaged += self._found_now.get(name, {}).get("damaged", 0)
            tally.missing += self._found_now.get(name, {}).get("missing", 0)
            if name in health:
                tally.took(health[name])

    async def _report(self, resumed: bool, began: float) -> ScrubReport:
        record = self._record
        lost = [finding.key for finding in record.findings if finding.what == "lost"]
        report = ScrubReport(
            run=record.run,
            resumed=resumed,
            seconds=round(self._clock.monotonic() - began, 3),
            objects=record.objects,
            bytes=record.bytes,
            findings=record.findings,
            counts=record.counts,
            away=record.away,
            notes=self._notes,
            lost=[*lost, *([self._lost_log] if self._lost_log else [])],
        )
        if report.lost:
            await self._read_manifests()
            report.newest_point = newest_point(
                self._snapshots, self._packs_of, lost, self._pieces(), self._segment_bytes
            )
        return report

    def _pieces(self) -> list[Piece]:
        if self._extent is not None:
            return self._extent.pieces()
        # The end of the log is what cannot be read: what is in whole segments is there all the same.
        if not self._wal_seen:
            return []
        timeline = max(self._wal_seen)
        return [Piece(timeline, Lsn(0), Lsn((self._wal_seen[timeline] + 1) * self._segment_bytes))]


def log_facts(extent: Extent) -> LogFacts:
    """What is true of the log's slots from now on, whoever writes meanwhile."""
    found = extent.found
    epochs = sorted({span.epoch for span in found.spans} | {extent.epoch})
    return LogFacts(
        counts=counting(found.spans, -1, lambda: -1),
        newest_epoch=extent.epoch,
        covered=found.segment.position if found.segment else (0, 0),
        kept=frozenset(epochs[-_KEPT_STARTS:]),
    )


def _alike(seen: Seen, only: str) -> bool:
    """Whether the store lists it as those others do that list it."""
    return only in seen.sizes and len(set(seen.sizes.values())) == 1
