"""One POST to a receiver whom we do not trust.

The name is resolved here and the connection made to the address that was looked at, so that a name which answers
differently the second time leads nowhere. No redirect is followed, no more than the head and a little of the body is
read, and all of it together has a time limit. It runs on the event loop: a receiver that hangs holds no thread.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import httptools

from threefold.crm.exchange import webhook_rules
from threefold.crm.model.errors import Invalid

TIMEOUT_S: Final = 10.0
_READ_MOST: Final = 64 * 1024
_LOOKUPS: Final = 16  # at once; those of names that hang do not keep the others waiting for long


@dataclass(frozen=True, slots=True)
class Answer:
    """``status`` 0: none came, and ``error`` says why."""

    status: int
    error: str = ""

    @property
    def taken(self) -> bool:
        return 200 <= self.status < 300


class Sender:
    """``private``: addresses within one's own network are allowed, and plain HTTP."""

    def __init__(self, *, private: bool = False, timeout: float = TIMEOUT_S, tls: ssl.SSLContext | None = None) -> None:
        self.private = private
        self._timeout = timeout
        self._tls = tls or ssl.create_default_context()
        self._lookups = ThreadPoolExecutor(_LOOKUPS, thread_name_prefix="webhook-names")

    def close(self) -> None:
        self._lookups.shutdown(wait=False, cancel_futures=True)

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Never raises for what the receiver, or the way to it, does."""
        try:
            webhook_rules.check_url(url, private=self.private)
            async with asyncio.timeout(self._timeout):
                return await self._post(url, body, headers)
        except TimeoutError:
            return Answer(0, f"no answer within {self._timeout:.0f} s")
        except Invalid as error:
            return Answer(0, error.message)
        except ssl.SSLError as error:
            return Answer(0, f"no trusted connection: {error.reason or 'TLS failed'}")
        except (OSError, UnicodeError) as error:
            return Answer(0, f"no connection: {getattr(error, 'strerror', None) or 'the name or address is of no use'}")
        except httptools.HttpParserError:
            return Answer(0, "what came back is not HTTP")

    async def _post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        host, port = parts.hostname or "", parts.port or (443 if secure else 80)
        address = await self._address(host, port)
        reader, writer = await asyncio.open_connection(
            address, port, ssl=self._tls if secure else None, server_hostname=host if secure else None
        )
        try:
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            head = [f"POST {path} HTTP/1.1", f"Host: {parts.netloc}", f"Content-Length: {len(body)}"]
            head += [f"{name}: {value}" for name, value in headers.items()] + ["Connection: close", "", ""]
            writer.write("\r\n".join(head).encode("ascii") + body)
            await writer.drain()
            return await _answer(reader)
        finally:
            writer.transport.abort()  # whatever else it wants to say

    async def _address(self, host: str, port: int) -> str:
        """The address to connect to. Refused if any that the name has is not public: such a name is a trick."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(
            self._lookups, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        addresses = [str(each[4][0]) for each in found]
        if not self.private and not all(map(webhook_rules.public, addresses)):
            raise Invalid("the address is within a private network", hint="the settings may allow that")
        return addresses[0]


class _Head:
    def __init__(self) -> None:
        self.complete = False
        self.excerpt = b""

    def on_headers_complete(self) -> None:
        self.complete = True

    def on_body(self, data: bytes) -> None:
        self.excerpt = (self.excerpt + data)[:200]


async def _answer(reader: asyncio.StreamReader) -> Answer:
    head = _Head()
    parser = httptools.HttpResponseParser(head)
    read = 0
    while not head.complete:
        data = await reader.read(4096)
        read += len(data)
        if not data:
            return Answer(0, "the connection was closed before an answer came")
        if read > _READ_MOST:
            return Answer(0, "the answer does not end")
        parser.feed_data(data)
    status = parser.get_status_code()
    if 200 <= status < 300:
        return Answer(status)
    if 300 <= status < 400:
        return Answer(status, "redirects are not followed: give the address that it leads to")
    said = "".join(filter(str.isprintable, head.excerpt.decode("utf-8", "replace")))
    return Answer(status, f"answered {status}{f': {said}' if said else ''}")
