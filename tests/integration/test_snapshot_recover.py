"""A real cluster into the vault and out again, with stores that die, lag and lie on the way."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from tests.pg import cluster, folder
from tests.recovering import CLOCK, COUNT, KEYRING, FolderStore, Notes, fill, log_of, recovered, snapshot, three

from threefold.kernel.clock import SystemClock
from threefold.kernel.errors import BadInput, Damaged, NotThere, Refused, Unavailable
from threefold.kernel.lsn import Lsn
from threefold.kernel.progress import Silent
from threefold.postgres.messages import ArchiveData
from threefold.postgres.replication import BackupEvent, ReplicationLink
from threefold.protect.snapshot import take_snapshot
from threefold.recover.prove import verify_recovered
from threefold.recover.targets import Immediate, Latest, Position, RestorePoint, Time
from threefold.recover.verify import verify_stored
from threefold.vault.chunk_store import Vault


@pytest.mark.parametrize("major", [pytest.param(15, marks=pytest.mark.postgres15), 18])
async def test_everything_that_a_cluster_holds_comes_back(major: int) -> None:
    stores = three()
    async with cluster(major, wal_segment_size=64 * 2**20) as primary:
        for space in ("one", "two"):
            place = primary.folder / space
            place.mkdir()
            os.chown(place, primary.server.account.uid, primary.server.account.gid)
            await primary.sql(f"CREATE TABLESPACE {space} LOCATION '{place}'")
        await fill(primary)
        await primary.sql("CREATE TABLE in_one TABLESPACE one AS SELECT * FROM customer")
        await primary.sql("CREATE DATABASE other TABLESPACE two")
        await primary.sql("CREATE TABLE t AS SELECT 42 AS x", dbname="other")
        for name, value in (("archive_mode", "on"), ("archive_command", "true"), ("synchronous_standby_names", "x")):
            await primary.sql(f"ALTER SYSTEM SET {name} = '{value}'")  # in the file only: it would hang us
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
            assert await sql("SHOW synchronous_standby_names") == [("",)]
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
            assert done.promoted
            assert done.promoted.timeline == 2
            assert "restore_command" not in (done.into / "postgresql.auto.conf").read_text()
            assert json.loads((done.into / "threefold-recovery.json").read_text())["finished"]
            await sql("INSERT INTO customer (name, note) VALUES ('life', 'goes on')")
        shutil.rmtree(mapped)


async def test_a_tablespace_whose_path_is_not_utf_8_comes_back_too() -> None:
    stores = three()
    async with cluster(18) as primary:
        place = os.fsencode(primary.folder) + b"/caf\xe9"
        os.mkdir(place)  # noqa: PTH102 - bytes
        os.chown(place, primary.server.account.uid, primary.server.account.gid)
        await primary.sql("CREATE DATABASE plain TEMPLATE template0 ENCODING SQL_ASCII LOCALE_PROVIDER libc LOCALE 'C'")
        async with await psycopg.AsyncConnection.connect(primary.dsn(dbname="plain"), autocommit=True) as connection:
            await connection.execute("SET client_encoding = SQL_ASCII")
            await connection.execute(b"CREATE TABLESPACE cafe LOCATION '" + place + b"'")
        await primary.sql("CREATE TABLE t TABLESPACE cafe AS SELECT 42 AS x")
        info = await snapshot(primary, stores)
        assert [os.fsencode(space.location) for space in info.summary.tablespaces] == [place]
        async with recovered(stores, await log_of(primary), Latest()) as (_, sql):
            assert await sql("SELECT x FROM t") == [(42,)]


async def test_the_recovered_folder_does_not_lead_to_the_primarys() -> None:
    """`pg_ctl -D` follows data_directory before it reads anything of ours."""
    stores = three()
    async with cluster(18) as primary:
        there = primary.server.data_dir
        with (there / "postgresql.conf").open("a") as conf:
            conf.write(f"data_directory = '{there}'\nhba_file = '{there}/pg_hba.conf'\ninclude '{there}/extra.conf'\n")
        await snapshot(primary, stores)
        notes = Notes()
        async with recovered(stores, await log_of(primary), Latest(), progress=notes) as (done, sql):
            for name, leads in (("data_directory", done.into), ("hba_file", done.into / "pg_hba.conf")):
                assert primary.run("postgres", "-D", done.into, "-C", name).stdout.strip() == str(leads)
                assert await sql(f"SHOW {name}") == [(str(leads),)]
            assert sum(f"{there}" in note and "is a comment now" in note for note in notes.said) == 3


async def test_each_target_is_met_exactly() -> None:
    stores = three()
    async with cluster(18) as primary:
        await fill(primary, 10)
        info = await snapshot(primary, stores)
        await primary.sql("SELECT pg_create_restore_point('before')")
        await primary.sql("INSERT INTO customer (name, note) VALUES ('one', 'x')")
        ((position,),) = await primary.sql("SELECT pg_current_wal_insert_lsn()::text")
        ((at,),) = await primary.sql("SELECT clock_timestamp()")
        await asyncio.sleep(0.01)
        await primary.sql("INSERT INTO customer (name, note) VALUES ('two', 'y')")
        ((last,),) = await primary.sql("SELECT clock_timestamp()")
        log = await log_of(primary)
        primary.server.kill()
        for target, rows in (
            (Immediate(), 10),
            (RestorePoint("before"), 10),
            (Position(Lsn.parse(position)), 11),
            (Position(Lsn(Lsn.parse(position) + 5)), 11),  # in the middle of a record
            (Time(at), 11),
            (Position(log.end), 12),
            (Latest(), 12),
        ):
            async with recovered(stores, log, target) as (done, sql):
                assert await sql("SELECT count(*) FROM customer") == [(rows,)], target
                assert done.promoted
                assert done.promoted.at <= done.wal_end
        with pytest.raises(BadInput, match="after the last recovery point"):
            async with recovered(stores, log, Position(Lsn(log.end + 8))):
                pass
        with pytest.raises(BadInput, match="before the first recovery point"):
            async with recovered(stores, log, Position(info.summary.start)):
                pass
        with pytest.raises(BadInput, match="before the first recovery point"):
            async with recovered(stores, log, Time(info.summary.started - timedelta(hours=1))):
                pass
        with pytest.raises(BadInput, match=f"its last transaction is of {last:%Y-%m-%d}"):
            async with recovered(stores, log, Time(last + timedelta(hours=1))):
                pass
        with pytest.raises(NotThere, match="the log begins at"):
            async with recovered(stores, replace(log, start=Lsn(info.summary.start + 1)), Latest()):
                pass


class Behind(SystemClock):
    """The DRaaS server's clock, an hour slow."""

    def now(self) -> datetime:
        return super().now() - timedelta(hours=1)


