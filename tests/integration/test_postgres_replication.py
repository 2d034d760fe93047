"""The replication link against real primaries."""

import asyncio
import io
import shutil
import socket
import tarfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest
from tests.pg import BOTH, PASSWORD, Cluster, cluster, free_port

from threefold.kernel.errors import BadInput, Refused, ThreefoldError, Unavailable
from threefold.kernel.lsn import Lsn
from threefold.postgres.messages import (
    ArchiveData,
    ArchiveStarted,
    BackupProgress,
    Keepalive,
    ManifestData,
    ManifestStarted,
    WalData,
)
from threefold.postgres.replication import (
    BackupEnded,
    BackupStarted,
    ReplicationLink,
    StreamEnd,
    Tablespace,
)
from threefold.postgres.server import Server, give
from threefold.postgres.wal import segment_name, segment_no, segment_start

MB = 2**20
SLOT = "threefold"


def connect(primary: Cluster, **more: str) -> "asyncio.Future[ReplicationLink]":
    return ReplicationLink.connect(primary.dsn(**more), application_name="threefold")


@asynccontextmanager
async def streaming(primary: Cluster, size: int = 16 * MB) -> AsyncIterator[tuple[ReplicationLink, Lsn]]:
    """A link that streams from the start of the slot's segment."""
    async with await connect(primary) as link:
        slot = await link.ensure_slot(SLOT)
        assert slot.restart is not None
        start = segment_start(segment_no(slot.restart, size), size)
        await link.start_streaming(slot=SLOT, start=start, timeline=1)
        yield link, start


async def begin(link: ReplicationLink, start: Lsn, *, timeline: int = 1, slot: str = SLOT) -> None:
    """Up to the first WAL: some refusals come only with it."""
    await link.start_streaming(slot=slot, start=start, timeline=timeline)
    while isinstance(got := await asyncio.wait_for(link.receive(), 5), list):
        if any(isinstance(message, WalData) for message in got):
            break


async def flushed(primary: Cluster) -> Lsn:
    return Lsn.parse((await primary.sql("SELECT pg_current_wal_flush_lsn()::text"))[0][0])


async def receive_to(link: ReplicationLink, start: Lsn, end: int, into: bytearray) -> None:
    """Contiguous bytes from ``start + len(into)`` up to ``end``."""
    while start + len(into) < end:
        got = await asyncio.wait_for(link.receive(), 10)
        assert isinstance(got, list)
        for message in got:
            if isinstance(message, WalData):
                assert message.start == start + len(into)
                into += message.data


@pytest.mark.parametrize("major", BOTH)
async def test_identity_settings_history_and_slot(major: int) -> None:
    async with cluster(major, wal_segment_size=MB) as primary, await connect(primary) as link:
        identity = await link.identify()
        ((system_id,),) = await primary.sql("SELECT system_identifier FROM pg_control_system()")
        assert (identity.system_id, identity.timeline) == (system_id, 1)
        assert identity.flushed == await flushed(primary)
        assert await link.show("wal_segment_size") == "1MB"
        assert await link.timeline_history(1) is None
        with pytest.raises(BadInput):
            await link.show("port; DROP")

        made = await link.ensure_slot(SLOT)
        assert made.created
        assert not made.lost
        assert made.timeline == 1
        again = await link.ensure_slot(SLOT)
        assert (again.created, again.restart) == (False, made.restart)
        await link.drop_slot(SLOT)
        await link.drop_slot(SLOT)
        assert await primary.sql("SELECT 1 FROM pg_replication_slots") == []
        with pytest.raises(BadInput):
            await link.ensure_slot('x" LOGICAL')


@pytest.mark.parametrize("major", BOTH)
async def test_the_stream_is_the_log_byte_for_byte(major: int) -> None:
    async with cluster(major, wal_segment_size=MB) as primary, streaming(primary, MB) as (link, start):
        await primary.sql("CREATE TABLE t AS SELECT repeat('x', 500) FROM generate_series(1, 20000)")
        got = bytearray()
        end = await flushed(primary)
        await receive_to(link, start, end, got)
        assert len(got) > 8 * MB
        for at in range(start, end, MB):
            name = segment_name(1, segment_no(at, MB), MB)
            there = (primary.server.data_dir / "pg_wal" / name).read_bytes()
            assert got[at - start :][:MB] == there[: min(MB, end - at)]


