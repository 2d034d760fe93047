"""Writing what is live of sparse packs into new packs, and the manifests that name them as new revisions.

Nothing that stands is changed, and nothing is deleted here. The order makes every moment a safe one to die in:

1. Chunks are read from any store that gives them whole, opened, checked by name (a damaged copy is never copied: where
   no store has a good one, that pack stays as it is), and sealed into new packs under the key in force.
2. Each new pack is opened once more before it leaves, put on *every* store, and read back from there. Until the next
   step they are packs that nothing names, as an interrupted snapshot leaves them, and go as those do.
3. Each snapshot that names a pack of these gets a revision (vault/revisions.py): on every store, read back; then, as a
   new snapshot does, it looks whether a prune is deleting what it names (vault/marks.py), and stops where one may be.

From then on both revisions can be restored. Prune lets the earlier one go, and the old packs with it, in its two
phases: only once a later one is whole on every store that lists what it has, and after the grace period, so that what
reads the old packs now (a recovery, a snapshot under way that shares their chunks) comes to its end or is seen: who
published a manifest that names an old pack keeps it.

One store that is away puts a repack off: it is never urgent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from operator import itemgetter
from typing import Final

from threefold.kernel.clock import Clock
from threefold.kernel.errors import Damaged, NotThere, ThreefoldError, Unavailable
from threefold.kernel.keys import Keyring
from threefold.kernel.progress import Progress
from threefold.stores.store import ObjectStore, Unknown
from threefold.upkeep.sparse import RepackPlan
from threefold.vault import manifest as manifests
from threefold.vault import pack as packs
from threefold.vault.check import check_object
from threefold.vault.chunk_store import Vault
from threefold.vault.manifest import Manifest, snapshot_key
from threefold.vault.neighbours import neighbours
from threefold.vault.pack import PackBuilder, Place
from threefold.vault.revisions import revised_id
from threefold.vault.uploads import create_surely

_READS_AT_ONCE: Final = 3
_SENDS_AT_ONCE: Final = 2
_TRIES: Final = 3
_PAUSE_S: Final = 0.5
_PATIENCE_S: Final = 60.0


@dataclass(slots=True)
class Repacked:
    """What was done. ``stopped``: why not all of it; what was not done is done by a later run."""

    packs: list[str] = field(default_factory=list)  # written anew
    copied: int = 0  # bytes of new packs, on one store
    revised: dict[str, str] = field(default_factory=dict)  # snapshot → its new revision
    left: dict[str, str] = field(default_factory=dict)  # pack → why it stays as it is
    stopped: str = ""


@dataclass(slots=True)
class RepackReport:
    """Packs that are needed in small part only; bytes are those of all stores together."""

    packs: list[str] = field(default_factory=list)  # written anew, or that would be
    snapshots: list[str] = field(default_factory=list)  # that name them
    copied_bytes: int = 0  # into new packs; the old ones take their room until they are deleted
    won_bytes: int = 0  # when the old ones are
    locked_until: datetime | None = None  # some of what is replaced stays under a retention lock until then
    revised: dict[str, str] = field(default_factory=dict)  # snapshot → its new revision
    left: dict[str, str] = field(default_factory=dict)  # pack → why it stays as it is
    put_off: str = ""  # why not now, or not all


@dataclass(frozen=True, slots=True)
class _Chunk:
    name: bytes
    place: Place  # in the old pack
    compressed: bytes


class Repack:
    """One run over all of ``stores``."""

    def __init__(self, stores: Mapping[str, ObjectStore], keyring: Keyring, clock: Clock, progress: Progress) -> None:
        self._stores = stores
        self._keyring = keyring
        self._clock = clock
        self._progress = progress
        # Its own: one that has read manifests looks for lost chunks in all their revisions.
        self._vault = Vault(stores, keyring, clock, note=progress.note)
        self._moved: dict[Place, Place] = {}
        self._by_name: dict[bytes, Place] = {}
        self._builder = self._new_pack()
        self._sending: set[asyncio.Task[None]] = set()
        self._done = Repacked()

    async def run(self, plan: RepackPlan, named: Mapping[str, Manifest]) -> Repacked:
        """``named``: the manifests of ``plan.snapshots``. Does not raise for what stores do."""
        self._progress.step("repack", f"writing {len(plan.packs)} packs anew", total=plan.copied)
        try:
            await self._copy(plan, named)
            for snapshot in plan.snapshots:
                await self._revise(named[snapshot])
        except (Unavailable, Damaged, NotThere) as error:
            self._done.stopped = error.message
        finally:
            for task in self._sending:
                task.cancel()
            await asyncio.gather(*self._sending, return_exceptions=True)
        return self._done

    # --- the chunks ---

    async def _copy(self, plan: RepackPlan, named: Mapping[str, Manifest]) -> None:
        live = _live({each.pack for each in plan.packs}, named)
        for sparse in plan.packs:
            try:
                chunks = await self._read(sorted(live[sparse.pack].items()))
            except (Damaged, NotThere) as error:
                self._done.left[sparse.pack] = error.message
                self._progress.note(f"pack {sparse.pack} stays as it is: {error.message}")
                continue
            for chunk in chunks:
                await self._add(chunk)
            self._done.packs.append(sparse.pack)
            self._progress.advance(sparse.live)
        await self._send()
        while self._sending:
            await self._one_sent()

    async def _read(self, chunks: Sequence[tuple[Place, bytes]]) -> list[_Chunk]:
        """Of one pack: all of them whole, or Damaged or NotThere is raised."""
        room = asyncio.Semaphore(_READS_AT_ONCE)

        async def read(group: list[tuple[Place, bytes]]) -> list[_Chunk]:
            async with room:
                plain = await self._vault.chunks([(name, place) for place, name in group])
                return await asyncio.to_thread(
                    lambda: [
                        _Chunk(name, place, packs.compress(data))
                        for (place, name), data in zip(group, plain, strict=True)
                    ]
                )

        answers = await asyncio.gather(*map(read, neighbours(chunks, itemgetter(0))), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return [chunk for answer in answers if not isinstance(answer, BaseException) for chunk in answer]

    async def _add(self, chunk: _Chunk) -> None:
        place = self._by_name.get(chunk.name)
        if place is None:
            place = self._by_name[chunk.name] = self._builder.add(chunk.name, chunk.place.size, chunk.compressed)
        self._moved[chunk.place] = place
        if self._builder.full:
            await self._send()

    async def _send(self) -> None:
        if self._builder.empty:
            return
        builder, self._builder = self._builder, self._new_pack()
        while len(self._sending) >= _SENDS_AT_ONCE:
            await self._one_sent()
        key, body = packs.pack_key(builder.pack), await asyncio.to_thread(builder.finish)
        await asyncio.to_thread(check_object, key, body, self._keyring)
        self._done.copied += len(body)
        self._sending.add(asyncio.create_task(self._put(key, body)))

    async def _one_sent(self) -> None:
        done, self._sending = await asyncio.wait(self._sending, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    def _new_pack(self) -> PackBuilder:
        return PackBuilder(packs.new_pack_id(self._clock.now(), self._clock.new_id()), self._keyring)

    # --- the manifests ---

    async def _revise(self, manifest: Manifest) -> None:
        places = [self._moved.get(place, place) for place in manifest.places]
        if places == list(manifest.places):
            return  # the packs that it shares with others were left as they are
        snapshot = revised_id(manifest.summary.id, self._clock.new_id())
        revised = replace(manifest, summary=replace(manifest.summary, id=snapshot), places=places)
        body = await asyncio.to_thread(manifests.encode, revised, self._keyring, self._clock.new_id())
        if await asyncio.to_thread(manifests.decode, snapshot, body, self._keyring) != revised:
            raise Damaged(f"the revision of snapshot {manifest.summary.id} does not read as it was written")
        await self._put(snapshot_key(snapshot), body)
        # Never withdrawn: another prune may have let the earlier one go for it already. Where it is endangered, every
        # prune sees that for itself (upkeep/reach.py).
        trouble = await self._vault.endangered(revised)
        if trouble:
            raise Unavailable(trouble.why)
        self._done.revised[manifest.summary.id] = snapshot

    # --- both ---

    async def _put(self, key: str, body: bytes) -> None:
        """On every store, and read back there. Raises Unavailable, Damaged."""

        async def on(store: ObjectStore) -> None:
            await create_surely(store, key, body, self._clock, patience_seconds=_PATIENCE_S)
            for again in range(_TRIES):
                answer = await store.read(key)
                if not isinstance(answer, Unknown):
                    break
                await self._clock.sleep(_PAUSE_S * (1 + again))
            if isinstance(answer, Unknown):
                raise Unavailable(f"{store.name} does not give {key} back ({answer.reason})")
            if answer != body:
                raise Damaged(f"{store.name} does not give {key} back as it was put")

        answers = await asyncio.gather(*map(on, self._stores.values()), return_exceptions=True)
        trouble = [answer for answer in answers if isinstance(answer, BaseException)]
        if trouble:
            raise next((each for each in trouble if not isinstance(each, ThreefoldError)), trouble[0])


def _live(sparse: set[str], named: Mapping[str, Manifest]) -> dict[str, dict[Place, bytes]]:
    found: dict[str, dict[Place, bytes]] = {pack: {} for pack in sparse}
    for manifest in named.values():
        for name, place in zip(manifest.names, manifest.places, strict=True):
            if place.pack in sparse:
                found[place.pack][place] = name
    return found
