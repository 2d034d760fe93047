"""Our own PostgreSQL, for `threefold up`: made once, and made ready to be protected.

Its settings are ours to choose (for a PostgreSQL that belongs to somebody else, `threefold check` only says what to
change). ``synchronous_standby_names`` is set once the DRaaS server streams: before that, a commit would wait for
nobody. It stays set: from then on a commit that nobody keeps does not return.
"""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
from psycopg import sql

from threefold.kernel.clock import Clock
from threefold.kernel.errors import Unavailable
from threefold.local.home import CRM_USER, REPLICATION_USER, Home
from threefold.local.lost_primary import Found, look
from threefold.postgres.binaries import find_binaries, major_of
from threefold.postgres.server import Server
from threefold.protect.where import APPLICATION_NAME

_STREAMING_PATIENCE_S = 60
_POLL_S = 0.1


class Primary:
    """The server in ``primary/``."""

    def __init__(self, home: Home, clock: Clock) -> None:
        self._home = home
        self._clock = clock
        configured = home.settings.recovery.binaries
        major = major_of(home.primary)
        self.server = Server(
            find_binaries(major, home.settings.path(configured) if configured else None),
            home.primary,
            home.primary_port,
            log_file=home.log_file("primary"),
            clock=clock,
        )

    async def start(self) -> bool:
        """Start it; True where it was made just now."""
        new = look(self._home.primary) is Found.NOTHING
        if new:
            await self.server.initdb(password=self._home.secret("postgres.password"))
        await self.server.start()
        if new:
            await asyncio.to_thread(self._prepare)
        return new

    def _prepare(self) -> None:
        role = sql.Identifier(REPLICATION_USER)
        password = self._home.secret(f"{REPLICATION_USER}.password")
        with psycopg.connect(self._home.superuser_conninfo(), autocommit=True) as connection:
            statement = sql.SQL("CREATE ROLE {} LOGIN REPLICATION PASSWORD {}")
            connection.execute(statement.format(role, sql.Literal(password)))
            connection.execute(sql.SQL("GRANT pg_monitor TO {}").format(role))
            self._make_crm(connection)

    def _make_crm(self, connection: psycopg.Connection[Any]) -> None:
        """A database of the CRM's own, and a role that owns it and nothing else."""
        role = sql.Identifier(CRM_USER)
        password = sql.Literal(self._home.secret(f"{CRM_USER}.password"))
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, password))
        connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(role, role))

    async def wait_until_streaming(self) -> None:
        """The DRaaS server receives the log, from now on at least. Raises Unavailable."""
        deadline = self._clock.monotonic() + _STREAMING_PATIENCE_S
        while not await asyncio.to_thread(self._streaming):
            if self._clock.monotonic() > deadline:
                raise Unavailable(
                    f"the DRaaS server does not stream after {_STREAMING_PATIENCE_S} s", hint="its log says why"
                )
            await self._clock.sleep(_POLL_S)

    def _streaming(self) -> bool:
        try:
            with psycopg.connect(self._home.superuser_conninfo()) as connection:
                row = connection.execute(
                    "SELECT 1 FROM pg_stat_replication WHERE application_name = %s AND state = 'streaming'",
                    (APPLICATION_NAME,),
                ).fetchone()
        except psycopg.OperationalError:
            return False  # a recovered folder lets nobody in before it has replayed its log
        return row is not None

    async def make_synchronous(self) -> None:
        """From here on every commit waits for the DRaaS server."""
        await asyncio.to_thread(self._make_synchronous)

    def _make_synchronous(self) -> None:
        sync = self._home.settings.system.durability == "sync"
        with psycopg.connect(self._home.superuser_conninfo(), autocommit=True) as connection:
            names = sql.Literal(f"ANY 1 ({APPLICATION_NAME})")
            connection.execute(sql.SQL("ALTER SYSTEM SET synchronous_standby_names = {}").format(names))
            level = sql.Literal("on" if sync else "remote_write")
            connection.execute(sql.SQL("ALTER SYSTEM SET synchronous_commit = {}").format(level))
            connection.execute("SELECT pg_reload_conf()")

    def crm_is_empty(self) -> bool:
        """Nobody has used it yet."""
        with psycopg.connect(self._home.crm_conninfo()) as connection:
            made = connection.execute("SELECT to_regclass('crm.accounts')").fetchone()
            if made is None or made[0] is None:
                return True
            return connection.execute("SELECT 1 FROM crm.accounts LIMIT 1").fetchone() is None
