"""The vault on its stores: which snapshots there are, their manifests, their chunks.

A listing is a hint (invariant 2): it is the union of what the stores list, a store that does not answer is said, and
whether a pack is there is asked by reading the end of it: what is cut short is no copy.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, Protocol, TypeVar

from threefold.kernel.clock import Clock
from threefold.kernel.errors import Damaged, NotThere, Unavailable
from threefold.kernel.keys import Keyring
from threefold.stores.reads import Reader
from threefold.stores.store import ABSENT, Listed, ObjectStore, Unknown
from threefold.vault import manifest as manifests
from threefold.vault import pack as packs
from threefold.vault.chunker import ChunkNamer
from threefold.vault.manifest import Manifest, Summary
from threefold.vault.marks import read_marks
from threefold.vault.pack import Place
from threefold.vault.presence import Presence, presence_of
from threefold.vault.revisions import by_original, original
from threefold.vault.uploads import COPIES, PATIENCE_SECONDS, Uploads

S = TypeVar("S")
R = TypeVar("R")

_AT_ONCE: Final = 16
_STORES: Final = 3
_ASK_AGAIN_S: Final = (0.5, 2.0, 8.0)
_LOOK_AGAIN_S: Final = 60.0
_KNOWN_SNAPSHOTS: Final = 2  # older ones add next to nothing: what is unchanged is in the newest


@dataclass(frozen=True, slots=True)
class Endangered:
    """``known`` False: stores that do not answer leave it open."""

    why: str
    known: bool = True


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The snapshots that are there, oldest first, each by its latest revision that reads (vault/revisions.py).

    ``found_on`` names the stores that list each one.
    """

    summaries: tuple[Summary, ...]
    found_on: Mapping[str, frozenset[str]]
    damaged: tuple[str, ...]  # ids of which no readable copy is left, nor one of another revision
    notes: tuple[str, ...]


class NeededLog(Protocol):
    """The log that a snapshot needs (protect/needed_log.py)."""

    def needs(self, key: str) -> bool: ...

    async def presence(self, *, enough: int) -> Mapping[str, Presence]: ...


