"""Retention locks at S3 and what speaks it: PUT with a lock, PutObjectRetention, GetObjectRetention.

obstore knows none of these (its default headers are fixed for a store's life, a lock's end is not), so these few
requests are signed and sent here: HTTP/1.1, a connection each, Signature Version 4 (AWS General Reference). None is on
a commit's way. S3 wants a digest of the body with each of them ("Using S3 Object Lock"): Content-MD5, which all servers
know.

Invariant 7 as in remote.py: only an answer that was read to its end says anything, and no request is sent twice.
Nothing here ever asks to bypass a lock.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import ssl
from base64 import b64encode
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote, urlsplit

import httptools

from threefold.kernel.clock import Clock
from threefold.stores.answers import Failure, of_status

_UNTIL: Final = re.compile(r"<RetainUntilDate>([^<]{10,40})</RetainUntilDate>")
_SAID_MAX: Final = 65536
_NONE: Final = {"NoSuchObjectLockConfiguration", "ObjectLockConfigurationNotFoundError"}


@dataclass(slots=True)
class Heard:
    """An answer, whole."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""


class S3Locks:
    """One bucket, path style; ``mode``: what S3 calls a lock that is made here, COMPLIANCE or GOVERNANCE."""

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
        mode: str,
    ) -> None:
        url = urlsplit(endpoint)
        self._host, self._tls, self._clock, self._mode = url.netloc, tls, clock, mode
        self._address = (url.hostname or "", url.port or (443 if tls else 80))
        self._path = f"/{bucket}/"
        self._region, self._access_key_id, self._secret = region, access_key_id, secret_access_key

    @property
    def clock(self) -> Clock:
        return self._clock

    async def create(self, key: str, body: bytes, until: datetime, seconds: float) -> Failure | None:
        """Create if absent, locked from the first moment on."""
        headers = {
            "if-none-match": "*",
            "x-amz-object-lock-mode": self._mode,
            "x-amz-object-lock-retain-until-date": _date(until),
        }
        return _failure(await self._ask("PUT", key, "", headers, body, seconds))

    async def version(self, key: str, seconds: float) -> str | Failure:
        """Of the newest version; empty where the bucket keeps one only."""
        heard = await self._ask("GET", key, "", {"range": "bytes=0-0"}, b"", seconds)
        found = _failure(heard)
        if isinstance(heard, Failure) or (found is not None and not found.past_the_end):
            return found or Failure("said nothing")
        return heard.headers.get("x-amz-version-id", "").replace("null", "")

    async def delete_version(self, key: str, version: str, seconds: float) -> Failure | None:
        """As a thief would, for good; without ``version`` an ordinary delete."""
        query = f"versionId={quote(version, safe='-._~')}" if version else ""
        return _failure(await self._ask("DELETE", key, query, {}, b"", seconds))

    async def lock(self, key: str, until: datetime, seconds: float) -> Failure | None:
        document = (
            f'<Retention xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Mode>{self._mode}</Mode>'
            f"<RetainUntilDate>{_date(until)}</RetainUntilDate></Retention>"
        )
        return _failure(await self._ask("PUT", key, "retention=", {}, document.encode(), seconds))

    async def locked_until(self, key: str, seconds: float) -> datetime | Failure | None:
        """None: it has no lock, or is not there."""
        heard = await self._ask("GET", key, "retention=", {}, b"", seconds)
        failure = _failure(heard)
        if isinstance(heard, Failure) or failure is not None:
            none = failure is not None and (failure.absent or failure.code in _NONE)
            return None if none else failure
        found = _UNTIL.search(heard.body)
        if found is None:
            return Failure("gave no date of a lock")
        try:
            until = datetime.fromisoformat(found[1])
        except ValueError:
            return Failure("gave no date of a lock")
        return until if until.tzinfo is not None else until.replace(tzinfo=UTC)

    async def _ask(
        self, method: str, key: str, query: str, headers: dict[str, str], body: bytes, seconds: float
    ) -> Heard | Failure:
        path = self._path + quote(key, safe="/-._~")
        head = self._signed(method, path, query, headers, body)
        transport: asyncio.Transport | None = None
        try:
            async with asyncio.timeout(seconds):
                loop = asyncio.get_running_loop()
                transport, answer = await loop.create_connection(_Answer, *self._address, ssl=self._tls)
                transport.writelines((head, body))
                return await answer.heard
        except TimeoutError:
            return Failure("did not answer in time")
        except (OSError, ssl.SSLError):
            return Failure("cannot be reached")
        finally:
            if transport is not None:
                transport.abort()

    def _signed(self, method: str, path: str, query: str, headers: dict[str, str], body: bytes) -> bytes:
        now, digest = self._clock.now(), hashlib.sha256(body).hexdigest()
        date = f"{now:%Y%m%dT%H%M%SZ}"
        scope = f"{date[:8]}/{self._region}/s3/aws4_request"
        said = {**headers, "host": self._host, "x-amz-content-sha256": digest, "x-amz-date": date}
        if body:
            said["content-md5"] = b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
        names = sorted(said)
        signed = ";".join(names)
        lines = "".join(f"{name}:{said[name]}\n" for name in names)
        request = f"{method}\n{path}\n{query}\n{lines}\n{signed}\n{digest}"
        text = f"AWS4-HMAC-SHA256\n{date}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
        key = f"AWS4{self._secret}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        said["content-length"] = str(len(body))
        said["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self._access_key_id}/{scope}, SignedHeaders={signed}, Signature={signature}"
        )
        target = f"{path}?{query}" if query else path
        sent = "".join(f"{name}: {value}\r\n" for name, value in said.items())
        return f"{method} {target} HTTP/1.1\r\n{sent}connection: close\r\n\r\n".encode()


def _failure(heard: Heard | Failure) -> Failure | None:
    if isinstance(heard, Failure):
        return heard
    return None if heard.status < 300 else of_status(heard.status, heard.body)


def _date(until: datetime) -> str:
    """Rounded up to the second: a lock never ends early."""
    moment = datetime.fromtimestamp(-(-until.timestamp() // 1), UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


class _Answer(asyncio.Protocol):
    """Reads one answer to its end."""

    def __init__(self) -> None:
        self.heard: asyncio.Future[Heard | Failure] = asyncio.get_running_loop().create_future()
        self._headers: dict[str, str] = {}
        self._said = b""
        self._parser: Any = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._settle(Failure("sent half an answer"))

    def connection_lost(self, _exc: Exception | None) -> None:
        self._settle(Failure("broke the connection off"))

    def _settle(self, outcome: Heard | Failure) -> None:
        if not self.heard.done():
            self.heard.set_result(outcome)

    # httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, piece: bytes) -> None:
        if len(self._said) < _SAID_MAX:
            self._said += piece

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200:  # an interim answer: the other one follows (RFC 9110, 15.2)
            self._settle(Heard(status, self._headers, self._said.decode("utf-8", "replace")))
        self._headers, self._said = {}, b""
