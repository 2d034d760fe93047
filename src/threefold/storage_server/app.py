"""S3 over HTTP: who asks, what is asked, and the answer in S3's words.

Nothing of a request is believed before its signature holds; then the body is read, bounded, and proved. Errors that
say nothing definite (a damaged object, a disk that fails) are 5xx: a client must not take them for "not there".
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import logging
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote

from threefold.kernel.clock import Clock
from threefold.kernel.errors import Damaged, ThreefoldError
from threefold.storage_server import s3
from threefold.storage_server.disk import Vanished
from threefold.storage_server.engine import Engine
from threefold.storage_server.entries import INLINE, LOCK_MODES, Entry
from threefold.storage_server.messages import Disconnected, Reply, Request
from threefold.storage_server.multipart import Multipart
from threefold.storage_server.payload import Payload
from threefold.storage_server.s3 import S3Error, bad_request, disk_full, slow_down
from threefold.storage_server.sigv4 import Credentials, SignatureError, Verifier
from threefold.storage_server.throttle import HELD_MAX, Throttle
from threefold.storage_server.transfer import receive, wire_bytes_max

_log = logging.getLogger(__name__)
_XML = ("content-type", "application/xml")
_KEPT_HEADERS = frozenset(
    ("content-type", "content-encoding", "content-disposition", "content-language", "cache-control")
)
# With any other header a create may mean more than "these bytes under this key".
_OF_A_PLAIN_CREATE = frozenset(
    (
        *("host", "content-length", "if-none-match", "authorization", "x-amz-content-sha256", "x-amz-date"),
        *("user-agent", "accept", "accept-encoding", "connection"),
    )
)
_TYPE_UNSAID = "application/octet-stream"
_LIST_MAX = 1000
_DOCUMENT_BYTES_MAX = 2 << 20
_ATTRIBUTES_BYTES_MAX = 8 << 10
_FILE_MEMORY_BYTES = 4 << 20  # what a large put may hold at once


@dataclass(frozen=True, slots=True)
class AppOptions:
    """``object_bytes_max``: of one object. ``memory_bytes_max``: of all bodies that are being read at once."""

    object_bytes_max: int = 5 << 30
    memory_bytes_max: int = 128 << 20


class App:
    """The handler of `http.Server`."""

    def __init__(
        self, engine: Engine, credentials: Mapping[str, Credentials], clock: Clock, options: AppOptions
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._options = options
        self._verifier = Verifier(credentials)
        self._throttle = Throttle()
        self._multipart = Multipart(engine, clock, options.object_bytes_max)
        self._held = 0
        self._memory = 0

    async def __call__(self, request: Request) -> Reply:
        try:
            signed = self._verifier.verify(
                request.method, request.path, request.query, request.headers, self._clock.now()
            )
            self._engine.journal.check_linked()
            reply = await self._route(request, signed)
        except SignatureError as error:
            reply = await self._turned_away(request, error)
        except S3Error as error:
            reply = _error(request, error)
        except Damaged as error:
            _log.error("%s %s: %s", request.method, request.path, error)
            reply = _error(request, S3Error(500, "ObjectDamaged", error.message))
        except ThreefoldError as error:
            reply = _error(request, _ended(error))
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise
            reply = _error(request, disk_full())
        return reply

    def at_once(self, request: Request, answer: Callable[[Reply], None]) -> bool:
        """A small create, which is what every commit waits for: judged and journalled in this turn of the event loop.

        True: ``answer`` is called once it is durable. False: nothing was done, and the long way does it, or says why
        not. So nothing is refused here, and only what the long way would take is taken.
        """
        headers = request.headers
        if request.method != "PUT" or request.query or headers.get("if-none-match") != "*":
            return False
        body = request.held
        most = min(self._engine.options.inline_bytes_max, self._options.object_bytes_max)
        room = self._options.memory_bytes_max - self._memory
        if len(body) > min(most, room) or not headers.keys() <= _OF_A_PLAIN_CREATE:
            return False
        try:
            signed = self._verifier.verify("PUT", request.path, "", headers, self._clock.now())
            bucket, key = s3.split_path(request.path)
            s3.check_key(key)
        except (SignatureError, S3Error):
            return False
        sha256 = hashlib.sha256(body)
        if sha256.hexdigest() != signed:
            return False

        def hear(failure: ThreefoldError | None) -> None:
            if failure is None:
                answer(Reply(200, (("etag", f'"{signed}"'),)))
            else:
                answer(_error(request, _ended(failure)))

        return self._engine.create_at_once(bucket, key, body, sha256.digest(), hear)

    async def _turned_away(self, request: Request, error: SignatureError) -> Reply:
        hold = self._throttle.failed(request.address, self._clock.monotonic())
        if hold and self._held >= HELD_MAX:
            return _error(request, slow_down())
        if hold:
            self._held += 1
            try:
                await self._clock.sleep(hold)
            finally:
                self._held -= 1
        return _error(request, S3Error(403, error.code, error.message))

    async def _route(self, request: Request, signed: str) -> Reply:
        bucket, key = s3.split_path(request.path)
        query = s3.parse_query(request.query)
        method = request.method
        if not bucket:
            if method == "GET" and request.path == "/":
                return Reply(200, (_XML,), s3.buckets_xml(await self._engine.buckets()))
            raise _not_offered()
        s3.check_bucket(bucket)
        if not key:
            return await self._route_bucket(request, signed, bucket, query)
        s3.check_key(key)
        if method in {"GET", "HEAD"} and not query.keys() - {"x-id"}:
            return await self._get(request, bucket, key)
        if method == "PUT" and not query.keys() - {"x-id"}:
            return await self._put(request, signed, bucket, key)
        if method == "DELETE" and not query.keys() - {"x-id"}:
            await self._engine.delete(bucket, key)
            return Reply(204)
        if query.keys() - {"x-id"} == {"retention"}:
            return await self._retention(request, signed, bucket, key)
        return await self._route_upload(request, signed, bucket, key, query)

    async def _route_bucket(self, request: Request, signed: str, bucket: str, query: dict[str, str]) -> Reply:
        method = request.method
        if method == "GET" and query.get("list-type") == "2":
            return await self._list(bucket, query)
        if method == "POST" and "delete" in query:
            return await self._delete_many(bucket, await self._document(request, signed))
        if method == "HEAD" and not query:
            self._engine.bucket(bucket)
            await self._engine.buckets()
            return Reply(200)
        if method == "PUT" and not query:
            await self._document(request, signed)
            if await self._engine.make_bucket(bucket):
                return Reply(200, (("location", f"/{bucket}"),))
            raise S3Error(409, "BucketAlreadyOwnedByYou", "the bucket stands already")
        raise _not_offered()

    async def _route_upload(self, request: Request, signed: str, bucket: str, key: str, query: dict[str, str]) -> Reply:
        method = request.method
        if method == "POST" and "uploads" in query:
            lock = s3.parse_lock(request.headers, self._clock.now())
            upload_id = await self._multipart.begin(bucket, key, attributes=_attributes(request.headers), lock=lock)
            return Reply(
                200, (_XML,), s3.upload_xml("InitiateMultipartUploadResult", bucket, key, ("UploadId", upload_id))
            )
        upload_id = query.get("uploadId", "")
        if method == "PUT" and upload_id and "x-amz-copy-source" not in request.headers:
            payload = Payload(signed, request.headers, secure=request.secure)
            number = query.get("partNumber", "")
            with self._memory_for(_FILE_MEMORY_BYTES):
                etag = await self._multipart.add(
                    bucket, key, upload_id, int(number) if number.isdecimal() else 0, request, payload
                )
            return Reply(200, (("etag", f'"{etag}"'),))
        if method == "POST" and upload_id:
            named = s3.parse_complete(await self._document(request, signed))
            entry = await self._multipart.complete(bucket, key, upload_id, named, s3.put_condition(request.headers))
            etag_field = ("ETag", f'"{entry.etag}"')
            return Reply(200, (_XML,), s3.upload_xml("CompleteMultipartUploadResult", bucket, key, etag_field))
        if method == "DELETE" and upload_id:
            await self._multipart.abort(bucket, key, upload_id)
            return Reply(204)
        raise _not_offered()

    async def _get(self, request: Request, bucket: str, key: str) -> Reply:
        while True:
            entry = await self._engine.find(bucket, key)
            try:
                return await self._show(request, entry)
            except Damaged:
                # Replaced or deleted meanwhile, and its file with it? Then what stands there now is the answer.
                if await self._engine.find(bucket, key) is entry:
                    raise

    async def _show(self, request: Request, entry: Entry) -> Reply:
        etag = f'"{entry.etag}"'
        if (match := request.headers.get("if-match")) is not None and match.strip('"') not in {"*", entry.etag}:
            raise s3.precondition_failed()
        if request.headers.get("if-none-match") in {"*", etag, entry.etag}:
            return Reply(304, (("etag", etag),))
        headers = [("etag", etag), ("last-modified", _http_date(entry.modified_ms)), ("accept-ranges", "bytes")]
        headers += _described(entry)
        if request.method == "HEAD":
            return Reply(200, tuple(headers), length=entry.size)
        span = s3.parse_range(request.headers.get("range"), entry.size)
        start, end = span or (0, entry.size)
        if span is not None:
            headers.append(("content-range", f"bytes {start}-{end - 1}/{entry.size}"))
        status = 200 if span is None else 206
        if entry.file_id == INLINE:
            body = await self._engine.read_small(entry)
            return Reply(status, tuple(headers), body if span is None else body[start:end])
        blocks = self._engine.read_file(entry, start, end)
        first = await anext(blocks, b"")  # verified before the status goes out
        return Reply(status, tuple(headers), _joined(first, blocks), length=end - start)

    async def _retention(self, request: Request, signed: str, bucket: str, key: str) -> Reply:
        """GetObjectRetention, and PutObjectRetention, which nobody can shorten a lock with."""
        if request.method == "GET":
            entry = await self._engine.find(bucket, key)
            if not entry.lock_mode:
                raise s3.no_lock()
            return Reply(200, (_XML,), s3.retention_xml(LOCK_MODES[entry.lock_mode], entry.locked_until_ms))
        if request.method != "PUT":
            raise _not_offered()
        lock = s3.parse_retention(await self._document(request, signed), self._clock.now())
        await self._engine.lengthen_lock(bucket, key, lock)
        return Reply(200)

    async def _put(self, request: Request, signed: str, bucket: str, key: str) -> Reply:
        headers = request.headers
        if "x-amz-copy-source" in headers:
            raise _not_offered()
        payload = Payload(signed, headers, secure=request.secure)
        condition = s3.put_condition(headers)
        lock = s3.parse_lock(headers, self._clock.now())
        attributes = _attributes(headers)
        size = _object_size(request)
        if size > self._options.object_bytes_max:
            raise bad_request(f"an object has at most {self._options.object_bytes_max} bytes", "EntityTooLarge")
        if size <= self._engine.options.inline_bytes_max:
            with self._memory_for(size):
                body = payload.feed(await _read(request, size))
                sha256 = payload.finish()
                if len(body) != size:
                    raise _incomplete()
                entry = await self._engine.put_small(
                    bucket, key, body, sha256=sha256, condition=condition, attributes=attributes, lock=lock
                )
            return Reply(200, (("etag", f'"{entry.etag}"'),))
        await self._engine.admit(bucket, key, condition, size)
        writer = await self._engine.blobs.act(self._engine.blobs.create)
        try:
            with self._memory_for(_FILE_MEMORY_BYTES):
                if await receive(request, payload, writer.write, self._engine, bytes_max=size) != size:
                    raise _incomplete()
                entry = await self._engine.put_file(
                    bucket, key, writer, sha256=payload.finish(), condition=condition, attributes=attributes, lock=lock
                )
        except (S3Error, Disconnected, OSError):
            # The journal does not name the file. (Not so after any other error: it may.)
            await self._engine.blobs.act(writer.abandon)
            raise
        return Reply(200, (("etag", f'"{entry.etag}"'),))

    async def _list(self, bucket: str, query: dict[str, str]) -> Reply:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        token, start_after = query.get("continuation-token", ""), query.get("start-after", "")
        limit_text, encoding = query.get("max-keys", "1000"), query.get("encoding-type", "")
        if not limit_text.isdecimal() or encoding not in {"", "url"} or not delimiter.isascii():
            raise bad_request("max-keys is a number, encoding-type is url, a delimiter is ASCII")
        limit = min(int(limit_text), _LIST_MAX)
        after = _from_token(token) if token else start_after
        page = await self._engine.list(bucket, prefix=prefix, after=after, delimiter=delimiter, limit=limit)

        def name(text: str) -> str:
            return quote(text, safe="/") if encoding else text

        more = page.more and limit > 0
        fields = [("Name", bucket), ("Prefix", name(prefix)), ("MaxKeys", str(limit))]
        fields += [("KeyCount", str(len(page.objects) + len(page.prefixes))), ("IsTruncated", str(more).lower())]
        fields += [("Delimiter", name(delimiter))] if delimiter else []
        fields += [("StartAfter", name(start_after))] if start_after else []
        fields += [("ContinuationToken", token)] if token else []
        fields += [("NextContinuationToken", _to_token(page.last))] if more else []
        fields += [("EncodingType", encoding)] if encoding else []
        contents = ((name(key), entry.modified_ms, entry.size, entry.etag) for key, entry in page.objects)
        return Reply(200, (_XML,), s3.list_xml(fields, contents, map(name, page.prefixes)))

    async def _delete_many(self, bucket: str, document: bytes) -> Reply:
        keys, quiet = s3.parse_delete(document)
        self._engine.bucket(bucket)
        answers = await asyncio.gather(*(self._engine.delete(bucket, key) for key in keys), return_exceptions=True)
        errors = []
        for key, answer in zip(keys, answers, strict=True):
            if isinstance(answer, S3Error):
                errors.append((key, answer))
            elif answer is not None:
                raise answer
        failed = {key for key, _ in errors}
        deleted = () if quiet else (key for key in keys if key not in failed)
        return Reply(200, (_XML,), s3.deleted_xml(deleted, errors))

    async def _document(self, request: Request, signed: str) -> bytes:
        """A small body, whole and proved."""
        size = _object_size(request)
        if size > _DOCUMENT_BYTES_MAX:
            raise bad_request("the body is too large", "MaxMessageLengthExceeded")
        payload = Payload(signed, request.headers, secure=request.secure)
        with self._memory_for(size):
            body = payload.feed(await _read(request, size))
        payload.finish()
        return body

    @contextmanager
    def _memory_for(self, size: int) -> Iterator[None]:
        """Bodies that are being read hold a bounded amount of memory in all."""
        if self._memory + size > self._options.memory_bytes_max:
            raise slow_down()
        self._memory += size
        try:
            yield
        finally:
            self._memory -= size


def _not_offered() -> S3Error:
    return S3Error(501, "NotImplemented", "this part of S3 is not offered here")


def _ended(failure: ThreefoldError) -> S3Error:
    # Where the folder was is the log's business, as the journal ends with it; not the client's.
    said = "this store has lost its data folder" if isinstance(failure, Vanished) else failure.message
    return S3Error(503, "ServiceUnavailable", said)


def _incomplete() -> S3Error:
    return bad_request("the body has not the length that was announced", "IncompleteBody")


def _error(request: Request, error: S3Error) -> Reply:
    if request.method == "HEAD":
        return Reply(error.status)
    return Reply(error.status, (_XML,), s3.error_xml(error, request.path))


def _object_size(request: Request) -> int:
    """Of the object, as announced: `aws-chunked` frames come on top of it."""
    decoded = request.headers.get("x-amz-decoded-content-length")
    size = request.length if decoded is None else int(decoded) if decoded.isdecimal() else None
    if size is None:
        raise S3Error(411, "MissingContentLength", "the length of the body has to be announced")
    return size


async def _read(request: Request, size: int) -> bytes:
    if request.length is not None and request.length <= wire_bytes_max(size):
        return await request.read()
    body = bytearray()
    async for piece in request.chunks():
        body += piece
        if len(body) > wire_bytes_max(size):
            raise _incomplete()
    return bytes(body)


def _attributes(headers: Mapping[str, str]) -> bytes:
    """Headers that are given back with the object."""
    names = [name for name in headers if name in _KEPT_HEADERS or name.startswith("x-amz-meta-")]
    if not names:
        return b""
    kept = {name: headers[name] for name in names}
    encoding = kept.get("content-encoding")
    if encoding is not None:
        coding = ",".join(part for part in encoding.replace(" ", "").split(",") if part != "aws-chunked")
        kept["content-encoding"] = coding
        if not coding:
            del kept["content-encoding"]
    if kept.get("content-type") == _TYPE_UNSAID:
        del kept["content-type"]
    if not kept:
        return b""
    encoded = json.dumps(kept).encode()
    if len(encoded) > _ATTRIBUTES_BYTES_MAX:
        raise bad_request("too much metadata", "MetadataTooLarge")
    return encoded


def _described(entry: Entry) -> list[tuple[str, str]]:
    described: list[tuple[str, str]] = list(json.loads(entry.attributes).items()) if entry.attributes else []
    if not any(name == "content-type" for name, _ in described):
        described.append(("content-type", _TYPE_UNSAID))
    if entry.lock_mode:
        described.append(("x-amz-object-lock-mode", LOCK_MODES[entry.lock_mode]))
        described.append(("x-amz-object-lock-retain-until-date", s3.iso(entry.locked_until_ms)))
    return described


def _http_date(moment_ms: int) -> str:
    return f"{datetime.fromtimestamp(moment_ms // 1000, UTC):%a, %d %b %Y %H:%M:%S} GMT"


async def _joined(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for block in rest:
        yield block


def _to_token(last: str) -> str:
    return urlsafe_b64encode(last.encode()).decode()


def _from_token(token: str) -> str:
    try:
        return urlsafe_b64decode(token.encode()).decode()
    except ValueError:
        raise bad_request("the continuation token is not one of ours") from None
