"""What the tests of snapshots and recovery share: faulty stores, a log that is a folder, recover and connect."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from tests.pg import SUPERUSER, Cluster, folder, free_port
from threefold.kernel.clock import Clock, SystemClock
from threefold.kernel.keys import Keyring
from threefold.kernel.lsn import Lsn
from threefold.kernel.progress import Silent
from threefold.postgres.binaries import find_binaries
from threefold.postgres.replication import ReplicationLink
from threefold.postgres.timeline import parse_history
from threefold.postgres.wal import segment_name
from threefold.protect.snapshot import SnapshotInfo, take_snapshot
from threefold.recover.log import OpenLog, OpensLog
from threefold.recover.recover import Recovery, Serving, recover
from threefold.recover.targets import Target
from threefold.stores.memory import MemoryStore
from threefold.stores.store import ABSENT, Gone, Listed, Made, ObjectStore, Page, Unknown
from threefold.vault.chunk_store import Vault
from threefold.vault.presence import Presence

CLOCK = SystemClock()
KEYRING = Keyring(bytes(range(32)))


class Notes(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


class Faulty(MemoryStore):
    """Down, slow, or dead after a number of reads; says Unknown, as a real one that does not answer."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.down = False
        self.delay = 0.0
        self.reads_left: int | None = None

    async def create(self, key: str, body: bytes) -> Made | Unknown:
        await asyncio.sleep(self.delay)
        return Unknown("down") if self.down else await super().create(key, body)

    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
        await asyncio.sleep(self.delay)
        if self.reads_left is not None:
            self.reads_left -= 1
            self.down = self.down or self.reads_left < 0
        return Unknown("down") if self.down else await super().read(key, start=start, length=length)

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> Page | Unknown:
        return Unknown("down") if self.down else await super().list(prefix, after=after, limit=limit)


class FolderStore:
    """Objects as files, so that a process can be killed and another one goes on. No retries, no faults, a delay."""

    def __init__(self, folder: Path, delay: float = 0.0) -> None:
        self.folder = folder
        self.name = folder.name
        self.delay = delay

    async def create(self, key: str, body: bytes) -> Made | Unknown:
        path = self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("xb") as file:
                file.write(body)
        except FileExistsError:
            return Made.EXISTS
        return Made.CREATED

    async def write(self, key: str, body: bytes) -> None | Unknown:
        raise NotImplementedError

    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
        await asyncio.sleep(self.delay)
        try:
            with (self.folder / key).open("rb") as file:
                file.seek(start)
                return file.read(-1 if length is None else length)
        except FileNotFoundError:
            return ABSENT

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> Page | Unknown:
        keys = sorted(str(path.relative_to(self.folder)) for path in (self.folder / prefix).glob("*"))
        keys = [key for key in keys if key > after]
        return Page(tuple(Listed(key, (self.folder / key).stat().st_size) for key in keys), last=True)

    async def delete(self, keys: Sequence[str]) -> None | Unknown:
        raise NotImplementedError

    async def close(self) -> None:
        return


def three() -> dict[str, Faulty]:
    return {name: Faulty(name) for name in ("S1", "S2", "S3")}


@dataclass
class FileLog:
    """A log that is the pg_wal folders of clusters: what quorum/reader.py gives, without the stores."""

    folders: tuple[Path, ...]
    system_identifier: int
    timeline: int
    start: Lsn
    end: Lsn
    segment_size: int = 16 * 2**20
    notes: Sequence[str] = ()

    @property
    def extent(self) -> FileLog:
        return self

    @property
    def history_files(self) -> Mapping[int, bytes]:
        return {int(path.stem, 16): path.read_bytes() for each in self.folders for path in each.glob("*.history")}

    async def read(self, start: Lsn, end: Lsn) -> AsyncIterator[tuple[int, Lsn, bytes]]:
        history = parse_history(self.timeline, self.history_files.get(self.timeline))
        at = int(start)
        while at < end:
            switch = next((each for each in history.switches if at < each.at), None)
            timeline = switch.timeline if switch else self.timeline
            stop = min(
                end, at - at % self.segment_size + self.segment_size, switch.at if switch else end, at + 3_000_000
            )
            segment = at // self.segment_size
            names = [segment_name(tl, segment, self.segment_size) for tl in range(self.timeline, timeline - 1, -1)]
            path = next(each / name for name in names for each in self.folders if (each / name).exists())
            with path.open("rb") as file:
                file.seek(at % self.segment_size)
                yield timeline, Lsn(at), file.read(stop - at)
            at = stop

    def opens(self) -> OpensLog:
        async def open_log(
            stores: Mapping[str, ObjectStore], keyring: Keyring, clock: Clock, note: Callable[[str], None]
        ) -> OpenLog:
            return self

        return open_log


async def log_of(primary: Cluster, *, segment_size: int = 16 * 2**20) -> FileLog:
    ((end, timeline, system),) = await primary.sql(
        "SELECT pg_current_wal_flush_lsn()::text, (SELECT timeline_id FROM pg_control_checkpoint()),"
        " (SELECT system_identifier FROM pg_control_system())"
    )
    return FileLog((primary.server.data_dir / "pg_wal",), system, timeline, Lsn(0), Lsn.parse(end), segment_size)


class WholeLog:
    """A `FileLog` is never pruned."""

    def needs(self, key: str) -> bool:
        return False

    async def presence(self, *, enough: int) -> Mapping[str, Presence]:
        return {}


async def whole_log(start: Lsn, stop: Lsn) -> WholeLog:
    return WholeLog()


async def snapshot(primary: Cluster, stores: Mapping[str, ObjectStore], *, clock: Clock = CLOCK) -> SnapshotInfo:
    async def settled(lsn: Lsn) -> None:
        return

    vault = Vault(stores, KEYRING, CLOCK)
    async with await ReplicationLink.connect(primary.dsn(), application_name="snapshot") as link:
        return await take_snapshot(link, vault, settled=settled, needed_log=whole_log, clock=clock, progress=Silent())


@asynccontextmanager
async def recovered(
    stores: Mapping[str, ObjectStore],
    log: FileLog,
    target: Target,
    *,
    into: Path | None = None,
    major: int = 18,
    progress: Silent | None = None,
    **more: object,
) -> AsyncIterator[tuple[Recovery, Callable[..., object]]]:
    home = folder("tf-recover-")
    serving = Serving(find_binaries, free_port(), settings={"fsync": "off", "shared_buffers": "16MB"})
    recovery = None
    try:
        recovery = await recover(
            stores=stores,
            keyring=KEYRING,
            clock=CLOCK,
            progress=progress or Silent(),
            target=target,
            into=into or home / "data",
            start=serving,
            open_log=log.opens(),
            **more,
        )

        async def sql(query: str, dbname: str = "postgres") -> list[tuple[object, ...]]:
            dsn = f"host=127.0.0.1 port={serving.port} user={SUPERUSER} password=s3cret-of-tests dbname={dbname}"
            async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
                cursor = await connection.execute(query)
                return await cursor.fetchall() if cursor.description else []

        yield recovery, sql
    finally:
        if recovery and recovery.server:
            await recovery.server.stop("immediate")
        shutil.rmtree(home, ignore_errors=True)


async def fill(primary: Cluster, rows: int = 2000) -> None:
    await primary.sql("CREATE TABLE IF NOT EXISTS customer (id serial PRIMARY KEY, name text, note text)")
    await primary.sql(
        f"INSERT INTO customer (name, note) SELECT 'c' || i, repeat(md5(i::text), 8) FROM generate_series(1, {rows}) i"
    )


COUNT = "SELECT count(*), sum(hashtext(name || note)) FROM customer"
