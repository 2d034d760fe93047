"""The warm standby, against real PostgreSQL, three real storage servers and a real DRaaS server."""

from __future__ import annotations

import asyncio
import time

import pytest
from tests.pg import BOTH
from tests.protect_process import Team, site
from tests.standing import ask, fenced, flushed, replayed, standby_of

from threefold.kernel.errors import Unavailable


@pytest.mark.parametrize("major", BOTH)
async def test_it_follows_and_serves_at_once_when_the_primary_is_gone(major: int) -> None:
    async with site(major) as here, standby_of(here) as standby:
        await here.protect()
        await here.primary.sql(Team.TABLE)
        await here.done("snapshot")
        await here.primary.sql("INSERT INTO saved VALUES (99, 1, 'after the snapshot')")
        with pytest.raises(Unavailable):
            await standby.position()
        made = await standby.prepare()
        assert made.how == "restored"
        assert made.bytes_fetched > 0
        assert (await standby.prepare()).how == "kept"
        await standby.start(here.primary.dsn())
        await replayed(standby, await flushed(here))
        await here.primary.sql("INSERT INTO saved VALUES (99, 2, 'streamed')")
        await replayed(standby, await flushed(here))
        assert await ask(standby, "SELECT count(*) FROM saved WHERE who = 99") == [(2,)]
        position = await standby.position()
        assert position.streaming
        assert position.replay_age_s is not None
        assert position.replay_age_s < 2
        rows = await here.primary.sql("SELECT application_name, sync_state FROM pg_stat_replication ORDER BY 1")
        assert rows == [("threefold", "quorum"), ("threefold_standby_recovery", "async")]

        team = Team(here)
        while len(team.acked) < 100:
            await asyncio.sleep(0.05)
        here.primary.server.kill()
        here.processes[0].kill()
        began = time.monotonic()
        end, timeline = await fenced(here)
        at_fence = time.monotonic()
        await standby.complete(end, timeline)
        completed = time.monotonic()
        promoted = await standby.promote(settings={"synchronous_standby_names": ""})
        took = time.monotonic() - at_fence
        print(f"fence {at_fence - began:.3f} s, complete {completed - at_fence:.3f} s, and promote {took:.3f} s")
        acked = set(team.acked)
        await team.stop()
        assert promoted.timeline == 2
        assert promoted.last_commit
        there = set(await ask(standby, "SELECT who, number FROM saved"))
        assert acked <= there
        await ask(standby, "INSERT INTO saved VALUES (99, 3, 'life goes on')")
        assert took < 1.5
