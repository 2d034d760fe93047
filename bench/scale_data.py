"""A log of a million entries and a hundred snapshots, made by the product's own writers, for bench/scale.py.

The log is written by the real leader's parts (claim, take-over, slot 0, `Appender`) straight into the engine of one of
our storage servers, which then runs no HTTP; its folder is copied for the other two stores. Snapshots go to the running
servers: real packs and manifests; what is unchanged is found by the vault's own `known_chunks`.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Final
from urllib.parse import urlsplit

from threefold.bootstrap import store_configs
from threefold.bootstrap_keys import keyring_from
from threefold.kernel.clock import SystemClock
from threefold.kernel.keys import Keyring
from threefold.kernel.lsn import Lsn
from threefold.local.home import Home
from threefold.quorum import keys
from threefold.quorum.appender import Appender, Encode, Encoded
from threefold.quorum.driver import Driver
from threefold.quorum.lead import fence, resume
from threefold.quorum.members import Format
from threefold.quorum.objects import Codec
from threefold.quorum.requests import Create
from threefold.quorum.start import opening, start
from threefold.quorum.timelines import seal_history
from threefold.quorum.view import Scope
from threefold.storage_server.engine import Engine, EngineOptions
from threefold.storage_server.entries import LOCK_MODES
from threefold.storage_server.s3 import Condition, S3Error
from threefold.stores.store import ABSENT, Gone, Listed, Made, ObjectStore, Page, Unknown
from threefold.vault import pack as packs
from threefold.vault.chunk_store import Vault
from threefold.vault.chunker import CHUNK_BYTES, ChunkNamer
from threefold.vault.manifest import File, Manifest, Summary, new_snapshot_id
from threefold.vault.pack import PackBuilder, Place
from threefold.vault.uploads import Uploads

SYSTEM: Final = 7_000_000_000_000_000_001
WAL_SEGMENT: Final = 16 * 2**20
_CLOCK: Final = SystemClock()
_IN_FLIGHT: Final = 4096
T0: Final = datetime(2026, 1, 1, 3, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Shape:
    """``entries`` over ``epochs`` (a leader begins one each day), of ``bytes_each``; the last ``tiny`` of one epoch are
    of ``tiny_bytes``, too few to fill a segment: the longest stretch that a reader may have to go slot by slot."""

    entries: int = 1_000_000
    epochs: int = 30
    bytes_each: int = 1100
    tiny: int = 130_000
    tiny_bytes: int = 110


class EngineStore:
    """An ObjectStore on the engine of a storage server, in this process.

    ``keeps``: false for the second and third store while the log is made. They answer as if they held what the first
    one holds, which they will: its folder is copied.
    """

    def __init__(self, name: str, engine: Engine, bucket: str, prefix: str, *, keeps: bool) -> None:
        self.name = name
        self._engine = engine
        self._bucket = bucket
        self._prefix = prefix
        self._keeps = keeps

    async def create(self, key: str, body: bytes) -> Made | Unknown:
        if not self._keeps:
            return Made.CREATED
        place = (self._bucket, self._prefix + key)
        how = {"condition": Condition(create=True), "attributes": b"", "lock": (LOCK_MODES[0], 0)}
        try:
            if len(body) <= self._engine.options.inline_bytes_max:
                await self._engine.put_small(*place, body, sha256=sha256(body).digest(), **how)  # type: ignore[arg-type]
            else:
                writer = self._engine.blobs.create()
                await self._engine.blobs.act(writer.write, body)
                await self._engine.put_file(*place, writer, sha256=sha256(body).digest(), **how)  # type: ignore[arg-type]
        except S3Error:
            return Made.EXISTS
        return Made.CREATED

    async def write(self, key: str, body: bytes) -> None | Unknown:
        raise NotImplementedError

    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
        try:
            entry = await self._engine.find(self._bucket, self._prefix + key)
        except S3Error:
            return ABSENT
        if entry.size <= self._engine.options.inline_bytes_max:
            body = await self._engine.read_small(entry)
        else:
            body = b"".join([part async for part in self._engine.read_file(entry, 0, entry.size)])
        return body[start:] if length is None else body[start : start + length]

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> Page | Unknown:
        page = await self._engine.list(
            self._bucket,
            prefix=f"{self._prefix}{prefix}/",
            after=f"{self._prefix}{after}" if after else "",
            delimiter="",
            limit=limit,
        )
        cut = len(self._prefix)
        return Page(tuple(Listed(key[cut:], entry.size) for key, entry in page.objects), last=not page.more)

    async def delete(self, keys: Sequence[str]) -> None | Unknown:
        raise NotImplementedError

    async def close(self) -> None:
        """The engine is the caller's."""


