"""A site that comes back: its folder becomes a standby again, at the price of what differs; a foreign copy as well."""

from __future__ import annotations

import asyncio

import pytest
from tests.pg import BOTH, Cluster
from tests.protect_process import SYNC, Site, site
from tests.standing import ask, dead, fenced, flushed, held, replayed, standby_of

from threefold.kernel.errors import Refused
from threefold.recover.feed import ForeignCopy

pytestmark = pytest.mark.long

_FILL = "INSERT INTO t SELECT g, repeat(md5(g::text), 30) FROM generate_series(1, 20000) g"


def _configured(here: Site, port: int) -> None:
    here.configure()
    with here.config.open("a") as file:
        file.write(f'\n[recovery]\nsite = "recovery"\nstandby = "warm"\nlisten = "127.0.0.1:{port}"\n')


@pytest.mark.parametrize("major", BOTH)
async def test_an_old_primary_is_rebuilt_and_its_own_changes_are_gone(major: int) -> None:
    async with site(major) as here, standby_of(here) as standby:
        await here.protect()
        await here.primary.sql("CREATE TABLE t (x int, y text)")
        await here.primary.sql(_FILL)
        await here.done("snapshot")
        await standby.prepare()
        await standby.start(here.primary.dsn())
        await replayed(standby, await flushed(here))

        old = here.primary
        here.processes[0].kill()
        end, timeline = await fenced(here)
        await standby.complete(end, timeline)
        await standby.promote(settings={"synchronous_standby_names": SYNC})
        # The old one, cut off, went on: nobody acknowledged that.
        alone = "SET synchronous_commit = local;"
        await old.sql(f"{alone} INSERT INTO t VALUES (-1, 'never acknowledged')")
        await old.sql(f"{alone} UPDATE t SET y = 'diverged' WHERE x < 100")

        # The new one waits: its commits hang until protection is back.
        here.primary = Cluster(standby.server, standby.data_dir.parent)
        waits = asyncio.create_task(ask(standby, "INSERT INTO t VALUES (-2, 'waits for protection')"))
        await asyncio.wait({waits}, timeout=1.0)
        assert not waits.done()
        here.configure()
        await here.protect()
        await asyncio.wait_for(waits, 20)
        await ask(standby, "INSERT INTO t VALUES (-3, 'protected')")
        await here.done("snapshot")

        async with here.parts() as parts:
            back = held(parts, here, old.server.data_dir, old.server.port)
            with pytest.raises(Refused, match="no standby of ours"):
                await back.prepare()
            with pytest.raises(Refused, match="is running"):
                await back.prepare(rebuild=True)
            old.server.kill()
            made = await back.demote()  # killed: it cannot stay as it is
            assert made.how == "rebuilt"
            assert "good order" in made.why
            assert 0 < made.bytes_fetched < made.bytes_needed / 3, made
            await back.start(standby.conninfo)
            at = (await standby.position()).replayed
            await replayed(back, at)
            assert (await back.position()).timeline == 2
            rows = await ask(back, "SELECT x FROM t WHERE x < 0 ORDER BY x")
            assert rows == [(-3,), (-2,)]
            assert await ask(back, "SELECT count(*) FROM t WHERE y = 'diverged'") == [(0,)]

            # And back again, planned: the primary is stopped in good order, and stays as it is.
            await standby.stop()
            end, timeline = await fenced(here)
            await back.complete(end, timeline)
            promoted = await back.promote(settings={"synchronous_standby_names": ""})
            assert promoted.timeline == 3
            made = await standby.demote()
            assert (made.how, made.why) == ("kept", "")
            await standby.start(back.conninfo)
            await ask(back, "INSERT INTO t VALUES (-4, 'on the third timeline')")
            await replayed(standby, (await back.position()).replayed)
            assert await ask(standby, "SELECT x FROM t WHERE x = -4") == [(-4,)]
            assert (await standby.position()).timeline == 3
            await back.close()


async def test_a_copy_of_another_history_is_found_and_made_anew() -> None:
    async with site(18) as here, standby_of(here) as standby:
        await here.protect()
        await here.primary.sql("CREATE TABLE t (x int, y text)")
        await here.done("snapshot")
        await standby.prepare()
        await standby.start(here.primary.dsn())
        await replayed(standby, await flushed(here))
        await standby.follow(None)
        await standby.stop()
        # Somebody starts it as a primary of its own, on the same timeline.
        signal = standby.data_dir / "standby.signal"
        signal.unlink()
        with pytest.raises(Refused, match="no standby's folder"):
            await standby.start(None)
        await standby.server.start()
        await ask(standby, "SET synchronous_commit = local; INSERT INTO t VALUES (1, 'here alone')")
        await standby.stop()
        signal.touch()
        await here.primary.sql("INSERT INTO t VALUES (2, 'there')")
        here.primary.server.kill()
        end, timeline = await fenced(here)
        with pytest.raises(ForeignCopy, match="differs from the log"):
            await standby.complete(end, timeline)
        made = await standby.prepare()
        assert made.how == "rebuilt"
        assert made.bytes_fetched < made.bytes_needed / 2
        await standby.complete(end, timeline)
        assert await ask(standby, "SELECT x FROM t") == [(2,)]
        await standby.stop()
        await dead(standby)


@pytest.mark.parametrize("major", BOTH)
async def test_a_snapshot_of_the_standby_restores(major: int) -> None:
    async with site(major) as here, standby_of(here) as standby:
        _configured(here, standby.port)
        await here.protect()
        await here.primary.sql("CREATE TABLE t (x int, y text)")
        first = await here.done("snapshot")  # no standby is there yet
        assert first["from"] == "primary"
        await standby.prepare()
        await standby.start(here.primary.dsn())
        await here.primary.sql(_FILL)
        await here.primary.sql("CHECKPOINT")
        await replayed(standby, await flushed(here))
        taken = await here.done("snapshot")
        assert taken["from"] == "standby"
        assert (await here.done("snapshot", "--from", "primary"))["from"] == "primary"
        await here.primary.sql("INSERT INTO t VALUES (-1, 'after it')")
        await standby.stop()
        failed = await here.refused("snapshot", "--from", "standby")
        assert failed["exit_code"] == 1
        here.destroy_primary()
        here.processes[0].kill()
        done = await here.recover("--snapshot", taken["id"])
        assert done["snapshot"] == taken["id"]
        assert await here.primary.sql("SELECT count(*) FROM t") == [(20001,)]
        conf = (here.primary.server.data_dir / "postgresql.auto.conf").read_text()
        assert "threefold_standby" not in conf
        assert await here.primary.sql("SHOW primary_conninfo") == [("",)]
