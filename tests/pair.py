"""A primary and its warm standby, for tests: real servers, streaming; the primary can be killed, the standby promoted.

async with pair() as two:
    two.primary.server.kill()
    await two.promote()
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import psycopg
from psycopg.conninfo import make_conninfo

from tests.pg import PASSWORD, QUICK, SUPERUSER, Cluster, cluster, folder, free_port
from threefold.kernel.errors import Unavailable
from threefold.postgres.server import Server


@dataclass
class Pair:
    primary: Cluster
    standby: Cluster

    def dsn(self, *, password: str | None = PASSWORD) -> str:
        """Of both; the one that takes writes is used."""
        ports = f"{self.primary.server.port},{self.standby.server.port}"
        secret = {"password": password} if password else {}
        return make_conninfo(host="127.0.0.1,127.0.0.1", port=ports, user=SUPERUSER, dbname="postgres", **secret)

    async def caught_up(self) -> None:
        there = (await self.primary.sql("SELECT pg_current_wal_lsn()::text"))[0][0]
        for _ in range(200):
            if (await self.standby.sql("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", (there,)))[0][0]:
                return
            await asyncio.sleep(0.05)
        raise AssertionError("the standby does not follow")

    async def alive(self) -> bool:
        """The primary."""
        try:
            await self.primary.sql("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    async def promote(self) -> None:
        await self.standby.sql("SELECT pg_promote(true, 30)")


@asynccontextmanager
async def pair() -> AsyncIterator[Pair]:
    async with cluster(18, settings={"max_wal_senders": "5", "hot_standby": "on"}) as primary:
        home = folder("tf-standby-")
        server = Server(
            primary.server.binaries, home / "data", free_port(), socket_dir=home / "socket", settings={**QUICK}
        )
        try:
            home.chmod(0o777)
            await asyncio.to_thread(
                primary.run, "pg_basebackup", "-D", str(home / "data"), "-d", primary.dsn(), "-R", "-X", "stream", "-c",
                "fast", "--no-sync",
            )  # fmt: skip
            await server.start()
            yield Pair(primary, Cluster(server, home))
        finally:
            try:
                await server.stop("immediate", timeout=10)
            except Unavailable:
                server.kill()
            shutil.rmtree(home, ignore_errors=True)
