"""A warm standby of a `site` of protect_process.py, held in this process.

async with standby_of(here) as standby:
    await standby.prepare()
    await standby.start(here.primary.dsn())
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.pg import Cluster, folder, free_port
from tests.protect_process import Site, until
from tests.recovering import Notes
from threefold.bootstrap import Parts
from threefold.kernel.errors import ThreefoldError
from threefold.kernel.lsn import Lsn
from threefold.quorum.driver import Driver
from threefold.quorum.lead import fence
from threefold.quorum.majority import QUORUM
from threefold.quorum.members import read_roll
from threefold.quorum.objects import Codec
from threefold.quorum.reader import agreed_format
from threefold.quorum.view import Scope
from threefold.recover.standby import Standby

QUICK = {"fsync": "off", "shared_buffers": "16MB", "logging_collector": "off"}


def held(parts: Parts, here: Site, data_dir: Path, port: int, **more: Any) -> Standby:
    """What an agent holds; another one may hold the same folder later."""
    return Standby(
        site="recovery",
        stores=more.pop("stores", parts.stores),
        keyring=parts.keyring,
        clock=parts.clock,
        progress=more.pop("progress", Notes()),
        data_dir=data_dir,
        host="127.0.0.1",
        port=port,
        login=here.primary.dsn(),
        find_binaries=parts.binaries,
        settings=QUICK,
        **more,
    )


@asynccontextmanager
async def standby_of(here: Site, **more: Any) -> AsyncIterator[Standby]:
    home = folder("tf-standby-")
    async with here.parts() as parts:
        standby = held(parts, here, home / "data", free_port(), **more)
        try:
            yield standby
        finally:
            await standby.close()
            if (home / "data" / "PG_VERSION").exists():
                standby.server.kill()
            shutil.rmtree(home, ignore_errors=True)


def cluster_of(standby: Standby) -> Cluster:
    return Cluster(standby.server, standby.data_dir.parent)


async def ask(standby: Standby, query: str) -> list[tuple[Any, ...]]:
    return await cluster_of(standby).sql(query)


async def replayed(standby: Standby, lsn: Lsn, within: float = 20) -> None:
    async def there() -> bool:
        try:
            return (await standby.position()).replayed >= lsn
        except ThreefoldError:
            return False

    await until(there, f"replay of {lsn}", within, standby.server.log_tail)


async def flushed(here: Site) -> Lsn:
    ((at,),) = await here.primary.sql("SELECT pg_current_wal_flush_lsn()::text")
    return Lsn.parse(at)


async def fenced(here: Site) -> tuple[Lsn, int]:
    """The log's end, for good: what the agent does before it completes the copy."""
    async with here.parts() as parts:
        driver = Driver(parts.stores, parts.clock)
        roll = await driver.run(read_roll(tuple(parts.stores)))
        form = agreed_format(roll, parts.keyring, QUORUM)
        codec = Codec(parts.keyring, form.log)
        scope = Scope(tuple(roll.members), codec, parts.clock.new_id(), QUORUM, form.segment_bytes)
        _, found = await driver.run(fence(scope), patience=30)
        assert found is not None
        return found.end, found.timeline


async def dead(standby: Standby) -> None:
    await until(lambda: standby.server.pid is None, "an end of the standby", 20)
