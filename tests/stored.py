"""A log and snapshots in three memory stores, made by the real parts and without PostgreSQL: what upkeep works on.

here = await stored(epochs=2)      # entries, segments of 4 KiB, a sealed epoch, two snapshots that share chunks
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from threefold.kernel.clock import SystemClock
from threefold.kernel.keys import Keyring
from threefold.kernel.lsn import Lsn
from threefold.kernel.wraps import Passphrase, wrap
from threefold.protect.needed_log import SnapshotLog
from threefold.quorum import keys
from threefold.quorum.appender import Appender
from threefold.quorum.driver import Driver, LogWriter
from threefold.quorum.lead import fence, resume
from threefold.quorum.members import Format
from threefold.quorum.objects import Codec
from threefold.quorum.reader import read_extent, read_wal
from threefold.quorum.start import opening, start
from threefold.quorum.timelines import seal_history
from threefold.quorum.trim import trim
from threefold.quorum.view import Scope
from threefold.stores.memory import MemoryStore
from threefold.stores.store import ObjectStore
from threefold.vault import pack as packs
from threefold.vault.chunk_store import Vault
from threefold.vault.chunker import ChunkNamer
from threefold.vault.manifest import File, Manifest, Summary, new_snapshot_id
from threefold.vault.pack import PackBuilder, Place

KEYRING = Keyring(bytes(range(32)))
CLOCK = SystemClock()
LOG = 7
SEGMENT = 4096
NAMES = ("S1", "S2", "S3")
T0 = datetime(2026, 11, 1, 10, tzinfo=UTC)


class Leading:
    """One epoch over ``stores``, which may be fewer than three."""

    def __init__(self, stores: Mapping[str, ObjectStore], timeline: int = 1) -> None:
        self.stores = stores
        self.timeline = timeline
        self._driver = Driver(stores, CLOCK)
        self._codec = Codec(KEYRING, LOG)
        self.scope = Scope(tuple(stores), self._codec, CLOCK.new_id(), 2, SEGMENT)

    async def begin(self, at: Lsn | None = None) -> Leading:
        self.epoch, found = await self._driver.run(fence(self.scope))
        self.spans = found.spans if found else ()
        begin = opening(found, self.timeline, at or Lsn(0))
        first = await self._driver.run(start(self.scope, self.epoch, begin))
        resumed = await self._driver.run(resume(self.scope, found, first))
        self.appender = Appender(self.scope, first, resumed.recent, resumed.begin)
        self.writer = LogWriter(self._driver, self.appender, self._codec, CLOCK, lambda _: None)
        self.writer.pump()
        return self

    async def append(self, data: bytes, size: int = 700) -> None:
        """In entries of that size or less, settled on two and given to all."""
        for at in range(0, len(data), size):
            self.writer.offer(data[at : at + size])
            await self.settled()

    async def settled(self) -> None:
        while self.appender.settled != self.appender.received:
            await asyncio.sleep(0)
        while self.writer._tasks:  # the third copies, and the segments that follow from it
            await asyncio.sleep(0)

    async def trim(self) -> None:
        if self.appender.covered is not None:
            await self._driver.run(trim(self.scope, self.spans, self.epoch, self.appender.covered))

    async def end(self) -> None:
        await self.writer.close()


@dataclass
class Stored:
    stores: dict[str, MemoryStore] = field(default_factory=lambda: {name: MemoryStore(name) for name in NAMES})
    wal: bytes = b""
    settled: int = 0  # so much of it was acknowledged
    snapshots: list[Summary] = field(default_factory=list)

    def vault(self) -> Vault:
        return Vault(self.stores, KEYRING, CLOCK, read_patience_seconds=0.5)

    def objects(self, name: str) -> dict[str, bytes]:
        """Without what is overwritten, and without the name tag that is the store's own."""
        found = self.stores[name].objects.items()
        return {key: body for key, body in found if not key.startswith("beacons/") and key != keys.FORMAT}

    async def write(self, leading: Leading, length: int) -> None:
        data = os.urandom(length)
        self.wal += data
        await leading.append(data)
        self.settled = len(self.wal)

    async def same_log(self) -> None:
        """What any reader rebuilds is what was written."""
        extent = await read_extent(self.stores, KEYRING, CLOCK, patience=5)
        read = read_wal(self.stores, KEYRING, CLOCK, extent, start=extent.start, end=extent.end)
        assert b"".join([data async for _, _, data in read]) == self.wal

    async def snapshot(
        self,
        *,
        at: datetime,
        start: Lsn,
        stop: Lsn,
        fresh: int = 3,
        share: int = 2,
        timeline: int = 1,
        stores: Mapping[str, ObjectStore] | None = None,
    ) -> Summary:
        """``fresh`` new chunks in a pack of their own, ``share`` of those that are there already."""
        summary, manifest, body = await self.drafted(
            at=at, start=start, stop=stop, fresh=fresh, share=share, timeline=timeline
        )
        for store in (stores or self.stores).values():
            for key, pack in body.items():
                await store.create(key, pack)
        await Vault(stores or self.stores, KEYRING, CLOCK).publish(manifest)
        self.snapshots.append(summary)
        return summary

    async def drafted(
        self, *, at: datetime, start: Lsn, stop: Lsn, fresh: int = 3, share: int = 2, timeline: int = 1
    ) -> tuple[Summary, Manifest, dict[str, bytes]]:
        """A snapshot that is not published; its new packs by key."""
        known = list((await self.vault().known_chunks()).items())[-share:] if share else []
        namer = ChunkNamer(KEYRING)
        builder = PackBuilder(packs.new_pack_id(at, CLOCK.new_id()), KEYRING)
        placed: list[tuple[bytes, Place]] = list(known)
        for _ in range(fresh):
            plain = os.urandom(500)
            placed.append((namer.name(plain), builder.add(namer.name(plain), len(plain), packs.compress(plain))))
        summary = Summary(
            new_snapshot_id(at, CLOCK.new_id()), "", LOG, 18, SEGMENT, timeline, start, stop, at, at, 0, 1
        )
        file = File("base/1", 0o600, sum(place.size for _, place in placed), 0, 0, tuple(range(len(placed))))
        manifest = Manifest(summary, (file,), (), [name for name, _ in placed], [place for _, place in placed])
        bodies = {packs.pack_key(builder.pack): builder.finish()} if fresh else {}
        return summary, manifest, bodies


