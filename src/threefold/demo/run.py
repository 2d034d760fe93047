"""The demo, from an empty folder to the verdict; reads as the story."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from threefold.bootstrap import open_parts
from threefold.demo.disaster import before_the_mistake, disaster, recovery, stop_recovered, the_crm_answers
from threefold.demo.narrator import Narrator
from threefold.demo.outcome import Outcome
from threefold.demo.protected import a_store_stalls, people_work, protection_begins, somebody_errs
from threefold.demo.team import Team
from threefold.demo.world import World
from threefold.kernel.clock import Clock
from threefold.local.create import any_ports, create_home, free_ports
from threefold.local.home import Home
from threefold.local.stack import Stack


async def play(folder: Path, narrator: Narrator, clock: Clock, *, seed: int, keep: bool) -> tuple[World, Outcome]:
    """All six acts in ``folder``, which is made. ``keep``: the processes go on when it is over.

    Raises what a process or an act ran into; whether the promise was kept stands in the outcome.
    """
    narrator.doing("making keys, passwords and three disks")
    first, second = free_ports(2)
    await asyncio.to_thread(create_home, folder, ports=any_ports())
    async with _world(folder, narrator, clock, seed=seed, keep=keep) as world:
        async with world.watched() as watch:
            await protection_begins(world)
            await people_work(world)
            await a_store_stalls(world, watch)
            mistake = await somebody_errs(world)
            blow = await disaster(world, watch)
            await recovery(world, blow, first)
            await the_crm_answers(world, blow, first)
            await before_the_mistake(world, mistake, second)
        return world, world.outcome


@asynccontextmanager
async def _world(folder: Path, narrator: Narrator, clock: Clock, *, seed: int, keep: bool) -> AsyncIterator[World]:
    home = Home.at(folder)
    stack = Stack(home, clock, lambda _, __: None, logs_to_files=True)
    async with open_parts(home.settings) as parts:
        (home.folder / "ledger").mkdir()
        team = Team(home.folder / "ledger" / "changes", clock)
        world = World(home, stack, parts, team, narrator, clock, seed)
        over = False
        try:
            yield world
            over = True
        finally:
            await team.stop()
            if not (keep and over):
                await stack.stop()
                stop_recovered(world)
