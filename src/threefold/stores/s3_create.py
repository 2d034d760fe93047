"""Small creates at S3, which is what every commit of the CRM waits for, without the way through another runtime.

obstore serves everything else. For an entry of a few kB its two thread hand-overs and its connection pool cost more
than the request itself: measured turn by turn, docs/explanation/performance.md. So this one request is spoken here:
HTTP/1.1 on a socket, one request at a time on a connection, Signature Version 4 (AWS General Reference) with a key
that is derived once a day.

Invariant 7 as in remote.py: only an answer that was read to its end says anything, and no request is sent twice. A
request that is given up takes its connection with it, so that a late answer is never taken for the next one's.
"""

from __future__ import annotations

import asyncio
import hmac
import re
import ssl
from collections.abc import Callable
from datetime import datetime
from functools import partial
from hashlib import sha256
from typing import Any, Final
from urllib.parse import quote, urlsplit

import httptools

from threefold.kernel.clock import Clock
from threefold.stores.answers import Failure, of_status

_SIGNED: Final = "host;if-none-match;x-amz-content-sha256;x-amz-date"
_PLAIN: Final = re.compile(r"[A-Za-z0-9/\-._~]*", re.ASCII)
_IDLE_MAX: Final = 8  # connections kept for the next request
_SAID_MAX: Final = 4096  # bytes of an error that are kept, to find its code in


