"""The moment that is wanted is met exactly, whatever the clocks say, and across promotions."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from tests.pg import cluster, folder
from tests.recovering import Notes, fill, log_of, recovered, snapshot, three

from threefold.kernel.clock import SystemClock
from threefold.kernel.errors import BadInput, NotThere
from threefold.kernel.lsn import Lsn
from threefold.recover.targets import Immediate, Latest, Position, RestorePoint, Time


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
