"""Recovery on bad days: a store that comes to a halt in mid-download, a disk that fills up on the way."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from tests.fault_proxy import Fault, FaultProxy
from tests.pg import small_disk
from tests.protect_process import NAMES, Site, site, team

from threefold.recover.destination import MARKER
from threefold.stores.open import StoreConfig

MB = 2**20


async def _protected(here: Site) -> None:
    """A snapshot and a log behind it, of more than one pack and one segment: nothing compresses this."""
    await here.primary.sql(
        "CREATE TABLE load AS SELECT i, string_agg(gen_random_uuid()::text, '') AS noise"
        " FROM generate_series(1, 500) i, generate_series(1, 1200) GROUP BY i"
    )
    await here.done("snapshot", within=120)
    await here.primary.sql("INSERT INTO load SELECT i + 1000, noise FROM load")


@pytest.mark.long
async def test_a_store_that_halts_in_mid_download_is_overtaken_and_named() -> None:
    async with site() as here:
        proxies = {name: FaultProxy(here.stores[name].port) for name in NAMES}
        for name, proxy in proxies.items():
            proxy.__enter__()
            here.ports[name] = proxy.port
        try:
            here.configure()
            await here.protect()
            async with team(here) as people:
                await _protected(here)
                await people.progress(30)
                await here.whole()
            for process in here.processes:
                process.kill()
            here.destroy_primary()
            proxies["S1"].do(Fault.STALL)
            began = asyncio.get_running_loop().time()
            result = await here.recover()
            took = asyncio.get_running_loop().time() - began
            await people.judge()
            assert await here.primary.sql("SELECT count(*) FROM load") == [(1000,)]
            assert proxies["S1"].stalled > 0  # it was asked, and began to answer
            assert took < StoreConfig("S1", "s3://any/where").bulk_timeout  # nobody waited for it to the end
            assert any("S1 is slow" in note for note in result["notes"]), result["notes"]
            assert result["bytes_from"]["S2"] + result["bytes_from"]["S3"] > 5 * MB
        finally:
            for proxy in proxies.values():
                proxy.__exit__(None, None, None)


@pytest.mark.long
async def test_a_disk_that_fills_up_on_the_way_is_named_and_the_same_command_goes_on() -> None:
    with small_disk(600) as disk:
        async with site() as here:
            proxies = {name: FaultProxy(here.stores[name].port) for name in NAMES}
            for name, proxy in proxies.items():
                proxy.__enter__()
                here.ports[name] = proxy.port
            try:
                here.configure()
                await here.protect()
                async with team(here) as people:
                    await _protected(here)
                    await people.progress(30)
                    await here.whole()
                for process in here.processes:
                    process.kill()
                here.destroy_primary()
                for proxy in proxies.values():
                    proxy.do(Fault.DELAY, seconds=0.5)  # so that there is time between a step's beginning and its end
                into = disk / "data"
                for step in ("restore", "fetch-wal"):
                    command = here.run("recover", "--into", into, "--json")
                    await command.says(f'"step": "{step}"')
                    film = _fill(disk)
                    assert await command.ended() == 1
                    error = json.loads(command.said.splitlines()[-1])
                    assert error["error"] == f"the disk of {into} is full", error
                    assert "make room and run the same command again" in error["hint"]
                    assert json.loads((into / MARKER).read_text())["finished"] is False
                    assert not (into / "recovery.signal").exists()  # nobody takes it for a database
                    film.unlink()
                for proxy in proxies.values():
                    proxy.heal()
                result = await here.recover(into=into)
                assert any("holds an unfinished recovery: going on with it" in note for note in result["notes"])
                assert result["bytes_fetched"] < 10 * MB  # what came before the disk was full is kept
                await people.judge()
                assert await here.primary.sql("SELECT count(*) FROM load") == [(1000,)]
                here.primary.server.kill()
            finally:
                for proxy in proxies.values():
                    proxy.__exit__(None, None, None)


def _fill(disk: Path) -> Path:
    """Somebody's film takes all but half a megabyte."""
    film = disk / "film"
    with film.open("wb") as file:
        while (room := shutil.disk_usage(disk).free - MB // 2) > 0:
            with suppress(OSError):  # the recovery was quicker
                os.posix_fallocate(file.fileno(), file.tell(), room)
                file.seek(room, os.SEEK_CUR)
    return film
