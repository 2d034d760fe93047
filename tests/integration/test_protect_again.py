"""A recovered primary is protected again on the same log: a new epoch, a new timeline, nothing of the old one lost."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from contextlib import suppress

import psycopg
import pytest
from tests.pg import Cluster
from tests.protect_process import Site, site, team, until

from threefold.kernel.lsn import Lsn
from threefold.postgres.server import Server


@pytest.mark.long
@pytest.mark.parametrize(("megabytes", "times"), [(1, 2), (64, 1)])
async def test_a_recovered_primary_goes_on_with_the_log_and_the_old_one_stays_out(megabytes: int, times: int) -> None:
    async with site(wal_segment_size=megabytes * 2**20) as here:
        await here.protect()
        old, copy = here.primary, here.primary.folder / "old"
        async with team(here) as people:
            await people.progress(30)
            await here.done("snapshot")
            await people.progress(100)
            people.pause()
            old.server.kill()
            shutil.copytree(old.server.data_dir, copy, symlinks=True)
            for process in here.processes:
                process.kill()
            await here.recover()
            await people.judge()
            for timeline in range(2, 2 + times):
                protecting = await here.protect()
                await here.sync()
                people.resume()
                await people.progress(100)
                _, found, _ = await here.log_end()
                assert found == timeline
                people.pause()
                here.destroy_primary()
                protecting.kill()
                await here.recover()
                await people.judge()
        # The old primary comes back at its old address, and as one that promoted itself to a timeline 2 of its own.
        here.primary.server.kill()
        here.primary = Cluster(Server(old.server.binaries, copy, old.server.port, settings=old.server.settings), copy)
        before = [await here.objects(name) for name in here.stores]
        await here.primary.server.start()
        error = await here.refused("protect")
        assert error["exit_code"] == 3
        assert "knows no timeline" in error["error"]
        await here.primary.server.stop("immediate")
        (copy / "standby.signal").touch()
        await here.primary.server.start()
        await here.primary.server.promote()
        error = await here.refused("protect")
        assert error["exit_code"] == 3
        assert [await here.objects(name) for name in here.stores] == before
        here.primary.server.kill()


@pytest.mark.long
async def test_a_record_that_never_became_whole_is_longer_than_segments_of_the_log() -> None:
    """1 MB WAL segments: the fork lies far inside segments of the log that were whole already."""
    async with site(wal_segment_size=2**20, settings={"max_wal_size": "1GB"}) as here:
        await here.protect()
        async with team(here) as people:
            await people.progress(30)
            await here.done("snapshot")
            await people.progress(30)
            people.pause()
            start, _, _ = await here.log_end()
            await _kill_in_the_middle_of_a_record(here)
            await asyncio.sleep(2)
            end, _, _ = await here.log_end()
            assert end - start > 20 * 2**20  # all of it one record, which is not whole
            for process in here.processes:
                process.kill()
            here.destroy_primary()
            result = await here.recover()
            assert Lsn.parse(result["recovered_to"]) - start < 2**20
            await people.judge()
            await here.protect()
            await here.sync()
            people.resume()
            await people.progress(50)
            for _ in range(40):  # the new timeline has whole segments where the old one had some, too
                await here.primary.sql(
                    "SELECT pg_logical_emit_message(false, 'load', repeat(md5(random()::text), 40000))"
                )
            people.pause()
            here.destroy_primary()
            for process in here.processes:
                process.kill()
            await here.recover("--from", "S2")
            await people.judge()


async def _kill_in_the_middle_of_a_record(here: Site) -> None:
    """One record of 200 MB; its writer stops half-way, and the primary dies when the log has what was written."""
    start, _, _ = await here.log_end()
    pg_wal = here.primary.server.data_dir / "pg_wal"
    writer = await psycopg.AsyncConnection.connect(here.primary.dsn(), autocommit=True)
    message = "SELECT pg_logical_emit_message(false, 'load', repeat('0123456789abcdef', 12000000))"
    writing = asyncio.create_task(writer.execute(message))  # type: ignore[arg-type]
    newest = max(pg_wal.glob("0000*"))
    while int(max(pg_wal.glob("0000*")).name, 16) < int(newest.name, 16) + 60:
        await asyncio.sleep(0)
    os.kill(writer.info.backend_pid, signal.SIGSTOP)
    assert not writing.done()

    async def arrived() -> bool:
        end, _, _ = await here.log_end()
        return bool(end > start + 40 * 2**20)

    await until(arrived, "most of the record in the log")
    here.primary.server.kill()
    with suppress(psycopg.OperationalError):
        await writing
