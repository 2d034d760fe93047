"""A TCP proxy that misbehaves on demand, between a client and a real server on this machine.

It stands in a thread of its own, so that synchronous and asynchronous tests use it alike. For HTTP it works request
by request: each is read whole, forwarded or not, and its reply handed back, spoiled or dropped. ``raw=True`` pipes
bytes of any protocol (PostgreSQL's), where CUT, BLACK_HOLE and DELAY are possible.

    with FaultProxy(server_port) as proxy:
        proxy.do(Fault.LOSE_REPLY, times=1)   # the next request is applied, its reply never comes
        proxy.do(Fault.ANSWER, status=503)    # all requests, until told otherwise; nothing is forwarded
        proxy.heal()

``proxy.weather`` decides each request by itself, by its head, where nothing was told by `do`: for campaigns.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")


class Fault(Enum):
    NONE = "none"
    CUT = "cut"  # connections are closed without an answer, the open ones at once
    BLACK_HOLE = "black hole"  # connections stay open, nothing is ever forwarded or answered
    DELAY = "delay"  # forwarded after ``seconds``
    ANSWER = "answer"  # the proxy answers ``status`` with ``code`` itself; nothing is forwarded
    LOSE_REPLY = "lose reply"  # forwarded and applied; the connection closes instead of the reply
    HALF_BODY = "half body"  # forwarded; the reply breaks off in the middle of its body
    STALL = "stall"  # forwarded; a reply of some size comes to a halt in the middle, the connection staying open
    SLOW_FIRST = "slow first byte"  # forwarded and applied at once; the reply begins after ``seconds``
    WRONG_BYTES = "wrong bytes"  # forwarded; one byte in the middle of the reply's body is another
    STALE_LIST = "stale list"  # a listing is answered as it was when it was first asked for


@dataclass(frozen=True, slots=True)
class Act:
    """What becomes of one request."""

    fault: Fault
    seconds: float = 0.0
    status: int = 503
    code: str = ""
    body: bytes = b""
    least: int = 64 * 1024  # bytes of a reply that STALL holds up

    def answer(self) -> bytes:
        """``body``, or without one the error that S3, GCS and Azure would send with ``code``."""
        error = f"<?xml version='1.0'?><Error><Code>{self.code}</Code><Message>fault</Message></Error>".encode()
        body = self.body or error
        head = f"HTTP/1.1 {self.status} Fault\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body


FINE = Act(Fault.NONE)


class FaultProxy:
    """Listens on ``port`` once entered; ``target`` is the real server's port (0 where ANSWER is all that is wanted)."""

    def __init__(self, target: int = 0, *, host: str = "127.0.0.1", raw: bool = False) -> None:
        self._target = (host, target)
        self._raw = raw
        self._act, self._times = FINE, 0
        self.weather: Callable[[str], Act] | None = None
        self._listings: dict[bytes, bytes] = {}  # by request line: the first reply
        self._links: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.port = 0
        self.requests = 0  # that came in, whatever became of them
        self.stalled = 0  # replies that came to a halt
        self.heads: list[str] = []  # their request lines and headers

    def do(
        self,
        fault: Fault,
        *,
        times: int = -1,
        seconds: float = 0.0,
        status: int = 503,
        code: str = "",
        body: bytes = b"",
    ) -> None:
        """From now on, for the next ``times`` requests (or, raw, connections); -1: until told otherwise."""
        self._act, self._times = Act(fault, seconds, status, code, body), times
        if fault is Fault.CUT:
            self._call(self._cut())

    def heal(self) -> None:
        self._act, self._times = FINE, 0

    def __enter__(self) -> Self:
        self._thread.start()
        server = self._call(asyncio.start_server(self._accept, "127.0.0.1", 0))
        self._server = server
        self.port = server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    @property
    def links(self) -> Collection[object]:
        """Clients' connections that are open."""
        return self._links

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(5)

    async def _end(self) -> None:
        """In its own loop's thread, which may be closing the last connection: asyncio's servers know one thread."""
        self._server.close()
        await self._cut()

    async def _cut(self) -> None:
        for link in self._links:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    def _next(self, head: str = "") -> Act:
        if self._times == 0:
            self._act = FINE
        self._times -= 1
        if self._act is FINE and self.weather is not None:
            return self.weather(head)
        return self._act

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.current_task()
        assert link is not None
        self._links.add(link)
        ends = [writer]
        try:
            await (self._pipe_raw if self._raw else self._pipe_http)(reader, writer, ends)
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            self._links.discard(link)
            for end in ends:
                end.transport.abort()

    async def _pipe_http(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ends: list[asyncio.StreamWriter]
    ) -> None:
        upstream = None
        while True:
            request = await _message(reader)
            self.requests += 1
            head = request.split(b"\r\n\r\n", 1)[0].decode()
            self.heads.append(head)
            act = self._next(head)
            fault = act.fault
            if fault is Fault.CUT:
                return
            if fault is Fault.BLACK_HOLE:
                await asyncio.sleep(3600)
            if fault is Fault.ANSWER:
                writer.write(act.answer())
                continue
            if fault is Fault.DELAY:
                await asyncio.sleep(act.seconds)
            if upstream is None:  # not before: ANSWER needs no server at all
                back, upstream = await asyncio.open_connection(*self._target)
                ends.append(upstream)
            upstream.write(request)
            reply = await _message(back, reply_to=request)
            line = request.split(b"\r\n", 1)[0]
            if (b"list-type=2" in line or b"comp=list" in line) and reply[9:12] == b"200":
                first = self._listings.setdefault(line, reply)
                reply = first if fault is Fault.STALE_LIST else reply
            body = reply.index(b"\r\n\r\n") + 4
            middle = body + (len(reply) - body) // 2
            if fault is Fault.LOSE_REPLY:
                return
            if fault is Fault.SLOW_FIRST:
                await asyncio.sleep(act.seconds)
            if fault is Fault.WRONG_BYTES and middle < len(reply):
                reply = reply[:middle] + bytes([reply[middle] ^ 0x11]) + reply[middle + 1 :]
            if fault is Fault.HALF_BODY:
                writer.write(reply[:middle])
                await writer.drain()
                return
            if fault is Fault.STALL and len(reply) > act.least:
                self.stalled += 1
                writer.write(reply[:middle])
                await writer.drain()
                await asyncio.sleep(3600)
            writer.write(reply)
            await writer.drain()

    async def _pipe_raw(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ends: list[asyncio.StreamWriter]
    ) -> None:
        self.requests += 1
        if self._next().fault is Fault.CUT:
            return
        back, upstream = await asyncio.open_connection(*self._target)
        ends.append(upstream)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                if self._act.fault is Fault.BLACK_HOLE:
                    await asyncio.sleep(3600)
                if self._act.fault is Fault.DELAY:
                    await asyncio.sleep(self._act.seconds)
                sink.write(data)
                await sink.drain()

        pumps = [asyncio.ensure_future(pump(reader, upstream)), asyncio.ensure_future(pump(back, writer))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in pumps:
                one.cancel()


async def _message(reader: asyncio.StreamReader, *, reply_to: bytes = b"") -> bytes:
    """One HTTP/1.1 request or reply, head and body as they stand on the wire."""
    head = await reader.readuntil(b"\r\n\r\n")
    fields = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])
    }
    status = head[9:12] if reply_to else b""
    if reply_to.startswith(b"HEAD ") or status in {b"204", b"304"}:
        return head
    if fields.get(b"expect", b"").lower() == b"100-continue":
        raise EOFError
    if fields.get(b"transfer-encoding", b"").lower() == b"chunked":
        body = b""
        while True:
            line = await reader.readuntil(b"\r\n")
            size = int(line.split(b";")[0], 16)
            body += line + await reader.readexactly(size + 2)
            if size == 0:
                return head + body
    return head + await reader.readexactly(int(fields.get(b"content-length", b"0")))