class Places:
    """The three stores' data folders of a home, and where in them its objects lie."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.keyring = keyring_from(home.settings)
        configs = store_configs(home.settings)
        self.names = tuple(config.name for config in configs)
        url = urlsplit(configs[0].url)
        self.bucket, self.prefix = url.netloc, f"{url.path.strip('/')}/"

    def engine(self, name: str) -> Engine:
        return Engine(self.home.storage(name), _CLOCK, EngineOptions())


async def write_log(home: Home, shape: Shape, say: Callable[[str], None]) -> Lsn:
    """The log into all three folders; no server may run. Its end."""
    places = Places(home)
    codec = Codec(places.keyring, SYSTEM)
    first = places.names[0]
    engine = places.engine(first)
    try:
        stores = {
            name: EngineStore(name, engine, places.bucket, places.prefix, keeps=name == first) for name in places.names
        }
        end = await write_epochs(stores, codec, shape, say)
    finally:
        await engine.close()
    for number, name in enumerate(places.names):
        if name != first:
            shutil.rmtree(home.storage(name))
            shutil.copytree(home.storage(first), home.storage(name))
        engine = places.engine(name)
        try:
            store = EngineStore(name, engine, places.bucket, places.prefix, keeps=True)
            form = Format(SYSTEM, places.keyring.key_id, f"{number:032x}")
            await store.create(keys.FORMAT, form.encode())
            await store.create(keys.timeline_key(1), seal_history(places.keyring, 1, b""))
        finally:
            await engine.close()
    return end


async def write_epochs(
    stores: Mapping[str, ObjectStore], codec: Codec, shape: Shape, say: Callable[[str], None]
) -> Lsn:
    driver = Driver(stores, _CLOCK)
    large, end = shape.entries - shape.tiny, Lsn(WAL_SEGMENT)
    for epoch in range(shape.epochs):
        scope = Scope(tuple(stores), codec, _CLOCK.new_id())
        number, found = await driver.run(fence(scope))
        head = await driver.run(start(scope, number, opening(found, 1, end)))
        resumed = await driver.run(resume(scope, found, head))
        appender = Appender(scope, head, resumed.recent, resumed.begin)
        last = epoch == shape.epochs - 1
        if not last:
            share = large * (epoch + 1) // (shape.epochs - 1) - large * epoch // (shape.epochs - 1)
            await _append(stores, codec, appender, share, shape.bytes_each)
        else:
            # To the next segment's start, so that what follows is in none.
            await _append(stores, codec, appender, 1, WAL_SEGMENT - appender.received % WAL_SEGMENT)
            await _append(stores, codec, appender, shape.tiny, shape.tiny_bytes)
        end = appender.settled
        say(f"epoch {number}: the log goes to {end}")
    return end


async def _append(stores: Mapping[str, ObjectStore], codec: Codec, appender: Appender, entries: int, size: int) -> None:
    """What a leader does, its stores answering at once. Half of a commit's bytes compress to nothing."""
    under_way: list[asyncio.Future[Made | Unknown]] = []
    for _ in range(entries):
        appender.offer(os.urandom(size // 2) + bytes(size - size // 2))
        while sends := appender.poll(0.0):
            for send in sends:
                request = send.request
                if isinstance(request, Encode):
                    appender.answer(send.token, Encoded(codec.encode_parts(request.header, request.parts)), 0.0)
                    continue
                assert isinstance(request, Create)
                if request.store == next(iter(stores)):
                    under_way.append(asyncio.ensure_future(stores[request.store].create(request.key, request.body)))
                appender.answer(send.token, Made.CREATED, 0.0)
        if len(under_way) >= _IN_FLIGHT:
            assert set(await asyncio.gather(*under_way)) == {Made.CREATED}
            under_way.clear()
    assert set(await asyncio.gather(*under_way)) <= {Made.CREATED}
    assert not appender.fenced


@dataclass(frozen=True, slots=True)
class Churn:
    """A database of ``chunks`` MiB, of which a share changes before each of ``snapshots`` snapshots, a day apart.

    ``hot``: nine of ten changes fall upon the last tenth of it, as they do where new rows are what people work on.
    """

    snapshots: int = 100
    chunks: int = 1024
    share: float = 0.01
    hot: bool = False

    def changed(self, rng: random.Random) -> set[int]:
        count = round(self.chunks * self.share)
        if not self.hot:
            return set(rng.sample(range(self.chunks), count))
        cold = self.chunks * 9 // 10
        return {rng.randrange(cold, self.chunks) if rng.random() < 0.9 else rng.randrange(cold) for _ in range(count)}


async def write_snapshots(
    stores: Mapping[str, ObjectStore],
    keyring: Keyring,
    churn: Churn,
    log: tuple[Lsn, Lsn],
    say: Callable[[str], None],
    *,
    then: Callable[[datetime], Awaitable[None]] | None = None,
) -> list[int]:
    """Bytes that each snapshot sent to each store. Half of a page compresses, as of a real table.

    ``then`` is done after each one, whose time it is told.
    """
    rng = random.Random(7)
    namer = ChunkNamer(keyring)
    vault = Vault(stores, keyring, _CLOCK)
    content: list[bytes] = [b""] * churn.chunks  # names; the bytes are made when they are stored
    sent = []
    begin, end = log
    for number in range(churn.snapshots):
        at = T0 + timedelta(days=number)
        changed = range(churn.chunks) if number == 0 else sorted(churn.changed(rng))
        fresh: dict[bytes, bytes] = {}
        for place in changed:
            plain = os.urandom(CHUNK_BYTES // 2) + bytes(CHUNK_BYTES // 2)
            content[place] = namer.name(plain)
            fresh[content[place]] = packs.compress(plain)
        known = await vault.known_chunks()
        placed: dict[bytes, Place] = {}
        # All packs wait in memory: on a busy machine a third copy would be left to repair, and the sizes with it.
        async with Uploads(stores, _CLOCK, in_memory=churn.chunks) as uploads:
            builder = PackBuilder(packs.new_pack_id(at, _CLOCK.new_id()), keyring)
            for name in content:
                if name in known:
                    placed[name] = known[name]
                    continue
                placed[name] = builder.add(name, CHUNK_BYTES, fresh[name])
                if builder.full:
                    await uploads.put(packs.pack_key(builder.pack), builder.finish())
                    builder = PackBuilder(packs.new_pack_id(at, _CLOCK.new_id()), keyring)
            if not builder.empty:
                await uploads.put(packs.pack_key(builder.pack), builder.finish())
            await uploads.finish(grace_seconds=120)
            missing = dict(uploads.missing)
        assert not missing, missing
        stop = Lsn(begin + (end - begin) * (number + 1) // (churn.snapshots + 1))
        summary = Summary(
            new_snapshot_id(at, _CLOCK.new_id()),
            "",
            SYSTEM,
            18,
            WAL_SEGMENT,
            1,
            Lsn(stop - 4096),
            stop,
            at,
            at,
            churn.chunks * CHUNK_BYTES,
            1000,
        )
        names = list(placed)
        of = {name: place for place, name in enumerate(names)}
        file = File("base/5/16384", 0o600, len(content) * CHUNK_BYTES, 0, 0, tuple(of[name] for name in content))
        manifest = Manifest(summary, (file,), (), names, [placed[name] for name in names])
        size, _ = await vault.publish(manifest)
        await vault.unaffected(manifest)
        sent.append(uploads.bytes + size)
        if then is not None:
            await then(at)
        if number % 10 == 9:
            say(f"{number + 1} snapshots")
    return sent
