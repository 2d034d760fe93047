"""An order whose agent died: taken back when the site that it would have left serves again, and only then."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.protect_process import SYNC, Process, team
from tests.recovering import CLOCK, KEYRING
from tests.two_sites import AWAY, DIES, HOME, steps_of, two_sites

from threefold.failover.agent_beacon import AgentStatus, write_agent
from threefold.failover.journal import Journal
from threefold.failover.overdue import Overdue, agent_named
from threefold.failover.steps import Kind, Switch
from threefold.quorum.keys import FORMAT, epoch_key
from threefold.quorum.members import Format
from threefold.stores.memory import MemoryStore

NAMES = ("S1", "S2", "S3")
PATIENCE_S = 1.2


@pytest.mark.long
async def test_a_primary_that_came_back_goes_on_though_the_agent_that_gave_it_up_is_dead() -> None:
    """The DRaaS server waits for the switch; without `overdue` it would until a person came."""
    async with two_sites(policy="automatic", more='process_gone = "1s"\noverdue = "4s"') as here:
        dying = Process(
            ["-c", DIES, "standby", "--site", AWAY, "--config", here.here.config],
            here.here.home / "dying.log",
            {**here.here.environment(), "DIE_AT": "before:promoting"},
        )
        here.here.processes.append(dying)
        await here.ready(process=dying)
        async with team(here.here) as clients:
            await clients.progress(20)
            home = here.cluster(HOME)
            here.here.primary.server.kill()
            assert await dying.ended() == -9, dying.said[-2000:]
            await here.step("fenced")
            home.server.settings.update({"synchronous_standby_names": SYNC, "fsync": "off"})
            await home.server.start()
            await here.step("abandoned", within=40)
            await clients.progress(20)
            await clients.stop()
            await clients.judge()
        (switch,) = await here.switches()
        assert steps_of(switch) == ["ordered", "fenced", "abandoned"]
        assert f"{HOME} serves again" in switch.last.facts["why"]


class Ordered:
    """A switch on three stores, and whoever looks after it."""

    def __init__(self) -> None:
        self.stores = {name: MemoryStore(name) for name in NAMES}
        for name, store in self.stores.items():
            store.objects |= {FORMAT: Format(1, KEYRING.key_id, name).encode(), epoch_key(1): b""}
        self.serves = True
        self.asked = 0
        self.beat = 0
        self.journal = Journal(self.stores, KEYRING, CLOCK, primary_site=HOME, by="the DRaaS server")
        self.overdue = Overdue(
            self.journal,
            self.stores,
            KEYRING,
            CLOCK,
            lambda *_, **__: None,
            patience=PATIENCE_S,
            serves=self._serves,
        )

    async def _serves(self, switch: Switch) -> bool:
        assert switch.source == HOME
        self.asked += 1
        return self.serves

    async def order(self, by: str, **more: Any) -> Journal:
        author = Journal(self.stores, KEYRING, CLOCK, primary_site=HOME, by=by)
        await author.order(to=AWAY, reason="a test", **more)
        return author

    async def live(self) -> None:
        self.beat += 1
        status = AgentStatus(AWAY, "run", self.beat, CLOCK.now().isoformat(), "h", "m", 1, "fencing", "switching")
        await write_agent(self.stores, status, KEYRING, CLOCK)

    async def watch(self, seconds: float, *, lives: bool = False) -> bool:
        """Whether it was abandoned within so many seconds."""
        until = CLOCK.monotonic() + seconds
        while CLOCK.monotonic() < until:
            if lives:
                await self.live()
            if await self.overdue.look((await self.journal.read()).newest):
                return True
            await asyncio.sleep(0.1)
        return False


async def test_it_is_abandoned_once_nothing_is_heard_of_its_agent_any_more() -> None:
    here = Ordered()
    await here.order(agent_named(AWAY))
    assert await here.watch(6)
    newest = (await here.journal.read()).newest
    assert newest is not None
    assert newest.abandoned


@pytest.mark.parametrize("why", ["its agent lives", "the source is dead", "a person ordered it", "it is planned"])
async def test_it_stands(why: str) -> None:
    here = Ordered()
    here.serves = why != "the source is dead"
    by = "ann on her laptop" if why == "a person ordered it" else agent_named(AWAY)
    await here.order(by, planned=why == "it is planned")
    assert not await here.watch(3 * PATIENCE_S, lives=why == "its agent lives")
    newest = (await here.journal.read()).newest
    assert newest is not None
    assert newest.last.kind is Kind.ORDERED
    assert (here.asked > 0) is (why == "the source is dead")
