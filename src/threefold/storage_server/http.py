"""HTTP/1.1 on a socket: parse (llhttp), hand over, answer. Knows nothing of S3.

One request at a time per connection; what a client pipelines waits. A handler starts when the head is there and what
came with it is parsed, so that a request is authenticated before more of its body is read; one that came whole may be
taken at once, without a task. Bodies are handed on as they come: reading from the
socket stops while the handler is behind, so a connection holds at most a few hundred kB.

Bounds: size of the head and of trailers, number of connections (a stranger's idle one makes room), time for a head,
time without progress, answers that nobody takes. A request that is answered
before its body was read ends the connection, once the rest of the body has come and was thrown away: closing at
once would reset the connection, and the client would lose the answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from functools import partial
from http import HTTPStatus
from typing import Any

import httptools

from threefold.kernel.clock import Clock
from threefold.storage_server.messages import (
    AtOnce,
    Disconnected,
    Handler,
    Reply,
    Request,
    encode_head,
    encode_refusal,
    header_name,
)

_log = logging.getLogger(__name__)
HEAD_BYTES_MAX = 32 << 10
BUFFERED_BYTES_MAX = 256 << 10
HEAD_TIMEOUT_S = 20.0
IDLE_TIMEOUT_S = 120.0
STALL_TIMEOUT_S = 30.0
DISCARD_TIMEOUT_S = 10.0
CONNECTIONS_MAX = 512


class Server:
    """What connections share: the handler, the clock, and who is connected."""

    def __init__(self, handler: Handler, clock: Clock, at_once: AtOnce = lambda _request, _answer: False) -> None:
        """``at_once`` is asked first about a request that came whole, and costs no task where it takes it."""
        self.handler = handler
        self.at_once = at_once
        self.clock = clock
        self.connections: set[Connection] = set()
        self._date = (0, "")
        self.closing = False

    def date(self) -> str:
        """The Date header's line (RFC 9110, 6.6.1), made once a second."""
        now = self.clock.now()
        second = int(now.timestamp())
        if self._date[0] != second:
            self._date = (second, f"date: {now:%a, %d %b %Y %H:%M:%S} GMT\r\n")
        return self._date[1]

    async def watch(self) -> None:
        """Ends connections that are too slow. Never returns."""
        while True:
            await self.clock.sleep(1.0)
            now = self.clock.monotonic()
            for connection in list(self.connections):
                connection.end_if_slow(now)

    def has_room(self) -> bool:
        """For one more connection. Full: the longest idle one goes, those that never got a good answer first."""
        if len(self.connections) < CONNECTIONS_MAX:
            return True
        idle = [connection for connection in self.connections if connection.idle]
        if not idle:
            return False
        least = min(idle, key=lambda connection: connection.worth)
        self.connections.discard(least)
        least.abort()
        return True

    async def close(self, *, within_s: float) -> None:
        """Let requests under way finish, then end all connections."""
        self.closing = True
        for connection in list(self.connections):
            connection.end_when_idle()
        until = self.clock.monotonic() + within_s
        while self.connections and self.clock.monotonic() < until:
            await self.clock.sleep(0.02)
        for connection in list(self.connections):
            connection.abort()


class Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, server: Server, *, secure: bool) -> None:
        self.secure = secure
        self.address = ""
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._parser: Any = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._url = b""
        self._arriving: Request | None = None  # its head or body is being parsed
        self._waiting: deque[Request] = deque()  # heads are whole, the handler has not begun
        self._serving: Request | None = None
        self._new = False  # `_serving` has not begun
        self._task: asyncio.Task[None] | None = None
        self._wake: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._unbounded_bytes = 0  # since a head or a piece of a body was whole: of a head, or of trailers
        self._in_head = False
        self._proved = False  # an answer was a good one: it is a client of ours
        self._reading = True
        self._continue_sent = False
        self._since = server.clock.monotonic()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # create_server hands out transports that read and write
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if peer else ""
        if self._server.closing or not self._server.has_room():
            self.abort()
            return
        self._server.connections.add(self)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self._transport = None
        for waiter in (self._wake, self._drained):
            if waiter is not None and not waiter.done():
                waiter.set_exception(Disconnected())

    def data_received(self, data: bytes) -> None:
        if self._arriving is None or self._arriving is self._serving:  # a head or a rest to discard has its time in all
            self._since = self._server.clock.monotonic()
        self._unbounded_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(501)
        except (httptools.HttpParserError, ValueError, UnicodeDecodeError):
            self._refuse(400)
        else:
            if self._arriving is not None and self._unbounded_bytes > HEAD_BYTES_MAX:
                self._refuse(431)
            elif self._new:
                self._begin()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None

    # httptools

    def on_message_begin(self) -> None:
        self._arriving = Request(self)
        self._url = b""
        self._in_head = True

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        request = self._arriving
        if request is None or not self._in_head:  # a trailer: nobody asked for it, and no signature covers it
            return
        key, text = header_name(name), value.decode("latin-1")
        if key in request.headers:
            text = f"{request.headers[key]},{text}"
        request.headers[key] = text

    def on_headers_complete(self) -> None:
        request = self._arriving
        if request is None:
            return
        self._in_head = False
        self._unbounded_bytes = 0
        target = self._url.decode("latin-1")
        if not target.startswith("/"):
            raise ValueError("not an origin-form target")
        request.path, _, request.query = target.partition("?")
        request.method = self._parser.get_method().decode("ascii")
        request.keep_alive = self._parser.should_keep_alive()
        if self._serving is None:
            self._serving, self._new = request, True  # begun when all that has come is parsed
        else:
            self._waiting.append(request)
            self._hold()

    def on_body(self, piece: bytes) -> None:
        request = self._arriving
        self._unbounded_bytes = 0
        if request is None or request.discarded:
            return
        request.pieces.append(piece)
        request.buffered += len(piece)
        if request.buffered > BUFFERED_BYTES_MAX:
            self._hold()
        if request is self._serving:
            self._wake_up()

    def on_message_complete(self) -> None:
        request = self._arriving
        if request is None:
            return
        request.whole = True
        self._arriving = None
        self._unbounded_bytes = 0
        if request.discarded and self._transport is not None:
            self._transport.close()
        elif request is self._serving:
            self._wake_up()

    # what a request asks of its connection

    async def more(self, request: Request) -> None:
        """Returns when more of the body has come. Raises Disconnected."""
        if self._transport is None:
            raise Disconnected
        if request.headers.get("expect", "").lower() == "100-continue" and not self._continue_sent:
            self._continue_sent = True
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._go_on()
        self._wake = self._loop.create_future()
        try:
            await self._wake
        finally:
            self._wake = None

    # serving

    def _begin(self) -> None:
        request = self._serving
        self._new = False
        self._continue_sent = False
        if request is None:
            return
        # Who does not take answers has to wait for the next one, and only a task can.
        answer = partial(self._write_at_once, request)
        if request.whole and self._drained is None and self._server.at_once(request, answer):
            return
        self._task = self._loop.create_task(self._answer(request))

    def _write_at_once(self, request: Request, reply: Reply) -> None:
        """``reply`` has its body in memory."""
        if self._transport is None:
            return
        try:
            if not isinstance(reply.body, bytes):
                raise TypeError("only a task can stream")
            last = not request.keep_alive or self._server.closing
            self._proved = self._proved or reply.status < HTTPStatus.BAD_REQUEST
            self._transport.write(encode_head(reply, self._server.date(), last=last) + reply.body)
            self._finished(request, close=last)
        except Exception:  # noqa: BLE001 - as in `_answer`: nobody else waits for this connection to say something
            _log.exception("an answer broke off")
            self.abort()

    async def _answer(self, request: Request) -> None:
        try:
            try:
                reply = await self._server.handler(request)
            except Disconnected:
                raise
            except Exception:  # noqa: BLE001 - one request's fault is not the others'; it is logged with its traceback
                _log.exception("a request failed")
                reply = Reply(500)
            await self._write(request, reply)
        except Disconnected:
            self.abort()
        except Exception:  # noqa: BLE001 - as above
            # The status has gone out: ending short of the announced length is the only way to say "this is not it".
            _log.exception("an answer broke off")
            self.abort()

    async def _write(self, request: Request, reply: Reply) -> None:
        transport = self._transport
        if transport is None:
            raise Disconnected
        self._proved = self._proved or reply.status < HTTPStatus.BAD_REQUEST
        last = not request.keep_alive or not request.whole or self._server.closing
        streamed = not isinstance(reply.body, bytes)
        encoded = encode_head(reply, self._server.date(), last=last)
        if isinstance(reply.body, bytes):
            transport.write(encoded + reply.body)
        else:
            transport.write(encoded)
            async for piece in reply.body:
                if self._transport is None:
                    raise Disconnected
                transport.write(piece)
                self._since = self._server.clock.monotonic()
                if self._drained is not None:
                    await self._drained
        if self._drained is not None:  # who asks on and on and never reads is not answered on and on
            await self._drained
        if streamed and self._transport is None:
            raise Disconnected
        self._finished(request, close=last)

    def _finished(self, request: Request, *, close: bool) -> None:
        self._serving = None
        self._since = self._server.clock.monotonic()
        if self._transport is None:
            return
        if not request.whole:
            request.discarded = True
            request.pieces.clear()
            self._go_on()
        elif close:
            self._transport.close()
        elif self._waiting:
            self._serving = self._waiting.popleft()
            self._begin()
        else:
            self._go_on()

    def _refuse(self, status: int) -> None:
        """What came is not a request: say so, if nothing else is being said, and hang up."""
        if self._transport is not None:
            if self._serving is None:
                self._transport.write(encode_refusal(status))
                self._transport.close()
            else:
                self.abort()

    def _hold(self) -> None:
        if self._reading and self._transport is not None:
            self._reading = False
            self._transport.pause_reading()

    def _go_on(self) -> None:
        if not self._reading and self._transport is not None:
            self._reading = True
            self._transport.resume_reading()

    def _wake_up(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    # ending

    @property
    def idle(self) -> bool:
        return self._serving is None and self._drained is None

    @property
    def worth(self) -> tuple[bool, float]:
        """What is lost with it where room is needed for another one."""
        return self._proved, self._since

    def end_if_slow(self, now: float) -> None:
        quiet = now - self._since
        if self._wake is not None or self._drained is not None:
            limit = STALL_TIMEOUT_S
        elif self._serving is None:
            discarding = self._arriving is not None and self._arriving.discarded
            limit = DISCARD_TIMEOUT_S if discarding else HEAD_TIMEOUT_S if self._in_head else IDLE_TIMEOUT_S
        else:
            return
        if quiet > limit:
            self.abort()

    def end_when_idle(self) -> None:
        if self._serving is None and self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