async def test_a_wrong_clock_of_ours_never_picks_a_snapshot_that_holds_later_commits() -> None:
    stores = three()
    async with cluster(18, settings={"wal_keep_size": "64MB"}) as primary:
        await fill(primary, 10)
        first = await snapshot(primary, stores, clock=Behind())
        ((at,),) = await primary.sql("SELECT clock_timestamp()")
        await primary.sql("INSERT INTO customer (name, note) VALUES ('mistake', 'x')")
        await snapshot(primary, stores, clock=Behind())
        await primary.sql("INSERT INTO customer (name, note) VALUES ('later', 'y')")
        async with recovered(stores, await log_of(primary), Time(at)) as (done, sql):
            assert await sql("SELECT count(*) FROM customer") == [(10,)]
            assert done.snapshot == first.summary.id


async def test_a_restore_point_is_looked_for_from_the_oldest_snapshot_on_and_that_is_said() -> None:
    stores = three()
    async with cluster(18, settings={"wal_keep_size": "64MB"}) as primary:
        await fill(primary, 10)
        first = await snapshot(primary, stores)
        await primary.sql("SELECT pg_create_restore_point('before')")
        await primary.sql("INSERT INTO customer (name, note) VALUES ('one', 'x')")
        await snapshot(primary, stores)
        log, notes = await log_of(primary), Notes()
        async with recovered(stores, log, RestorePoint("before"), progress=notes) as (_, sql):
            assert await sql("SELECT count(*) FROM customer") == [(10,)]
        said = f"only replay finds name:before: beginning at the oldest snapshot that serves, {first.summary.id}"
        assert [note for note in notes.said if note.startswith(said)]