@pytest.mark.parametrize("major", BOTH)
async def test_a_commit_returns_when_its_flush_is_confirmed_and_not_before(major: int) -> None:
    async with cluster(major) as primary, streaming(primary) as (link, start):
        got = bytearray()
        await primary.sql("CREATE TABLE t (x int)")
        await receive_to(link, start, await flushed(primary), got)
        at = Lsn(start + len(got))
        link.send_status(written=at, flushed=at, applied=at)
        await primary.set(synchronous_standby_names="ANY 1 (threefold)")
        commit = asyncio.create_task(primary.sql("INSERT INTO t VALUES (1)"))
        await receive_to(link, start, at + 1, got)
        await asyncio.sleep(0.3)
        await receive_to(link, start, await flushed(primary), got)
        assert not commit.done()
        at = Lsn(start + len(got))
        link.send_status(written=at, flushed=Lsn(0), applied=Lsn(0))
        await asyncio.sleep(0.2)
        assert not commit.done()
        link.send_status(written=at, flushed=at, applied=at)
        await asyncio.wait_for(commit, 5)


async def test_the_primary_answers_when_asked() -> None:
    async with cluster(18) as primary, streaming(primary) as (link, start):
        got = bytearray()
        await receive_to(link, start, await flushed(primary), got)
        at = Lsn(start + len(got))
        link.send_status(written=at, flushed=at, applied=at, reply=True)
        while True:
            messages = await asyncio.wait_for(link.receive(), 10)
            assert isinstance(messages, list)
            if keepalives := [message for message in messages if isinstance(message, Keepalive)]:
                assert keepalives[-1].server_end >= at
                break


async def test_a_cancelled_receive_loses_nothing() -> None:
    async with cluster(18) as primary, streaming(primary) as (link, start):
        got = bytearray()
        await receive_to(link, start, await flushed(primary), got)
        writing = asyncio.create_task(primary.sql("SELECT pg_logical_emit_message(false, 't', repeat('x', 30000000))"))
        for _ in range(200):
            try:
                async with asyncio.timeout(0.001):
                    messages = await link.receive()
            except TimeoutError:
                continue
            assert isinstance(messages, list)
            for message in messages:
                if isinstance(message, WalData):
                    assert message.start == start + len(got)
                    got += message.data
        await writing
        await receive_to(link, start, await flushed(primary), got)


@pytest.mark.parametrize("major", BOTH)
async def test_a_killed_primary_is_unavailable_and_a_stopped_one_ends_the_stream(major: int) -> None:
    async with cluster(major) as primary:
        async with streaming(primary) as (link, start):
            got = bytearray()
            await receive_to(link, start, await flushed(primary), got)
            primary.server.kill()
            with pytest.raises(Unavailable):
                await receive_to(link, start, 2**63, got)
            link.send_status(written=start, flushed=start, applied=start)  # nobody hears it, nothing is raised
        await primary.server.start()
        async with streaming(primary) as (link, start):
            got = bytearray()
            stopping = asyncio.create_task(primary.server.stop("fast"))
            while not isinstance(messages := await asyncio.wait_for(link.receive(), 10), StreamEnd):
                for message in messages:
                    got += message.data if isinstance(message, WalData) else b""
                at = Lsn(start + len(got))
                link.send_status(written=at, flushed=at, applied=at)
            assert messages == StreamEnd(None, None)
            await stopping
            # A fast shutdown waits until the shutdown checkpoint, its last record, is with us.
            control = primary.run("pg_controldata", primary.server.data_dir).stdout
            (line,) = [line for line in control.splitlines() if line.startswith("Latest checkpoint location")]
            assert start + len(got) > Lsn.parse(line.split()[-1])


@pytest.mark.parametrize("major", BOTH)
async def test_a_timeline_that_was_left_ends_with_its_successor(major: int) -> None:
    async with cluster(major) as primary:
        async with await connect(primary) as link:
            slot = await link.ensure_slot(SLOT)
        await primary.server.stop()
        (primary.server.data_dir / "standby.signal").touch()
        await primary.server.start()
        await primary.server.promote()
        async with await connect(primary) as link:
            assert (await link.identify()).timeline == 2
            history = await link.timeline_history(2)
            assert history is not None
            fork = Lsn.parse(history.decode().split()[1])
            assert slot.restart is not None
            start = segment_start(segment_no(slot.restart, 16 * MB), 16 * MB)
            await link.start_streaming(slot=SLOT, start=start, timeline=1)
            got = bytearray()
            await receive_to(link, start, fork, got)
            assert start + len(got) == fork
            while isinstance(end := await link.receive(), list):
                assert not any(isinstance(message, WalData) for message in end)
            assert end == StreamEnd(2, fork)
            await link.start_streaming(slot=SLOT, start=fork, timeline=1)
            assert await link.receive() == StreamEnd(2, fork)
            await link.start_streaming(slot=SLOT, start=fork, timeline=2)
            await receive_to(link, fork, await flushed(primary), bytearray())


