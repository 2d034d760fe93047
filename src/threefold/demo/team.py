"""The writers' process, and a look at it twice a second for the picture."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from threefold.bootstrap import Parts
from threefold.demo.ledger import Ack, AckReader
from threefold.demo.narrator import Narrator, Picture
from threefold.demo.outcome import Pace
from threefold.kernel.clock import Clock
from threefold.kernel.errors import Unavailable
from threefold.local.processes import Child, start
from threefold.protect.beacon import LeaderStatus, read_leader

DESKS = 8
_LOOK_EVERY_S = 0.5
_RECENT_S = 5.0


class Team:
    """Eight desks."""

    def __init__(self, ledger: Path, clock: Clock) -> None:
        ledger.touch()
        self.acks: list[Ack] = []
        self._ledger = ledger
        self._clock = clock
        self._reader = AckReader(ledger)
        self._child: Child | None = None

    async def start(self, dsn: str, password: str, seed: int) -> None:
        arguments = ["--dsn", dsn, "--ledger", str(self._ledger), "--desks", str(DESKS), "--seed", str(seed)]
        self._child = await start(
            "writers", ["threefold.demo.writers", *arguments], lambda _, __: None, environment={"PGPASSWORD": password}
        )

    async def gone_home(self) -> None:
        """Returns when all have lost their connection and the ledger is closed."""
        if self._child is None:
            return
        code = await self._child.ended()
        if code:
            raise Unavailable(f"the writers ended with code {code}: {self._child.last_line}")
        self.look()

    async def stop(self) -> None:
        if self._child is not None:
            await self._child.stop()

    def look(self) -> None:
        self.acks += self._reader.new()

    async def pace(self, seconds: float) -> Pace:
        """Watch them for so long."""
        self.look()
        before, began = len(self.acks), self._clock.monotonic()
        await self._clock.sleep(seconds)
        self.look()
        if self._child is not None and not self._child.running:
            raise Unavailable(f"the writers stopped: {self._child.last_line or 'they lost their connections'}")
        return Pace.of(self.acks[before:], self._clock.monotonic() - began)

    def recent(self) -> list[Ack]:
        since = self._clock.now() - timedelta(seconds=_RECENT_S)
        found = []
        for ack in reversed(self.acks):
            if ack.at < since:
                break
            found.append(ack)
        return found


class Watch:
    """Draws the picture until it is cancelled; remembers what the DRaaS server said last."""

    def __init__(
        self, team: Team, parts: Parts, narrator: Narrator, processes: Callable[[], dict[str, str]], clock: Clock
    ) -> None:
        self.leader: LeaderStatus | None = None
        self._team = team
        self._parts = parts
        self._narrator = narrator
        self._processes = processes
        self._clock = clock
        self._rates: deque[int] = deque(maxlen=40)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._draw())
            group.create_task(self._listen())

    async def _draw(self) -> None:
        while True:
            before, began = len(self._team.acks), self._clock.monotonic()
            await self._clock.sleep(_LOOK_EVERY_S)
            self._team.look()
            took = self._clock.monotonic() - began
            self._rates.append(round((len(self._team.acks) - before) / took))
            pace = Pace.of(self._team.recent(), _RECENT_S)
            leader = self.leader
            self._narrator.picture(
                Picture(
                    acked=len(self._team.acks),
                    per_second=tuple(self._rates),
                    p50_ms=pace.p50_ms,
                    p99_ms=pace.p99_ms,
                    processes=self._processes(),
                    missing={line.name: line.missing for line in leader.stores} if leader else {},
                )
            )

    async def _listen(self) -> None:
        """The beacon of whoever leads, from the store that answers soonest: one of them may be stopped."""
        while True:
            asked = [
                asyncio.create_task(read_leader({name: store}, self._parts.keyring))
                for name, store in self._parts.stores.items()
            ]
            done, _ = await asyncio.wait(asked, timeout=0.5)
            found = [answer for task in done if (answer := task.result()) is not None]
            for task in asked:
                task.cancel()
            newest = max(found, key=lambda status: (status.epoch, status.beat), default=None)
            self.leader = newest or self.leader
            await self._clock.sleep(_LOOK_EVERY_S)
