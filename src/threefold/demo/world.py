"""What the acts share: the machine's processes, the writers, the narrator, and the outcome so far."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil
import psycopg
from psycopg.conninfo import make_conninfo

from threefold.bootstrap import Parts
from threefold.demo.narrator import Narrator
from threefold.demo.outcome import Outcome
from threefold.demo.team import Team, Watch
from threefold.kernel.clock import Clock
from threefold.local.home import CRM_USER, Home
from threefold.local.stack import PRIMARY, PROTECT, Stack

T = TypeVar("T")


@dataclass(slots=True)
class World:
    """Everything of one demo. ``gone`` names what was destroyed on purpose."""

    home: Home
    stack: Stack
    parts: Parts
    team: Team
    narrator: Narrator
    clock: Clock
    seed: int
    outcome: Outcome = field(default_factory=Outcome)
    gone: set[str] = field(default_factory=set)

    def stores(self) -> list[str]:
        return [store.name for store in self.home.settings.store]

    def processes(self) -> dict[str, str]:
        """Each process's state, as the operating system has it."""
        pids = {name: child.pid for name, child in self.stack.children.items()}
        if self.home.pid_file(PRIMARY).exists():  # it was started
            pids[PRIMARY] = self.stack.primary.server.pid or 0
        return {name: self._state(name, pid) for name, pid in pids.items()}

    def _state(self, name: str, pid: int) -> str:
        if name in self.gone:
            return "gone"
        try:
            status = psutil.Process(pid).status() if pid else psutil.STATUS_DEAD
        except psutil.NoSuchProcess:
            status = psutil.STATUS_DEAD
        dead = {psutil.STATUS_DEAD, psutil.STATUS_ZOMBIE}
        return "dead" if status in dead else "stopped" if status == psutil.STATUS_STOPPED else "running"

    def signal(self, name: str, number: signal.Signals) -> None:
        self.stack.children[name].send(number)

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[Watch]:
        """The picture is drawn meanwhile."""
        watch = Watch(self.team, self.parts, self.narrator, self.processes, self.clock)
        task = asyncio.create_task(watch.run())
        try:
            yield watch
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def database(self, port: int | None = None) -> psycopg.Connection[Any]:
        """As the CRM's owner: the primary's, or a recovered one's."""
        return psycopg.connect(self.conninfo(port))

    def conninfo(self, port: int | None = None) -> str:
        return make_conninfo(self.home.crm_conninfo(), **({} if port is None else {"port": port}), connect_timeout=10)

    @property
    def writers_dsn(self) -> str:
        return make_conninfo(host="127.0.0.1", port=self.home.primary_port, user=CRM_USER, dbname=CRM_USER)

    @property
    def other_side(self) -> Path:
        """Where the ledger is: a folder that the disaster does not reach."""
        return self.home.folder / "ledger"

    @property
    def ledger(self) -> Path:
        return self.other_side / "changes"

    @property
    def base(self) -> Path:
        return self.other_side / "base"

    async def taking(self, text: str, work: Awaitable[T]) -> T:
        """Say that something takes a while, and wait for it."""
        self.narrator.doing(text)
        return await work


__all__ = ["PRIMARY", "PROTECT", "World"]
