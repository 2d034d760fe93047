"""Connections to the CRM's database, and the promise that "saved" means saved.

A change counts as saved when PostgreSQL answered COMMIT, without the warning that it gave up waiting for its
synchronous standby. In every other case the caller gets an error: `Unavailable` while nothing can have been
written, and `NotSaved` from the moment that COMMIT was sent, when nobody knows. So that nothing here turns a commit
that would have gone well into an unknown one, no statement timeout stands over COMMIT, and it is shielded: whoever
waits for it may be cancelled or lose patience, the commit itself goes on to its end.

Several hosts in the connection string are one database that moves: writing goes to the one that takes writes, and so
does reading; while none does, reads are answered by the standby that has the most (servers.py). Where that is being
watched (`Watch.run`), the pools are made anew as soon as it takes writes somewhere else, or again: what is left of the
old connections, half-open ones too, is let go of, and nobody waits for a pool's own patience.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Self
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from threefold.crm.desk import Change, Connection, Row, Tx
from threefold.crm.model.actor import Actor
from threefold.crm.model.errors import NotSaved
from threefold.crm.model.refusals import refusal
from threefold.crm.model.uuid7 import uuid7
from threefold.crm.sql.servers import Found, Watch
from threefold.kernel.clock import Clock
from threefold.kernel.errors import Unavailable

_WAIT_S = 5.0  # for a free connection
_WORK_MS = 15_000  # for one statement of a request
_PATIENCE_S = 30.0  # for a commit; one store's failover takes less
_SOON_S = 1.0  # for a connection to read from, before the other place is tried
_AGAIN_S = 0.1

# Keepalives find a machine that vanished without a word; the rest are the session's habits.
SESSION = (
    "-c timezone=UTC -c datestyle=ISO -c jit=off -c max_parallel_workers_per_gather=0"
    " -c idle_in_transaction_session_timeout=60s"
)
_ALIVE = {
    "keepalives_idle": "3",
    "keepalives_interval": "1",
    "keepalives_count": "3",
    "tcp_user_timeout": "5000",
    "connect_timeout": "3",
}

_READS = f"-c default_transaction_read_only=on -c statement_timeout={_WORK_MS}"

_Pool = AsyncConnectionPool[Connection]


class Database:
    """``after_commit`` hears what every saved transaction changed; it must neither wait nor raise."""

    def __init__(
        self,
        conninfo: str,
        clock: Clock,
        *,
        size: int = 10,
        writable: bool = True,
        patience: float = _PATIENCE_S,
        wait: float = _WAIT_S,
    ) -> None:
        """``writable=False``: for a standby; any of its hosts will do.

        Seconds: ``patience`` for a commit to be confirmed, ``wait`` for a free connection.
        """
        self.after_commit: list[Callable[[frozenset[Change]], None]] = []
        self.watch = Watch(conninfo_of(conninfo, writable=False), clock)
        self.watch.turned.append(self._turned)
        self._given = conninfo_of(conninfo, writable=writable)
        self._clock = clock
        self._size = size
        self._patience = patience
        self._wait_for = wait
        self._commits: set[asyncio.Task[None]] = set()
        self._pools: dict[Connection, _Pool] = {}  # where what is in use goes back to
        self._standby: tuple[str, _Pool] | None = None
        self._turns: set[asyncio.Task[None]] = set()
        self._opened = False
        self._readers, self._writers = self._both()

    @property
    def conninfo(self) -> str:
        """Of the server that takes writes, as far as anybody knows."""
        found = self.watch.found
        if found is None or found.writer is None or len(self.watch.places) == 1:
            return self._given
        return make_conninfo(found.writer.conninfo, target_session_attrs="read-write")

    @property
    def conninfo_to_read(self) -> str:
        """Of the server that reads are answered from now."""
        found = self.watch.found
        if found is None or found.writer is not None or found.reader is None:
            return self.conninfo
        return found.reader.conninfo

    def _both(self) -> tuple[_Pool, _Pool]:
        to_write = self.conninfo
        # A session that only reads is not "read-write" to libpq, wherever it is.
        to_read = to_write.replace("target_session_attrs=read-write", "target_session_attrs=primary")
        return self._pool(to_read, _READS, least=1), self._pool(to_write, "")

    def _pool(self, conninfo: str, options: str, *, least: int = 0) -> _Pool:
        return AsyncConnectionPool(
            make_conninfo(conninfo, options=f"{SESSION} {options}"),
            connection_class=psycopg.AsyncConnection[Row],
            kwargs={"autocommit": True, "row_factory": dict_row},
            min_size=least,
            max_size=self._size,
            timeout=self._wait_for,
            max_waiting=self._size * 20,
            reconnect_timeout=2,  # given up soon, and begun anew by whoever asks next: never a long pause in between
            open=False,
            name="crm",
        )

    async def open(self) -> None:
        """Does not wait for the database: a request that comes before it waits for a connection itself."""
        self._opened = True
        await self._readers.open(wait=False)
        await self._writers.open(wait=False)

    async def close(self) -> None:
        """Commits under way are given a moment; one that hangs on its stores is left to the server."""
        self._opened = False
        if self._commits:
            await asyncio.wait(self._commits, timeout=2)
        for task in [*self._commits, *self._turns]:
            task.cancel()
        await asyncio.gather(*self._turns, return_exceptions=True)
        for pool in (self._readers, self._writers, *([self._standby[1]] if self._standby else [])):
            await pool.close()

    def _turned(self, found: Found) -> None:
        """Elsewhere, or back: new pools."""
        if self._opened and found.writer is not None:
            turn = asyncio.create_task(self._turn())
            self._turns.add(turn)
            turn.add_done_callback(self._turns.discard)

    async def _turn(self) -> None:
        readers, writers = self._both()
        await readers.open(wait=False)
        await writers.open(wait=False)
        old = (self._readers, self._writers)
        self._readers, self._writers = readers, writers
        for pool in old:
            await pool.close(timeout=0.5)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Connection]:
        """Each statement is a read-only transaction of its own, under a time limit."""
        connection = await self._reader()
        try:
            yield connection
        except psycopg.Error as error:
            raise refusal(error) from error
        finally:
            await self._give_back(connection)

    async def _reader(self) -> Connection:
        """From the server that takes writes; from the standby while there is none."""
        found = self.watch.found
        if found is None:
            return await self._taken(self._readers)
        if found.writer is not None:
            with contextlib.suppress(Unavailable, TimeoutError):
                async with asyncio.timeout(_SOON_S):
                    return await self._taken(self._readers)
            found = await self.watch.look()
        deadline = self._clock.monotonic() + self._wait_for
        while found.reader is None and self._clock.monotonic() < deadline:
            await self._clock.sleep(_AGAIN_S)
            found = await self.watch.look()
        if found.writer is not None:
            return await self._taken(self._readers)
        if found.reader is None:
            raise Unavailable("the database does not answer", hint="wait a little and ask again")
        return await self._taken(await self._standbys(found.reader.conninfo))

    async def _standbys(self, conninfo: str) -> _Pool:
        if self._standby is not None and self._standby[0] == conninfo:
            return self._standby[1]
        old, pool = self._standby, self._pool(conninfo, _READS)
        self._standby = (conninfo, pool)
        await pool.open(wait=False)
        if old is not None:
            await old[1].close(timeout=0.5)
        return pool

    async def _somewhere(self) -> None:
        """Returns when writing can be tried. Raises Unavailable, at once where at least reading goes on."""
        deadline = self._clock.monotonic() + self._wait_for
        while not self.watch.writable:
            found = self.watch.found
            if (found is not None and found.reader is not None) or self._clock.monotonic() > deadline:
                raise Unavailable("the database takes no changes at the moment", hint="wait a little and ask again")
            await self._clock.sleep(_AGAIN_S)
            await self.watch.look()

    @asynccontextmanager
    async def write(self, actor: Actor, reason: str = "") -> AsyncIterator[Tx]:
        """Leaving the block commits, and returns only when it is saved; an exception rolls back.

        ``reason``: for the data log.
        """
        tx = await self._begun(actor, reason)
        connection, handed_on = tx.connection, False
        try:
            try:
                yield tx
            except psycopg.Error as error:
                raise refusal(error) from error
            commit = asyncio.create_task(self._commit(connection, tx))
            self._commits.add(commit)
            commit.add_done_callback(self._done)
            handed_on = True
            await self._wait(commit)
        finally:
            if not handed_on:
                await asyncio.shield(self._roll_back(connection, bulky=tx.bulky))

    def _done(self, commit: asyncio.Task[None]) -> None:
        self._commits.discard(commit)
        if not commit.cancelled():
            commit.exception()  # whoever waited has it; if nobody does any more, it is nobody's

    async def _begun(self, actor: Actor, reason: str) -> Tx:
        """A connection may be lost while it is taken; a BEGIN is sent again without harm."""
        for last in (False, True):
            await self._somewhere()
            connection = await self._taken(self._writers)
            try:
                return await self._begin(connection, actor, reason)
            except BaseException as error:
                await asyncio.shield(self._roll_back(connection))
                if isinstance(error, psycopg.Error) and (last or not connection.closed):
                    raise refusal(error) from error
                if not isinstance(error, psycopg.Error):
                    raise
        raise AssertionError  # not reached

    async def _begin(self, connection: Connection, actor: Actor, reason: str) -> Tx:
        """One round trip. Of several statements psycopg shows the results one by one."""
        statement = sql.SQL(
            "BEGIN; SET LOCAL statement_timeout = {}; SELECT set_config('crm.user', {}, true),"
            " set_config('crm.device', {}, true), set_config('crm.reason', {}, true), now() AS now"
        ).format(_WORK_MS, _text(actor.user), _text(actor.device), reason)
        cursor = await connection.execute(statement)
        while cursor.nextset():
            pass
        now: datetime = (await cursor.fetchall())[0]["now"]
        milliseconds = int(now.timestamp() * 1000)
        return Tx(connection, actor, now, lambda: uuid7(milliseconds, int(self._clock.new_id(), 16)))

    async def _commit(self, connection: Connection, tx: Tx) -> None:
        """Owns the connection, to its end."""
        changed = frozenset(tx.changed)
        warnings: list[str] = []

        def noticed(notice: psycopg.errors.Diagnostic) -> None:
            if notice.severity_nonlocalized == "WARNING":
                warnings.append(notice.message_primary or "")

        connection.add_notice_handler(noticed)
        try:
            cursor = await connection.execute("SET LOCAL statement_timeout = 0; COMMIT")
            while cursor.nextset():
                pass
            if cursor.statusmessage != "COMMIT":
                raise NotSaved("the transaction had failed before it was to be saved", hint="ask again")
            if warnings:
                raise NotSaved(
                    f"the database does not say that the change is safe: {warnings[0]}",
                    hint="ask again with the same Idempotency-Key: the answer tells whether it is there",
                )
        except psycopg.Error as error:
            raise refusal(error, committing=True) from error
        finally:
            connection.remove_notice_handler(noticed)
            await self._roll_back(connection, bulky=tx.bulky)
        for tell in self.after_commit:
            tell(changed)

    async def _wait(self, commit: asyncio.Task[None]) -> None:
        try:
            await asyncio.wait_for(asyncio.shield(commit), self._patience)
        except TimeoutError:
            raise NotSaved(
                f"the change was not confirmed within {self._patience:.0f} s",
                hint="ask again with the same Idempotency-Key: the answer tells whether it is there",
            ) from None

    async def _roll_back(self, connection: Connection, *, bulky: bool = False) -> None:
        """Back into the pool, which throws away what is broken."""
        try:
            if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE and not connection.closed:
                await connection.execute("ROLLBACK")
            if bulky:
                await connection.close()
        except psycopg.Error:
            await connection.close()
        await self._give_back(connection)

    async def _taken(self, pool: _Pool) -> Connection:
        connection = await _taken(pool)
        self._pools[connection] = pool
        return connection

    async def _give_back(self, connection: Connection) -> None:
        pool = self._pools.pop(connection, None)
        if pool is not None:
            await pool.putconn(connection)


def conninfo_of(conninfo: str, *, writable: bool) -> str:
    given = conninfo_to_dict(conninfo)
    several = "," in str(given.get("host") or given.get("hostaddr") or "")
    more = {"target_session_attrs": "read-write"} if writable and several else {}
    return make_conninfo(conninfo, **{name: value for name, value in {**_ALIVE, **more}.items() if name not in given})


async def _taken(pool: _Pool) -> Connection:
    """One that is alive: those that the server closed while they lay in the pool are thrown away."""
    try:
        for _ in range(pool.max_size + 1):
            connection = await pool.getconn()
            alive = False
            try:
                alive = await _alive(connection)
            finally:  # also of one whose asker was cancelled while it was looked at
                if not alive:
                    await connection.close()
                    await pool.putconn(connection)
            if alive:
                return connection
    except (PoolTimeout, psycopg.Error) as error:
        raise Unavailable("the database does not answer", hint="wait a little and ask again") from error
    raise Unavailable("the database does not keep its connections", hint="wait a little and ask again")


async def _alive(connection: Connection) -> bool:
    """Nothing is sent unless there is something to read, which is an end, or a word that TLS left lying."""
    if connection.closed:
        return False
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    if not poll.poll(0):
        return True
    try:
        await connection.execute("SELECT")
    except psycopg.Error:
        return False
    return True


def _text(value: UUID | None) -> str:
    return "" if value is None else str(value)
