"""A replication connection to the primary: its slot, its WAL stream, its base backup.

The one async file of this folder. Reading is on the commit path: what the socket holds is drained in one go, without
a thread or a task in between, and nothing is read ahead, so that a slow consumer is felt by the primary and not by
our memory. The simple query protocol is all that a walsender speaks (PostgreSQL documentation, "Streaming
Replication Protocol"); libpq's own COPY calls do the framing.

One coroutine at a time may use a link. `receive` may be cancelled: nothing read is lost by it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from types import TracebackType
from typing import Self

import psycopg
from psycopg import pq

from threefold.kernel.clock import Clock, SystemClock
from threefold.kernel.errors import BadInput, Damaged, ThreefoldError, Unavailable
from threefold.kernel.lsn import Lsn
from threefold.postgres import messages, refusals
from threefold.postgres.conninfo import checked_conninfo
from threefold.postgres.messages import (
    ArchiveData,
    ArchiveStarted,
    BackupProgress,
    Keepalive,
    ManifestData,
    ManifestStarted,
    WalData,
)

DRAIN_BYTES_MAX = 4 * 2**20

_SLOT_NAME = re.compile(r"[a-z0-9_]{1,63}")
_PARAMETER = re.compile(r"[a-z0-9_.]{1,63}")


@dataclass(frozen=True, slots=True)
class Identity:
    """IDENTIFY_SYSTEM: which cluster this is, and how far it has flushed."""

    system_id: int
    timeline: int
    flushed: Lsn


@dataclass(frozen=True, slots=True)
class SlotState:
    """``restart`` is the oldest WAL that the primary keeps for us. ``lost``: it keeps none any more."""

    name: str
    restart: Lsn | None
    timeline: int | None
    lost: bool
    created: bool


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """The primary ended the stream in good order.

    Its timeline ended and the next one begins at ``next_start``, or (both None) it shut down after sending everything.
    """

    next_timeline: int | None
    next_start: Lsn | None


@dataclass(frozen=True, slots=True)
class Tablespace:
    """``oid`` and ``location`` are None and "" for the data folder itself.

    A location is a path, and a path need not be UTF-8: what is not comes as surrogates (PEP 383).
    """

    oid: int | None
    location: str
    size_kib: int | None


@dataclass(frozen=True, slots=True)
class BackupStarted:
    lsn: Lsn
    timeline: int
    tablespaces: tuple[Tablespace, ...]


@dataclass(frozen=True, slots=True)
class BackupEnded:
    """The backup is consistent once WAL up to ``lsn`` is replayed."""

    lsn: Lsn
    timeline: int


BackupEvent = (
    BackupStarted | ArchiveStarted | ArchiveData | ManifestStarted | ManifestData | BackupProgress | BackupEnded
)


class ReplicationLink:
    """``async with await ReplicationLink.connect(dsn, ...) as link``; closed on leaving."""

    def __init__(self, connection: psycopg.AsyncConnection[tuple[object, ...]], clock: Clock) -> None:
        self._connection = connection
        self._pg = connection.pgconn
        self._fd = self._pg.socket
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._flushing = False
        self._stream = _Stream.OVER
        self._end = StreamEnd(None, None)
        self._drained_full = False

    @classmethod
    async def connect(
        cls, dsn: str, *, application_name: str, connect_timeout_s: float = 10, clock: Clock | None = None
    ) -> Self:
        """Raises BadInput where the DSN or our rights have to be corrected, Unavailable where nobody answered."""
        conninfo = checked_conninfo(dsn, replication="true", application_name=application_name)
        try:
            async with asyncio.timeout(connect_timeout_s):
                connection = await psycopg.AsyncConnection.connect(conninfo, autocommit=True)
        except psycopg.Error as error:
            raise refusals.of_connection(str(error)) from None
        except TimeoutError:
            raise Unavailable(
                f"the primary did not answer within {connect_timeout_s:g} s",
                hint="is it running, and is the address in system.dsn right?",
            ) from None
        return cls(connection, clock or SystemClock())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connection; what was queued for the primary and not yet sent is dropped."""
        if self._flushing:
            self._loop.remove_writer(self._fd)
            self._flushing = False
        await self._connection.close()

    # --- questions ---

    async def identify(self) -> Identity:
        (row,) = await self._rows("IDENTIFY_SYSTEM", "asking the primary who it is")
        return Identity(int(_text(row[0])), int(_text(row[1])), Lsn.parse(_text(row[2])))

    async def show(self, parameter: str) -> str:
        """A setting, as SHOW gives it (``16MB``, ``on``)."""
        if _PARAMETER.fullmatch(parameter) is None:
            raise BadInput(f"not a setting's name: {parameter!r}")
        (row,) = await self._rows(f"SHOW {parameter}", f"reading the setting {parameter}")
        return _text(row[0])

    async def now(self) -> datetime:
        """The time by the primary's clock, which stamps its commits.

        A walsender knows no SELECT, but it stamps what it streams, and answers who asks. Nothing is said to be
        flushed here, and whoever has flushed nothing is nobody's synchronous standby, whatever its name.
        """
        at = await self.identify()
        await self.start_streaming(slot=None, start=at.flushed, timeline=at.timeline)
        nothing = Lsn(0)
        self.send_status(written=nothing, flushed=nothing, applied=nothing, reply=True)
        said = await self.receive()
        if isinstance(said, StreamEnd):
            raise Unavailable("the primary ended the stream that was to tell its time", hint="try again")
        try:
            self._pg.put_copy_end()
            self._flush()
        except psycopg.Error as error:
            raise _broken(error) from None
        while not isinstance(await self.receive(), StreamEnd):
            pass  # what was on its way
        return messages.moment(said[-1].sent_at)

    async def timeline_history(self, timeline: int) -> bytes | None:
        """The ``.history`` file as it is; None for timeline 1, which has none."""
        if timeline == 1:
            return None
        (row,) = await self._rows(f"TIMELINE_HISTORY {timeline:d}", f"reading the history of timeline {timeline}")
        return row[1] or b""

    # --- the slot ---

    async def ensure_slot(self, name: str) -> SlotState:
        """The slot as it is; made, keeping WAL from the last checkpoint on, where it is absent."""
        state = await self._slot(name)
        if state is not None:
            return state
        command = f'CREATE_REPLICATION_SLOT "{name}" PHYSICAL (RESERVE_WAL)'
        results = await self._run(command)
        if results[-1].status == pq.ExecStatus.FATAL_ERROR and _sqlstate(results[-1]) != "42710":  # exists by now
            raise _refusal("creating the replication slot", results[-1])
        made = await self._slot(name)
        if made is None:
            raise Unavailable(f"the replication slot {name} was dropped while we made it")
        return SlotState(name, made.restart, made.timeline, made.lost, created=True)

    async def drop_slot(self, name: str) -> None:
        """Dropped, or not there to begin with. Waits while somebody streams from it."""
        (result, *_) = await self._run(f'DROP_REPLICATION_SLOT "{_slot_name(name)}" WAIT')
        if result.status == pq.ExecStatus.FATAL_ERROR and _sqlstate(result) != "42704":
            raise _refusal("dropping the replication slot", result)

    async def _slot(self, name: str) -> SlotState | None:
        (row,) = await self._rows(f'READ_REPLICATION_SLOT "{_slot_name(name)}"', "reading the replication slot")
        if row[0] is None:
            return None
        restart = None if row[1] is None else Lsn.parse(_text(row[1]))
        timeline = None if row[2] is None else int(row[2])
        return SlotState(name, restart, timeline, lost=restart is None, created=False)

    # --- streaming ---

    async def start_streaming(self, *, slot: str | None, start: Lsn, timeline: int) -> None:
        """Raises Refused where the primary no longer has ``start``, or is not one that went through it.

        It may find that out only when it begins to send: then `receive` raises it. A timeline that the primary has
        left before ``start`` ends at once: `receive` says so, too. Without ``slot`` the primary keeps nothing for us.
        """
        named = f'SLOT "{_slot_name(slot)}" ' if slot is not None else ""
        command = f"START_REPLICATION {named}PHYSICAL {start} TIMELINE {timeline:d}"
        results = await self._run(command)
        if results[-1].status == pq.ExecStatus.FATAL_ERROR:
            raise _refusal(f"streaming from {start}", results[-1])
        self._stream = _Stream.FLOWING if results[-1].status == pq.ExecStatus.COPY_BOTH else _Stream.OVER
        self._end = _stream_end(results)

    async def receive(self, *, gather: float = 0.0) -> list[WalData | Keepalive] | StreamEnd:
        """Wait for something, then all that is there (about `DRAIN_BYTES_MAX` at most), in order.

        ``gather``: seconds to let more come before any of it is read.
        Raises Unavailable when the connection is lost. After StreamEnd the link takes other commands again.
        """
        if self._drained_full:  # never starve the loop, however fast the primary sends
            await self._turn()
            self._drained_full = False
        elif gather and self._stream is _Stream.FLOWING:
            await self._readable()
            await self._clock.sleep(gather)
        got: list[WalData | Keepalive] = []
        size = 0
        try:
            while self._stream is _Stream.FLOWING and size < DRAIN_BYTES_MAX:
                length, message = self._pg.get_copy_data(1)
                if length == 0:
                    self._pg.consume_input()
                    length, message = self._pg.get_copy_data(1)
                if length > 0:
                    got.append(messages.decode_stream(message))
                    size += length
                elif length < 0:
                    self._stream = _Stream.ENDING
                elif got:
                    break
                else:
                    await self._readable()
            self._drained_full = size >= DRAIN_BYTES_MAX
            if not got and self._stream is _Stream.ENDING:
                await self._end_stream()
        except psycopg.Error as error:
            raise _broken(error) from None
        return got or self._end

    async def _end_stream(self) -> None:
        results: list[pq.abc.PGresult] = []
        try:
            await self._collect(results)
            if results and results[-1].status == pq.ExecStatus.COPY_IN:
                self._pg.put_copy_end()
                await self._collect(results)
        except psycopg.Error:
            # A primary that shuts down says that it is done, and hangs up.
            if pq.ExecStatus.COMMAND_OK not in {result.status for result in results}:
                raise
        self._stream = _Stream.OVER
        for result in results:
            if result.status == pq.ExecStatus.FATAL_ERROR:
                raise _refusal("streaming WAL", result)
        self._end = _stream_end(results)

    def send_status(self, *, written: Lsn, flushed: Lsn, applied: Lsn, reply: bool = False) -> None:
        """Tell the primary; ``flushed`` lets its commits return.

        Never waits: what the socket does not take now follows by itself. A lost connection is told by `receive`.
        """
        sent_at = messages.microseconds(self._clock.now())
        message = messages.encode_status(
            written=written, flushed=flushed, applied=applied, sent_at=sent_at, reply=reply
        )
        try:
            self._pg.put_copy_data(message)
            self._flush()
        except psycopg.Error:
            return

    # --- base backup ---

    async def base_backup(self, *, label: str, fast: bool = True) -> AsyncIterator[BackupEvent]:
        """A whole copy of the cluster, as it comes: first BackupStarted, last BackupEnded.

        ``fast`` asks for a checkpoint at once instead of a spread one. The primary's archiving is not waited for:
        the WAL that the copy needs travels through the log. A link whose backup was left half-way is to be closed.
        """
        options = {
            "LABEL": _literal(label),
            "CHECKPOINT": "'fast'" if fast else "'spread'",
            "PROGRESS": "true",
            "WAIT": "false",
            "TABLESPACE_MAP": "true",
            "MANIFEST": "'yes'",
        }
        doing = "taking the base backup"
        results = await self._run(f"BASE_BACKUP ({', '.join(f'{name} {value}' for name, value in options.items())})")
        if results[-1].status != pq.ExecStatus.COPY_OUT:
            raise _refusal(doing, results[-1])
        (begun,), tablespaces = (_tuples(result) for result in results[:2])
        yield BackupStarted(
            Lsn.parse(_text(begun[0])), int(_text(begun[1])), tuple(_tablespace(row) for row in tablespaces)
        )
        in_manifest, since_turn = False, 0
        while True:
            try:
                length, message = self._pg.get_copy_data(1)
                if length == 0:
                    self._pg.consume_input()
                    length, message = self._pg.get_copy_data(1)
            except psycopg.Error as error:
                raise _broken(error) from None
            if length < 0:
                break
            if length == 0 or since_turn > DRAIN_BYTES_MAX:
                # No pause for more to come: a local socket holds 200 kB, and its sender would wait through it.
                await (self._turn() if length else self._readable())
                since_turn = 0
            if length:
                event = messages.decode_backup(message, in_manifest=in_manifest)
                in_manifest = in_manifest or isinstance(event, ManifestStarted)
                since_turn += length
                yield event
        closing: list[pq.abc.PGresult] = []
        try:
            await self._collect(closing)
        except psycopg.Error as error:
            raise _broken(error) from None
        for result in closing:
            if result.status == pq.ExecStatus.FATAL_ERROR:
                raise _refusal(doing, result)
            if result.status == pq.ExecStatus.TUPLES_OK:
                (ended,) = _tuples(result)
                yield BackupEnded(Lsn.parse(_text(ended[0])), int(_text(ended[1])))

    # --- libpq ---

    async def _rows(self, command: str, doing: str) -> list[list[bytes | None]]:
        results = await self._run(command)
        for result in results:
            if result.status == pq.ExecStatus.FATAL_ERROR:
                raise _refusal(doing, result)
        return _tuples(results[0])

    async def _run(self, command: str) -> list[pq.abc.PGresult]:
        """Send one command; its results, or those up to where COPY begins. Never empty."""
        results: list[pq.abc.PGresult] = []
        try:
            self._pg.send_query(command.encode())
            self._flush()
            await self._collect(results)
        except psycopg.Error as error:
            raise _broken(error) from None
        if not results:
            raise Unavailable("the primary closed the connection", hint="it is tried again by itself")
        return results

    async def _collect(self, results: list[pq.abc.PGresult]) -> None:
        """What the server answers, up to the end of the command or where COPY begins."""
        while True:
            while self._pg.is_busy():
                await self._readable()
                self._pg.consume_input()
            result = self._pg.get_result()
            if result is None:
                return
            results.append(result)
            if result.status in _COPYING:
                return

    def _flush(self) -> None:
        """Send what is queued; the rest, where the socket is full, when it takes more."""
        more = self._pg.flush() == 1
        if more and not self._flushing:
            self._loop.add_writer(self._fd, self._flush_later)
        elif not more and self._flushing:
            self._loop.remove_writer(self._fd)
        self._flushing = more

    def _flush_later(self) -> None:
        try:
            self._flush()
        except psycopg.Error:
            self._loop.remove_writer(self._fd)
            self._flushing = False

    async def _readable(self) -> None:
        """Until the socket has something. The reader is set for this wait only: while nobody asks, nothing is read."""
        ready = self._loop.create_future()
        self._loop.add_reader(self._fd, _wake, ready)
        try:
            await ready
        finally:
            self._loop.remove_reader(self._fd)

    async def _turn(self) -> None:
        """Let others run."""
        ready = self._loop.create_future()
        self._loop.call_soon(_wake, ready)
        await ready


