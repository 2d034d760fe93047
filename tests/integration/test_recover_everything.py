"""All that a cluster may hold at once, from a real log: tablespaces, large objects, unlogged tables, 64 MB segments."""

from __future__ import annotations

import os

import pytest
from tests.pg import BOTH_IN_TIME
from tests.protect_process import site

from threefold.kernel.lsn import Lsn

MB = 2**20


@pytest.mark.parametrize("major", BOTH_IN_TIME)
async def test_everything_at_once_comes_back_by_the_command(major: int) -> None:
    async with site(major, wal_segment_size=64 * MB, settings={"max_wal_size": "1GB"}) as here:
        await here.protect()
        sql = here.primary.sql
        for space in ("one", "two"):
            place = here.primary.folder / space
            place.mkdir()
            os.chown(place, here.primary.server.account.uid, here.primary.server.account.gid)
            await sql(f"CREATE TABLESPACE {space} LOCATION '{place}'")
        await sql("CREATE TABLE in_one (i int PRIMARY KEY, t text) TABLESPACE one")
        await sql("INSERT INTO in_one SELECT i, md5(i::text) FROM generate_series(1, 3000) i")
        await sql("CREATE UNLOGGED TABLE cache TABLESPACE two AS SELECT * FROM in_one")
        ((before,),) = await sql("SELECT lo_from_bytea(0, decode(repeat('ab', 300000), 'hex'))")
        await here.done("snapshot", within=120)
        # The same again, known from the log alone, with more of it than one WAL segment holds.
        ((start,),) = await sql("SELECT pg_current_wal_lsn()::text")
        await sql("CREATE TABLE in_two TABLESPACE two AS SELECT * FROM in_one")
        await sql("CREATE UNLOGGED TABLE later_cache TABLESPACE one AS SELECT * FROM in_one")
        ((after,),) = await sql("SELECT lo_from_bytea(0, decode(repeat('cd', 200000), 'hex'))")
        for _ in range(4):
            await sql(
                "SELECT pg_logical_emit_message(true, 'load', string_agg(gen_random_uuid()::text, ''))"
                " FROM generate_series(1, 600000)"
            )
        await sql("UPDATE in_one SET t = 'changed' WHERE i = 7")
        ((end,),) = await sql("SELECT pg_current_wal_lsn()::text")
        assert Lsn.parse(end) - Lsn.parse(start) > 64 * MB
        for process in here.processes:
            process.kill()
        old = here.primary.folder
        here.destroy_primary()
        for space in ("one", "two"):
            (old / space).rename(old / f"{space}-gone")
        here.stores["S3"].kill()
        await here.recover()
        sql = here.primary.sql
        assert await sql("SELECT count(*), count(*) FILTER (WHERE t = 'changed') FROM in_one") == [(3000, 1)]
        assert await sql("SELECT count(*) FROM in_two") == [(3000,)]
        assert await sql("SELECT count(*) FROM cache") == [(0,)]  # reset: what is unlogged is not in any log
        assert await sql("SELECT count(*) FROM later_cache") == [(0,)]
        await sql("INSERT INTO cache SELECT * FROM in_one LIMIT 3")
        assert await sql(f"SELECT length(lo_get({before})), length(lo_get({after}))") == [(300000, 200000)]
        assert await sql("SHOW wal_segment_size") == [("64MB",)]
        places = await sql("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname IN ('one', 'two')")
        assert all(str(here.primary.folder) in place for (place,) in places), places  # beside the data folder
