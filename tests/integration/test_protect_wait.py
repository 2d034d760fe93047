"""Two DRaaS servers that stand in for each other (`protect --wait`): commits go on, nothing is lost, no ping-pong."""

from __future__ import annotations

import asyncio
import signal

import pytest
from tests.fault_proxy import Fault, FaultProxy
from tests.protect_process import Process, Site, Team, site, team, until


async def _pause_of_commits(people: Team, since: float, within: float = 60) -> float:
    """Seconds from ``since`` until the first commit that was begun afterwards was acked."""
    await until(lambda: any(at - took > since for at, took in people.times), "a commit", within)
    return min(at for at, took in people.times if at - took > since) - since


async def _calm(here: Site, leading: Process, waiting: Process, people: Team) -> None:
    """Whoever was replaced waits, and does not take over again while the other one streams."""
    leader = await here.leader()
    assert leader is not None
    assert leader.pid == leading.pid
    epoch = leader.epoch
    await people.progress(100)
    await asyncio.sleep(6)
    await people.progress(20)
    leader = await here.leader()
    assert leader is not None
    assert (leader.pid, leader.epoch) == (leading.pid, epoch), waiting.said
    assert waiting.code is None
    assert leading.code is None


async def test_the_leader_is_killed() -> None:
    async with site() as here:
        first = await here.protect("--wait")
        second = here.begin_protecting("--wait")
        await second.says("a leader may be alive")
        async with team(here) as people:
            await people.progress()
            now = asyncio.get_running_loop().time()
            first.kill()
            await second.says("the leader's process has ended")
            assert await _pause_of_commits(people, now) < 5
            await people.progress(50)
            people.pause()
            await people.judge()
            await here.same_as_primary()


@pytest.mark.long
async def test_the_leader_is_stopped_and_wakes_and_each_waits_for_the_other() -> None:
    async with site() as here:
        first = await here.protect("--wait")
        second = here.begin_protecting("--wait")
        await second.says("a leader may be alive")
        async with team(here) as people:
            await people.progress()
            now = asyncio.get_running_loop().time()
            first.signal(signal.SIGSTOP)
            await second.says("the leader has been silent")
            assert await _pause_of_commits(people, now) < 15
            first.signal(signal.SIGCONT)
            await first.says("waiting again")
            await _calm(here, second, first, people)
            second.kill()  # and back
            await until(lambda: first.said.count('"streaming"') == 2, "the first one, again", said=lambda: first.said)
            await people.progress(50)
            people.pause()
            await people.judge()
            await here.same_as_primary()


@pytest.mark.long
async def test_the_leader_is_cut_off_from_the_primary() -> None:
    async with site() as here:
        server = here.primary.server
        with FaultProxy(server.port, raw=True) as proxy:
            dsn = here.config.read_text()
            here.config.write_text(dsn.replace(f"port={server.port}", f"port={proxy.port}"))
            first = await here.protect("--wait")
            here.config.write_text(dsn)
            second = here.begin_protecting("--wait")
            await second.says("a leader may be alive")
            async with team(here) as people:
                await people.progress()
                now = asyncio.get_running_loop().time()
                proxy.do(Fault.CUT)
                await second.says("nobody has streamed from the primary")
                assert await _pause_of_commits(people, now) < 10
                await first.says("waiting again", within=30)
                proxy.heal()
                await _calm(here, second, first, people)
                people.pause()
                await people.judge()
                await here.same_as_primary()
