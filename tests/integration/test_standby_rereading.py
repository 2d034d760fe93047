"""The agent of a site reads its settings again: a changed address needs no restart, a broken file changes nothing."""

from __future__ import annotations

import pytest
from tests.pg import free_port
from tests.protect_process import until
from tests.two_sites import AWAY, two_sites


@pytest.mark.long
async def test_an_agent_goes_on_with_changed_settings_and_with_the_old_ones_where_the_file_is_broken() -> None:
    async with two_sites() as here:
        config = here.here.config
        right = config.read_text()
        config.write_text(right.replace(f"port={here.here.primary.server.port}", f"port={free_port()}"))
        agent = here.here.run("standby", "--site", AWAY, log="agent-eu")
        await agent.says("copy prepared", within=60)
        config.write_text(right.replace("[[store]]", "[[shop]]"))
        await agent.says("going on with the ones before")
        config.write_text(right.replace('name = "', 'name = "another-', 1))
        await agent.says("cannot change the system or the data folder")
        config.write_text(right)
        await agent.says("going on with the new ones")
        status = await here.ready(AWAY, process=agent)
        assert status.pid == agent.pid
        assert agent.said.count('"how": "restored"') == 1, "the copy of before is gone on with"
        here.here.primary.server.kill()
        result = await here.here.done("failover", "--yes", "--until", "serving")
        assert result["active"] == AWAY
        await here.writes()

        async def adopted() -> bool:
            """Another reading while its PostgreSQL serves."""
            found = await here.status()
            return found is not None and found.role == "active" and found.pid == agent.pid

        await until(adopted, "the agent of the active site", 30)
        before = here.cluster(AWAY).server.pid
        said = agent.said.count("going on with the new ones")
        await here.step("protected")
        config.write_text(right.replace("[failover]", '[failover]\nstall = "31s"'))
        await until(lambda: _more(agent, said), "another reading", 30, lambda: agent.said)
        await until(adopted, "the agent of the active site", 30)
        assert here.cluster(AWAY).server.pid == before
        await here.writes()


async def _more(agent: object, than: int) -> bool:
    return str(agent.said).count("going on with the new ones") > than  # type: ignore[attr-defined]