class _Stream(Enum):
    FLOWING = "flowing"
    ENDING = "ending"
    OVER = "over"


_COPYING = {pq.ExecStatus.COPY_IN, pq.ExecStatus.COPY_OUT, pq.ExecStatus.COPY_BOTH}


def _stream_end(results: list[pq.abc.PGresult]) -> StreamEnd:
    for result in results:
        if result.status == pq.ExecStatus.TUPLES_OK:
            (row,) = _tuples(result)
            return StreamEnd(int(_text(row[0])), Lsn.parse(_text(row[1])))
    return StreamEnd(None, None)


def _tuples(result: pq.abc.PGresult) -> list[list[bytes | None]]:
    return [[result.get_value(row, column) for column in range(result.nfields)] for row in range(result.ntuples)]


def _tablespace(row: list[bytes | None]) -> Tablespace:
    oid, location, size = row
    return Tablespace(
        None if oid is None else int(oid),
        (location or b"").decode(errors="surrogateescape"),
        None if size is None else int(size),
    )


def _text(value: bytes | None) -> str:
    if value is None:
        raise Damaged("the primary left out a value that the protocol promises")
    return value.decode()


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _slot_name(name: str) -> str:
    if _SLOT_NAME.fullmatch(name) is None:
        raise BadInput(f"not a replication slot's name: {name!r}", hint="lower-case letters, digits and _, at most 63")
    return name


def _sqlstate(result: pq.abc.PGresult) -> str:
    return (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()


def _refusal(doing: str, result: pq.abc.PGresult) -> ThreefoldError:
    fields = (
        result.error_field(field) for field in (pq.DiagnosticField.MESSAGE_PRIMARY, pq.DiagnosticField.MESSAGE_DETAIL)
    )
    text = ": ".join(field.decode(errors="replace") for field in fields if field)
    return refusals.of_command(doing, _sqlstate(result), text or result.get_error_message())


def _broken(error: psycopg.Error) -> Unavailable:
    return Unavailable(f"the connection to the primary broke: {refusals.one_line(str(error))}")


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
