"""The warm standby, against real PostgreSQL, three real storage servers and a real DRaaS server."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest
from tests.pg import BOTH
from tests.protect_process import SYNC, Team, site, until
from tests.standing import ask, cluster_of, fenced, flushed, held, replayed, standby_of

from threefold.kernel.errors import Unavailable
from threefold.postgres.binaries import major_of
from threefold.quorum.keys import timeline_key
from threefold.quorum.timelines import seal_history
from threefold.recover.destination import MARKER


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


async def test_ahead_of_the_log_and_with_a_timeline_that_somebody_took() -> None:
    """What nobody had acknowledged may live on; no timeline's number is used twice; protection goes on from there."""
    async with site(18) as here, standby_of(here) as standby:
        await here.protect()
        await here.primary.sql(Team.TABLE)
        await here.done("snapshot")
        await standby.prepare()
        await standby.start(here.primary.dsn())
        await here.primary.sql("INSERT INTO saved VALUES (1, 1, 'acknowledged')")
        here.processes[0].kill()
        alone = "SET synchronous_commit = local; INSERT INTO saved SELECT 2, g, 'not' FROM generate_series(1, 500) g"
        await here.primary.sql(alone)
        await replayed(standby, await flushed(here))
        here.primary.server.kill()
        async with here.parts() as parts:
            somebodys = seal_history(parts.keyring, 2, b"1\t0/7000000\tno recovery target specified\n")
            for store in parts.stores.values():
                await store.create(timeline_key(2), somebodys)
        end, timeline = await fenced(here)
        await standby.complete(end, timeline)
        assert (await standby.position()).replayed > end
        promoted = await standby.promote(settings={"synchronous_standby_names": SYNC})
        assert promoted.timeline == 3
        assert promoted.at > end
        again = await standby.promote(settings={"synchronous_standby_names": SYNC})  # the agent was killed meanwhile
        assert (again.timeline, again.at) == (3, promoted.at)
        assert await ask(standby, "SELECT who, count(*) FROM saved GROUP BY 1 ORDER BY 1") == [(1, 1), (2, 500)]
        here.primary = cluster_of(standby)
        here.configure()
        await here.protect()
        await ask(standby, "INSERT INTO saved VALUES (3, 1, 'acknowledged again')")
        end, timeline, _ = await here.log_end()
        assert timeline == 3
        assert end > promoted.at


async def test_limits_raised_at_the_primary_are_raised_here() -> None:
    """PostgreSQL stops replaying where the primary allows more connections than the standby."""
    async with site(18) as here, standby_of(here) as standby:
        await here.protect()
        await here.primary.sql(Team.TABLE)
        await here.done("snapshot")
        await standby.prepare()
        await standby.start(here.primary.dsn())
        assert await ask(standby, "SHOW max_connections") == [("50",)]
        await here.primary.server.stop()
        here.primary.server.settings["max_connections"] = "80"
        await here.primary.server.start()

        async def paused() -> bool:
            return (await standby.position()).paused

        await until(paused, "a pause", 30)
        await here.primary.sql("INSERT INTO saved VALUES (1, 1, 'on a larger primary')")
        await standby.feed()
        await replayed(standby, await flushed(here))
        assert await ask(standby, "SHOW max_connections") == [("80",)]
        assert await ask(standby, "SELECT count(*) FROM saved") == [(1,)]


async def test_it_is_taken_up_again_as_it_runs() -> None:
    """The agent's process ends; PostgreSQL goes on, and the next agent finds it."""
    async with site(18) as here, standby_of(here) as standby, here.parts() as parts:
        await here.protect()
        await here.primary.sql(Team.TABLE)
        await here.done("snapshot")
        await standby.prepare()
        await standby.start(here.primary.dsn())
        pid = standby.server.pid
        next_one = held(parts, here, standby.data_dir, standby.port)
        assert (await next_one.prepare()).how == "kept"
        await next_one.start(here.primary.dsn())
        assert next_one.server.pid == pid
        await here.primary.sql("INSERT INTO saved VALUES (1, 1, 'x')")
        await replayed(next_one, await flushed(here))
        assert "password" not in (standby.data_dir / "postgresql.auto.conf").read_text()
        assert standby.data_dir.with_name("data.pgpass").stat().st_mode & 0o777 == 0o600
        await next_one.close()


async def test_a_restoring_that_was_cut_short_is_gone_on_with_whatever_it_left() -> None:
    """A machine without power leaves files of their full length without their bytes, PG_VERSION among them."""
    async with site(18) as here, standby_of(here) as standby, here.parts() as parts:
        await here.protect()
        await here.done("snapshot")
        await standby.prepare()
        marker = standby.data_dir / MARKER
        marker.write_text(json.dumps({**json.loads(marker.read_text()), "finished": False}))
        (standby.data_dir / "PG_VERSION").write_bytes(bytes(3))
        again = held(parts, here, standby.data_dir, standby.port)
        await again.stop()
        assert (await again.prepare()).how == "restored"
        await again.start(here.primary.dsn())
        await replayed(again, await flushed(here))
        await again.stop()
        await again.close()


@pytest.mark.parametrize(("said", "major"), [(b"18\n", 18), (b"", None), (b"\0\0\0", None), (b"\xff", None)])
def test_the_major_version_of_a_folder(tmp_path: Path, said: bytes, major: int | None) -> None:
    assert major_of(tmp_path) is None
    (tmp_path / "PG_VERSION").write_bytes(said)
    assert major_of(tmp_path) == major
