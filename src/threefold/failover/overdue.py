"""An order that nobody carries out, while what it wanted to leave serves again.

An agent orders a switch by itself, and its host dies before ``promoting``. Until that switch ends nobody claims an
epoch, so a primary that has come back would wait for its commits until a person abandons it. Whoever waits to lead for
that primary abandons it then. Safety does not rest on this: ``abandoned`` and ``promoting`` compete for one key
(steps.py), and whoever fenced in between left a log that the primary either continues or does not.

Never what a person ordered: a cold site may take an hour to be restored, and tells nobody meanwhile.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from threefold.failover.agent_beacon import Pulse, read_agent
from threefold.failover.journal import Journal
from threefold.failover.steps import Kind, Switch
from threefold.kernel.clock import Clock
from threefold.kernel.errors import ThreefoldError
from threefold.kernel.keys import Keyring
from threefold.kernel.report import Report
from threefold.stores.store import ObjectStore

_LOOK_S: Final = 1.0


def agent_named(site: str) -> str:
    """Who an agent's steps are by."""
    return f"agent of {site}"


def by_itself(switch: Switch) -> bool:
    """Whether the target's agent ordered it, and nobody else."""
    return not switch.planned and switch.order.by == agent_named(switch.target)


class Overdue:
    """Told again and again of the switch that is under way."""

    def __init__(
        self,
        journal: Journal,
        stores: Mapping[str, ObjectStore],
        keyring: Keyring,
        clock: Clock,
        report: Report,
        *,
        patience: float,
        serves: Callable[[Switch], Awaitable[bool]],
    ) -> None:
        """``patience``: seconds without a step or a sign of life. ``serves``: whether the source takes writes."""
        self._journal = journal
        self._stores = stores
        self._keyring = keyring
        self._clock = clock
        self._report = report
        self._patience = patience
        self._serves = serves
        self._about: tuple[int, Kind] | None = None
        self._since = 0.0
        self._looked = 0.0
        self._pulse = Pulse(clock)

    async def look(self, switch: Switch | None) -> bool:
        """Whether it was abandoned. Never raises for what the stores or the source do not answer."""
        now = self._clock.monotonic()
        if switch is None or not switch.under_way or not by_itself(switch):
            self._about = None
            return False
        if self._about != (switch.number, switch.last.kind):
            self._about, self._since, self._pulse = (switch.number, switch.last.kind), now, Pulse(self._clock)
        if now - self._looked < _LOOK_S:
            return False
        self._looked = now
        agent = await read_agent(self._stores, switch.target, self._keyring)
        if agent is not None:
            self._pulse.look(agent.run, agent.beat)
        if self._pulse.alive:
            self._since = now
        if now - self._since < self._patience or not await self._serves(switch):
            return False
        why = f"the agent of {switch.target} has been silent for {self._patience:g} s, and {switch.source} serves again"
        try:
            await self._journal.abandon(switch.number, why)
        except ThreefoldError as error:
            self._report("an overdue switch is not abandoned yet", level="warning", reason=error.message)
            return False
        self._report("switch abandoned", level="warning", switch=switch.number, why=why)
        return True
