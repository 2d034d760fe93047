"""Switches between two sites: real PostgreSQL, real stores, the agents and the DRaaS server as processes."""

from __future__ import annotations

import asyncio

from tests.protect_process import team
from tests.two_sites import AWAY, steps_of, took, two_sites


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
