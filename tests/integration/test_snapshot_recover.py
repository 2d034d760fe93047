"""A real cluster into the vault and out again, with stores that die, lag and lie on the way."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from tests.pg import SUPERUSER, Cluster, cluster, folder, free_port

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
from threefold.recover.targets import Latest, Target
from threefold.stores.memory import MemoryStore
from threefold.stores.store import Gone, Made, ObjectStore, Unknown
from threefold.vault.chunk_store import Vault

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

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000):
        return Unknown("down") if self.down else await super().list(prefix, after=after, limit=limit)


def three() -> dict[str, Faulty]:
    return {name: Faulty(name) for name in ("S1", "S2", "S3")}


@dataclass
class FileLog:
    """A log that is the pg_wal folder of a cluster: what quorum/reader.py gives, without the stores."""

    pg_wal: Path
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
        return {int(path.stem, 16): path.read_bytes() for path in self.pg_wal.glob("*.history")}

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
            path = next(self.pg_wal / name for name in names if (self.pg_wal / name).exists())
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


async def log_of(primary: Cluster, *, start: Lsn = Lsn(0), segment_size: int = 16 * 2**20) -> FileLog:
    ((end, timeline, system),) = await primary.sql(
        "SELECT pg_current_wal_flush_lsn()::text, (SELECT timeline_id FROM pg_control_checkpoint()),"
        " (SELECT system_identifier FROM pg_control_system())"
    )
    return FileLog(primary.server.data_dir / "pg_wal", system, timeline, start, Lsn.parse(end), segment_size)


async def snapshot(primary: Cluster, stores: Mapping[str, ObjectStore]) -> SnapshotInfo:
    async def settled(lsn: Lsn) -> None:
        return

    vault = Vault(stores, KEYRING, CLOCK)
    async with await ReplicationLink.connect(primary.dsn(), application_name="snapshot") as link:
        return await take_snapshot(link, vault, settled=settled, clock=CLOCK, progress=Silent())


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


@pytest.mark.parametrize("major", [pytest.param(15, marks=pytest.mark.postgres15), 18])
async def test_everything_that_a_cluster_holds_comes_back(major: int) -> None:
    stores = three()
    async with cluster(
        major, wal_segment_size=64 * 2**20, settings={"archive_mode": "on", "archive_command": "false"}
    ) as primary:
        for space in ("one", "two"):
            place = primary.folder / space
            place.mkdir()
            os.chown(place, primary.server.account.uid, primary.server.account.gid)
            await primary.sql(f"CREATE TABLESPACE {space} LOCATION '{place}'")
        await fill(primary)
        await primary.sql("CREATE TABLE in_one TABLESPACE one AS SELECT * FROM customer")
        await primary.sql("CREATE DATABASE other TABLESPACE two")
        await primary.sql("CREATE TABLE t AS SELECT 42 AS x", dbname="other")
        await primary.sql("CREATE UNLOGGED TABLE cache AS SELECT * FROM customer")
        ((oid,),) = await primary.sql("SELECT lo_from_bytea(0, decode(repeat('ab', 300000), 'hex'))")
        info = await snapshot(primary, stores)
        await primary.sql("INSERT INTO customer (name, note) VALUES ('after', 'the snapshot')")
        await primary.sql("CREATE TABLE later TABLESPACE two AS SELECT 7 AS x")
        expected = await primary.sql(COUNT)
        log = await log_of(primary, segment_size=64 * 2**20)
        mapped = folder("tf-space-")
        oids = {space.oid: space.location for space in info.summary.tablespaces}
        assert sorted(Path(place).name for place in oids.values()) == ["one", "two"]
        two = next(oid for oid, place in oids.items() if place.endswith("two"))
        primary.server.kill()
        shutil.move(primary.folder / "one", primary.folder / "gone")  # the old places are not to be found
        async with recovered(stores, log, Latest(), major=major, tablespaces={two: mapped / "here"}) as (done, sql):
            assert await sql(COUNT) == expected
            assert await sql("SELECT count(*) FROM in_one") == [(2000,)]
            assert await sql("SELECT x FROM t", "other") == [(42,)]
            assert await sql("SELECT x FROM later") == [(7,)]
            assert await sql("SELECT count(*) FROM cache") == [(0,)]  # reset by its init fork, which came along
            assert await sql(f"SELECT length(lo_get({oid}))") == [(300000,)]
            assert await sql("SELECT pg_is_in_recovery()") == [(False,)]
            assert await sql("SHOW archive_mode") == [("off",)]
            places = {
                place
                for (place,) in await sql(
                    "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname IN ('one', 'two')"
                )
            }
            assert places == {
                str(mapped / "here"),
                str(
                    next(p for p in [done.into.with_name("data-tablespaces")]) / str(next(o for o in oids if o != two))
                ),
            }
            assert done.promoted and done.promoted.timeline == 2
            assert "restore_command" not in (done.into / "postgresql.auto.conf").read_text()
            assert json.loads((done.into / "threefold-recovery.json").read_text())["finished"]
            await sql("INSERT INTO customer (name, note) VALUES ('life', 'goes on')")
        shutil.rmtree(mapped)
