"""Switches between two sites: real PostgreSQL, real stores, the agents and the DRaaS server as processes."""

from __future__ import annotations

import asyncio

from tests.protect_process import team
from tests.two_sites import AWAY, HOME, THIRD, steps_of, took, two_sites

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