class S3Creates:
    """``PUT`` with ``If-None-Match: *`` into one bucket, path style."""

    def __init__(
        self,
        endpoint: str,
        bucket: str,
        *,
        region: str,
        access_key_id: str,
        secret_access_key: str,
        tls: ssl.SSLContext | None,
        clock: Clock,
    ) -> None:
        """``endpoint``: scheme, host and port alone. ``tls``: for https."""
        url = urlsplit(endpoint)
        self._host, self._tls, self._clock = url.netloc, tls, clock
        self._address = (url.hostname or "", url.port or (443 if tls else 80))
        self._path = f"/{bucket}/"
        self._region, self._access_key_id, self._secret = region, access_key_id, secret_access_key
        self._second = 0
        self._date = self._day = self._scope = ""
        self._key = b""
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._loop: asyncio.AbstractEventLoop | None = None  # asking for it costs a system call before Python 3.12

    async def create(self, key: str, body: bytes, seconds: float) -> Failure | None:
        """None: created, and durable. Takes ``seconds`` at the most, connecting included."""
        loop = self._loop = self._loop or asyncio.get_running_loop()
        until = loop.time() + seconds
        connection = self._idle.pop() if self._idle else await self._connect(seconds)
        if isinstance(connection, Failure):
            return connection
        answer: asyncio.Future[Failure | None] = loop.create_future()
        connection.send(self._head(key, body), body, until, partial(_settle, answer))
        try:
            return await answer
        finally:
            if answer.cancelled():  # nobody waits any more: a late answer is never taken for the next request's
                connection.give_up()

    def create_at_once(self, key: str, body: bytes, seconds: float, hear: Callable[[Failure | None], None]) -> bool:
        """The same without a task, over a connection that is there; ``hear`` is told later. False: there is none."""
        if not self._idle or self._loop is None:
            return False
        self._idle.pop().send(self._head(key, body), body, self._loop.time() + seconds, hear)
        return True

    async def close(self) -> None:
        """What is under way is told that its connection broke off."""
        for connection in list(self._open):
            connection.close()

    async def _connect(self, seconds: float) -> _Connection | Failure:
        loop = asyncio.get_running_loop()
        host, port = self._address
        try:
            async with asyncio.timeout(seconds):
                _, connection = await loop.create_connection(
                    lambda: _Connection(loop, self._idle, self._open), host, port, ssl=self._tls
                )
        except (OSError, TimeoutError, ssl.SSLError):
            return Failure("cannot be reached")
        return connection

    def _head(self, key: str, body: bytes) -> bytes:
        path = self._path + (key if _PLAIN.fullmatch(key) else quote(key, safe="/-._~"))
        digest = sha256(body).hexdigest()
        now = self._clock.now()
        if now.timestamp() // 1 != self._second:
            self._stamp(now)
        request = (
            f"PUT\n{path}\n\nhost:{self._host}\nif-none-match:*\nx-amz-content-sha256:{digest}\n"
            f"x-amz-date:{self._date}\n\n{_SIGNED}\n{digest}"
        )
        text = f"AWS4-HMAC-SHA256\n{self._date}\n{self._scope}\n{sha256(request.encode()).hexdigest()}"
        signature = hmac.digest(self._key, text.encode(), "sha256").hex()
        credential = f"{self._access_key_id}/{self._scope}"
        return (
            f"PUT {path} HTTP/1.1\r\nhost: {self._host}\r\nif-none-match: *\r\nx-amz-content-sha256: {digest}\r\n"
            f"x-amz-date: {self._date}\r\ncontent-length: {len(body)}\r\nauthorization: AWS4-HMAC-SHA256 "
            f"Credential={credential}, SignedHeaders={_SIGNED}, Signature={signature}\r\n\r\n"
        ).encode()

    def _stamp(self, now: datetime) -> None:
        self._second = int(now.timestamp())
        self._date = f"{now:%Y%m%dT%H%M%SZ}"
        if self._date[:8] != self._day:
            self._day = self._date[:8]
            self._scope = f"{self._day}/{self._region}/s3/aws4_request"
            key = f"AWS4{self._secret}".encode()
            for part in self._scope.split("/"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._key = key


class _Connection(asyncio.Protocol):
    """One connection, one request at a time; among the idle ones between two that ended well."""

    def __init__(self, loop: asyncio.AbstractEventLoop, idle: list[_Connection], connected: set[_Connection]) -> None:
        self._hear: Callable[[Failure | None], None] | None = None  # told once what came of the request under way
        self._loop = loop
        self._idle = idle
        self._open = connected
        self._parser: Any = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._said = b""
        self._answers: list[tuple[Failure | None, bool]] = []  # in what came last, and may another request follow

    def send(self, head: bytes, body: bytes, until: float, hear: Callable[[Failure | None], None]) -> None:
        """``until``: when it is given up, by the loop's clock. What came of it is told to ``hear``, never from here."""
        self._said, self._hear = b"", hear
        self._timer = self._loop.call_at(until, self.give_up)
        if self._transport is None:
            self._loop.call_soon(self._end, Failure("broke the connection off"))
        else:
            self._transport.writelines((head, body))

    def give_up(self) -> None:
        self._end(Failure("did not answer in time"))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _end(self, outcome: Failure | None, *, reusable: bool = False) -> None:
        hear, self._hear = self._hear, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if reusable and self._transport is not None and len(self._idle) < _IDLE_MAX:
            self._idle.append(self)  # before anybody is told: who hears may have the next request for it
        else:
            self.close()
        if hear is not None:
            hear(outcome)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._open.add(self)
        self._transport = transport  # type: ignore[assignment]  # create_connection hands out ones that read and write

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._leave()
            self._end(Failure("sent half an answer"))
            return
        answers, self._answers = self._answers, []
        if self._hear is None or len(answers) > 1:  # more than was asked: which of them is ours cannot be told
            self._leave()
            self._end(Failure("sent what was not asked for"))
        elif answers:
            outcome, reusable = answers[0]
            self._end(outcome, reusable=reusable)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._transport = None
        self._open.discard(self)
        self._leave()
        self._end(Failure("broke the connection off"))

    def _leave(self) -> None:
        if self in self._idle:
            self._idle.remove(self)

    # httptools

    def on_body(self, piece: bytes) -> None:
        if len(self._said) < _SAID_MAX:
            self._said += piece

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # interim: the answer follows (RFC 9110, 15.2)
            return
        outcome = None if status < 300 else of_status(status, self._said.decode("latin-1"))
        self._answers.append((outcome, self._parser.should_keep_alive()))


def _settle(answer: asyncio.Future[Failure | None], outcome: Failure | None) -> None:
    if not answer.done():  # who waited may have gone in this very turn
        answer.set_result(outcome)