@pytest.mark.parametrize("major", BOTH)
async def test_a_slot_that_lost_its_wal_needs_a_new_snapshot(major: int) -> None:
    settings = {"max_slot_wal_keep_size": "1MB", "wal_keep_size": "0", "max_wal_size": "2MB", "min_wal_size": "2MB"}
    async with cluster(major, wal_segment_size=MB, settings=settings) as primary, await connect(primary) as link:
        slot = await link.ensure_slot(SLOT)
        assert slot.restart is not None
        for _ in range(8):
            await primary.sql("SELECT pg_logical_emit_message(false, 't', repeat('x', 1000000))")
            await primary.sql("SELECT pg_switch_wal()")
        await primary.sql("CHECKPOINT")
        lost = await link.ensure_slot(SLOT)
        assert (lost.lost, lost.created) == (True, False)
        with pytest.raises(Refused, match="no longer") as refused:
            await begin(link, slot.restart)
        assert "snapshot" in refused.value.hint


async def test_streaming_what_the_primary_cannot_have_is_refused() -> None:
    async with cluster(18) as primary, await connect(primary) as link:
        slot = await link.ensure_slot(SLOT)
        assert slot.restart is not None
        with pytest.raises(Refused, match="ahead"):
            await begin(link, Lsn(slot.restart + 2**40))
        with pytest.raises(Refused, match="timeline"):
            await begin(link, slot.restart, timeline=7)
        with pytest.raises(Refused, match="slot is gone"):
            await begin(link, slot.restart, slot="nobodys")
        with pytest.raises(ThreefoldError):
            await link.timeline_history(9)
        await link.start_streaming(slot=SLOT, start=slot.restart, timeline=1)
        async with await connect(primary) as second:
            with pytest.raises(Unavailable, match="active"):
                await second.start_streaming(slot=SLOT, start=slot.restart, timeline=1)


@pytest.mark.parametrize("major", BOTH)
async def test_who_is_not_let_in_is_told_why_and_never_the_password(major: int) -> None:
    async with cluster(major, settings={"max_wal_senders": "1"}) as primary:
        await primary.sql(f"CREATE ROLE reader LOGIN PASSWORD '{PASSWORD}'")
        cases = [
            (primary.dsn(password="wrong-" + PASSWORD), BadInput, "password"),
            (primary.dsn(user="reader"), BadInput, "REPLICATION"),
            (primary.dsn(user="nobody"), BadInput, "password"),
            (f"host=127.0.0.1 port={free_port()} user=x password={PASSWORD}", Unavailable, "running"),
            (f"host=127.0.0.1 port=1 {PASSWORD} = =", BadInput, "reads like"),
            (f"postgresql://x:{PASSWORD}@127.0.0.1:port/", BadInput, "reads like"),
        ]
        for dsn, kind, hint in cases:
            with pytest.raises(kind) as raised:
                await ReplicationLink.connect(dsn, application_name="threefold")
            assert hint in raised.value.hint
            assert PASSWORD not in raised.value.message + raised.value.hint
        async with await _connect_when_free(primary):
            with pytest.raises(Unavailable) as full:
                await connect(primary)
            assert "max_wal_senders" in full.value.hint


