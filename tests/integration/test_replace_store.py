"""A store is replaced by another one while people commit; whoever has old settings is turned away."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest
from tests.protect_process import Process, Site, Team, site, team, until

MOVED = '"stores": "S1, S2, S4"'
PAUSE_MAX_S = 20.0  # a commit; on a machine that does other things as well


async def result(here: Site, *arguments: str, within: float = 60) -> dict[str, Any]:
    """Of a command of `threefold store`."""
    command = ["-m", "threefold", *arguments, "--config", here.config, "--json"]
    process = Process(command, here.home / f"store-{len(here.processes)}.log", here.environment())
    here.processes.append(process)
    assert await process.ended(within) == 0, process.said
    lines = [json.loads(line) for line in process.said.splitlines() if line.startswith("{")]
    return next(line for line in reversed(lines) if line.get("type") == "result")


def _names(here: Site, *names: str, replaces: str = "") -> Path:
    """Settings that name these stores; the last one is to replace another."""
    here.ports = {name: here.stores[name].port for name in names}
    url = f'url = "s3://crm-dr/threefold"\nendpoint = "http://127.0.0.1:{here.ports[names[-1]]}"'
    return here.configure(stores={names[-1]: f'{url}\nreplaces = "{replaces}"'} if replaces else None)


def _keep_old_settings(here: Site) -> Path:
    old = here.home / "old.toml"
    old.write_text(here.config.read_text())
    return old


async def _turned_away(here: Site, old: Path, *verb: str | Path) -> None:
    now, here.config = here.config, old
    try:
        error = await here.refused(*verb)
    finally:
        here.config = now
    assert error["exit_code"] == 3, error
    assert "S4" in error["error"], error
    assert "S4" in error["hint"], error


async def _restart(here: Site, protecting: Process) -> Process:
    protecting.signal(15)
    await protecting.ended()
    return here.begin_protecting()


async def _disaster(here: Site, people: Team) -> None:
    """The primary and S1 are gone, and everything comes back from S2 and S4."""
    await people.progress(50)
    here.stores["S1"].kill()
    here.stores["S1"].wipe()
    here.destroy_primary()
    for process in here.processes:
        process.kill()
    await here.recover()
    await people.judge()


@pytest.mark.long
@pytest.mark.parametrize("gone", [False, True])
async def test_a_store_is_replaced_while_people_commit(gone: bool) -> None:
    async with site() as here:
        protecting = await here.protect()
        async with team(here) as people:
            await people.progress(50)
            await here.done("snapshot")
            old = _keep_old_settings(here)
            await here.add_store("S4")
            _names(here, "S1", "S2", "S3", "S4", replaces="S3")
            if gone:
                here.stores["S3"].kill()
            trial = await result(here, "store", "replace", "S3", "--dry-run")
            assert (trial["stage"], trial["bytes_left"] > 0) == ("filling", True)
            protecting = await _restart(here, protecting)
            await protecting.says('"streaming"')
            people.times.clear()
            replaced = await result(here, "store", "replace", "S3", within=120)
            assert replaced["stores"] == ["S1", "S2", "S4"]
            await protecting.says(MOVED)
            await people.progress(100)
            assert max(took for _, took in people.times) < PAUSE_MAX_S
            assert protecting.code is None
            roles = {each["name"]: each["role"] for each in (await result(here, "store", "status"))["stores"]}
            assert roles == {"S1": "member", "S2": "member", "S3": "left", "S4": "member"}
            leader = await here.whole()
            assert [line.name for line in leader.stores] == ["S1", "S2", "S4"]
            if gone:
                here.stores["S3"].start()  # back, with its disk of before
                await here.stores["S3"].ready()
            for verb in (("status",), ("list_points",), ("snapshot",), ("recover", "--into", here.home / "laptop")):
                await _turned_away(here, old, *verb)
            now, here.config = here.config, old
            late = here.begin_protecting("--take-over")
            here.config = now
            assert await late.ended() == 3, late.said
            await people.progress(50)
            assert protecting.code is None
            _names(here, "S1", "S2", "S4")  # the operator takes S3 out of the settings
            protecting = await _restart(here, protecting)
            await protecting.says('"streaming"')
            await _disaster(here, people)


@pytest.mark.long
async def test_old_settings_that_reach_only_the_old_store_and_one_that_stays_are_turned_away() -> None:
    """S1 and S3 would be two of the old three, and S2 and S4 are two of the new: the case that must never be."""
    async with site() as here:
        protecting = await here.protect()
        async with team(here) as people:
            await people.progress(30)
            old = _keep_old_settings(here)
            await here.add_store("S4")
            _names(here, "S1", "S2", "S3", "S4", replaces="S3")
            protecting = await _restart(here, protecting)
            await protecting.says(MOVED, within=120)
            await people.progress(30)
            here.stores["S2"].kill()
            people.pause()
            for verb in (("status",), ("recover", "--into", here.home / "laptop")):
                await _turned_away(here, old, *verb)


@pytest.mark.long
async def test_it_is_gone_back_from_in_the_middle() -> None:
    async with site() as here:
        protecting = await here.protect()
        async with team(here) as people:
            await people.progress(30)
            await here.done("snapshot")
            old = _keep_old_settings(here)
            await here.add_store("S4")
            _names(here, "S1", "S2", "S3", "S4", replaces="S3")
            protecting = await _restart(here, protecting)
            await protecting.says('"stores": "S1, S2"', within=120)
            here.stores["S4"].kill()  # the new store is gone again: the middle cannot be gone on from
            await protecting.says('"epoch": 4')
            await people.progress(30)
            await _turned_away(here, old, "status")
            assert (await result(here, "store", "replace", "S3", "--abandon"))["stage"] == "abandoned"
            here.config = old
            protecting = await _restart(here, protecting)  # it was fenced, or has opened its stores anew
            await protecting.says('"streaming"')
            await people.progress(30)
            here.stores["S2"].kill()
            await people.progress(30)
            here.destroy_primary()
            for process in here.processes:
                process.kill()
            await here.recover()
            await people.judge()


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
async def test_killed_at_any_moment_it_goes_on(seed: int) -> None:
    chance = random.Random(seed)
    async with site() as here:
        protecting = await here.protect()
        async with team(here) as people:
            await people.progress(30)
            await here.done("snapshot")
            await here.add_store("S4")
            _names(here, "S1", "S2", "S3", "S4", replaces="S3")
            protecting.kill()
            for _ in range(4):
                protecting = here.begin_protecting("--take-over")
                await asyncio.sleep(chance.uniform(1.5, 6.0))
                protecting.kill()
            protecting = here.begin_protecting("--take-over")

            async def moved() -> bool:
                async with here.parts() as parts:
                    return sorted(parts.stores) == ["S1", "S2", "S4"]

            await until(moved, "the new three", 120, lambda: protecting.said)
            await _disaster(here, people)
