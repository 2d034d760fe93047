"""Who saw and did what. What was changed, and how, the data log says; here is what leaves no trace in it.

What belongs to a change (an enrolment, a revocation) is noted in its transaction, by `add`. What only happened (a
record was shown, a sign-in failed) is held for a second and written by the many, without waiting for two stores:
showing a page shall not cost a commit. A process that dies takes at most that second along.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import psycopg
import structlog
from psycopg.types.json import Jsonb

from threefold.crm.desk import Connection, Row
from threefold.crm.model.actor import SYSTEM, Actor
from threefold.crm.sql.database import Database
from threefold.kernel.clock import Clock
from threefold.kernel.errors import ThreefoldError

_EVERY_SECONDS: Final = 1.0
_MOST: Final = 20_000  # held; past that the database has been away for long, and the oldest go
_INSERT: Final = """
    INSERT INTO edge.audit (what, user_id, device_id, kind, record_id, address, detail)
    VALUES (%s, %s, %s, %s, %s, %s, %s)"""

_TRIM_SECONDS: Final = 3600.0
_TRIM_AT_ONCE: Final = 5_000
_OLD: Final = """
    SELECT audit_days FROM crm.settings WHERE EXISTS (
        SELECT FROM edge.audit WHERE at < now() - make_interval(days => audit_days))"""
_TRIM: Final = """
    DELETE FROM edge.audit WHERE id IN (
        SELECT a.id FROM edge.audit a, crm.settings WHERE a.at < now() - make_interval(days => audit_days)
        ORDER BY a.at LIMIT %s FOR UPDATE OF a SKIP LOCKED)"""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Note:
    what: str
    actor: Actor | None = None
    kind: str = ""
    record: UUID | None = None
    address: str = ""
    detail: Mapping[str, str] = field(default_factory=dict)

    def values(self) -> tuple[Any, ...]:
        user, device = (self.actor.user, self.actor.device) if self.actor else (None, None)
        detail = {name: value.replace("\0", "") for name, value in self.detail.items()}
        return self.what, user, device, self.kind, self.record, self.address, Jsonb(detail)


async def add(connection: Connection, note: Note) -> None:
    """In the transaction at hand."""
    await connection.execute(_INSERT, note.values())


class Audit:
    """Holds notes until `run` writes them."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._held: list[Note] = []
        self._trimmed = float("-inf")

    def note(self, note: Note) -> None:
        """Never fails, never waits."""
        if len(self._held) >= _MOST:
            log.error("audit notes were lost", count=len(self._held) // 2)
            del self._held[: len(self._held) // 2]
        self._held.append(note)

    async def run(self) -> None:
        while True:
            await self._clock.sleep(_EVERY_SECONDS)
            try:
                await self.flush()
                if self._clock.monotonic() - self._trimmed > _TRIM_SECONDS:
                    await self.trim()
                    self._trimmed = self._clock.monotonic()
            except (psycopg.Error, ThreefoldError, OSError) as error:
                log.warning("audit notes wait for the database", held=len(self._held), error=type(error).__name__)

    async def flush(self) -> None:
        """Write what is held. What could not be written stays held."""
        batch = self._held[:]
        if not batch:
            return
        async with self._database.write(SYSTEM) as tx:
            await tx.connection.execute("SET LOCAL synchronous_commit = off")
            async with tx.connection.cursor() as cursor:
                await cursor.executemany(_INSERT, [note.values() for note in batch])
        del self._held[: len(batch)]

    async def trim(self) -> int:
        """Delete what is older than administrators said that it is kept; nothing, unless they did. How many went.

        That it happened is an entry itself. The database lets nothing younger go (010-audit.sql).
        """
        gone = 0
        while True:
            async with self._database.read() as connection:
                row = await (await connection.execute(_OLD)).fetchone()
            if row is None:
                return gone
            async with self._database.write(SYSTEM) as tx:
                many = (await tx.connection.execute(_TRIM, [_TRIM_AT_ONCE])).rowcount
                if not many:  # another process is at it
                    return gone
                note = Note("trimmed", SYSTEM, detail={"entries": str(many), "days": str(row["audit_days"])})
                await add(tx.connection, note)
            gone += many


async def entries(
    connection: Connection,
    *,
    before: int | None = None,
    user: UUID | None = None,
    what: str = "",
    record: UUID | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int = 100,
) -> list[Row]:
    """Newest first, from ``since`` on and before ``until``.

    Of a device that an entry is about: ``about``, its name, and ``owner``, whose it is. An entry's number is drawn
    after its time, within a transaction that lasts less than an hour: so dates bound the numbers, and what is asked
    for is one walk along them.
    """
    cursor = await connection.execute(
        """
        SELECT a.*, u.full_name AS name, d.name AS device, o.name AS about, w.full_name AS owner
        FROM edge.audit a LEFT JOIN crm.users u ON u.id = a.user_id LEFT JOIN edge.devices d ON d.id = a.device_id
        LEFT JOIN edge.devices o ON a.kind = 'devices' AND o.id = a.record_id LEFT JOIN crm.users w ON w.id = o.user_id
        WHERE (%(before)s::bigint IS NULL OR a.id < %(before)s) AND (%(user)s::uuid IS NULL OR a.user_id = %(user)s)
          AND (%(what)s = '' OR a.what = %(what)s) AND (%(record)s::uuid IS NULL OR a.record_id = %(record)s)
          AND (%(since)s::timestamptz IS NULL OR a.at >= %(since)s AND a.id >= (
              SELECT coalesce((SELECT id FROM edge.audit WHERE at < %(since)s::timestamptz - interval '1 hour'
                               ORDER BY at DESC, id DESC LIMIT 1), 0)))
          AND (%(until)s::timestamptz IS NULL OR a.at < %(until)s AND a.id <= (
              SELECT coalesce((SELECT id FROM edge.audit WHERE at > %(until)s::timestamptz + interval '1 hour'
                               ORDER BY at, id LIMIT 1), 9223372036854775807)))
        ORDER BY a.id DESC LIMIT %(limit)s""",
        {
            "before": before,
            "user": user,
            "what": what,
            "record": record,
            "since": since,
            "until": until,
            "limit": limit,
        },
    )
    return await cursor.fetchall()
