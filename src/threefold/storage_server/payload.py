"""What a request's body has to prove: its SHA-256 as signed, and any checksum the client added.

Over TLS, boto3 sends ``STREAMING-UNSIGNED-PAYLOAD-TRAILER``: the body comes in ``aws-chunked`` frames,

    hex-length CRLF bytes CRLF ... 0 CRLF  x-amz-checksum-crc32:BASE64 CRLF  CRLF

and its checksum at the end (Amazon S3 API Reference, "Signature calculations: trailing headers").
"""

from __future__ import annotations

import hashlib
import zlib
from base64 import b64encode
from collections.abc import Mapping
from hmac import compare_digest

import google_crc32c

from threefold.storage_server.s3 import S3Error, bad_request
from threefold.storage_server.sigv4 import UNSIGNED, UNSIGNED_TRAILER

_LINE_MAX = 1024
_PREFIX = "x-amz-checksum-"


class _Running:
    """A 32-bit checksum that goes on from piece to piece."""

    def __init__(self, kind: str) -> None:
        self._step = zlib.crc32 if kind == "crc32" else lambda piece, crc: google_crc32c.extend(crc, piece)
        self._value = 0

    def update(self, piece: bytes) -> None:
        self._value = self._step(piece, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


class Payload:
    """Fed the body as it comes; gives back the object's own bytes, and judges them at the end."""

    def __init__(self, signed: str, headers: Mapping[str, str], *, secure: bool) -> None:
        if signed.startswith("STREAMING-") and signed != UNSIGNED_TRAILER:
            raise S3Error(501, "NotImplemented", "signed chunks are not spoken here: sign the payload as a whole")
        if signed in {UNSIGNED, UNSIGNED_TRAILER} and not secure:
            raise bad_request("over plain HTTP the payload has to be signed", "InvalidRequest")
        self._signed = signed
        self._sha256 = hashlib.sha256()
        self._frames = _Frames() if signed == UNSIGNED_TRAILER else None
        self._expected = {
            name.removeprefix(_PREFIX): value
            for name, value in headers.items()
            if name.startswith(_PREFIX)
            and name not in {"x-amz-checksum-type", "x-amz-checksum-algorithm", "x-amz-checksum-mode"}
        }
        trailer = headers.get("x-amz-trailer", "") if self._frames else ""
        kinds = [*self._expected, *([trailer.removeprefix(_PREFIX)] if trailer else [])]
        self._running = {kind: _running(kind) for kind in kinds}
        if (md5 := headers.get("content-md5")) is not None:
            self._expected["md5"] = md5
            self._running["md5"] = hashlib.md5(usedforsecurity=False)

    def feed(self, data: bytes) -> bytes:
        """The object's bytes within ``data``."""
        if self._frames is not None:
            data = self._frames.feed(data)
        self._sha256.update(data)
        for running in self._running.values():
            running.update(data)
        return data

    def finish(self) -> bytes:
        """The object's SHA-256. Raises S3Error where the body is not what was promised."""
        if self._frames is not None:
            for name, value in self._frames.trailers().items():
                self._expected[name.removeprefix(_PREFIX)] = value
            if missing := self._running.keys() - self._expected.keys():
                raise bad_request(f"the trailer {_PREFIX}{missing.pop()} is missing", "MalformedTrailerError")
        elif self._signed != UNSIGNED and not compare_digest(self._sha256.hexdigest().encode(), self._signed.encode()):
            raise bad_request("the body is not the one that was signed", "XAmzContentSHA256Mismatch")
        for kind, value in self._expected.items():
            if kind not in self._running or b64encode(self._running[kind].digest()).decode() != value:
                raise bad_request(f"the body's {kind} is another one than promised", "BadDigest")
        return self._sha256.digest()


def _running(kind: str) -> _Running | hashlib._Hash:
    if kind in {"crc32", "crc32c"}:
        return _Running(kind)
    if kind in {"sha1", "sha256"}:
        return hashlib.new(kind, usedforsecurity=False)
    raise S3Error(501, "NotImplemented", f"the checksum {kind} is not known here: use crc32, crc32c, sha1 or sha256")


class _Frames:
    """aws-chunked, taken apart."""

    def __init__(self) -> None:
        self._buffer = b""
        self._left = 0  # bytes of the current frame that are still to come
        self._in_trailer = False
        self._trailers: dict[str, str] = {}
        self._done = False

    def feed(self, data: bytes) -> bytes:
        self._buffer += data
        out = []
        while self._buffer:
            if self._left > 2:
                piece = self._buffer[: self._left - 2]
                out.append(piece)
                self._buffer = self._buffer[len(piece) :]
                self._left -= len(piece)
            elif self._left:
                if len(self._buffer) < self._left:
                    break
                if self._buffer[: self._left] != b"\r\n"[-self._left :]:
                    raise bad_request("a chunk is longer than it says", "IncompleteBody")
                self._buffer = self._buffer[self._left :]
                self._left = 0
            elif not self._line():
                break
        return b"".join(out)

    def _line(self) -> bool:
        line, found, rest = self._buffer.partition(b"\r\n")
        if len(line) > _LINE_MAX:
            raise bad_request("a chunk's header is too long", "InvalidChunkSizeError")
        if not found:
            return False
        self._buffer = rest
        if self._done:
            raise bad_request("bytes after the last chunk", "InvalidChunkSizeError")
        if self._in_trailer:
            name, _, value = line.decode("latin-1").partition(":")
            if line:
                self._trailers[name.strip().lower()] = value.strip()
            self._done = not line
            return True
        try:
            size = int(line.partition(b";")[0], 16)
        except ValueError:
            raise bad_request("a chunk's size is not a number", "InvalidChunkSizeError") from None
        if size < 0:
            raise bad_request("a chunk's size is not a number", "InvalidChunkSizeError")
        self._in_trailer = size == 0
        self._left = size + 2 if size else 0
        return True

    def trailers(self) -> dict[str, str]:
        if not self._done and not (self._in_trailer and not self._buffer):
            raise bad_request("the body ends before its last chunk", "IncompleteBody")
        return self._trailers
