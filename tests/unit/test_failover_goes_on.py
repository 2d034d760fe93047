"""What an agent that reads its settings again takes along: its place, and not a leave that was used."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from threefold.failover.agent import Agent
from threefold.failover.keeper import Keeper
from threefold.kernel.clock import SystemClock
from threefold.kernel.errors import Refused


class _Copy:
    """A data folder of a log's copy."""

    server = SimpleNamespace(pid=1, data_dir="x")

    async def prepare(self, *, rebuild: bool) -> SimpleNamespace:
        return SimpleNamespace(how="restored", snapshot="", bytes_fetched=0)

    async def follow(self, following: str | None) -> None: ...

    async def position(self) -> SimpleNamespace:
        return SimpleNamespace(streaming=True)


def _silent(*_: object, **__: object) -> None: ...


async def test_the_leave_to_rebuild_is_used_up_though_the_copy_became_the_active_database() -> None:
    copy: Any = _Copy()
    keeper = Keeper(copy, SystemClock(), _silent, rebuild=True)
    assert not keeper.had_copy
    await keeper.keep("host=elsewhere")
    await keeper.serve(start=False)
    assert keeper.had_copy


class _Foreign:
    """What lies in the data folder is a database that nobody gave up."""

    copy = SimpleNamespace(ready=False, why="")
    position = None

    def failed(self, error: Exception) -> None: ...

    async def keep(self, _following: str | None) -> None:
        raise Refused("it is no standby of ours", hint="--rebuild")


@pytest.mark.parametrize("goes_on", [False, True])
async def test_a_refusal_ends_who_starts_and_not_who_goes_on(goes_on: bool) -> None:
    means: Any = SimpleNamespace(
        clock=SystemClock(),
        others=(),
        place=SimpleNamespace(site="here"),
        keeper=_Foreign(),
        report=_silent,
        follow=lambda _: "host=elsewhere",
    )
    agent = Agent(means, goes_on=goes_on)
    active: Any = SimpleNamespace(site="there", switch=None)
    agent.sight.active = active
    acts = asyncio.create_task(agent._acts())
    await asyncio.wait({acts}, timeout=0.3)
    assert acts.done() is not goes_on
    acts.cancel()
    await asyncio.gather(acts, return_exceptions=True)