async def stored(epochs: int = 2, each: int = 3 * SEGMENT + 900, *, snapshots: int = 2) -> Stored:
    here = Stored()
    await found(here.stores)
    for epoch in range(epochs):
        leading = await Leading(here.stores).begin()
        await here.write(leading, each)
        await leading.trim()
        await leading.end()
        if epoch < snapshots:
            begin = Lsn(epoch * each + 100)
            await here.snapshot(at=T0 + timedelta(days=epoch), start=begin, stop=Lsn(begin + 200))
    return here


async def unaffected(vault: Vault, manifest: Manifest, *, before: Mapping[str, ObjectStore] | None = None) -> None:
    """As protect/snapshot.py asks when it has published. ``before``: the stores when it asked where the log lies."""
    summary = manifest.summary
    extent = await read_extent(before or vault.stores, vault.keyring, CLOCK)
    await vault.unaffected(manifest, SnapshotLog(vault.stores, extent, summary.start, summary.stop))


WRAPPED = wrap(KEYRING, Passphrase("a passphrase"), salt=bytes(16))


async def found(stores: Mapping[str, ObjectStore]) -> None:
    for number, store in enumerate(stores.values()):
        form = Format(LOG, KEYRING.key_id, str(number), SEGMENT, SEGMENT)
        await store.create(keys.FORMAT, form.encode())
        await store.create(keys.wrapped_key_key(KEYRING.key_id), WRAPPED)
        await store.create(keys.timeline_key(1), seal_history(KEYRING, 1, b""))


def flip(body: bytes, at: int) -> bytes:
    return body[:at] + bytes([body[at] ^ 0x40]) + body[at + 1 :]


def keys_of(stores: Mapping[str, MemoryStore], prefix: str) -> Sequence[str]:
    return sorted({key for store in stores.values() for key in store.objects if key.startswith(prefix)})
