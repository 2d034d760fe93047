"""Knocking at a PostgreSQL's door: does its host answer, does its postmaster, and if it takes nobody in, why?

- *TCP*: a connection that comes about or is reset shows a host whose kernel lives. Nothing at all is silence.
- *SSLRequest* (PostgreSQL documentation, "SSL Session Encryption"): eight bytes, before any name or password, that a
  child of the postmaster answers with one letter. So a postmaster that is stopped is told from one that lives, although
  the kernel goes on accepting connections in its name. It takes no connection slot and leaves nothing in its log.
- *A startup packet* without a password, only after an ordinary connection failed: the SQLSTATE of the refusal says in
  every language whether it is starting (57P03) or full (53300). PostgreSQL says both before it asks who we are.

Who gave an address once is reached there as long as no name server answers: that one may have stood at the site.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from psycopg.conninfo import conninfo_to_dict

from threefold.failover.reports import Seen

_SSL_REQUEST: Final = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")
_PROTOCOL_3: Final = (196608).to_bytes(4, "big")
_ERROR: Final = b"E"
_MESSAGE_MAX: Final = 65536
STARTING: Final = "57P03"
FULL: Final = "53300"


@dataclass(frozen=True, slots=True)
class Knock:
    host: Seen
    process: Seen
    detail: str = ""


class Door:
    """Of one server. ``dsn`` as libpq takes it; of several hosts the first."""

    def __init__(self, dsn: str) -> None:
        given = {name: str(value) for name, value in conninfo_to_dict(dsn).items() if value is not None}
        self._host = (given.get("hostaddr") or given.get("host") or "127.0.0.1").split(",")[0]
        self._port = int((given.get("port") or "5432").split(",")[0] or 5432)
        self._user = given.get("user", "threefold")
        self._dbname = given.get("dbname", self._user)
        self._address = ""

    async def knock(self, opened: Callable[[], None]) -> Knock:
        """One answer, however long it takes; the caller limits that. Raises nothing for what a network does.

        ``opened`` is called as soon as the host's kernel has accepted the connection: the letter may never come.
        """
        try:
            async with self._open() as (reader, writer):
                opened()
                try:
                    writer.write(_SSL_REQUEST)
                    letter = await reader.read(1)
                except OSError as error:
                    return Knock(Seen.OK, Seen.FAILED, _words(error))
            if letter in {b"S", b"N"}:
                return Knock(Seen.OK, Seen.OK)
            said = "something else listens there" if letter else "it closes the connection at once"
            return Knock(Seen.OK, Seen.FAILED, said)
        except ConnectionRefusedError:
            return Knock(Seen.OK, Seen.REFUSED, "connection refused")
        except FileNotFoundError:
            return Knock(Seen.OK, Seen.REFUSED, "its socket is gone")
        except socket.gaierror:
            return Knock(Seen.UNKNOWN, Seen.UNKNOWN, "its name has no address")
        except ConnectionResetError:
            return Knock(Seen.OK, Seen.FAILED, "it resets the connection")
        except OSError as error:
            return Knock(Seen.FAILED, Seen.UNKNOWN, _words(error))

    async def why(self) -> str:
        """The SQLSTATE with which it refuses everybody; empty where it does not, or does not say."""
        fields = ("user", self._user, "database", self._dbname, "application_name", "threefold sentinel")
        body = _PROTOCOL_3 + b"".join(field.encode() + b"\0" for field in fields) + b"\0"
        try:
            async with self._open() as (reader, writer):
                writer.write((len(body) + 4).to_bytes(4, "big") + body)
                head = await reader.readexactly(5)
                length = int.from_bytes(head[1:], "big") - 4
                if head[:1] != _ERROR or not 0 < length <= _MESSAGE_MAX:
                    return ""
                return _sqlstate(await reader.readexactly(length))
        except (OSError, asyncio.IncompleteReadError):
            return ""

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        if self._host.startswith("/"):
            reader, writer = await asyncio.open_unix_connection(f"{self._host}/.s.PGSQL.{self._port}")
        else:
            try:
                reader, writer = await asyncio.open_connection(self._host, self._port)
            except socket.gaierror:
                if not self._address:
                    raise
                reader, writer = await asyncio.open_connection(self._address, self._port)
            self._address = str(writer.get_extra_info("peername")[0])
        try:
            yield reader, writer
        finally:
            writer.transport.abort()  # nothing is owed to it, and nothing may be waited for


def _sqlstate(body: bytes) -> str:
    fields = (field for field in body.split(b"\0") if field)
    return next((field[1:].decode(errors="replace") for field in fields if field[:1] == b"C"), "")


def _words(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()
