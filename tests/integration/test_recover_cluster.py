"""A real cluster into the vault and out again: all that it holds, nothing of its old place, and proved."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from tests.pg import cluster, folder
from tests.recovering import COUNT, Notes, fill, log_of, recovered, snapshot, three

from threefold.kernel.errors import Damaged
from threefold.recover.prove import verify_recovered
from threefold.recover.targets import Latest


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