async def _connect_when_free(primary: Cluster) -> ReplicationLink:
    """Those who were refused may still be on their way out."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await connect(primary)
            except Unavailable:
                await asyncio.sleep(0.1)


async def test_a_primary_that_does_not_answer_is_not_waited_for() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        with pytest.raises(Unavailable, match="did not answer"):
            await ReplicationLink.connect(
                f"host=127.0.0.1 port={silent.getsockname()[1]} user=x", application_name="t", connect_timeout_s=0.5
            )
        assert time.monotonic() - began < 2


@pytest.mark.parametrize("major", BOTH)
async def test_a_base_backup_starts_and_is_what_its_manifest_says(major: int) -> None:
    async with cluster(major, wal_segment_size=MB, settings={"wal_keep_size": "64MB"}) as primary:
        side = primary.folder / "side"
        side.mkdir()
        give(side, primary.server.account)
        await primary.sql(f"CREATE TABLESPACE side LOCATION '{side}'")
        ((oid,),) = await primary.sql("SELECT oid::int FROM pg_tablespace WHERE spcname = 'side'")
        await primary.sql(
            "CREATE TABLE t TABLESPACE side AS SELECT g, repeat('x', 300) FROM generate_series(1, 20000) g"
        )
        async with await connect(primary) as link:
            events = [event async for event in link.base_backup(label="it's ours")]
            assert (await link.identify()).timeline == 1  # the link still serves
        begun, ended = events[0], events[-1]
        assert isinstance(begun, BackupStarted)
        assert isinstance(ended, BackupEnded)
        assert begun.lsn < ended.lsn
        assert {(t.oid, t.location) for t in begun.tablespaces} == {(oid, str(side)), (None, "")}
        assert all(isinstance(t, Tablespace) and t.size_kib for t in begun.tablespaces)

        archives: dict[ArchiveStarted, bytearray] = {}
        manifest = bytearray()
        done = 0
        for event in events[1:-1]:
            match event:
                case ArchiveStarted():
                    current = archives.setdefault(event, bytearray())
                case ArchiveData(data):
                    current += data
                case ManifestData(data):
                    manifest += data
                case BackupProgress(done):
                    pass
                case _:
                    assert event == ManifestStarted()
        assert list(archives) == [ArchiveStarted(f"{oid}.tar", str(side)), ArchiveStarted("base.tar", None)]
        assert done >= sum(len(archive) for archive in archives.values()) - 100_000

        data_dir, moved = primary.folder / "restored", primary.folder / "moved"
        for archive, where in zip(archives.values(), (moved, data_dir), strict=True):
            with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
                tar.extractall(where, filter="data")
        (data_dir / "backup_manifest").write_bytes(manifest)
        assert str(oid) in (data_dir / "tablespace_map").read_text()
        (data_dir / "pg_tblspc" / str(oid)).symlink_to(moved)
        for tree in (data_dir, moved):
            give(tree, primary.server.account)
        verified = primary.run("pg_verifybackup", "--no-parse-wal", data_dir, check=False)
        assert verified.returncode == 0, verified.stderr
        assert "it's ours" in (data_dir / "backup_label").read_text()

        (data_dir / "tablespace_map").unlink()
        for segment in (primary.server.data_dir / "pg_wal").glob("0*"):
            shutil.copy(segment, data_dir / "pg_wal")
        data_dir.chmod(0o700)
        restored = Server(
            primary.server.binaries, data_dir, free_port(), socket_dir=primary.folder / "s2", settings={"fsync": "off"}
        )
        await restored.start()
        try:
            assert await Cluster(restored, primary.folder).sql("SELECT count(*), max(g) FROM t") == [(20000, 20000)]
        finally:
            await restored.stop("immediate")


@pytest.mark.parametrize("major", BOTH)
async def test_the_primarys_own_time_is_asked_for_without_standing_by(major: int) -> None:
    async with cluster(major) as primary:
        await primary.sql("CREATE TABLE t (x int)")
        async with await connect(primary) as link:
            await primary.set(synchronous_standby_names="*")
            waiting = asyncio.create_task(primary.sql("INSERT INTO t VALUES (1)"))
            await asyncio.sleep(0.1)
            for _ in range(3):
                ((before,),) = await primary.sql("SELECT clock_timestamp()")
                now = await link.now()
                ((after,),) = await primary.sql("SELECT clock_timestamp()")
                assert before < now < after
            assert not waiting.done()  # acknowledged by nobody
            assert (await link.identify()).timeline == 1  # the link still serves
            await primary.set(synchronous_standby_names="")
            await asyncio.wait_for(waiting, 5)


async def test_a_base_backup_without_the_right_is_refused() -> None:
    async with cluster(18) as primary:
        async with await connect(primary) as link:
            primary.server.kill()
            with pytest.raises(Unavailable):
                async for _ in link.base_backup(label="x"):
                    pass
        with pytest.raises(psycopg.OperationalError):
            await primary.sql("SELECT 1")
