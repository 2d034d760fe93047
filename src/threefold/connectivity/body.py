"""A request's body on its way in: counted, bounded and hashed; held only where it may have to be deferred.

The bound holds for what comes, whatever Content-Length says. The hash is what an Idempotency-Key is compared by.
"""

from __future__ import annotations

import hashlib
from typing import Final

from starlette.types import Message, Receive

from threefold.connectivity.headers import Asked
from threefold.connectivity.refusals import TooLarge

_CONNECT: Final = 64 * 1024
_PLAIN: Final = 2**20
_UPLOAD: Final = 64 * 2**20
_UPLOADS: Final = ("multipart/form-data", "text/csv", "application/octet-stream")


def bound(path: str, asked: Asked) -> int:
    """The most bytes that are read."""
    if path.startswith("/connect/"):
        return _CONNECT
    return _UPLOAD if asked.get("content-type").lower().startswith(_UPLOADS) else _PLAIN


class Body:
    """Wraps ``receive``. Raises TooLarge, and remembers that it did: a framework may take it for a broken body."""

    def __init__(self, receive: Receive, most: int, announced: str, hold: int = 0) -> None:
        """``hold``: so many bytes of it are kept, for `held`."""
        self._receive = receive
        self._hold = hold
        self._held: list[bytes] = []
        self._most = most
        self._left = most
        self._hash = hashlib.sha256()
        self._whole = False
        self.too_large = False
        if announced.isascii() and announced.isdecimal() and int(announced[:20]) > most:
            raise self._refused()

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            chunk = message.get("body", b"")
            self._left -= len(chunk)
            if self._left < 0:
                raise self._refused()
            self._hash.update(chunk)
            if self._hold:
                self._keep(chunk)
            self._whole = not message.get("more_body", False)
        return message

    async def digest(self) -> bytes:
        """Of all of it; what nobody has read yet is read now."""
        while not self._whole:
            if (await self.receive())["type"] == "http.disconnect":
                break
        return self._hash.digest()

    def _keep(self, chunk: bytes) -> None:
        self._held.append(chunk)
        self._hold = max(0, self._hold - len(chunk))
        if not self._hold:
            self._held.clear()

    async def held(self) -> bytes | None:
        """All of it; None where it was not to be held, or is longer than that."""
        await self.digest()
        return b"".join(self._held) if self._hold else None

    def _refused(self) -> TooLarge:
        self.too_large = True
        return TooLarge(f"the request is larger than {self._most} bytes", hint="send less at once")
