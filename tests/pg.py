"""Real PostgreSQL clusters for tests: made from a template, killed and removed at the end.

    async with cluster(18) as primary:
        await primary.sql("CREATE TABLE t (x int)")

A cluster lies in a folder of its own directly under /tmp: pytest's tmp_path is closed to the user that PostgreSQL
runs as. Copies of one template share a system identifier; ask for ``fresh=True`` where two clusters must differ.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from threefold.kernel.errors import NotThere, Unavailable
from threefold.postgres.binaries import Binaries, find_binaries
from threefold.postgres.server import Server

SUPERUSER = "admin"
PASSWORD = "s3cret-of-tests"

# Nothing here outlives the machine, so nothing waits for its disk; a killed process loses nothing by that.
QUICK = {
    "fsync": "off",
    "shared_buffers": "16MB",
    "max_wal_size": "256MB",
    "wal_level": "replica",
    "max_connections": "50",
    "logging_collector": "off",
}

BOTH = [pytest.param(15, marks=pytest.mark.postgres15), 18]
BOTH_IN_TIME = [pytest.param(15, marks=[pytest.mark.postgres15, pytest.mark.long]), 18]  # the older with the long tests

_templates: dict[tuple[int, int], Path] = {}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def folder(prefix: str = "tf-test-") -> Path:
    """A folder that other users can pass; removing it is the caller's."""
    made = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))
    made.chmod(0o755)
    return made


def binaries(major: int) -> Binaries:
    """Skips the test where this machine lacks that version."""
    try:
        return find_binaries(major)
    except NotThere as error:
        pytest.skip(str(error))


@dataclass
class Cluster:
    server: Server
    folder: Path

    def dsn(self, *, user: str = SUPERUSER, dbname: str = "postgres", password: str = PASSWORD, **more: str) -> str:
        where = {"host": "127.0.0.1", "port": str(self.server.port)}
        return make_conninfo(**where, user=user, dbname=dbname, password=password, **more)

    async def sql(self, query: str, params: Any = None, *, dbname: str = "postgres") -> list[tuple[Any, ...]]:
        """One query in a transaction of its own (outside of one where PostgreSQL insists)."""
        async with await psycopg.AsyncConnection.connect(self.dsn(dbname=dbname), autocommit=True) as connection:
            cursor = await connection.execute(query, params)
            return await cursor.fetchall() if cursor.description else []

    async def set(self, **settings: str) -> None:
        """ALTER SYSTEM and reload."""
        for name, value in settings.items():
            await self.sql(f"ALTER SYSTEM SET {name} = '{value}'")
        await self.sql("SELECT pg_reload_conf()")
        await asyncio.sleep(0.1)

    def run(self, program: str, *args: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """One of PostgreSQL's own programs, as the server's user."""
        return subprocess.run(
            [self.server.binaries.program(program), *args],
            capture_output=True,
            text=True,
            check=check,
            cwd="/",
            **self.server.account.popen(),
        )


@asynccontextmanager
async def cluster(
    major: int,
    *,
    wal_segment_size: int = 16 * 2**20,
    settings: Mapping[str, str] | None = None,
    fresh: bool = False,
    start: bool = True,
) -> AsyncIterator[Cluster]:
    """A throw-away primary; `SUPERUSER` with `PASSWORD` over TCP."""
    home = folder(f"tf-pg{major}-")
    server = Server(
        binaries(major), home / "data", free_port(), socket_dir=home / "socket", settings={**QUICK, **(settings or {})}
    )
    try:
        if fresh:
            await _initdb(server, wal_segment_size)
        else:
            template = await _template(major, wal_segment_size)
            await asyncio.to_thread(shutil.copytree, template, server.data_dir, symlinks=True)
        if start:
            await server.start()
        yield Cluster(server, home)
    finally:
        await _stop(server)
        shutil.rmtree(home, ignore_errors=True)


async def _stop(server: Server) -> None:
    """Immediate shutdown frees the shared memory that kill -9 leaves behind."""
    try:
        await server.stop("immediate", timeout=10)
    except Unavailable:
        server.kill()


async def _template(major: int, wal_segment_size: int) -> Path:
    key = (major, wal_segment_size)
    if key not in _templates:
        home = folder(f"tf-template{major}-")
        atexit.register(_remove, os.getpid(), home)
        await _initdb(Server(binaries(major), home / "data", 1), wal_segment_size)
        _templates[key] = home / "data"
    return _templates[key]


async def _initdb(server: Server, wal_segment_size: int) -> None:
    await server.initdb(superuser=SUPERUSER, password=PASSWORD, wal_segment_size=wal_segment_size, sync=False)


def _remove(maker: int, home: Path) -> None:
    if os.getpid() == maker:
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def small_disk(megabytes: int) -> Iterator[Path]:
    """A file system of that size."""
    place = folder("tf-small-")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a file system of a chosen size needs the right to mount")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
        place.rmdir()
