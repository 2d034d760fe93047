"""A session with a PostgreSQL that may stop answering at any moment, and must not be hurt by being watched.

Nothing here is cancelled in the server: a commit whose wait for the stores is cancelled would become visible although
nobody acknowledged it, and a cancel request is one more connection to a server that may be at its limits. Who has
waited long enough cuts the line (`Session.cut`); the request under way then ends with an error by itself.

The line itself is a witness (`Session.acknowledged_s`): the kernel at its other end acknowledges what it gets, and our
keepalives every second, although PostgreSQL stands still. New connections are no such witness: while a postmaster
stands still, those of the CRM fill its queue, and when that is full its kernel drops ours without a word, exactly as a
host that is gone.
"""

from __future__ import annotations

import os
import re
import socket
import struct
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, LiteralString

import psycopg

from threefold.failover.knock import FULL, STARTING, Door
from threefold.failover.reports import Condition
from threefold.postgres.conninfo import checked_conninfo

APPLICATION_NAME: Final = "threefold sentinel"
# Of the kernel's struct tcp_info: tcpi_state, and tcpi_last_ack_recv in milliseconds.
_TCP_INFO: Final = struct.Struct("=B7x48xI")
_ESTABLISHED: Final = 1
# Every second, so that the line tells of its host; libpq gives it up after so many without an answer.
_KEEPALIVES: Final = {"keepalives_idle": "1", "keepalives_interval": "1", "keepalives_count": "30"}
_WAIT_OF: Final = "SELECT wait_event_type, wait_event FROM pg_stat_activity WHERE pid = %s"
_IDENTITY: Final = "SELECT system_identifier FROM pg_control_system()"
_STATE: Final = (
    "SELECT r, CASE WHEN r THEN (SELECT timeline_id FROM pg_control_checkpoint())"
    " ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int END"
    " FROM (SELECT pg_is_in_recovery() AS r) AS s"
)
# A logical message of no bytes: a record and a commit in the WAL, and not a byte in any table (invariant 10).
_WRITE: Final = "SELECT pg_logical_emit_message(true, 'threefold', '')"


@dataclass(frozen=True, slots=True)
class State:
    standby: bool
    timeline: int


class NoSession(Exception):
    """A session did not come about, or broke: what PostgreSQL itself says of that, where it says anything."""

    def __init__(self, condition: Condition, detail: str) -> None:
        super().__init__(detail)
        self.condition = condition
        self.detail = detail


class Session:
    """One connection, kept."""

    def __init__(self, connection: psycopg.AsyncConnection[Any], system_identifier: int | None) -> None:
        self._connection = connection
        self.system_identifier = system_identifier

    @classmethod
    async def open(cls, dsn: str, door: Door) -> Session:
        """Raises NoSession."""
        conninfo = checked_conninfo(dsn, application_name=APPLICATION_NAME, connect_timeout="60", **_KEEPALIVES)
        try:
            connection = await psycopg.AsyncConnection.connect(conninfo, autocommit=True, prepare_threshold=None)
        except (psycopg.Error, OSError) as error:
            raise await _no_session(error, door) from None
        session = cls(connection, None)
        try:
            rows = await session._rows(_IDENTITY)
        except psycopg.Error:
            rows = []  # the role may not ask: then nobody is taken for a stranger
        session.system_identifier = int(rows[0][0]) if rows else None
        return session

    @property
    def pid(self) -> int:
        return self._connection.info.backend_pid

    async def state(self) -> State:
        """Raises NoSession when the line broke."""
        try:
            rows = await self._rows(_STATE)
        except (psycopg.Error, OSError) as error:
            raise NoSession(Condition.UNKNOWN, _first_line(error)) from None
        return State(bool(rows[0][0]), int(rows[0][1]))

    async def write(self) -> None:
        """A commit of nothing. Raises psycopg.Error."""
        await self._rows(_WRITE)

    async def wait_of(self, pid: int) -> tuple[str, str]:
        """What that backend of our own role waits for. Raises NoSession."""
        try:
            rows = await self._rows(_WAIT_OF, pid)
        except (psycopg.Error, OSError) as error:
            raise NoSession(Condition.UNKNOWN, _first_line(error)) from None
        return (rows[0][0] or "", rows[0][1] or "") if rows else ("", "")

    def acknowledged_s(self) -> float | None:
        """Seconds since the other end's kernel acknowledged anything; None: not to be told here."""
        if sys.platform != "linux":
            return None
        try:
            with socket.socket(fileno=os.dup(self._connection.pgconn.socket)) as line:
                if line.family is socket.AF_UNIX:
                    return None
                info = line.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        except (OSError, psycopg.Error):
            return None
        state, last_ack_received_ms = _TCP_INFO.unpack(info)
        return float(last_ack_received_ms) / 1000 if state == _ESTABLISHED else None

    def cut(self) -> None:
        """End it without a word to the server: whatever is under way fails now."""
        with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(self._connection.pgconn.socket)) as line:
            line.shutdown(socket.SHUT_RDWR)

    async def close(self) -> None:
        self.cut()
        with suppress(psycopg.Error, OSError):
            await self._connection.close()

    async def _rows(self, query: LiteralString, *params: object) -> list[tuple[Any, ...]]:
        cursor = await self._connection.execute(query, params or None)
        return await cursor.fetchall()


async def _no_session(error: Exception, door: Door) -> NoSession:
    text = str(error)
    # Only the server's own words begin with a severity; libpq's own are of the network, and of the DSN's host.
    said = re.search(r"[A-Z]{4,}: {2}(.+)", text)
    if said is None and not re.search(r"FATAL|SCRAM|password|authentication|SSL", text):
        return NoSession(Condition.UNKNOWN, "")
    code = await door.why()
    if code == STARTING:
        return NoSession(Condition.STARTING, "it is starting up, shutting down or recovering")
    if code == FULL or re.search(r"connection slots|too many (clients|connections)", text):
        return NoSession(Condition.FULL, "it has no connection left")
    return NoSession(Condition.SHUT_TO_US, said[1].strip() if said else "no password or no encryption that it takes")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
