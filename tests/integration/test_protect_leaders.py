"""Who leads: one DRaaS server at a time, and only for a primary that has everything that was acknowledged."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.pg import BOTH, Cluster, cluster
from tests.protect_process import Site, site, team

from threefold.postgres.server import Server


@pytest.mark.parametrize("major", BOTH)
async def test_what_was_saved_is_back_after_the_disaster(major: int) -> None:
    async with site(major) as here:
        await here.protect()
        async with team(here) as people:
            await people.progress(50)
            await here.done("snapshot")
            await people.progress(100)
            here.stores["S2"].kill()
            here.stores["S2"].wipe()
            here.destroy_primary()
        for process in here.processes:
            process.kill()
        await here.recover()
        await people.judge()


async def test_a_second_one_waits_until_the_first_is_silent_and_takes_over() -> None:
    async with site() as here:
        first = await here.protect()
        async with team(here) as people:
            await people.progress()
            second = here.begin_protecting()
            await second.says("a leader may be alive")
            await people.progress(50)
            assert "leading" not in second.said
            first.kill()
            await second.says('"streaming"', within=90)
            await people.progress(50)
            people.pause()
            await here.same_as_primary()
        leader = await here.leader()
        assert leader is not None
        assert (leader.pid, leader.epoch) == (second.pid, 2)


async def test_one_that_is_told_to_takes_over_at_once_and_the_first_is_fenced() -> None:
    async with site() as here:
        first = await here.protect()
        async with team(here) as people:
            await people.progress()
            second = here.begin_protecting("--take-over")
            assert await first.ended() == 4
            assert "hint: this one has stopped and acknowledges nothing more" in first.said
            await second.says('"streaming"')
            await people.progress(50)
            third = here.begin_protecting()  # the fenced one's last words do not make anybody believe that all is over
            await third.says("a leader may be alive")
            await people.progress(50)
            assert second.code is None
            people.pause()
            await here.same_as_primary()


async def test_one_that_was_stopped_for_a_while_is_fenced_when_it_wakes() -> None:
    async with site() as here:
        first = await here.protect()
        async with team(here) as people:
            await people.progress()
            first.signal(19)
            second = await here.protect("--take-over")
            await people.progress(50)
            first.signal(18)
            assert await first.ended() == 4
            await people.progress(50)
            assert second.code is None
            people.pause()
            await here.same_as_primary()


@asynccontextmanager
async def _instead(here: Site, data: Path, server: Server) -> AsyncIterator[Cluster]:
    """Another data folder in the primary's place, at the same address."""
    other = Server(server.binaries, data, server.port, settings=server.settings)
    await other.start()
    before, here.primary = here.primary, Cluster(other, data.parent)
    try:
        yield here.primary
    finally:
        other.kill()
        here.primary = before


async def _refused(here: Site, words: str) -> None:
    """Exit code 3, and nothing but a beacon is different in the stores."""
    before = [await here.objects(name) for name in here.stores]
    error = await here.refused("protect")
    assert error["exit_code"] == 3, error
    assert words in error["error"], error
    assert [await here.objects(name) for name in here.stores] == before


@pytest.mark.long
async def test_a_replaced_primary_is_refused_and_the_log_left_alone() -> None:
    async with site() as here:
        primary = here.primary
        copy = primary.folder / "copy"
        protecting = await here.protect()
        async with team(here) as people:
            await people.progress()
            people.pause()
            await primary.server.stop("fast")
            shutil.copytree(primary.server.data_dir, copy, symlinks=True)
            for more in ("further", "promoted", "again"):
                shutil.copytree(copy, primary.folder / more, symlinks=True)
            await primary.server.start()
            people.resume()
            await people.progress(200)
        primary.server.kill()
        # The DRaaS server that is alive sees an older copy come up, which lacks what it acknowledged.
        async with _instead(here, copy, primary.server):
            assert await protecting.ended() == 3
            assert "it lost changes that were acknowledged" in protecting.said
            await _refused(here, "it lost changes that were acknowledged")
        # The older copy went on by itself, past the end of the log, on the same timeline.
        async with _instead(here, primary.folder / "further", primary.server) as further:
            await further.sql("SET synchronous_commit = off; CREATE TABLE other AS SELECT generate_series(1, 200000)")
            await further.sql("CHECKPOINT")
            await _refused(here, "holds other changes")
        # The older copy was promoted: a timeline of its own that left ours too early.
        (primary.folder / "promoted" / "standby.signal").touch()
        async with _instead(here, primary.folder / "promoted", primary.server) as promoted:
            await promoted.server.promote()
            await _refused(here, "the log holds a whole record")
        async with cluster(18, fresh=True, settings=primary.server.settings) as stranger:
            here.primary, before = stranger, here.primary
            here.configure()
            await _refused(here, "is database system")
            here.primary = before
            here.configure()
        await primary.server.start()
        await here.protect()
        await here.same_as_primary()
