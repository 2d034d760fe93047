"""What is said over HTTP: a request as it comes, and the bytes of a reply's head. http.py has the connections."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Protocol

# As clients write the names that come with most requests: looking one up is cheaper than decoding it.
_NAMES = {
    form.encode(): name
    for name in ("host", "authorization", "content-length", "if-none-match", "x-amz-content-sha256", "x-amz-date")
    for form in (name, name.title())
}
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}


class Disconnected(Exception):
    """The client went away before its request was whole, or its answer taken."""


@dataclass(frozen=True, slots=True)
class Reply:
    """``body`` may be a stream; then ``length`` says how much it will give. ``length`` alone answers a HEAD."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | AsyncIterator[bytes] = b""
    length: int | None = None


class Sender(Protocol):
    """The connection that a request comes over."""

    address: str
    secure: bool

    async def more(self, request: Request) -> None:
        """Returns when more of the body has come. Raises Disconnected."""
        ...


@dataclass(slots=True, eq=False)
class Request:
    """A request whose body may still be on its way. Header names are lower-case, values Latin-1."""

    connection: Sender
    method: str = ""
    path: str = ""
    query: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    keep_alive: bool = True
    pieces: deque[bytes] = field(default_factory=deque)
    buffered: int = 0
    whole: bool = False
    discarded: bool = False

    @property
    def secure(self) -> bool:
        return self.connection.secure

    @property
    def address(self) -> str:
        return self.connection.address

    @property
    def length(self) -> int | None:
        """As announced; None: chunked."""
        return None if "transfer-encoding" in self.headers else int(self.headers.get("content-length", 0))

    @property
    def held(self) -> bytes:
        """What has come of the body, not taken yet."""
        return self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body, as it comes."""
        while True:
            while self.pieces:
                piece = self.pieces.popleft()
                self.buffered -= len(piece)
                yield piece
            if self.whole:
                return
            await self.connection.more(self)

    async def read(self) -> bytes:
        """All of it; the caller has checked the length."""
        if self.whole:
            return self.held
        return b"".join([piece async for piece in self.chunks()])


Handler = Callable[[Request], Awaitable[Reply]]
# For a request that has come whole. True: the second argument is called with the reply. False: the handler is asked.
AtOnce = Callable[[Request, Callable[[Reply], None]], bool]


def header_name(raw: bytes) -> str:
    """Lower-case. Raises UnicodeDecodeError."""
    return _NAMES.get(raw) or raw.decode("ascii").lower()


def encode_head(reply: Reply, date: str, *, last: bool) -> bytes:
    """``date``: the Date header's line. ``last``: the connection ends with it."""
    length = len(reply.body) if isinstance(reply.body, bytes) and reply.length is None else reply.length
    head = [_STATUS_LINES[reply.status], date]
    head += [f"{name}: {value}\r\n" for name, value in reply.headers]
    if reply.status != HTTPStatus.NO_CONTENT:
        head.append(f"content-length: {length}\r\n")
    head.append("connection: close\r\n\r\n" if last else "\r\n")
    return "".join(head).encode("latin-1")


def encode_refusal(status: int) -> bytes:
    """What is said to bytes that are no request."""
    return f"{_STATUS_LINES[status]}content-length: 0\r\nconnection: close\r\n\r\n".encode()
