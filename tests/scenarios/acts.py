"""What may happen to a company: each act does one thing to it, and says so in a few words."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil
import psycopg

from tests.scenarios.company import Company, has_option
from tests.scenarios.links import STORES


@dataclass(frozen=True, slots=True)
class Act:
    """``do`` it to a company."""

    words: str
    do: Callable[[Company], Awaitable[None] | None]

    async def __call__(self, here: Company) -> None:
        done = self.do(here)
        if done is not None:
            await done

    def __str__(self) -> str:
        return self.words


def kill_postgres() -> Act:
    return Act("the primary's PostgreSQL is killed", lambda here: here.primary.kill())


def stop_postgres(seconds: float) -> Act:
    """All its processes stand still, as on a machine that is overloaded or migrated."""

    async def stall(here: Company) -> None:
        pid = here.primary.pid
        assert pid is not None
        stopped = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        _signal(stopped, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            _signal(stopped, signal.SIGCONT)

    return Act(f"the primary stands still for {seconds:g} s", stall)


def host_gone(host: str) -> Act:
    """Power off: links first, so that no reset of a connection tells anybody."""

    def gone(here: Company) -> None:
        here.net.isolate(host)
        here.net.links(host, "watch", cut=True)
        here.net.namespaces[host].kill()

    return Act(f"host {host} is gone", gone)


def kill_part(part: str) -> Act:
    return Act(f"{part} is killed", lambda here: here.kill(part))


def cut(host: str, *from_: str, one_way: bool = False) -> Act:
    arrow = "to" if one_way else "and"
    return Act(
        f"nothing passes between {host} {arrow} {', '.join(from_)}",
        lambda here: here.net.links(host, from_, one_way=one_way, cut=True),
    )


def isolate(host: str) -> Act:
    return Act(f"{host} is cut off from everybody", lambda here: here.net.isolate(host))


def between(host: str, *others: str, one_way: bool = False, **how: Any) -> Act:
    words = ", ".join(f"{name} {value}" for name, value in how.items())
    return Act(
        f"{words} between {host} and {', '.join(others)}",
        lambda here: here.net.links(host, others, one_way=one_way, **how),
    )


def everywhere(**how: Any) -> Act:
    """Among all hosts but the tests' own."""
    hosts = ("primary", "recovery", *STORES, "third")
    words = ", ".join(f"{name} {value}" for name, value in how.items())
    return Act(f"{words} on every link", lambda here: here.net.links(hosts, hosts, **how))


def mend() -> Act:
    return Act("every link is mended", lambda here: here.net.mend())


def wait(seconds: float) -> Act:
    return Act(f"{seconds:g} s pass", lambda _: asyncio.sleep(seconds))


def start_store(store: str) -> Act:
    return Act(f"{store} comes back", lambda here: here.start_store(store))


def second_draas(host: str = "primary") -> Act:
    async def start(here: Company) -> None:
        here.start_protect(host, *(["--wait"] if has_option("protect", "--wait") else []), part="protect-second")
        await here.processes["protect-second"].says("waiting", 20)

    return Act(f"a second DRaaS server waits at {host}", start)


def jump(host: str, seconds: int) -> Act:
    return Act(f"the clock of {host} jumps by {seconds} s", lambda here: here.jump(host, seconds))


def fill_wal_disk(disk: str) -> Act:
    """The small file system that the scenario mounted there has no byte left, and somebody imports a table."""

    async def fill(here: Company) -> None:
        with suppress(OSError), (here.home / disk / "ballast").open("ab", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))
        # The segments that lie ready are used up first.
        with suppress(psycopg.Error):
            await here.sql("primary", "CREATE TABLE import (x text)")
            for _ in range(30):
                await here.sql("primary", "INSERT INTO import SELECT md5(i::text) FROM generate_series(1, 200000) i")

    return Act("the disk of pg_wal is full", fill)


def start_postgres() -> Act:
    return Act("the old primary is started again", lambda here: here.start_primary())


def _signal(processes: list[psutil.Process], number: int) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)
