"""What a person asks for: dry runs, refusals, a switch that is abandoned, a copy that nobody keeps."""

from __future__ import annotations

import asyncio

import pytest
from tests.protect_process import SYNC, Process, Team, until
from tests.two_sites import AWAY, DIES, HOME, steps_of, two_sites

pytestmark = pytest.mark.long


async def test_a_person_is_told_and_refused_before_anything_is_done() -> None:
    async with two_sites() as here:
        refused = await here.here.refused("failover", "--yes")
        assert refused["exit_code"] == 3
        assert f"threefold standby --site {AWAY}" in refused["hint"]
        await here.agent()
        said = await here.here.done("failover", "--dry-run")
        assert (said["from"], said["to"]) == (HOME, AWAY)
        assert said["detector"]["verdict"] == "healthy"
        assert said["lost"] == "nothing that was confirmed"
        assert f"{HOME} seems to be well" in said["refused"]["error"]
        refused = await here.here.refused("failover", "--dry-run", "--to", HOME)
        assert "active site already" in refused["error"]
        refused = await here.here.refused("failover")
        assert refused["exit_code"] == 3
        assert f"{HOME} seems to be well" in refused["error"]
        refused = await here.here.refused("failover", "--to", HOME)
        assert "active site already" in refused["error"]
        refused = await here.here.refused("failover", "--to", "atlantis")
        assert refused["exit_code"] == 2
        refused = await here.here.refused("standby")
        assert refused["exit_code"] == 3
        assert "an agent already keeps" in refused["error"]
        assert await here.switches() == ()
        assert here.cluster(HOME).server.pid is not None


async def test_a_person_is_asked_shown_what_it_rests_on_and_confirms() -> None:
    async with two_sites(policy="confirm", more='process_gone = "1s"') as here:
        await here.agent()
        here.here.primary.server.kill()

        async def asked() -> bool:
            status = await here.status()
            return status is not None and status.action == "ask"

        await until(asked, "a question", 30, here.said)
        seen = (await here.here.done("status"))["agents"][AWAY]
        assert seen["give_up"]
        assert any("refuses" in fact or "refused" in fact for fact in seen["evidence"]), seen["evidence"]
        shown = here.here.run("status")
        await shown.ended()
        said = " ".join(shown.said.split())
        assert f"{AWAY} asks for a decision:" in said
        assert "confirm with: threefold failover" in said
        assert f"What {AWAY} goes by:" in said
        assert await here.switches() == (), "nothing is done before"
        await here.here.done("failover", "--until", "serving")
        await here.writes()


async def test_a_planned_switch_that_is_abandoned_gives_the_service_back() -> None:
    """The target's agent dies when the source has stopped already."""
    async with two_sites() as here:
        here.here.run("standby", "--site", HOME, log="agent-home")
        dying = Process(
            ["-c", DIES, "standby", "--site", AWAY, "--config", here.here.config],
            here.here.home / "dying.log",
            {**here.here.environment(), "DIE_AT": "before:fenced"},
        )
        here.here.processes.append(dying)
        await here.ready(process=dying)
        await here.here.primary.sql(Team.TABLE)
        order = here.here.run("failover", "--planned", "--json")
        assert await dying.ended() == -9
        await here.step("stopped")
        assert here.cluster(HOME).server.pid is None
        assert (await here.here.done("failover", "--abandon"))["abandoned"]
        assert await order.ended() == 3
        await here.writes(HOME)
        (switch,) = await here.switches()
        assert steps_of(switch) == ["ordered", "stopped", "abandoned"]


@pytest.mark.parametrize("strict", [True, False])
async def test_what_is_not_strict_takes_writes_before_it_is_protected_and_waits_from_then_on(strict: bool) -> None:
    """No DRaaS server is there when the new site begins to serve."""
    async with two_sites(strict=strict) as here:
        await here.agent()
        here.here.primary.server.kill()
        here.here.processes[0].kill()
        await here.here.done("failover", "--yes", "--until", "serving")
        cluster = here.cluster(AWAY)
        writing = asyncio.create_task(cluster.sql("CREATE TABLE taken ()"))
        done, _ = await asyncio.wait({writing}, timeout=4)
        assert bool(done) is not strict
        await here.here.protect("--take-over")
        await asyncio.wait_for(writing, 30)
        await here.step("protected")
        assert await cluster.sql("SHOW synchronous_standby_names") == [(SYNC,)]


async def test_a_former_primarys_folder_is_refused_until_somebody_gives_it_up() -> None:
    """Another site is active; without --rebuild nothing is touched, and the agent ends with 3."""
    async with two_sites() as here:
        await here.agent()
        here.here.primary.server.kill()
        await here.here.done("failover", "--yes", "--until", "serving")
        refused = await here.here.refused("standby", "--site", HOME)
        assert refused["exit_code"] == 3
        assert "no standby of ours" in refused["error"]