async def test_the_log_is_followed_across_a_promotion() -> None:
    stores = three()
    async with cluster(18) as primary:
        await fill(primary, 10)
        await snapshot(primary, stores)
        await primary.sql("INSERT INTO customer (name, note) VALUES ('one', 'x')")
        first = await log_of(primary)
        primary.server.kill()
        home = folder("tf-second-")
        try:
            async with recovered(stores, first, Latest(), into=home / "data") as (done, sql):
                await sql("INSERT INTO customer (name, note) VALUES ('two', 'y')")
                ((end,),) = await sql("SELECT pg_current_wal_flush_lsn()::text")
                folders = (done.into / "pg_wal", *first.folders)
                second = replace(first, folders=folders, timeline=2, end=Lsn.parse(end))
            # The log as the stores would have it: timeline 1 up to the fork, 2 from there.
            for target, rows, timeline in ((Latest(), 12, 3), (Immediate(), 10, 3)):
                async with recovered(stores, second, target) as (done, sql):
                    assert await sql("SELECT count(*) FROM customer") == [(rows,)]
                    assert done.promoted
                    assert done.promoted.timeline == timeline  # never 2 again
        finally:
            shutil.rmtree(home)


async def test_a_second_snapshot_sends_what_changed_and_an_interrupted_one_is_not_sent_again() -> None:
    stores = three()
    async with cluster(18) as primary:
        await fill(primary, 20000)
        first = await snapshot(primary, stores)
        await primary.sql("UPDATE customer SET name = 'changed' WHERE id = 1")
        second = await snapshot(primary, stores)
        assert second.sent < first.sent / 3
        assert second.chunks_reused > first.chunks / 2
        # An attempt whose manifest never came: its packs are found by their indexes.
        await fill(primary, 20000)
        third = await snapshot(primary, stores)
        for store in stores.values():
            del store.objects[f"snapshots/{third.summary.id}"]
        fourth = await snapshot(primary, stores)
        assert fourth.sent < third.sent / 2
        # Packs that one store alone holds are not built upon.
        for name in ("S1", "S2"):
            for key in [key for key in stores[name].objects if key.startswith("packs/")]:
                del stores[name].objects[key]
        fifth = await snapshot(primary, stores)
        assert fifth.chunks_reused == 0
        log = await log_of(primary)
        async with recovered({"S1": stores["S1"]}, log, Latest()) as (_, sql):
            assert await sql(COUNT) == await primary.sql(COUNT)


@pytest.mark.parametrize("fault", ["down", "slow"])
async def test_a_store_that_is_down_or_slow_holds_no_snapshot_back(fault: str) -> None:
    stores = three()
    if fault == "down":
        stores["S2"].down = True
    else:
        stores["S2"].delay = 30
    async with cluster(18) as primary:
        await fill(primary)
        began = CLOCK.monotonic()
        info = await snapshot(primary, stores)
        assert CLOCK.monotonic() - began < 15
        assert set(info.missing) == {"S2"}
        assert f"snapshots/{info.summary.id}" in info.missing["S2"]
        assert not stores["S2"].objects
        again = await snapshot(primary, stores)
        assert CLOCK.monotonic() - began < 25
        assert again.chunks_reused > 0
        log = await log_of(primary)
        stores["S2"].down, stores["S2"].delay = False, 0
        async with recovered(stores, log, Latest()) as (_, sql):
            assert await sql(COUNT) == await primary.sql(COUNT)
        with pytest.raises(NotThere, match="no snapshot"):
            async with recovered(stores, log, Latest(), only="S2"):
                pass


async def test_without_its_packs_on_two_stores_or_its_wal_there_is_no_snapshot() -> None:
    stores = three()
    async with cluster(18) as primary:

        async def take(settled: Callable[[Lsn], Awaitable[None]]) -> None:
            vault = Vault(stores, KEYRING, CLOCK)
            async with await ReplicationLink.connect(primary.dsn(), application_name="snapshot") as link:
                await take_snapshot(link, vault, settled=settled, clock=CLOCK, progress=Silent())

        async def too_early(lsn: Lsn) -> None:
            raise AssertionError("the WAL is waited for after the packs")

        async def never(lsn: Lsn) -> None:
            raise Unavailable(f"the log stops before {lsn}")

        stores["S2"].down = stores["S3"].down = True
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(take(too_early), 4)
        stores["S2"].down = False
        with pytest.raises(Unavailable, match="the log stops"):
            await take(never)
        assert any(key.startswith("packs/") for key in stores["S2"].objects)
        assert not any(key.startswith("snapshots/") for store in stores.values() for key in store.objects)