class Vault:
    """Snapshots on the stores in ``stores`` (all of them, or the one that is restored from)."""

    def __init__(
        self,
        stores: Mapping[str, ObjectStore],
        keyring: Keyring,
        clock: Clock,
        *,
        note: Callable[[str], None] = lambda _: None,
        read_patience_seconds: float = 60.0,
    ) -> None:
        self.stores = stores
        self.keyring = keyring
        self.clock = clock
        self.note = note
        self.reader = Reader(stores, clock, note, patience_seconds=read_patience_seconds)
        self._wanted: set[str] = set()  # snapshots, by the ids under which they were taken
        self._others: tuple[float, list[dict[bytes, Place]], Unavailable | None] | None = None
        self._not_given: set[str] = set()  # packs that could not be read, a store being away
        self._looking = asyncio.Lock()
        self._opener = packs.PackOpener(keyring)
        self._namer = ChunkNamer(keyring)

    async def catalogue(self) -> Catalogue:
        """Raises Unavailable where no store answers."""
        found_on, notes = await self._listed(manifests.PREFIX)
        latest: dict[str, Summary] = {}
        damaged = []
        ids = sorted(key.rpartition("/")[2] for key in found_on)
        for snapshot, summary in zip(ids, await _each(ids, self._summary), strict=True):
            if isinstance(summary, Summary):
                latest[original(snapshot)] = summary
            else:
                damaged.append(snapshot)
                notes.append(f"snapshot {snapshot}: {summary.message}")
        lost = tuple(snapshot for snapshot in damaged if original(snapshot) not in latest)
        where = {key.rpartition("/")[2]: frozenset(names) for key, names in found_on.items()}
        return Catalogue(tuple(latest.values()), where, lost, tuple(notes))

    async def manifest(self, snapshot: str) -> Manifest:
        """Raises NotThere, Damaged, Unavailable."""

        async def accept(data: bytes) -> Manifest:
            return await asyncio.to_thread(manifests.decode, snapshot, data, self.keyring)

        self._wanted.add(original(snapshot))
        return await self.reader.read(manifests.snapshot_key(snapshot), accept)

    async def restorable(self, snapshot: str) -> Manifest:
        """Another revision where that one does not read. Raises NotThere, Damaged, Unavailable."""
        try:
            return await self.manifest(snapshot)
        except (Damaged, NotThere, Unavailable) as error:
            listed, _ = await self._listed(manifests.PREFIX)
            revisions = by_original(key.rpartition("/")[2] for key in listed).get(original(snapshot), [])
            for other in reversed([each for each in revisions if each != snapshot]):
                with contextlib.suppress(Damaged, NotThere, Unavailable):
                    manifest = await self.manifest(other)
                    self.note(f"snapshot {original(snapshot)} is read by its revision {other}: {error.message}")
                    return manifest
            raise

    async def publish(self, manifest: Manifest) -> tuple[int, Mapping[str, Sequence[str]]]:
        """Put the manifest on all stores, its packs and WAL being there; its bytes, and who lacks it."""
        body = await asyncio.to_thread(manifests.encode, manifest, self.keyring, self.clock.new_id())
        async with Uploads(self.stores, self.clock) as uploads:
            await uploads.put(manifests.snapshot_key(manifest.summary.id), body)
            await uploads.finish()
        return len(body), uploads.missing

    async def known_chunks(self) -> dict[bytes, Place]:
        """Chunks that need not be uploaded again: of the newest snapshots, and of an attempt that was interrupted.

        Only chunks in packs that are on two stores, which is asked, not assumed.
        """
        found_on, _ = await self._listed(manifests.PREFIX)
        known: dict[bytes, Place] = {}
        revisions = by_original(key.rpartition("/")[2] for key in found_on)
        newest = [manifests.snapshot_key(revisions[each][-1]) for each in sorted(revisions)[-_KNOWN_SNAPSHOTS:]]
        for key in newest:
            try:
                known |= (await self.manifest(key.rpartition("/")[2])).known()
            except (Damaged, NotThere, Unavailable) as error:
                self.note(f"nothing is reused of {key}: {error.message}")
        named = {place.pack for place in known.values()}
        # From the newest snapshot's second on: behind the second, an id is chance, and orders nothing.
        since = newest[-1].rpartition("/")[2].partition("-")[0] if newest else ""
        orphans, _ = await self._listed(packs.PREFIX, after=packs.pack_key(since) if since else "")
        for pack, places in zip(orphans, await _each(list(orphans), self._index_of(orphans)), strict=True):
            if pack.rpartition("/")[2] not in named:
                known = places | known
        doomed = (await read_marks(self.stores, self.keyring)).doomed()
        known = {name: place for name, place in known.items() if packs.pack_key(place.pack) not in doomed}
        presence = await self.presence(packs.ends(known.values()), enough=COPIES)
        return {name: place for name, place in known.items() if len(presence[place.pack].on) >= COPIES}

    async def unaffected(self, manifest: Manifest, log: NeededLog) -> None:
        """After `publish`: nobody is deleting what it needs. Raises Unavailable where that is not so, or not known.

        Withdrawn only where it is known that something goes: another prune may rely on a manifest that stands, and
        silence is no reason to take a good one away. The order is what counts: vault/marks.py has the argument.
        """
        trouble = await self.endangered(manifest, log)
        if not trouble:
            return
        key = manifests.snapshot_key(manifest.summary.id)
        if not trouble.known:
            raise Unavailable(
                f"{trouble.why}, so {key} is not known to be a recovery point",
                hint="it stays where it is: `threefold verify` tells; or take another",
            )
        held = await self._withdrawn(key)
        also = f"; {', '.join(held)} may still hold its manifest" if held else ""
        raise Unavailable(f"{trouble.why}{also}", hint="take it again: what is missing is uploaded anew")

    async def _withdrawn(self, key: str) -> list[str]:
        """Delete it everywhere; the stores that may hold it yet. Filling would spread what one of them kept."""
        held: list[str] = []
        clean = 0
        for pause in (*_ASK_AGAIN_S, None):
            await asyncio.gather(*(store.delete([key]) for store in self.stores.values()))
            # All are asked, and once more when it is gone: a filling that was under way may bring it back.
            found = await asyncio.gather(*(store.read(key, length=1) for store in self.stores.values()))
            held = [name for name, answer in zip(self.stores, found, strict=True) if answer is not ABSENT]
            clean = 0 if held else clean + 1
            if clean > 1 or pause is None:
                break
            await self.clock.sleep(pause)
        return held

    async def endangered(self, manifest: Manifest, log: NeededLog | None = None) -> Endangered | None:
        """Why what it needs may be going at this moment; None where it is sure to stay.

        Without ``log`` only its packs are asked about: a revision's log is its original's, which was asked about.
        Who does not answer has not said anything (invariant 7), and is asked again, for as long as an upload waits:
        whatever is sentenced meanwhile has met the manifest.
        """
        until = self.clock.monotonic() + PATIENCE_SECONDS
        while True:
            found = await self._endangered(manifest, log)
            if found is None or found.known or self.clock.monotonic() >= until:
                return found
            await self.clock.sleep(_ASK_AGAIN_S[-1])

    async def _endangered(self, manifest: Manifest, log: NeededLog | None) -> Endangered | None:
        marks = await read_marks(self.stores, self.keyring)
        going = marks.sentenced()
        if marks.unreadable_sentence or not going.isdisjoint(manifest.pack_keys()):
            return Endangered("`threefold prune` was deleting packs that this snapshot shares with earlier ones")
        if log is not None and any(map(log.needs, going)):
            return Endangered("`threefold prune` was deleting the log that this snapshot begins with")
        if len(marks.listed) < COPIES or marks.silent_sentence:
            return Endangered("too few stores tell what is being deleted just now", known=False)
        # A sentence that was carried out and taken back since: what it deleted is absent now.
        presence = await self.presence(packs.ends(manifest.places), enough=COPIES)
        trouble = _too_few(presence, "packs", needed=COPIES)
        if trouble is None and log is not None:
            # One copy is copied on by the next scrub, and a manifest that stands keeps it from going as well.
            trouble = _too_few(await log.presence(enough=COPIES), "segments of the log", needed=1)
        return trouble

    async def presence(self, reaches: Mapping[str, int], *, enough: int | None = None) -> dict[str, Presence]:
        """On which stores each pack is, as far as it is needed: ``reaches`` has the end of its last chunk (`ends`).

        Asked by reading the bytes before that end: a copy that was cut short does not have them. ``enough``:
        vault/presence.py.
        """

        async def has(store: ObjectStore, pack: str) -> bool | Unknown:
            start = reaches[pack] - packs.TAG_BYTES
            answer = await store.read(packs.pack_key(pack), start=start, length=packs.TAG_BYTES)
            return answer if isinstance(answer, Unknown) else isinstance(answer, bytes) and packs.ends_as_chunk(answer)

        return await presence_of(self.stores, sorted(reaches), has, enough=enough)

    async def chunks(self, wanted: Sequence[tuple[bytes, Place]]) -> list[bytes]:
        """The plain bytes of neighbours in one pack, in one read.

        Raises Damaged or NotThere when no store has a good copy, neither there nor where another revision of a
        snapshot that was read here has it: a pack may have been written anew, and be gone, since its manifest was read.
        Raises Unavailable where it is not known (invariant 7).
        """
        pack = wanted[0][1].pack
        if pack in self._not_given:  # its readers were patient once
            with contextlib.suppress(Damaged, NotThere, Unavailable):
                return [await self._elsewhere(*one, Unavailable(f"pack {pack} cannot be read now")) for one in wanted]
        try:
            return await self._neighbours(wanted)
        except Unavailable as error:
            self._not_given.add(pack)
            return [await self._elsewhere(*one, error) for one in wanted]
        except (Damaged, NotThere) as error:
            if len(wanted) == 1:
                return [await self._elsewhere(*wanted[0], error)]
        # Every copy has a damaged chunk among these, but perhaps not the same one.
        return list(chain.from_iterable([await self.chunks([one]) for one in wanted]))

    async def _neighbours(self, wanted: Sequence[tuple[bytes, Place]]) -> list[bytes]:
        pack, start = wanted[0][1].pack, wanted[0][1].offset
        last = wanted[-1][1]

        def opened(data: bytes) -> list[bytes]:
            view = memoryview(data)
            return [
                self._open(name, place, bytes(view[place.offset - start :][: place.stored])) for name, place in wanted
            ]

        async def accept(data: bytes) -> list[bytes]:
            return await asyncio.to_thread(opened, data)

        return await self.reader.read(
            packs.pack_key(pack), accept, start=start, length=last.offset + last.stored - start
        )

    async def _elsewhere(self, name: bytes, place: Place, error: Damaged | NotThere | Unavailable) -> bytes:
        """One chunk by another revision of its snapshot. Raises ``error`` if none has it, Unavailable if one may."""
        async with self._looking:
            now = self.clock.monotonic()
            if self._others is None or now - self._others[0] >= _LOOK_AGAIN_S:
                self._others = now, *await self._revisions()
            _, others, unknown = self._others
        for known in others:
            there = known.get(name)
            if there is not None and there.pack != place.pack:
                try:
                    return (await self._neighbours([(name, there)]))[0]
                except Unavailable as silent:
                    unknown = silent
                except (Damaged, NotThere):
                    continue
        raise unknown or error

    async def _revisions(self) -> tuple[list[dict[bytes, Place]], Unavailable | None]:
        """Where the chunks of the snapshots that were read here lie by their revisions, the latest first.

        And why there may be others.
        """
        found = []
        unknown: Unavailable | None = None
        try:
            listed, silent = await self._listed(manifests.PREFIX)
        except Unavailable as error:
            return [], error
        if len(self.stores) - len(silent) < min(COPIES, len(self.stores)):
            unknown = Unavailable("; ".join(silent))
        wanted = set(self._wanted)
        for snapshot in sorted((key.rpartition("/")[2] for key in listed), reverse=True):
            if original(snapshot) in wanted:
                try:
                    found.append((await self.manifest(snapshot)).known())
                except Unavailable as error:
                    unknown = error
                except (Damaged, NotThere):
                    continue
        return found, unknown

    async def bad_chunks(self, store: str, pack: str, chunks: Mapping[bytes, Place]) -> set[bytes] | None | Unavailable:
        """Of one store's copy of a pack, the chunks that do not open to what they are named after. None: absent."""

        def bad(data: bytes) -> set[bytes]:
            view = memoryview(data)
            return {
                name
                for name, place in chunks.items()
                if not self._opens(name, place, bytes(view[place.offset :][: place.stored]))
            }

        answer = await self.stores[store].read(packs.pack_key(pack))
        if isinstance(answer, Unknown):
            return Unavailable(f"{store} does not answer ({answer.reason})")
        return await asyncio.to_thread(bad, answer) if isinstance(answer, bytes) else None

    def _open(self, name: bytes, place: Place, sealed: bytes) -> bytes:
        """By key and by name: what whoever wrote the pack mixed up is found as well."""
        plain = self._opener.chunk(name, place, sealed)
        if not self._namer.is_named(plain, name):
            raise Damaged(f"a chunk of pack {place.pack} is not what it is named after")
        return plain

    def _opens(self, name: bytes, place: Place, sealed: bytes) -> bool:
        try:
            self._open(name, place, sealed)
        except Damaged:
            return False
        return True

    async def listing(self, store: ObjectStore, prefix: str, *, after: str = "") -> AsyncIterator[Listed]:
        """All of one store's objects under ``prefix``. Raises Unavailable."""
        while True:
            page = await store.list(prefix, after=after)
            if isinstance(page, Unknown):
                raise Unavailable(f"{store.name} does not list its {prefix} ({page.reason})")
            for listed in page.objects:
                yield listed
            if page.last or not page.objects:
                return
            after = page.objects[-1].key

    async def _listed(self, prefix: str, *, after: str = "") -> tuple[dict[str, dict[str, int]], list[str]]:
        """key → store → size, of all stores that answer."""
        found: dict[str, dict[str, int]] = {}
        notes: list[str] = []

        async def ask(name: str) -> None:
            try:
                async for listed in self.listing(self.stores[name], prefix, after=after):
                    found.setdefault(listed.key, {})[name] = listed.size
            except Unavailable as error:
                notes.append(error.message)

        await _each(list(self.stores), ask)
        if len(notes) == len(self.stores):
            raise Unavailable(
                f"no store lists its {prefix}: {'; '.join(notes)}", hint="check the network, then `threefold check`"
            )
        return found, notes

    async def _summary(self, snapshot: str) -> Summary | Damaged | NotThere | Unavailable:
        length = manifests.SUMMARY_READ_BYTES

        async def accept(data: bytes) -> Summary | int:
            return manifests.decode_summary(snapshot, data, self.keyring)

        try:
            answer = await self.reader.read(manifests.snapshot_key(snapshot), accept, length=length)
            if isinstance(answer, int):
                answer = await self.reader.read(manifests.snapshot_key(snapshot), accept, length=answer)
            if isinstance(answer, int):
                return Damaged(f"the manifest of snapshot {snapshot} is cut short")
            return answer
        except (Damaged, NotThere, Unavailable) as error:
            return error

    def _index_of(self, sizes: Mapping[str, Mapping[str, int]]) -> Callable[[str], Awaitable[dict[bytes, Place]]]:
        async def index(key: str) -> dict[bytes, Place]:
            pack, size = key.rpartition("/")[2], max(sizes[key].values())
            start = max(0, size - packs.INDEX_READ_BYTES)

            async def accept(data: bytes) -> dict[bytes, Place]:
                return dict(self._opener.index(pack, data, size))

            try:
                return await self.reader.read(key, accept, start=start, length=size - start)
            except (Damaged, NotThere, Unavailable):
                return {}  # nothing of it is reused, that is all

        return index


def _too_few(presence: Mapping[str, Presence], what: str, *, needed: int) -> Endangered | None:
    """Known to be in danger where so many of three say that it is absent that fewer than ``needed`` can have it."""
    few = {key: found for key, found in sorted(presence.items()) if len(found.on) < COPIES}
    lost = [key for key, found in few.items() if len(found.absent) > _STORES - needed]
    if lost:
        return Endangered(f"{len(lost)} of its {what} went away while it was taken, {lost[0]} first")
    if few:
        why = f"of {len(few)} of its {what} it is not known whether they are on two stores, {next(iter(few))} first"
        return Endangered(why, known=False)
    return None


async def _each(items: Sequence[S], work: Callable[[S], Awaitable[R]]) -> list[R]:
    """``work`` on each, a few at a time, answers in order."""
    room = asyncio.Semaphore(_AT_ONCE)

    async def one(item: S) -> R:
        async with room:
            return await work(item)

    return list(await asyncio.gather(*map(one, items)))
