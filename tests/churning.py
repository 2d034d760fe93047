"""A database that changes, its snapshots in three memory stores, and what each of them has to give back.

here = await churning(chunks=12)
await here.take({0, 3})         # chunks 0 and 3 changed since
await here.prune(DAY)           # a day later
await here.whole(NAMES[:2])     # every snapshot that has to be there is, byte for byte, from these two stores
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar

from tests.stored import KEYRING, LOG, NAMES, SEGMENT, T0, Stored, stored, unaffected
from threefold.kernel.errors import Unavailable
from threefold.kernel.keys import Keyring
from threefold.kernel.lsn import Lsn
from threefold.kernel.progress import Silent
from threefold.stores.memory import MemoryStore
from threefold.stores.store import Gone, Made, ObjectStore, Page, Unknown
from threefold.upkeep.prune import Prune, PruneReport
from threefold.upkeep.sparse import Thresholds
from threefold.vault import pack as packs
from threefold.vault.chunk_store import Vault
from threefold.vault.chunker import ChunkNamer
from threefold.vault.manifest import File, Manifest, Summary, new_snapshot_id
from threefold.vault.pack import PackBuilder, Place
from threefold.vault.retention import Policy, kept
from threefold.vault.revisions import original

T = TypeVar("T")
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
# A small chunk wins less than a manifest takes: here that is no reason.
EAGER = Thresholds(below=0.7, least=-(2**40))
_PER_PACK = 4
_CHUNK_BYTES = 400


class Passing:
    """A clock that goes on by what is slept, and by hand."""

    def __init__(self, seed: int = 1) -> None:
        self.at = T0
        self._chance = random.Random(seed)

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return (self.at - T0).total_seconds()

    async def sleep(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)
        await asyncio.sleep(0)

    def random(self) -> float:
        return self._chance.random()

    def new_id(self) -> str:
        return f"{self._chance.getrandbits(128):032x}"


@dataclass
class Life:
    """Of one process: so many requests until it is killed; None: it lives. ``done``: the last one still took effect."""

    requests: int | None = None
    done: bool = False
    died: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def over(self) -> bool:
        return self.requests is not None and self.requests < 0

    async def of(self, work: Coroutine[None, None, T]) -> T | None:
        """What it comes to; None: it was killed on the way."""
        task, death = asyncio.ensure_future(work), asyncio.ensure_future(self.died.wait())
        await asyncio.wait({task, death}, return_when=asyncio.FIRST_COMPLETED)
        death.cancel()
        if not self.over:
            return await task
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return None

    def killed(self) -> None:
        """No request of it does anything any more."""
        self.died.set()
        raise asyncio.CancelledError


class Mortal(MemoryStore):
    """A memory store as seen by a process that dies."""

    def __init__(self, of: MemoryStore, life: Life) -> None:
        super().__init__(of.name)
        self.objects, self.locks, self._clock = of.objects, of.locks, of._clock
        self._life = life

    def _before(self) -> None:
        if self._life.requests is not None:
            self._life.requests -= 1
            if self._life.over and not (self._life.done and self._life.requests == -1):
                self._life.killed()

    def _after(self) -> None:
        if self._life.over:
            self._life.killed()

    async def create(self, key: str, body: bytes) -> Made | Unknown:
        await asyncio.sleep(0)
        self._before()
        made = await super().create(key, body)
        self._after()
        return made

    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
        await asyncio.sleep(0)
        self._before()
        self._after()
        return await super().read(key, start=start, length=length)

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> Page | Unknown:
        await asyncio.sleep(0)
        self._before()
        self._after()
        return await super().list(prefix, after=after, limit=limit)

    async def delete(self, keys: Sequence[str]) -> None | Unknown:
        for key in keys:  # a provider deletes one after the other, and may be left in the middle
            await asyncio.sleep(0)
            self._before()
            await super().delete([key])
            self._after()
        return None


class Away(MemoryStore):
    """Answers nothing."""

    async def create(self, key: str, body: bytes) -> Made | Unknown:
        return Unknown("it is away")

    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
        return Unknown("it is away")

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> Page | Unknown:
        return Unknown("it is away")

    async def delete(self, keys: Sequence[str]) -> None | Unknown:
        return Unknown("it is away")


@dataclass
class Churning:
    """``needed``: what was reported as taken, and what no prune was ever asked to let go."""

    here: Stored
    database: list[bytes]
    clock: Passing = field(default_factory=Passing)
    keyring: Keyring = KEYRING
    policy: Policy = field(default_factory=lambda: Policy(pitr=2 * DAY, grace=DAY))
    away: frozenset[str] = frozenset()
    contents: dict[str, list[bytes]] = field(default_factory=dict)  # snapshot → its chunks in order
    drafted: dict[str, Summary] = field(default_factory=dict)
    needed: set[str] = field(default_factory=set)
    chance: random.Random = field(default_factory=lambda: random.Random(5))

    def stores(self, life: Life | None = None) -> dict[str, ObjectStore]:
        return {
            name: Away(name) if name in self.away else Mortal(store, life or Life())
            for name, store in self.here.stores.items()
        }

    def vault(self, names: Collection[str] = NAMES) -> Vault:
        stores = {name: store for name, store in self.here.stores.items() if name in names}
        return Vault(stores, self.keyring, self.clock, read_patience_seconds=0.5)

    def change(self, places: Iterable[int]) -> None:
        for place in places:
            self.database[place % len(self.database)] = self.chance.randbytes(_CHUNK_BYTES)

    async def take(self, changed: Iterable[int] = (), *, life: Life | None = None, pause: int = 0) -> str | None:
        """As protect/snapshot.py does, without a PostgreSQL; None: it died, or was withdrawn."""
        self.change(changed)
        now = self.database.copy()
        life = life or Life()
        vault = Vault(self.stores(life), self.keyring, self.clock, read_patience_seconds=0.5)

        async def take() -> Manifest:
            manifest = await self._drafted(vault, now, pause)
            await vault.publish(manifest)
            await unaffected(vault, manifest)
            return manifest

        try:
            manifest = await life.of(take())
        except Unavailable:
            return None
        if manifest is None:
            return None
        name = manifest.summary.id
        self.needed.add(name)
        return name

    async def _drafted(self, vault: Vault, now: Sequence[bytes], pause: int) -> Manifest:
        namer = ChunkNamer(self.keyring)
        at = self.clock.now()
        name = new_snapshot_id(at, self.clock.new_id())
        self.contents[name] = list(now)  # it may stand there although it was never reported
        known = await vault.known_chunks()
        for _ in range(pause):
            await asyncio.sleep(0)
        placed: dict[bytes, Place] = {}
        order = []
        builder = PackBuilder(packs.new_pack_id(at, self.clock.new_id()), self.keyring)
        bodies = []
        for plain in now:
            names = namer.names(plain)
            found = next((each for each in names if each in placed or each in known), None)
            order.append(found or names[0])
            if found is not None:
                placed.setdefault(found, known.get(found) or placed[found])
                continue
            placed[names[0]] = builder.add(names[0], len(plain), packs.compress(plain))
            if len(builder._records) == _PER_PACK:
                bodies.append((builder.pack, builder.finish()))
                builder = PackBuilder(packs.new_pack_id(at, self.clock.new_id()), self.keyring)
        if not builder.empty:
            bodies.append((builder.pack, builder.finish()))
        for pack, body in bodies:
            for store in vault.stores.values():
                await store.create(packs.pack_key(pack), body)
        numbers = {each: number for number, each in enumerate(placed)}
        end = len(self.here.wal)
        begin = Lsn(max(end - SEGMENT - 500, 0))
        summary = Summary(name, "", LOG, 18, SEGMENT, 1, begin, Lsn(begin + 100), at, at, 0, 1)
        self.drafted[name] = summary
        file = File("base/1", 0o600, len(now) * _CHUNK_BYTES, 0, 0, tuple(numbers[each] for each in order))
        return Manifest(summary, (file,), (), list(placed), list(placed.values()))

    async def prune(
        self,
        later: timedelta = timedelta(0),
        *,
        life: Life | None = None,
        dry_run: bool = False,
        **how: Thresholds | None,
    ) -> PruneReport | None:
        """None: it died."""
        self.clock.at += later
        needed = self._kept(self.needed) & self._kept(self.needed | self._there())
        life = life or Life()
        work = Prune(
            self.stores(life),
            self.keyring,
            self.clock,
            Silent(),
            self.policy,
            fork_bytes=SEGMENT,
            repack=how.get("repack", EAGER),
        )
        if not dry_run:
            self.needed &= needed
        try:
            return await life.of(work.run(dry_run=dry_run))
        except Unavailable:
            return None

    def _there(self) -> set[str]:
        """What stands in some store, whether or not it was reported."""
        keys = {key for store in self.here.stores.values() for key in store.objects if key.startswith("snapshots/")}
        return {original(key.rpartition("/")[2]) for key in keys}

    def _kept(self, names: Collection[str]) -> set[str]:
        return set(kept([self.drafted[name] for name in names], self.policy, self.clock.now()))

    async def whole(self, names: Collection[str]) -> None:
        """All that is needed can be restored from these stores alone, as it was."""
        vault = self.vault(names)
        there = {original(each.id): each.id for each in (await vault.catalogue()).summaries}
        assert self.needed <= there.keys(), (names, self.needed - there.keys())
        for name in self.needed:
            assert await self.restored(there[name], names) == self.contents[name], (name, names)

    async def restored(self, snapshot: str, names: Collection[str] = NAMES) -> list[bytes]:
        """By this manifest alone: no other revision has to help out."""
        vault = self.vault(names)
        manifest = await vault.manifest(snapshot)
        return [
            (await vault._neighbours([(manifest.names[number], manifest.places[number])]))[0]
            for number in manifest.files[0].chunks
        ]

    def bytes_in(self, prefix: str, name: str = "S1") -> int:
        return sum(len(body) for key, body in self.here.stores[name].objects.items() if key.startswith(prefix))

    def packs(self, name: str = "S1") -> Mapping[str, bytes]:
        return {key: body for key, body in self.here.stores[name].objects.items() if key.startswith("packs/")}


async def churning(chunks: int = 12, seed: int = 5) -> Churning:
    here = await stored(epochs=1, each=3 * SEGMENT, snapshots=0)
    made = Churning(here, [], chance=random.Random(seed), clock=Passing(seed))
    made.database = [b""] * chunks
    made.change(range(chunks))
    return made


async def sparse(days: int = 5, size: int = 1) -> Churning:
    """Two of three of the first snapshot's packs are needed in small part only."""
    here = await churning(12 * size)
    await here.take()
    for day in range(days):
        here.clock.at += DAY
        await here.take({12 * part + place for part in range(size) for place in (day, day + 5)})
    return here
