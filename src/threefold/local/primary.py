"""Our own PostgreSQL, for `threefold up`: made once, and made ready to be protected.

Its settings are ours to choose (for a PostgreSQL that belongs to somebody else, `threefold check` only says what to
change). ``synchronous_standby_names`` is set once the DRaaS server streams: before that, a commit would wait for
nobody. It stays set: from then on a commit that nobody keeps does not return.
"""

from __future__ import annotations

import asyncio
import shutil
from contextlib import suppress
from pathlib import Path
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
from threefold.recover.destination import MARKER, disk_errors, sync_folder

_STREAMING_PATIENCE_S = 60
_STOP_PATIENCE_S = 20
_CHECKPOINT_PATIENCE_S = 600  # what a long replay changed is written out first
_POLL_S = 0.1


class Primary:
    """The server in ``primary/``."""

    def __init__(self, home: Home, clock: Clock) -> None:
        self._home = home
        self._clock = clock
        self._server: Server | None = None

    @property
    def server(self) -> Server:
        """The one that was started; before that, as it would be started now."""
        return self._server or self._server_on(self._home.primary)

    @property
    def pid(self) -> int | None:
        """None: we did not start it, or it runs no more."""
        return self._server.pid if self._server is not None else None

    async def start(self) -> bool:
        """Start it; True where it was made just now."""
        new = look(self._home.primary) is Found.NOTHING
        if new:
            await self._make()
        # Only now is it known of which version its programs have to be.
        server = self._server_on(self._home.primary)
        if server.pid is None:  # otherwise it is somebody else's, and not ours to stop
            self._server = server
        await server.start()
        return new

    async def stop(self) -> None:
        """In good order, if we started it; killed where that takes too long: its log is on the stores."""
        if self._server is not None:
            await _stop(self._server)

    async def stop_recovered(self) -> None:
        """The server that `threefold recover --start` left on the folder, so that ours can be started on it."""
        if major_of(self._home.primary) is not None:
            await _stop(self._server_on(self._home.primary), within=_CHECKPOINT_PATIENCE_S)

    def _server_on(self, folder: Path) -> Server:
        configured = self._home.settings.recovery.binaries
        return Server(
            find_binaries(major_of(folder), self._home.settings.path(configured) if configured else None),
            folder,
            self._home.primary_port,
            log_file=self._home.log_file("primary"),
            clock=self._clock,
        )

    async def _make(self) -> None:
        """Beside its place, and moved there when it is whole: a Ctrl-C leaves no database without its roles."""
        place = self._home.primary.resolve()  # it may be a link to a folder on another disk
        draft = place.with_name(f"{place.name}.threefold-new")
        server = self._server_on(draft)
        server.kill()  # of a run that was killed itself
        with disk_errors(draft):
            await asyncio.to_thread(_remove, draft)
        try:
            await server.initdb(password=self._home.secret("postgres.password"))
            await server.start()
            await asyncio.to_thread(self._prepare)
            await server.stop()
        finally:
            server.kill()  # of one that has stopped: nothing
        with disk_errors(place):
            (place / f"{MARKER}.new").unlink(missing_ok=True)  # all that `look` leaves there
            draft.rename(place)
            sync_folder(place.parent)

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


async def _stop(server: Server, within: float = _STOP_PATIENCE_S) -> None:
    try:
        with suppress(Unavailable):
            await server.stop("fast", timeout=within)
    finally:
        server.kill()  # of one that has stopped: nothing


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
