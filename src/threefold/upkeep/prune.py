"""Deleting what nothing needs any more, in two phases: marked now, deleted by a later run after the grace period.

A run does what marks of earlier runs ask for, as far as it is still true, and marks what is new. Before anything is
deleted a sentence stands on two stores, and what the stores hold is looked at once more (vault/marks.py: the argument);
what is reachable by then is spared. reach.py says what is reachable.

What is under retention lock stays until the lock ends, and with it what it needs; it is asked for before a sentence is
written, and its mark waits.

In between, packs of which little is needed are written anew (sparse.py, repack.py), so that they can go as well.

A store that did not list everything keeps everything, until it does; two have to. On each store manifests go first, and
packs and segments only when no manifest of theirs is listed there any more: no store ever names what it has lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from threefold.kernel.clock import Clock
from threefold.kernel.errors import Refused, ThreefoldError, Unavailable
from threefold.kernel.keys import NONCE_BYTES, Keyring
from threefold.kernel.lsn import Lsn
from threefold.kernel.progress import Progress
from threefold.quorum.objects import NOWHERE
from threefold.stores.confirm import Stored, create_confirmed
from threefold.stores.store import Locked, ObjectStore, Unknown
from threefold.upkeep.listing import union
from threefold.upkeep.reach import FORK_BYTES, Survey, released
from threefold.upkeep.repack import Repack, RepackReport
from threefold.upkeep.sparse import Thresholds, plan_repack
from threefold.upkeep.survey import PREFIXES, Looked, Surveyor
from threefold.vault import pack as packs
from threefold.vault.manifest import snapshot_key
from threefold.vault.marks import Mark, Marks, encode, read_marks
from threefold.vault.retention import Policy

_QUORUM: Final = 2
_ALL: Final = 3
_BATCH: Final = 100  # as late as a delete may be after its sentence was asked for: some stores take them one by one
_HANGS_S: Final = 2.0
_HANGS_IN_A_ROW: Final = 3
_STOPPED: Final = "whether this run may still delete is not sure: it stood still, or two stores do not tell"
_ASKED_AT_ONCE: Final = 16
# No run deletes by its sentence for longer, and none takes another run's back earlier: whoever looks while one deletes
# finds its sentence. The second is longer, because clocks differ, and a delete may be under way.
_DELETES_FOR: Final = timedelta(hours=12)
_OVER_AFTER: Final = 2 * _DELETES_FOR


@dataclass(slots=True)
class PruneReport:
    """What goes and what it saves; bytes are those of all stores together."""

    dry_run: bool
    kept: Mapping[str, str] = field(default_factory=dict)
    wal_from: Lsn = NOWHERE
    marked: list[str] = field(default_factory=list)
    marked_bytes: int = 0
    waiting: int = 0  # marked earlier, still within the grace period
    due: list[str] = field(default_factory=list)  # would be deleted, where this is a dry run
    deleted: dict[str, int] = field(default_factory=dict)  # store → objects
    freed_bytes: int = 0
    spared: list[str] = field(default_factory=list)  # marked, and needed again
    locked: dict[str, datetime] = field(default_factory=dict)  # due, and under a retention lock until then
    waits_for_locked: int = 0  # due, and needed by what is locked
    held: dict[str, list[str]] = field(default_factory=dict)  # store → keys that it does not let go
    away: dict[str, str] = field(default_factory=dict)  # stores of which not all was asked for, and why
    repack: RepackReport = field(default_factory=RepackReport)
    notes: list[str] = field(default_factory=list)


class Prune:
    """One run."""

    def __init__(
        self,
        stores: Mapping[str, ObjectStore],
        keyring: Keyring,
        clock: Clock,
        progress: Progress,
        policy: Policy,
        *,
        fork_bytes: int = FORK_BYTES,
        repack: Thresholds | None = None,
        still_members: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """``repack`` None: nothing is written anew. ``still_members`` raises where others are members by now.

        Whoever asks two of three new stores may meet no sentence that lies on two of the old.
        """
        self._stores = stores
        self._keyring = keyring
        self._clock = clock
        self._progress = progress
        self._policy = policy
        self._thresholds = repack
        self._still_members = still_members
        self._surveyor = Surveyor(stores, keyring, clock, progress, policy, fork_bytes=fork_bytes)

    async def run(self, *, dry_run: bool = False) -> PruneReport:
        """Raises Unavailable where fewer than two stores list everything, Refused where a list contradicts a mark."""
        marks = await read_marks(self._stores, self._keyring)
        seen = await self._surveyor.look()
        now = self._clock.now()
        report = PruneReport(dry_run, seen.verdict.kept, seen.verdict.wal_from, away=dict(seen.away))
        await self._contradicted(marks.marks, seen)
        replaced = _replaced(marks.marks)
        if not dry_run:
            await self._sweep(marks, replaced, now)
        standing = [mark for mark in marks.marks if mark not in replaced]
        due = [mark for mark in standing if now - mark.at >= self._policy.grace]
        report.waiting = sum(len(mark.keys) for mark in standing if mark not in due)
        self._say(report, seen)
        for mark in due:
            if dry_run:
                report.due += sorted(await self._released(mark.keys & seen.verdict.keys, seen.survey, report))
            else:
                if report.away.keys() == self._stores.keys():
                    break  # a later run goes on
                over = [each.key for each in marks.sentences if each.id == mark.id and _is_over(each, now)]
                await self._carry_out(mark, over, seen, report)
        if dry_run:
            report.freed_bytes = _bytes(seen.survey, report.due)
        if self._thresholds is not None and not seen.verdict.blocked:
            seen = await self._repack(self._thresholds, seen, report.repack, dry_run=dry_run)
        report.marked = sorted(seen.verdict.keys - marks.doomed())
        report.marked_bytes = _bytes(seen.survey, report.marked)
        if report.marked and not dry_run:
            now = self._clock.now()  # a repack may have taken hours
            await self._put(Mark(self._new_id(now), now, frozenset(report.marked), tuple(sorted(seen.verdict.kept))))
        return report

    async def _contradicted(self, marks: Sequence[Mark], seen: Looked) -> None:
        """A snapshot that was kept by an earlier run and is listed nowhere: deleted since, or a list lies."""
        for name in {name for mark in marks for name in mark.kept}:
            key = snapshot_key(name)
            if key in seen.survey.listed["snapshots"]:
                continue
            for store_name, store in self._stores.items():
                if store_name not in seen.away and isinstance(await store.read(key, length=1), bytes):
                    raise Refused(
                        f"{store_name} has {key} and does not list it: its lists are not whole",
                        hint="nothing was deleted; if this stays, that store's listing cannot be trusted: replace it",
                    )

    # --- deleting ---

    async def _carry_out(self, mark: Mark, over: Sequence[str], before: Looked, report: PruneReport) -> None:
        """``over``: sentences on it by which no run deletes any more."""
        sentences = list(over)
        due = mark.keys & before.verdict.keys
        wanted = frozenset(await self._released(due, before.survey, report))
        doomed = frozenset[str]()
        if wanted:
            self._progress.step("prune-delete", "deleting what was marked", total=len(wanted), unit="objects")
            wide = sentence = await self._sentence(mark, wanted)
            sentences.append(wide.key)
            try:
                seen = await self._surveyor.look(own=wide.key)
                doomed = wanted & seen.verdict.keys
                if doomed and doomed != wanted:
                    sentence = await self._sentence(mark, doomed)
            except ThreefoldError:
                await self._take_back([wide.key])  # nothing was deleted by it
                raise
            report.away |= seen.away
            there = [store for name, store in self._stores.items() if name not in report.away]
            deleting = (self._delete(store, doomed, seen.survey, report, sentence) for store in there)
            # All have ended before an error is told: none deletes in the background.
            ended = await asyncio.gather(*deleting, return_exceptions=True)
            if sentence is not wide or not doomed:
                # What is needed after all is not left under a sentence that may stand for long: nobody would copy it.
                # Not earlier: who listed before the narrower one stood reads the wide one, or finds what was deleted.
                await self._take_back([wide.key])
                sentences = [*over, *([sentence.key] if doomed else [])]
            for error in ended:
                if error is not None:
                    raise error
        waiting = due - wanted
        spared = mark.keys - doomed - waiting - self._gone(mark, before.survey)
        report.spared += sorted(spared)
        unsure = report.away or any(set(keys) & mark.keys for keys in report.held.values())
        if unsure or waiting or not report.locked.keys().isdisjoint(mark.keys):
            # It stays for the others: when what is spared now is not needed again one day, its grace period is whole.
            if sentences != list(over):
                await self._take_back(over)  # or one more would be left by every run
            if not spared:
                return
            rest = Mark(self._new_id(self._clock.now()), mark.at, mark.keys - spared, mark.kept)
            try:
                await self._put(rest)
            except Unavailable:
                report.notes.append(f"{mark.key} stays as it is: what is spared could not be taken out of it")
                return
        # Sentences first: without its mark only `_sweep` takes one back, a day later. A delete that was not answered
        # may come to pass yet.
        await self._take_back([] if unsure else sentences)
        await self._take_back([mark.key])

    async def _sentence(self, mark: Mark, keys: frozenset[str]) -> Mark:
        """Put one. Raises Unavailable."""
        sentence = Mark(mark.id, self._clock.now(), keys, mark.kept, self._clock.new_id()[:8])
        await self._put(sentence)
        return sentence

    async def _take_back(self, keys: Sequence[str]) -> None:
        for store in self._stores.values() if keys else ():
            await store.delete(keys)

    async def _sweep(self, marks: Marks, replaced: Sequence[Mark], now: datetime) -> None:
        """Of marks that another stands for, and sentences of runs that died while they took them back."""
        keys = [mark.key for mark in replaced]
        if marks.listed == self._stores.keys():
            there = {mark.key for mark in marks.marks} | {*marks.unreadable, *marks.silent}
            orphans = [each for each in marks.sentences if replace(each, sentence="").key not in there]
            # Another run may be at it, its mark taken back by a third one.
            keys += [each.key for each in orphans if _is_over(each, now)]
        await self._take_back(keys)

    async def _released(self, due: frozenset[str] | set[str], survey: Survey, report: PruneReport) -> set[str]:
        """Of what is due, that which may go now."""
        for key, until in (await self._locked(due, survey)).items():
            report.locked[key] = max(until, report.locked.get(key, until))
        free = released(survey, due, report.locked.keys() & due)
        report.waits_for_locked += len(due - free - report.locked.keys())
        return free

    async def _locked(self, keys: Collection[str], survey: Survey) -> dict[str, datetime]:
        """Those under a retention lock, and until when."""
        now, room = self._clock.now(), asyncio.Semaphore(_ASKED_AT_ONCE)
        found: dict[str, datetime] = {}

        async def ask(key: str, name: str) -> None:
            async with room:
                until = await self._stores[name].locked_until(key)
            # Who does not answer says nothing: the delete will.
            if isinstance(until, datetime) and until > now:
                found[key] = max(until, found.get(key, until))

        sizes = {key: survey.listed[key.partition("/")[0]].get(key, {}) for key in keys}
        await asyncio.gather(*(ask(key, name) for key in sorted(keys) for name in sizes[key]))
        return found

    def _gone(self, mark: Mark, survey: Survey) -> set[str]:
        return {key for key in mark.keys if not any(key in keys for keys in survey.listed.values())}

    async def _delete(
        self, store: ObjectStore, doomed: frozenset[str], survey: Survey, report: PruneReport, sentence: Mark
    ) -> None:
        """On one store, manifests first. Ends early where it does not answer, or the sentence does not stand."""
        name = store.name
        for prefix in PREFIXES:
            sizes = survey.listed[prefix]
            there = sorted(key for key in doomed if name in sizes.get(key, {}))
            why = await self._asked_to_delete(store, there, report, sentence) if there else ""
            silent: dict[str, str] = {}
            still = set[str]()
            if there:
                listed = union({name: store}, prefix, self._clock, silent)
                still = {seen.key async for seen in listed if seen.key in doomed}
            if silent:
                report.away |= silent
                return
            gone = [key for key in there if key not in still]
            if gone:
                report.deleted[name] = report.deleted.get(name, 0) + len(gone)
            report.freed_bytes += sum(sizes[key][name] for key in gone)
            if why:
                if name not in report.away:
                    report.notes.append(f"{name}: {why}; a later run goes on there")
                report.away[name] = why
                return
            if still:
                if still - report.locked.keys():
                    report.held.setdefault(name, []).extend(sorted(still - report.locked.keys()))
                if prefix == "snapshots":
                    return  # it still names them: what they need stays on this store

    async def _asked_to_delete(
        self, store: ObjectStore, keys: Sequence[str], report: PruneReport, sentence: Mark
    ) -> str:
        """Why not all were asked for; empty where they were. What came of it a listing tells."""
        in_a_row = 0
        for at in range(0, len(keys), _BATCH):
            batch = keys[at : at + _BATCH]
            if not await self._stands(sentence):
                return _STOPPED
            if await store.delete(batch) is None:
                in_a_row = 0
            else:
                # One that is locked may refuse for all: one by one, the others go.
                for key in batch:
                    if not await self._stands(sentence):
                        return _STOPPED
                    asked = self._clock.monotonic()
                    answer = await store.delete([key])
                    if isinstance(answer, Locked):
                        report.locked[key] = answer.until
                    # Who refuses one at once may let the next one go; who hangs would take the twelve hours.
                    hung = isinstance(answer, Unknown) and self._clock.monotonic() - asked >= _HANGS_S
                    in_a_row = in_a_row + 1 if hung else 0
                    if isinstance(answer, Unknown) and in_a_row >= _HANGS_IN_A_ROW:
                        return f"it does not answer when something is to be deleted ({answer.reason})"
            self._progress.advance(len(batch))
        return ""

    async def _stands(self, sentence: Mark) -> bool:
        """Asked before every delete: a run may have stood still, whatever its clock says, and its sentence be gone."""
        if self._clock.now() - sentence.at >= _DELETES_FOR:
            return False
        if self._still_members is not None:
            try:
                await self._still_members()
            except Unavailable:
                return False
        asking = {asyncio.create_task(store.read(sentence.key, length=1)) for store in self._stores.values()}
        on = 0
        try:
            while asking and on < _QUORUM:  # the slowest store is not waited for
                done, asking = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
                on += sum(isinstance(each.result(), bytes) for each in done)
        finally:
            for each in asking:
                each.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        return on >= _QUORUM

    # --- repacking ---

    async def _repack(self, thresholds: Thresholds, seen: Looked, report: RepackReport, *, dry_run: bool) -> Looked:
        """Write sparse packs anew, and look again: then the old ones are needed no more."""
        survey, heads = seen.survey, {name: self._surveyor.manifests[name] for name in seen.verdict.heads}
        pinned = {
            pack for name in seen.verdict.kept.keys() - heads.keys() for pack in self._surveyor.manifests[name].packs()
        }
        plan = await asyncio.to_thread(
            plan_repack, heads, _alike(survey), pinned, _manifest_bytes(survey, heads), thresholds
        )
        copies = len(self._stores)
        report.packs, report.snapshots = [each.pack for each in plan.packs], list(plan.snapshots)
        report.copied_bytes, report.won_bytes = plan.copied * copies, plan.won * copies
        if not plan.packs:
            return seen
        old = [*map(packs.pack_key, report.packs), *map(snapshot_key, plan.snapshots)]
        until = await self._locked(old, survey)
        report.locked_until = max(until.values(), default=None)
        if seen.away or copies < _ALL:
            report.put_off = "a repack takes all three stores, and " + (
                f"{', '.join(seen.away)} does not list everything" if seen.away else "one is being replaced"
            )
        if dry_run or report.put_off:
            return seen
        done = await Repack(self._stores, self._keyring, self._clock, self._progress).run(plan, heads)
        report.packs, report.revised, report.left, report.put_off = done.packs, done.revised, done.left, done.stopped
        report.copied_bytes = done.copied * copies
        # Stopped half-way, some manifest still names them: a later run goes on.
        report.won_bytes = 0 if done.stopped else sum(e.dead for e in plan.packs if e.pack in done.packs) * copies
        return await self._surveyor.look()

    # --- marks ---

    async def _put(self, mark: Mark) -> None:
        """On two stores, or nothing follows from it."""
        body = encode(mark, self._keyring, bytes.fromhex(self._clock.new_id())[:NONCE_BYTES])
        placed = 0
        for store in self._stores.values():
            placed += isinstance(await create_confirmed(store, mark.key, body), Stored)
        if placed < _QUORUM:
            raise Unavailable(f"{mark.key} could not be put on two stores", hint="nothing was deleted; try again later")

    def _new_id(self, now: datetime) -> str:
        return f"{now:%Y%m%dT%H%M%SZ}-{self._clock.new_id()[:8]}"

    def _say(self, report: PruneReport, seen: Looked) -> None:
        if seen.verdict.blocked:
            report.notes.append(f"packs and segments stay: {seen.verdict.blocked}")
        if seen.verdict.held_by_epoch:
            report.notes.append(
                f"{seen.verdict.held_by_epoch} bytes of log stay because the DRaaS server's epoch began before them: "
                "they go when it has begun a new one"
            )
        report.notes += [f"{name} does not list everything ({why}): it keeps all" for name, why in seen.away.items()]


def _is_over(sentence: Mark, now: datetime) -> bool:
    """No run deletes by it any more."""
    return now - sentence.at >= _OVER_AFTER


def _replaced(marks: Sequence[Mark]) -> list[Mark]:
    """Those of which another has the same age and only some of the keys: the rest was spared since (`_carry_out`)."""
    return [mark for mark in marks if any(other.at == mark.at and other.keys < mark.keys for other in marks)]


def _manifest_bytes(survey: Survey, names: Iterable[str]) -> dict[str, int]:
    return {name: max(survey.listed["snapshots"][snapshot_key(name)].values()) for name in names}


def _alike(survey: Survey) -> dict[str, int]:
    """Sizes of the packs of which all copies that are listed have the same."""
    found = {key: set(sizes.values()) for key, sizes in survey.listed["packs"].items()}
    return {key: sizes.pop() for key, sizes in found.items() if len(sizes) == 1}


def _bytes(survey: Survey, keys: Sequence[str]) -> int:
    return sum(sum(survey.listed[key.partition("/")[0]].get(key, {}).values()) for key in keys)
