"""[failover] without_quorum = "spool": two stores gone, commits go on, and everybody is told what that means."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from tests.pg import small_disk
from tests.protect_process import Site, site, team, until

from threefold.quorum import degraded
from threefold.stores.store import Page

pytestmark = pytest.mark.long


def _spools(here: Site) -> None:
    here.configure(more='\n[failover]\nwithout_quorum = "spool"\nspool_dir = "spool"\n')


async def _declared(here: Site, name: str) -> list[str]:
    async with here.parts() as parts:
        page = await parts.stores[name].list(degraded.DEGRADED)
        assert isinstance(page, Page), page
        return [each.key for each in page.objects]


async def _says_it_spools(here: Site) -> bool:
    leader = await here.leader()
    return leader is not None and leader.state == "spooling" and leader.spool_bytes > 0


async def _two_stores_stop(here: Site) -> None:
    for name in ("S2", "S3"):
        here.stores[name].kill()


async def _they_return(here: Site) -> None:
    for name in ("S2", "S3"):
        here.stores[name].start()
    for name in ("S2", "S3"):
        await here.stores[name].ready()


async def test_commits_go_on_declared_and_drained() -> None:
    async with site() as here:
        _spools(here)
        protecting = await here.protect()
        async with team(here) as people:
            await people.progress(30)
            await here.done("snapshot")
            await _two_stores_stop(here)
            await protecting.says("RPO > 0", within=30)
            await people.progress(100)
            await until(lambda: _says_it_spools(here), "a beacon that says so", 10)
            (declared,) = await _declared(here, "S1")
            listed = here.run("recover", "--from", "S1", "--into", here.home / "one", "--json")
            assert await listed.ended() == 0
            assert "may be missing" in listed.said
            await _they_return(here)
            await protecting.says("the spool is drained", within=60)
            await people.progress(50)
            people.pause()
            await here.same_as_primary()
            assert await _declared(here, "S1") == [declared, declared + degraded.DRAINED]
            assert not list((here.home / "spool").iterdir())
            assert "may be missing" not in await _listed(here)
            leader = await here.leader()
            assert leader is not None
            assert leader.epoch == 1
            here.destroy_primary()
            protecting.kill()
            await here.recover()
            await people.judge()


async def test_more_than_fits_into_memory_goes_on_and_a_full_spool_makes_commits_wait() -> None:
    twenty_megabytes = "SELECT n, (SELECT string_agg(md5((n * k)::text), '') FROM generate_series(1, 32) k) AS filler"
    twenty_megabytes += " FROM generate_series(1, 20000) n"
    async with site() as here:
        here.configure(more='\n[failover]\nwithout_quorum = "spool"\nspool_dir = "spool"\nspool_max_mib = 36\n')
        protecting = await here.protect()
        await _two_stores_stop(here)
        first = asyncio.create_task(here.primary.sql(f"CREATE TABLE one AS {twenty_megabytes}"))
        await protecting.says("RPO > 0", within=30)
        await asyncio.wait_for(first, 30)
        second = asyncio.create_task(here.primary.sql(f"CREATE TABLE other AS {twenty_megabytes}"))
        await protecting.says("the spool takes no more: commits wait", within=30)
        assert not second.done()
        await _they_return(here)
        await asyncio.wait_for(second, 60)
        await protecting.says("the spool is drained", within=60)
        await here.same_as_primary()


async def test_a_disk_that_is_full_makes_commits_wait_and_loses_nothing() -> None:
    with small_disk(8) as small:
        await _on_a_full_disk(small)


async def _on_a_full_disk(small: Path) -> None:
    async with site() as here:
        here.configure(more=f'\n[failover]\nwithout_quorum = "spool"\nspool_dir = "{small}"\n')
        protecting = await here.protect()
        async with team(here) as people:
            await people.progress(20)
            await here.done("snapshot")
            await _two_stores_stop(here)
            await protecting.says("RPO > 0", within=30)
            await people.progress(20)
            filling = asyncio.create_task(
                here.primary.sql(
                    "CREATE TABLE much AS SELECT n, (SELECT string_agg(md5((n * k)::text), '')"
                    " FROM generate_series(1, 32) k) AS filler FROM generate_series(1, 20000) n"
                )
            )
            await protecting.says("the spool takes no more: commits wait", within=30)
            assert not filling.done()
            assert protecting.code is None
            await _they_return(here)
            await asyncio.wait_for(filling, 60)
            await people.progress(20)
            await protecting.says("the spool is drained", within=60)
            people.pause()
            await here.same_as_primary()
            here.destroy_primary()
            protecting.kill()
            await here.recover()
            await people.judge()


async def test_a_server_that_is_killed_in_the_middle_drains_what_it_left() -> None:
    async with site(settings={"wal_keep_size": "0", "max_wal_size": "64MB"}, wal_segment_size=2**20) as here:
        _spools(here)
        protecting = await here.protect()
        async with team(here) as people:
            await people.progress(30)
            await here.done("snapshot")
            await _two_stores_stop(here)
            await protecting.says("RPO > 0", within=30)
            await people.progress(50)
            for _ in range(5):  # so that the primary drops what was confirmed from the spool
                await here.primary.sql("SELECT pg_switch_wal()")
                await people.progress(20)
            await here.primary.sql("CHECKPOINT")
            protecting.kill()
            await asyncio.sleep(0.5)
            again = here.begin_protecting()
            await _they_return(here)
            await again.says("draining the spool", within=60)
            await again.says("the spool is drained", within=60)
            await people.progress(50)
            people.pause()
            assert not list((here.home / "spool").iterdir())
            here.destroy_primary()
            again.kill()
            await here.recover()
            await people.judge()


async def test_a_spool_that_the_log_has_left_is_set_aside_and_said() -> None:
    async with site() as here:
        _spools(here)
        protecting = await here.protect()
        async with team(here) as people:
            await people.progress(30)
            await here.done("snapshot")
            await _two_stores_stop(here)
            await protecting.says("RPO > 0", within=30)
            await people.progress(50)
            people.pause()
            await people.stop()
        here.destroy_primary()
        protecting.kill()
        await _they_return(here)
        result = here.run("recover", "--into", here.home / "back", "--json")
        assert await result.ended() == 0
        assert "may be missing" in result.said
        await here.recover()
        again = await here.protect()
        await again.says("set aside")
        (aside,) = (here.home / "spool").iterdir()
        assert aside.name.endswith(".aside")
        assert "may be missing" in await _listed(here)
        again.signal(signal.SIGTERM)
        assert await again.ended() == 0


async def _listed(here: Site) -> str:
    process = here.run("list_points", "--json")
    assert await process.ended() == 0
    return process.said


async def test_the_default_is_to_wait() -> None:
    async with site() as here:
        await here.protect()
        async with team(here) as people:
            await people.progress(30)
            await _two_stores_stop(here)
            await asyncio.sleep(7)
            acked = len(people.acked)
            await asyncio.sleep(2)
            assert len(people.acked) == acked
            await _they_return(here)
            await people.progress(30)
            await until(lambda: not (here.home / "spool").exists(), "no spool", 1)
