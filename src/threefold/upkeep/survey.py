"""What the stores hold, and what of it nothing needs: looked at before prune marks, and again before it deletes.

Nothing is believed for being listed, nor taken for lost because it was not: what would make another superfluous is
asked for by key (invariant 2), and a store that did not list everything is away (invariant 7).
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from threefold.kernel.clock import Clock
from threefold.kernel.errors import Damaged, NotThere, Refused, Unavailable
from threefold.kernel.keys import Keyring
from threefold.kernel.lsn import Lsn
from threefold.kernel.progress import Progress
from threefold.postgres.timeline import contains, parse_history
from threefold.quorum.keys import WAL, segment_start
from threefold.quorum.reader import Extent, expected_segments, read_extent
from threefold.stores.store import ObjectStore
from threefold.upkeep.listing import union
from threefold.upkeep.loss import wal_begin
from threefold.upkeep.reach import FORK_BYTES, Sizes, Survey, Verdict, decide_prune
from threefold.vault import pack as packs
from threefold.vault.chunk_store import Vault
from threefold.vault.manifest import Manifest, Summary, decode, snapshot_key
from threefold.vault.marks import read_marks
from threefold.vault.presence import has_one, presence_of
from threefold.vault.retention import Policy
from threefold.vault.revisions import by_original

PREFIXES: Final = ("snapshots", "packs", WAL)  # in the order in which prune deletes them on a store
_QUORUM: Final = 2
_ALL: Final = 3
_MANIFESTS_AT_ONCE: Final = 8  # one by one, a hundred of them are as many round trips


@dataclass(frozen=True, slots=True)
class Looked:
    """What the stores hold, and what of it nothing needs; ``away``: stores that did not list everything."""

    survey: Survey
    verdict: Verdict
    away: Mapping[str, str]


class Surveyor:
    """Looks, as often as it is asked: what never changes is read once."""

    def __init__(
        self,
        stores: Mapping[str, ObjectStore],
        keyring: Keyring,
        clock: Clock,
        progress: Progress,
        policy: Policy,
        *,
        fork_bytes: int = FORK_BYTES,
    ) -> None:
        self.manifests: dict[str, Manifest] = {}  # all that were read: they never change
        self._stores = stores
        self._keyring = keyring
        self._clock = clock
        self._progress = progress
        self._policy = policy
        self._fork_bytes = fork_bytes
        self._vault = Vault(stores, keyring, clock)
        self._sure: set[str] = set()  # snapshots of which the packs were asked for

    async def look(self, *, own: str = "") -> Looked:
        """Raises Unavailable where fewer than two stores list everything. ``own``: the sentence of this run."""
        self._progress.step("prune-survey", "looking what the stores hold", unit="objects")
        # The lists of snapshots come first: what is published from here on is met by the next look (vault/marks.py).
        silent: dict[str, str] = {}
        listed = {prefix: await self._list(prefix, silent) for prefix in PREFIXES}
        if len(self._stores) - len(silent) < _QUORUM:
            why = "; ".join(f"{name}: {reason}" for name, reason in sorted(silent.items()))
            raise Unavailable(
                f"too few stores list what they hold ({why})", hint="nothing was deleted; try again later"
            )
        extent = await read_extent(self._stores, self._keyring, self._clock, self._progress.note)
        summaries, packs_of, unreadable = await self._read_manifests(listed["snapshots"])
        # After the lists: what was put since its author looked is listed here only once its sentence stood.
        sentenced = await self._sentenced_by_others(own)
        size = extent.format.segment_bytes
        log_going_to = max((at + size for key in sentenced if (at := segment_start(key, size)) is not None), default=0)
        self._sure -= {name for names in by_original(packs_of).values() if len(names) > 1 for name in names}
        whole = self._stores.keys() - silent.keys()
        unusable = {name: why for name, summary in summaries.items() if (why := _unusable(summary, extent))}
        endangered = {
            name
            for name, keys in packs_of.items()
            if _short(keys, listed["packs"], whole)
            or not sentenced.isdisjoint({*keys, snapshot_key(name)})
            or wal_begin(summaries[name]) < log_going_to
        }
        survey = Survey(
            summaries,
            packs_of,
            unreadable,
            unusable,
            listed,
            newest_epoch_start(extent),
            extent.format.segment_bytes,
            behind=_behind(packs_of, listed, whole),
            endangered=endangered,
        )
        begin = min(map(wal_begin, summaries.values()), default=extent.end)
        return await self._judged(survey, list(expected_segments(extent, begin)), silent)

    async def _sentenced_by_others(self, own: str) -> frozenset[str]:
        marks = await read_marks(self._stores, self._keyring)
        if marks.unreadable_sentence:
            raise Refused(
                "what another prune is deleting does not read here: "
                + ", ".join(key for key in marks.unreadable if key.endswith("-now")),
                hint="nothing was deleted; if this stays, and no prune runs anywhere, delete that object by hand",
            )
        if len(marks.listed) < _QUORUM or marks.silent_sentence:
            raise Unavailable("too few stores tell what is being deleted", hint="nothing was deleted; try again later")
        return frozenset[str]().union(*(each.keys for each in marks.sentences if each.key != own))

    async def _judged(self, survey: Survey, segments: Sequence[tuple[str, ...]], silent: Mapping[str, str]) -> Looked:
        """What makes others superfluous is asked for by key: a listing alone is not believed (invariant 2)."""
        while True:
            verdict = decide_prune(survey, self._policy, self._clock.now(), fork_bytes=self._fork_bytes)
            asked = [name for name in verdict.kept if name not in self._sure and name not in survey.unusable]
            lost, doubtful = await self._missing(asked)
            no_log = await self._without_log(asked, segments, survey)
            behind = await self._not_read_everywhere(set(asked) & set(verdict.heads), survey, silent)
            doubtful |= no_log
            self._sure |= set(asked) - lost - doubtful - set(survey.endangered)
            doubtful -= set(survey.endangered)
            if not (lost or doubtful or behind):
                return Looked(survey, verdict, silent)
            survey = replace(
                survey,
                unusable={**survey.unusable, **dict.fromkeys(lost, "a pack of it is on no store")},
                endangered={*survey.endangered, *doubtful},
                behind={*survey.behind, *behind},
            )

    async def _missing(self, names: Iterable[str]) -> tuple[set[str], set[str]]:
        """Those of which a pack is on no store; and those of which one is not known to be on two (invariant 7)."""
        places = {name: packs.ends(self.manifests[name].places) for name in names}
        reaches: dict[str, int] = {}
        for ends in places.values():
            reaches |= {pack: max(end, reaches.get(pack, 0)) for pack, end in ends.items()}
        presence = await self._vault.presence(reaches, enough=_QUORUM)
        lost = {name for name, ends in places.items() if any(len(presence[pack].absent) >= _ALL for pack in ends)}
        few = {name for name, ends in places.items() if any(len(presence[pack].on) < _QUORUM for pack in ends)}
        return lost, few - lost

    async def _without_log(self, names: Iterable[str], segments: Sequence[tuple[str, ...]], survey: Survey) -> set[str]:
        """Those of whose log, from start to stop, some is not known to be on two stores. Lost or not: none goes for it.

        The first part of each is asked for by key, and what two stores do not list: whose log goes loses the first.
        """
        size, listed = survey.segment_bytes, survey.listed[WAL]
        starts = [segment_start(each[0], size) or 0 for each in segments]
        needed: dict[str, Sequence[tuple[str, ...]]] = {}
        for name in names:
            summary = survey.summaries[name]
            first = bisect_right(starts, wal_begin(summary) - size)
            needed[name] = segments[first : bisect_left(starts, summary.stop)]
        asked = {parts[0] for parts in needed.values() if parts}
        asked |= {each for parts in needed.values() for each in parts if _copies(each, listed) < _QUORUM}
        presence = await presence_of(self._stores, sorted(asked), has_one, enough=_QUORUM)
        few = {each for each, found in presence.items() if len(found.on) < _QUORUM}
        return {name for name, parts in needed.items() if not few.isdisjoint(parts)}

    async def _not_read_everywhere(self, heads: set[str], survey: Survey, silent: Mapping[str, str]) -> set[str]:
        """Of revisions that would replace another, those that some store that lists them does not give back whole."""
        several = {name for names in by_original(survey.summaries).values() if len(names) > 1 for name in names}
        stores = [store for name, store in self._stores.items() if name not in silent]

        async def reads(name: str) -> bool:
            for store in stores:
                body = await store.read(snapshot_key(name))
                if not isinstance(body, bytes):
                    return False
                try:
                    await asyncio.to_thread(decode, name, body, self._keyring)
                except Damaged:
                    return False
            return True

        return {name for name in sorted(heads & several - set(survey.behind)) if not await reads(name)}

    async def _list(self, prefix: str, silent: dict[str, str]) -> Sizes:
        return {seen.key: seen.sizes async for seen in union(self._stores, prefix, self._clock, silent)}

    async def _read_manifests(self, listed: Sizes) -> tuple[dict[str, Summary], dict[str, frozenset[str]], list[str]]:
        unreadable = []
        names = [key.rpartition("/")[2] for key in listed]
        room = asyncio.Semaphore(_MANIFESTS_AT_ONCE)

        async def read(name: str) -> None:
            async with room:
                try:
                    self.manifests[name] = await self._vault.manifest(name)
                except NotThere:
                    pass  # deleted since it was listed
                except (Damaged, Unavailable):
                    unreadable.append(name)

        await asyncio.gather(*(read(name) for name in names if name not in self.manifests))
        found = {name: self.manifests[name] for name in names if name in self.manifests}
        return (
            {name: manifest.summary for name, manifest in found.items()},
            {name: frozenset(manifest.pack_keys()) for name, manifest in found.items()},
            unreadable,
        )


def newest_epoch_start(extent: Extent) -> Lsn:
    """The first byte of the newest epoch whose slot 0 is on two stores."""
    return extent.found.spans[-1].start if extent.found.spans else extent.start


def _unusable(summary: Summary, extent: Extent) -> str:
    """Why it cannot be recovered from, whatever packs it has; empty where it can."""
    history = parse_history(extent.timeline, extent.history_files.get(extent.timeline))
    if summary.system_identifier != extent.system_identifier:
        return "it is of another database cluster"
    if summary.stop > extent.end or not contains(history, summary.timeline, summary.stop):
        return "the log does not go through it"
    return ""


def _short(needed: Iterable[str], listed: Sizes, stores: set[str]) -> bool:
    """Fewer than two of ``stores`` list some of it. Not that it is lost: a store may be away, or list what was."""
    return any(len(stores & listed.get(key, {}).keys()) < _QUORUM for key in needed)


def _copies(one_of: Iterable[str], listed: Sizes) -> int:
    return len({store for key in one_of for store in listed.get(key, ())})


def _behind(packs_of: Mapping[str, frozenset[str]], listed: Mapping[str, Sizes], stores: set[str]) -> set[str]:
    """Of snapshots with several revisions, those that some of ``stores`` does not list whole."""
    several = [name for names in by_original(packs_of).values() if len(names) > 1 for name in names]
    return {
        name
        for name in several
        if any(
            not _on_all(listed[key.partition("/")[0]].get(key, {}), stores)
            for key in (snapshot_key(name), *packs_of[name])
        )
    }


def _on_all(sizes: Mapping[str, int], stores: set[str]) -> bool:
    return stores <= sizes.keys() and len({sizes[name] for name in stores}) == 1
