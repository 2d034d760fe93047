"""S3 over one connection: every status as it came, and no second attempt. Signed as the server's own clients sign."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote

from tests.torture.server import KEY, SECRET
from threefold.storage_server.sigv4 import ALGORITHM, signing_key, string_to_sign

REGION = "khi"
PATIENCE_S = 30.0


class NeverSent(Exception):
    """There is no server: the request cannot have had any effect."""


class Lost(Exception):
    """No whole answer came: the request may have had its effect, or not."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def etag(self) -> str:
        return self.headers["etag"].strip('"')


class Client:
    """One request at a time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Answer:
        """``path``: of the bucket, and the key. Raises NeverSent, Lost."""
        if self._stream is None:
            try:
                self._stream = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 22)
            except OSError:
                raise NeverSent from None
        reader, writer = self._stream
        try:
            async with asyncio.timeout(PATIENCE_S):
                writer.write(self._request(method, path, query or {}, headers or {}, body))
                await writer.drain()
                return await self._answer(reader, method)
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
            self.close()
            raise Lost from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._stream is not None:
            self._stream[1].transport.abort()
            self._stream = None

    def _request(
        self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], body: bytes
    ) -> bytes:
        now, digest = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}", hashlib.sha256(body).hexdigest()
        target = quote(path, safe="/-._~")
        asked = "&".join(f"{quote(name, safe='')}={quote(value, safe='-._~')}" for name, value in sorted(query.items()))
        said = {"host": f"127.0.0.1:{self._port}", "x-amz-date": now, "x-amz-content-sha256": digest, **headers}
        names = sorted(said)
        scope = f"{now[:8]}/{REGION}/s3/aws4_request"
        text = string_to_sign(method, target, asked, said, names, digest, scope)
        signature = hmac.digest(signing_key(SECRET, now[:8], REGION, "s3"), text.encode(), "sha256").hex()
        said["authorization"] = (
            f"{ALGORITHM} Credential={KEY}/{scope}, SignedHeaders={';'.join(names)}, Signature={signature}"
        )
        said["content-length"] = str(len(body))
        lines = "".join(f"{name}: {value}\r\n" for name, value in said.items())
        return f"{method} {target}{'?' if asked else ''}{asked} HTTP/1.1\r\n{lines}\r\n".encode() + body

    async def _answer(self, reader: asyncio.StreamReader, method: str) -> Answer:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status_line, *lines = head.rstrip("\r\n").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = 0 if method == "HEAD" else int(headers.get("content-length", 0))
        body = await reader.readexactly(length)
        if headers.get("connection") == "close":
            self.close()
        return Answer(int(status_line.split(" ")[1]), headers, body)
