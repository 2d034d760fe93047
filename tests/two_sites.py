"""Two sites on this machine: a primary that is protected, and an agent that keeps a copy, each process its own.

    async with two_sites() as here:
        await here.agent()          # its copy follows
        here.primary.server.kill()
        ...

The primary of `tests/protect_process.py` is the site ``karachi``; ``eu`` is the recovery site.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg

from tests.pg import Cluster, folder, free_port
from tests.protect_process import VERB, Failed, Process, Site, site, until
from threefold.bootstrap import journal_of
from threefold.failover.agent_beacon import AgentStatus, read_agent
from threefold.failover.steps import Switch
from threefold.postgres.server import Server

HOME, AWAY, THIRD = "karachi", "eu", "third"

# Kills itself before it proposes a step, or when the step stands: DIE_AT=before:serving, DIE_AT=after:ordered.
DIES = (
    """
import os
from threefold.failover import switch
from threefold.failover.journal import Journal
when, at = os.environ["DIE_AT"].split(":")
propose, to_serving = Journal.propose, switch.to_serving
async def dying(self, about, kind, **facts):
    if (when, at) == ("before", kind.value):
        os.kill(os.getpid(), 9)
    told = await propose(self, about, kind, **facts)
    if (when, at) == ("after", kind.value):
        os.kill(os.getpid(), 9)
    return told
async def ordered(hands, about):
    if (when, at) == ("after", "ordered"):
        os.kill(os.getpid(), 9)
    return await to_serving(hands, about)
Journal.propose, switch.to_serving = dying, ordered
"""
    + VERB
)


class TwoSites:
    """A `Site` and where its database may go."""

    def __init__(self, here: Site, places: Path, *, policy: str, strict: bool, more: str) -> None:
        self.here = here
        self.places = places
        self.ports = {HOME: here.primary.server.port, AWAY: free_port(), THIRD: free_port()}
        self.folders = {AWAY: places / AWAY, THIRD: places / THIRD, HOME: here.primary.server.data_dir}
        self.policy = policy
        self.strict = strict
        self.more = more
        self.configure()

    def configure(self, away: str = AWAY) -> Path:
        """``away``: the recovery site of the file that is written."""
        listen = f"127.0.0.1:{self.ports[away]}"
        return self.here.configure(
            system=f"""site = "{HOME}"
data_dir = "{self.folders[HOME]}"
[recovery]
site = "{away}"
standby = "cold"
data_dir = "{self.folders[away]}"
listen = "{listen}"
[failover]
policy = "{self.policy}"
strict = {str(self.strict).lower()}
{self.more}
"""
        )

    # --- the agent ---

    async def agent(self, site: str = AWAY, *options: str, within: float = 60) -> Process:
        """Started; its copy is ready."""
        process = self.here.run("standby", "--site", site, *options, log=f"agent-{site}")
        await self.ready(site, within, process)
        return process

    async def ready(self, site: str = AWAY, within: float = 60, process: Process | None = None) -> AgentStatus:
        beats: set[int] = set()
        seen: list[AgentStatus] = []

        async def fine() -> bool:
            if process is not None and process.code is not None:
                raise Failed(f"the agent ended with {process.code}: {process.said[-3000:]}")
            status = await self.status(site)
            if status is None or not status.copy_ready or not status.position.get("streaming"):
                return False
            seen.append(status)
            beats.add(status.beat)
            return len(beats) > 1

        await until(fine, f"a copy at {site}", within, lambda: process.said if process is not None else "")
        return seen[-1]

    async def status(self, site: str = AWAY) -> AgentStatus | None:
        async with self.here.parts() as parts:
            return await read_agent(parts.stores, site, parts.keyring)

    # --- the journal ---

    async def switches(self) -> tuple[Switch, ...]:
        async with self.here.parts() as parts:
            return (await journal_of(parts).read()).all

    async def step(self, kind: str, *, number: int = 1, within: float = 60) -> Switch:
        """Until that switch has come to that step."""
        found: list[Switch] = []

        async def there() -> bool:
            switches = await self.switches()
            found[:] = [each for each in switches if each.number == number]
            return any(step.kind == kind for each in found for step in each.steps)

        await until(there, f"{kind} of switch {number}", within, self.said)
        return found[0]

    def said(self) -> str:
        return "\n\n".join(f"{each.pid}: {each.said[-3000:]}" for each in self.here.processes[-4:])

    # --- databases ---

    def cluster(self, site: str) -> Cluster:
        server = Server(self.here.primary.server.binaries, self.folders[site], self.ports[site])
        return Cluster(server, self.folders[site].parent)

    async def writes(self, site: str = AWAY, within: float = 30) -> float:
        """Until a commit there is confirmed; when that was, on the loop's clock."""
        loop, cluster = asyncio.get_running_loop(), self.cluster(site)

        async def confirmed() -> bool:
            try:
                async with await psycopg.AsyncConnection.connect(
                    cluster.dsn(connect_timeout="2"), autocommit=True
                ) as connection:
                    await connection.execute("CREATE TABLE IF NOT EXISTS told (at timestamptz)")
                    await asyncio.wait_for(connection.execute("INSERT INTO told VALUES (now())"), within)
            except psycopg.OperationalError:
                return False
            return True

        await until(confirmed, f"a commit at {site}", within, self.said)
        return loop.time()

    def move_to(self, site: str) -> None:
        """Clients of `Team` go to that site from now on."""
        self.here.primary = self.cluster(site)

    def close(self) -> None:
        for name in (AWAY, THIRD):
            if (self.folders[name] / "PG_VERSION").exists():
                self.cluster(name).server.kill()
        if (self.folders[HOME] / "PG_VERSION").exists():
            self.cluster(HOME).server.kill()
        shutil.rmtree(self.places, ignore_errors=True)


@asynccontextmanager
async def two_sites(
    major: int = 18,
    *,
    policy: str = "confirm",
    strict: bool = True,
    more: str = "",
    settings: Mapping[str, str] | None = None,
    protected: bool = True,
) -> AsyncIterator[TwoSites]:
    """The primary runs and is protected, with a snapshot."""
    places = folder("tf-sites-")
    async with site(major, settings=settings) as here:
        sites = TwoSites(here, places, policy=policy, strict=strict, more=more)
        home = here.primary
        try:
            if protected:
                await here.protect()
                await here.done("snapshot")
            yield sites
        finally:
            for process in here.processes:  # no agent may start anything again
                process.kill()
            sites.close()
            here.primary = home


def steps_of(switch: Switch) -> list[str]:
    return [step.kind.value for step in switch.steps]


def took(result: Mapping[str, Any]) -> dict[str, float]:
    """Seconds since the order, by step."""
    return {step["step"]: step["seconds"] for step in result["steps"]}
