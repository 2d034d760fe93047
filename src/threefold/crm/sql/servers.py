"""Which of the database's servers takes writes, which can be read meanwhile, and how old what it shows is.

A database that is protected has two places, and moves between them. Each is asked every second (more often while none
takes writes) on a connection of its own: who is in recovery, on which timeline, how far. Of two that say they take
writes, the one on the higher timeline does: every switch begins a new one, so the other is a primary that came back
and does not know. A timeline lower than one that was seen before is never written to, nor read while there is another.

The age of a standby's page is a bound, and the least of two: what it has replayed reaches the place where the primary
was at some look, so it is at most as old as that look; and its newest transaction says when it was committed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row

from threefold.crm.desk import Connection, Row
from threefold.kernel.clock import Clock

_EVERY_S: Final = 1.0
_EVERY_AWAY_S: Final = 0.25
_PATIENCE_S: Final = 2.0
_LOOKS: Final = 1200  # of the primary that are remembered: twenty minutes
_NAME: Final = "threefold crm watch"

_ASK: Final = b"""
    SELECT standby, NOT standby AND current_setting('default_transaction_read_only') = 'off' AS writable,
        (SELECT system_identifier FROM pg_control_system()) AS system,
        CASE WHEN standby THEN (SELECT greatest(timeline_id, 1) FROM pg_control_checkpoint())
             ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int END AS timeline,
        (CASE WHEN standby THEN coalesce(pg_last_wal_replay_lsn(), '0/0') ELSE pg_current_wal_lsn() END
            - '0/0'::pg_lsn)::bigint AS lsn,
        CASE WHEN standby THEN extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8 END
            AS replayed
    FROM pg_is_in_recovery() AS standby"""


@dataclass(frozen=True, slots=True)
class Server:
    """One place, as of the last look. ``replayed``: seconds since its newest transaction was committed elsewhere."""

    address: str  # host:port
    conninfo: str = field(repr=False)  # with the password
    writable: bool
    system: int
    timeline: int
    lsn: int
    replayed: float | None


@dataclass(frozen=True, slots=True)
class Found:
    """``writer``: takes writes. ``reader``: the best to read from; the writer where there is one."""

    writer: Server | None
    reader: Server | None


def places(conninfo: str) -> list[tuple[str, str]]:
    """(host:port, connection string) of each host that is named."""
    given = conninfo_to_dict(conninfo)
    named = {key: str(given[key]).split(",") for key in ("host", "hostaddr", "port") if given.get(key)}
    count = max((len(values) for key, values in named.items() if key != "port"), default=1)
    found: dict[str, str] = {}
    for n in range(count):
        one = {key: values[n] if len(values) > 1 else values[0] for key, values in named.items()}
        address = f"{one.get('host') or one.get('hostaddr') or 'local'}:{one.get('port', 5432)}"
        rest: dict[str, Any] = {key: value for key, value in given.items() if key not in named}
        rest.pop("target_session_attrs", None)
        found.setdefault(address, make_conninfo("", **{**rest, **one}))
    return list(found.items())


def chosen(seen: list[Server], highest: int) -> Found:
    """``highest``: the highest timeline that was ever seen taking writes."""
    writers = [each for each in seen if each.writable and each.timeline >= highest]
    writer = max(writers, key=lambda each: each.timeline, default=None)
    if writer is not None:
        return Found(writer, writer)
    standbys = [each for each in seen if not each.writable]
    return Found(None, max(standbys or seen, key=lambda each: (each.timeline, each.lsn), default=None))


class Watch:
    """`run` looks; until the first look `found` is None, and nobody knows. ``turned`` hears of every other server.

    ``also``: one more question that is put with each look, whose first row is kept as `also`; a table that is not
    there yet is no answer.
    """

    def __init__(self, conninfo: str, clock: Clock, also: bytes = b"") -> None:
        self.places = places(conninfo)
        self.found: Found | None = None
        self.also: Row | None = None
        self.turned: list[Callable[[Found], None]] = []
        self.ask_also = also
        self._clock = clock
        self._connections: dict[str, Connection] = {}
        self._last: dict[str, tuple[Server, Row | None]] = {}  # what each said when it last did
        self._highest = 0
        self._looks: deque[tuple[float, int]] = deque(maxlen=_LOOKS)  # when the writer was seen where
        self._looking: asyncio.Task[Found] | None = None

    @property
    def writable(self) -> bool:
        """Also while nobody knows: whoever tries finds out."""
        return self.found is None or self.found.writer is not None

    def age(self) -> float | None:
        """Seconds, of what is read now; 0: the writer itself answers; None: nobody can tell, or nothing answers."""
        if self.found is None or self.found.writer is not None:
            return 0.0
        reader, now = self.found.reader, self._clock.monotonic()
        if reader is None:
            return None
        bounds = [] if reader.replayed is None else [max(0.0, reader.replayed)]
        bounds += [now - when for when, lsn in reversed(self._looks) if lsn <= reader.lsn][:1]
        return min(bounds, default=None)

    async def run(self) -> None:
        try:
            while True:
                found = await self.look()
                await self._clock.sleep(_EVERY_S if found.writer else _EVERY_AWAY_S)
        finally:
            await self.close()

    async def look(self) -> Found:
        """Now; several who ask at once share one look."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        return await asyncio.shield(self._looking)

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        for address in list(self._connections):
            await self._drop(address)

    async def _look(self) -> Found:
        answers = await asyncio.gather(*(self._ask(address, conninfo) for address, conninfo in self.places))
        seen = [each for each in answers if each is not None]
        found = chosen([server for server, _ in seen], self._highest)
        before, self.found = self.found, found
        if found.writer is not None:
            self._highest = max(self._highest, found.writer.timeline)
            self._looks.append((self._clock.monotonic(), found.writer.lsn))
        self.also = next((also for server, also in seen if server is found.reader), self.also)
        if before is None or _who(before) != _who(found):
            for tell in self.turned:
                tell(found)
        return found

    async def _ask(self, address: str, conninfo: str) -> tuple[Server, Row | None] | None:
        """None: it did not answer in time; whatever else is wrong with it, it is not one to work with."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                connection = self._connections.get(address)
                if connection is None:
                    connection = await psycopg.AsyncConnection.connect(
                        conninfo, autocommit=True, row_factory=dict_row, connect_timeout=2, application_name=_NAME
                    )
                    self._connections[address] = connection
                row: dict[str, Any] = (await (await connection.execute(_ASK)).fetchall())[0]
                also = await self._ask_also(connection)
        except TimeoutError:
            await self._drop(address)
            return self._last.pop(address, None)  # once: a machine that is busy is not a machine that is gone
        except (psycopg.Error, OSError):
            await self._drop(address)
            self._last.pop(address, None)
            return None
        except BaseException:
            await self._drop(address)
            raise
        server = Server(
            address,
            conninfo,
            row["writable"],
            row["system"],
            row["timeline"],
            row["lsn"],
            row["replayed"],
        )
        self._last[address] = (server, also)
        return server, also

    async def _ask_also(self, connection: Connection) -> Row | None:
        if not self.ask_also:
            return None
        try:
            return await (await connection.execute(self.ask_also)).fetchone()
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
            return None

    async def _drop(self, address: str) -> None:
        connection = self._connections.pop(address, None)
        if connection is not None:
            with contextlib.suppress(psycopg.Error, OSError):
                await connection.close()


def _who(found: Found) -> tuple[str | None, int, str | None]:
    writer, reader = found.writer, found.reader
    return (writer.address if writer else None, writer.timeline if writer else 0, reader.address if reader else None)
