"""Switches between two sites: real PostgreSQL, real stores, the agents and the DRaaS server as processes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import psycopg
import pytest
from tests.protect_process import SYNC, team, until
from tests.two_sites import AWAY, HOME, THIRD, TwoSites, steps_of, took, two_sites

PLANNED = ["ordered", "stopped", "fenced", "promoting", "serving"]


async def test_a_warm_site_takes_over_within_two_seconds_and_loses_nothing() -> None:
    async with two_sites() as here:
        await here.agent()
        async with team(here.here) as clients:
            await clients.progress(50)
            here.here.primary.server.kill()
            began = asyncio.get_running_loop().time()
            result = await here.here.done("failover", "--yes", "--until", "serving")
            first = await here.writes()
            here.move_to(AWAY)
            await clients.progress(20)
            await clients.stop()
            await clients.judge()
        switch = await here.step("protected")
        assert steps_of(switch) == ["ordered", "fenced", "promoting", "serving", "protected"]
        print(took(result), first - began)


@pytest.mark.long
async def test_there_in_good_order_and_back() -> None:
    """Planned both ways: the source stops, becomes the standby of the other, and nothing is restored for it."""
    async with two_sites() as here:
        home_agent = here.here.run("standby", "--site", HOME, log="agent-home")
        await here.agent()
        async with team(here.here) as clients:
            await clients.progress(30)
            there = await here.here.done("failover", "--planned", "--json")
            assert [step["step"] for step in there["steps"]] == [*PLANNED, "protected"]
            here.move_to(AWAY)
            await clients.progress(30)
            seen = await here.ready(HOME, process=home_agent)
            assert seen.deficiency["lacks"] == []
            back = await here.here.done("failback", "--until", "serving")
            assert [step["step"] for step in back["steps"]] == PLANNED
            here.move_to(HOME)
            await clients.progress(30)
            await clients.stop()
            await clients.judge()
        await here.ready(AWAY)
        assert "rebuilt" not in home_agent.said
        switches = await here.switches()
        assert [switch.target for switch in switches] == [AWAY, HOME]


@pytest.mark.long
async def test_the_third_site_comes_up_from_the_stores_when_the_second_fails_too() -> None:
    """NA14: before eu has a standby it is gone as well. The third machine's settings know karachi and itself only."""
    async with two_sites() as here:
        await here.agent()
        async with team(here.here) as clients:
            await clients.progress(30)
            here.here.primary.server.kill()
            await here.here.done("failover", "--yes", "--until", "serving")
            here.move_to(AWAY)
            await clients.progress(30)
            for process in here.here.processes:
                if "agent-eu" in process.name:
                    process.kill()
            here.cluster(AWAY).server.kill()
            here.configure(THIRD)
            result = await here.here.done("failover", "--yes", "--here", "--until", "serving")
            assert (result["active"], result["switch"]) == (THIRD, 2)
            await here.writes(THIRD)
            here.move_to(THIRD)
            await clients.progress(10)
            await clients.stop()
            await clients.judge()
        assert [switch.source for switch in await here.switches()] == [HOME, AWAY]


@pytest.mark.long
async def test_by_itself_and_the_returned_primary_does_no_harm_and_is_rebuilt() -> None:
    """The agent takes over by itself; the old primary comes back, confirms nothing, is made a standby, and serves."""
    async with two_sites(policy="automatic", more='process_gone = "1s"') as here:
        agent = await here.agent()
        async with team(here.here) as clients:
            await clients.progress(30)
            old = here.cluster(HOME)
            here.here.primary.server.kill()
            switch = await here.step("serving", within=40)
            assert switch.order.by == f"agent of {AWAY}"
            assert switch.order.facts["evidence"]
            here.move_to(AWAY)
            await clients.progress(20)

            old.server.settings.update({"synchronous_standby_names": SYNC, "fsync": "off"})
            await old.server.start()
            async with await psycopg.AsyncConnection.connect(old.dsn(), autocommit=True) as connection:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(connection.execute("CREATE TABLE never_confirmed ()"), 2)
            said = await here.here.done("status")
            assert said["active_site"] == AWAY
            assert said["former_primary"]["site"] == HOME
            refused = await here.here.refused("failback")
            assert f"threefold standby --site {HOME}" in refused["hint"]
            await old.server.stop("immediate")

            await here.step("protected")
            await here.agent(HOME, "--rebuild")
            said = await here.here.done("status")
            assert said["former_primary"] is None
            assert said["agents"][HOME]["copy_ready"]
            await until(_whole(here), "nothing missing", 30)
            await here.here.done("failback", "--until", "serving")
            here.move_to(HOME)
            await clients.progress(20)
            await clients.stop()
            await clients.judge()
        assert agent.code is None
        assert await here.cluster(HOME).sql("SELECT to_regclass('never_confirmed')") == [(None,)]


def _whole(here: TwoSites) -> Callable[[], Awaitable[bool]]:
    async def whole() -> bool:
        status = await here.status(HOME)
        return status is not None and status.deficiency["lacks"] == []

    return whole
