"""The DRaaS server keeps the recovery site's agent running, as a child process that may outlive it."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from tests.pg import folder, free_port
from tests.protect_process import Process, Site, site, until

from threefold.protect.child import is_locked


def _runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


async def _started(protecting: Process, times: int) -> int:
    await until(lambda: protecting.said.count("agent started") == times, "an agent", said=lambda: protecting.said)
    line = [line for line in protecting.said.splitlines() if "agent started" in line][-1]
    return int(json.loads(line)["pid"])


@pytest.fixture
def copy() -> Iterator[Path]:
    home = folder("tf-agent-")
    yield home / "copy"
    postmaster = home / "copy" / "postmaster.pid"
    if postmaster.exists():
        with suppress(psutil.NoSuchProcess):
            psutil.Process(int(postmaster.read_text().split()[0])).kill()
    shutil.rmtree(home, ignore_errors=True)


async def _warm(here: Site, data_dir: Path) -> None:
    """A log with a snapshot, for the agent to make its copy of; then the settings that ask for one."""
    founding = await here.protect()
    await here.done("snapshot")
    founding.signal(signal.SIGTERM)
    assert await founding.ended() == 0
    here.configure(
        more=f'\n[recovery]\nstandby = "warm"\ndata_dir = "{data_dir}"\nlisten = "127.0.0.1:{free_port()}"\n'
    )


async def test_an_agent_is_started_again_when_it_ends_and_ended_with_the_server(copy: Path) -> None:
    async with site() as here:
        await _warm(here, copy)
        lock = copy.with_name("copy.agent.lock")
        protecting = await here.protect()
        first = await _started(protecting, 1)
        await until(lambda: is_locked(lock), "the agent's lock")
        psutil.Process(first).kill()
        second = await _started(protecting, 2)
        assert second != first
        await until(lambda: is_locked(lock), "the agent's lock")
        protecting.signal(signal.SIGTERM)
        assert await protecting.ended() == 0
        assert not _runs(second)
        assert not is_locked(lock)


@pytest.mark.long
async def test_an_agent_outlives_a_server_that_is_killed_and_the_next_one_finds_it(copy: Path) -> None:
    async with site() as here:
        await _warm(here, copy)
        lock = copy.with_name("copy.agent.lock")
        protecting = await here.protect()
        agent = await _started(protecting, 1)
        await until(lambda: is_locked(lock), "the agent's lock")
        protecting.kill()
        await asyncio.sleep(0.5)
        assert _runs(agent)
        again = await here.protect()
        await again.says("an agent runs already")
        assert "agent started" not in again.said
        psutil.Process(agent).terminate()
        new = await _started(again, 1)
        again.signal(signal.SIGTERM)
        assert await again.ended() == 0
        assert not _runs(new)
