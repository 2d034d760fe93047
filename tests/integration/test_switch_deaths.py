"""An agent is killed (-9, by itself, at that very point) while it carries out a switch; the next one goes on."""

from __future__ import annotations

import pytest
from tests.protect_process import Process, team
from tests.two_sites import AWAY, DIES, TwoSites, steps_of, two_sites

pytestmark = pytest.mark.long

# "before:serving" is between the promotion and the word about it: the one step that cannot be taken back.
POINTS = (
    "after:ordered",
    "before:fenced",
    "after:fenced",
    "before:promoting",
    "after:promoting",
    "before:serving",
    "after:serving",
    "before:protected",
)


async def test_one_switch_outlives_the_death_of_its_agent_at_every_step() -> None:
    async with two_sites() as here:
        dying = _agent(here, POINTS[0])
        await here.ready(process=dying)
        async with team(here.here) as clients:
            await clients.progress(20)
            here.here.primary.server.kill()
            order = here.here.run("failover", "--yes", "--json")
            for point in POINTS[1:]:
                assert await dying.ended() == -9, dying.said[-2000:]
                dying = _agent(here, point)
            assert await dying.ended() == -9
            last = here.here.run("standby", "--site", AWAY, log="last")
            switch = await here.step("protected")
            await here.writes()
            here.move_to(AWAY)
            await clients.progress(10)
            await clients.stop()
            await clients.judge()
        assert steps_of(switch) == ["ordered", "fenced", "promoting", "serving", "protected"]
        assert await order.ended() == 0
        assert last.code is None


def _agent(here: TwoSites, point: str) -> Process:
    process = Process(
        ["-c", DIES, "standby", "--site", AWAY, "--config", here.here.config],
        here.here.home / "dying.log",
        {**here.here.environment(), "DIE_AT": point},
    )
    here.here.processes.append(process)
    return process