class Flipping(ReplicationLink):
    """One bit differs from what the primary sent."""

    async def base_backup(self, *, label: str, fast: bool = True) -> AsyncIterator[BackupEvent]:
        flipped = False
        async for event in super().base_backup(label=label, fast=fast):
            if isinstance(event, ArchiveData) and not flipped and b"customer" in event.data:
                flipped = True
                at = event.data.index(b"customer")
                yield ArchiveData(event.data[:at] + b"Customer" + event.data[at + 8 :])
            else:
                yield event


async def test_what_did_not_arrive_as_it_was_sent_is_no_snapshot() -> None:
    stores = three()
    async with cluster(18) as primary:
        await fill(primary, 10)
        vault = Vault(stores, KEYRING, CLOCK)

        async def settled(lsn: Lsn) -> None:
            return

        async with await Flipping.connect(primary.dsn(), application_name="snapshot") as link:
            with pytest.raises(Damaged, match="did not arrive as the primary sent it"):
                await take_snapshot(link, vault, settled=settled, clock=CLOCK, progress=Silent())
        assert not any(key.startswith("snapshots/") for store in stores.values() for key in store.objects)


async def test_a_store_dies_in_the_middle_of_the_restore_and_another_lags() -> None:
    stores = three()
    async with cluster(18) as primary:
        await fill(primary, 30000)
        await snapshot(primary, stores)
        log = await log_of(primary)
        stores["S1"].reads_left = 4
        stores["S3"].delay = 20
        notes = Notes()
        began = CLOCK.monotonic()
        async with recovered(stores, log, Latest(), progress=notes) as (done, sql):
            assert CLOCK.monotonic() - began < 18
            assert await sql(COUNT) == await primary.sql(COUNT)
            assert done.bytes_from["S2"] > 0
        assert stores["S1"].down
        assert any("S1" in note for note in notes.said)


async def test_damaged_copies_are_said_and_others_used_and_if_there_is_none_the_pack_is_named() -> None:
    stores = three()
    async with cluster(18) as primary:
        await fill(primary, 30000)
        info = await snapshot(primary, stores)
        log = await log_of(primary)
        manifest = await Vault(stores, KEYRING, CLOCK).manifest(info.summary.id)
        first, second = sorted(manifest.places, key=lambda place: (place.pack, place.offset))[3:5]
        pack = f"packs/{first.pack}"

        def damage(name: str, at: int) -> None:
            body = bytearray(stores[name].objects[pack])
            body[at] ^= 1
            stores[name].objects[pack] = bytes(body)

        damage("S1", first.offset + 9)
        damage("S2", second.offset + 9)
        notes = Notes()
        async with recovered(stores, log, Latest(), progress=notes) as (_, sql):
            assert await sql(COUNT) == await primary.sql(COUNT)
        async with recovered({name: stores[name] for name in ("S1", "S2")}, log, Latest(), progress=notes) as (_, sql):
            assert await sql(COUNT) == await primary.sql(COUNT)  # each lacks another chunk
        assert any(f"{pack} is damaged on S" in note for note in notes.said)
        vault = Vault(stores, KEYRING, CLOCK)
        report = await verify_stored(vault, log, Silent(), deep=True)
        assert report.restorable
        assert {(problem.store, problem.key) for problem in report.problems} == {("S1", pack), ("S2", pack)}
        assert report.wal_bytes_read > 0
        for name in ("S2", "S3"):
            damage(name, first.offset + 9)
        with pytest.raises(Damaged, match=f"{pack} is damaged on S1, S2, S3"):
            async with recovered(stores, log, Latest()):
                pass
        report = await verify_stored(vault, log, Silent(), deep=True)
        assert not report.restorable


async def test_what_is_there_is_not_touched() -> None:
    stores = three()
    async with cluster(18) as primary:
        await fill(primary, 10)
        await snapshot(primary, stores)
        log = await log_of(primary)
        home = folder("tf-taken-")
        try:
            (home / "data").mkdir()
            (home / "data" / "precious").write_text("mine")
            with pytest.raises(Refused, match="is not empty"):
                async with recovered(stores, log, Latest(), into=home / "data"):
                    pass
            assert [path.name for path in (home / "data").iterdir()] == ["precious"]
            async with recovered(stores, log, Latest(), into=home / "new"):
                pass
            with pytest.raises(Refused, match="is not empty"):  # a finished recovery is somebody's database
                async with recovered(stores, log, Latest(), into=home / "new"):
                    pass
        finally:
            shutil.rmtree(home)


