"""What a standby is asked over SQL, by the role of ``[system] dsn``: LOGIN, and pg_monitor for its walreceiver."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from threefold.kernel.clock import Clock
from threefold.kernel.errors import BadInput, ThreefoldError, Unavailable
from threefold.kernel.lsn import Lsn
from threefold.postgres.refusals import one_line
from threefold.recover.follow import age

_ANSWERS_S: Final = 5.0
_WHERE: Final = """
SELECT NOT pg_is_in_recovery(),
       pg_last_wal_receive_lsn()::text,
       CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text,
       CASE WHEN pg_is_in_recovery() THEN pg_get_wal_replay_pause_state() = 'paused' ELSE false END,
       extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8,
       (SELECT greatest(c.timeline_id, r.min_recovery_end_timeline)
          FROM pg_control_checkpoint() c, pg_control_recovery() r),
       CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_walfile_name(pg_current_wal_lsn()) END,
       w.pid IS NOT NULL, w.status, w.received_tli, w.latest_end_lsn::text
  FROM (SELECT) once LEFT JOIN pg_stat_wal_receiver w ON true
"""


@dataclass(frozen=True, slots=True)
class Position:
    """Where the copy is. ``replay_age_s``: what is read there is at most that old; None: not known.

    ``received`` is None where nothing was received since PostgreSQL started. ``primary``: it was promoted, and
    ``replayed`` is how far it has written. ``paused``: it does not replay, because a setting of its own is too small.
    """

    received: Lsn | None
    replayed: Lsn
    timeline: int
    streaming: bool
    replay_age_s: float | None
    primary: bool = False
    paused: bool = False


class Questions:
    """One connection to the standby, made when it is needed."""

    def __init__(self, conninfo: str, clock: Clock) -> None:
        self.conninfo = conninfo
        self._clock = clock
        self._connection: psycopg.AsyncConnection[tuple[Any, ...]] | None = None
        self._caught_up_at: float | None = None

    async def position(self) -> Position:
        """Raises Unavailable while it lets nobody in, BadInput where our role may not ask."""
        (row,) = await self.rows(_WHERE)
        primary, received, replayed, paused, last_commit_s_ago, timeline, writing, receives, status, tli, newest = row
        if receives and status is None:
            raise BadInput(
                "our role may not see whether the standby streams",
                hint="on the primary: GRANT pg_monitor TO the role of [system] dsn",
            )
        now = self._clock.monotonic()
        at = Lsn.parse(replayed) if replayed else Lsn(0)
        streaming = status == "streaming"
        if primary or (streaming and newest and at >= Lsn.parse(newest)):
            self._caught_up_at = now
        ago = None if self._caught_up_at is None else now - self._caught_up_at
        # By the primary's clock against ours: one that is ahead of ours would make what is old look new.
        commit_ago = None if last_commit_s_ago is None or last_commit_s_ago < 0 else last_commit_s_ago
        return Position(
            received=Lsn.parse(received) if received else None,
            replayed=at,
            timeline=int(writing[:8], 16) if writing else max(timeline or 0, tli or 0),
            streaming=streaming,
            replay_age_s=age(caught_up_s_ago=ago, last_commit_s_ago=commit_ago),
            primary=primary,
            paused=paused,
        )

    async def receiving(self) -> bool:
        """Whether a walreceiver is there, or may still be started: asked on a connection that knows the newest file."""
        await self.close()
        rows = await self.rows(
            "SELECT current_setting('primary_conninfo') <> ''"
            " OR EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'walreceiver')"
        )
        return bool(rows[0][0])

    async def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Raises Unavailable, BadInput."""
        connection = self._connection
        try:
            async with asyncio.timeout(_ANSWERS_S):
                if connection is None or connection.closed:
                    connection = await psycopg.AsyncConnection.connect(self.conninfo, autocommit=True)
                    self._connection = connection
                cursor = await connection.execute(query.encode())
                return await cursor.fetchall()
        except psycopg.errors.InsufficientPrivilege as error:
            raise BadInput(f"our role may not ask the standby: {one_line(str(error))}", hint=_MONITOR) from None
        except psycopg.Error as error:
            await self.close()
            raise _refused(one_line(str(error))) from None
        except TimeoutError:
            await self.close()
            raise Unavailable(f"the standby did not answer within {_ANSWERS_S:g} s") from None

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


_MONITOR: Final = "on the primary: GRANT pg_monitor TO the role of [system] dsn"


def _refused(said: str) -> ThreefoldError:
    if "authentication failed" in said or "no pg_hba.conf entry" in said or "does not exist" in said:
        return BadInput(
            f"the standby does not let our role in: {said}",
            hint="the role of [system] dsn has to reach it from this machine as well: roles, passwords and pg_hba.conf "
            "are the primary's",
        )
    return Unavailable(f"the standby does not answer: {said}", hint="it is tried again; its log says more")