KILLED = """
import asyncio, sys
from pathlib import Path
from tests.recovering import *
from threefold.recover.prove import verify_recovered
from threefold.recover.targets import Latest

stores = {name: FolderStore(Path(sys.argv[1]) / name, delay=0.1) for name in ("S1", "S2", "S3")}
asyncio.run(recover(stores=stores, keyring=KEYRING, clock=CLOCK, progress=Silent(), target=Latest(),
                    into=Path(sys.argv[2]), open_log=FileLog(*eval(sys.argv[3])).opens()))
"""


async def test_a_recovery_that_is_killed_again_and_again_comes_to_its_end() -> None:
    home = folder("tf-killed-")
    stores = {name: FolderStore(home / name) for name in ("S1", "S2", "S3")}
    async with cluster(18) as primary:
        try:
            await fill(primary, 30000)
            await snapshot(primary, stores)
            log = await log_of(primary)
            facts = f"((Path({str(log.folders[0])!r}),), {log.system_identifier}, 1, Lsn(0), Lsn({int(log.end)}))"
            marker = home / "data" / "threefold-recovery.json"
            for seconds in (0.0, 0.1, 0.2, 0.3):
                marked = marker.stat().st_ino if marker.exists() else None
                process = subprocess.Popen([sys.executable, "-c", KILLED, home, home / "data", facts])
                async with asyncio.timeout(30):
                    while not marker.exists() or marker.stat().st_ino == marked:  # it is replaced by each
                        await asyncio.sleep(0.01)
                await asyncio.sleep(seconds)
                process.kill()
                process.wait()
            assert json.loads(marker.read_text())["finished"] is False
            async with recovered(stores, log, Latest(), into=home / "data") as (done, sql):
                assert any("unfinished recovery" in note for note in done.notes)
                assert await sql(COUNT) == await primary.sql(COUNT)
        finally:
            shutil.rmtree(home)


async def test_a_recovery_that_failed_is_gone_on_with_also_after_postgresql_ran_on_it() -> None:
    stores = three()
    async with cluster(18) as primary:
        await fill(primary, 30000)
        await snapshot(primary, stores)
        await primary.sql("CREATE TABLE later AS SELECT * FROM customer")
        ((last,),) = await primary.sql("SELECT clock_timestamp()")
        log = await log_of(primary)
        home = folder("tf-again-")
        try:
            with pytest.raises(BadInput, match="the target is not in the log"):
                async with recovered(stores, log, Time(last + timedelta(hours=1)), into=home / "data"):
                    pass
            (home / "data" / "base" / "stray").write_text("left over")
            async with recovered(stores, log, Latest(), into=home / "data") as (done, sql):
                assert any("unfinished recovery" in note for note in done.notes)
                assert not (home / "data" / "base" / "stray").exists()
                assert await sql(COUNT) == await primary.sql(COUNT)
                assert await sql("SELECT count(*) FROM later") == await primary.sql("SELECT count(*) FROM later")
                assert 0 < done.bytes_fetched < done.bytes_needed / 2  # most of it was kept
        finally:
            shutil.rmtree(home)


async def test_a_recovered_database_is_proved_by_reading_all_of_it() -> None:
    stores = three()
    async with cluster(18) as primary:
        await fill(primary, 3000)
        await snapshot(primary, stores)
        log = await log_of(primary)
        async with recovered(stores, log, Latest()) as (done, sql):
            assert done.server
            dsn = make_conninfo(primary.dsn(), port=str(done.server.port))
            proof = await verify_recovered(dsn, done.server.binaries)
            assert proof.rows["postgres"]["public.customer"] == 3000
            assert "amcheck" in proof.amcheck
            assert (await verify_recovered(dsn, done.server.binaries, install_amcheck=True)).amcheck == "passed"
            ((path,),) = await sql("SELECT pg_relation_filepath('customer')")
            ((index,),) = await sql("SELECT pg_relation_filepath('customer_pkey')")
            await done.server.stop()
            for name, offset in ((index, 8192 * 3 + 4000), (path, 8192 * 7 + 4000)):
                with (done.into / name).open("r+b") as file:
                    file.seek(offset)
                    file.write(b"rot" * 20)
                await done.server.start()
                with pytest.raises(Damaged, match="pg_amcheck found damage" if name == index else "public.customer"):
                    await verify_recovered(dsn, done.server.binaries)
                await done.server.stop("immediate")
