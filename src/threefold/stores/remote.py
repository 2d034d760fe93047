"""A store at a provider, through obstore: S3 and what speaks it, Google Cloud Storage, Azure Blob Storage.

Invariant 7 lives here: an answer is definite only where answers.py says so, and everything else is Unknown. No
request is ever sent twice by this class or below it (``max_retries=0`` in open.py): a retried create would be told
"exists" by its own object. Nothing raises but a key that is not one, which is a bug of the caller.

Time: a request may take ``log_timeout`` while it is small and ``bulk_timeout`` once it moves more than a megabyte.
The size of a read is known as soon as its head has come, so that a store that says nothing is found out within
``log_timeout`` whatever was asked of it. One client (one pool of connections) serves both.

obstore's async calls, not its blocking ones in threads: a create of 8 kB costs less processor time (measured turn by
turn under uvloop, the best of six: 129 against 168 µs one at a time, 79 against 96 µs with eight at once), and an
async request can be given up at its time-out, where a thread would sit in a black hole and hold up those behind it.
This class adds 10 to 20 µs.

404s without a body cannot tell a missing key from a missing bucket, so HEAD is never used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

import obstore
from obstore.store import AzureStore, GCSStore, S3Store

from threefold.stores.answers import Failure, understand
from threefold.stores.s3_create import S3Creates
from threefold.stores.s3_lock import S3Locks
from threefold.stores.store import ABSENT, Gone, Listed, Locked, Made, NotLocked, Page, Unknown, Unreadable

_REFUSES_THE_LOCK = frozenset({400, 403, 501})
SMALL = 1 << 20  # bytes; what a connection of 2 Mbit/s moves within the default log_timeout
_PAGE = 1000  # objects that S3 and GCS list in one answer
_PAGE_AZURE = 5000
T = TypeVar("T")


class RemoteStore:
    """An ObjectStore over ``client``; ``prefix`` is put before every key. Small creates go through ``creates``."""

    def __init__(
        self,
        name: str,
        client: S3Store | GCSStore | AzureStore,
        *,
        prefix: str,
        log_timeout: float,
        bulk_timeout: float,
        creates: S3Creates | None = None,
        locks: S3Locks | None = None,
    ) -> None:
        self._creates = creates
        self._locks = locks
        self._name = name
        self._client = client
        self._root = f"{prefix}/" if prefix else ""
        self._log_timeout = log_timeout
        self._bulk_timeout = bulk_timeout
        self._page = _PAGE_AZURE if isinstance(client, AzureStore) else _PAGE

    @property
    def name(self) -> str:
        return self._name

    async def create(self, key: str, body: bytes) -> Made | Unknown:
        if self._creates is not None and len(body) <= SMALL:
            failure = await self._creates.create(f"{self._root}{key}", body, self._log_timeout)
        else:
            failure = await self._put(key, body, "create")
        return self._made(failure)

    def create_at_once(self, key: str, body: bytes, hear: Callable[[Made | Unknown], None]) -> bool:
        """As `store.create_at_once`, for what is small, where a connection waits for it."""
        if self._creates is None or len(body) > SMALL:
            return False
        path = f"{self._root}{key}"
        return self._creates.create_at_once(path, body, self._log_timeout, lambda failure: hear(self._made(failure)))

    def _made(self, failure: Failure | None) -> Made | Unknown:
        if failure is None:
            return Made.CREATED
        if 300 <= failure.status < 400:
            self._creates = None  # the bucket is served elsewhere: obstore follows from now on
        return Made.EXISTS if failure.exists else self._unknown(failure)

    async def create_locked(self, key: str, body: bytes, until: datetime) -> Made | Unknown:
        if self._locks is None:
            return self._cannot_lock()
        failure = await self._locks.create(f"{self._root}{key}", body, until, self._allowance(len(body)))
        if failure is None:
            return Made.CREATED
        return Made.EXISTS if failure.exists else self._unlocked(failure)

    async def lock(self, key: str, until: datetime) -> None | Unknown:
        if self._locks is None:
            return self._cannot_lock()
        failure = await self._locks.lock(f"{self._root}{key}", until, self._log_timeout)
        return None if failure is None else self._unlocked(failure)

    async def locked_until(self, key: str) -> datetime | None | Unknown:
        if self._locks is None:
            return None
        answer = await self._locks.locked_until(f"{self._root}{key}", self._log_timeout)
        return self._unlocked(answer) if isinstance(answer, Failure) else answer

    def _cannot_lock(self) -> NotLocked:
        return NotLocked(f"{self._name} is no store that objects can be locked on from here")

    def _unlocked(self, failure: Failure) -> Unknown:
        kind = NotLocked if failure.status in _REFUSES_THE_LOCK else Unknown
        return kind(f"{self._name} {failure.reason}")

    async def write(self, key: str, body: bytes) -> None | Unknown:
        failure = await self._put(key, body, "overwrite")
        return None if failure is None else self._unknown(failure)

    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
        # A range of no bytes cannot be asked for over HTTP, and "is it there" has to be answered all the same.
        end = None if length is None else start + max(length, 1)
        wanted: Any = {"range": (start, end)} if end else {"range": {"offset": start}} if start else None
        answer = await self._ask(
            self._log_timeout, obstore.get_async(self._client, f"{self._root}{key}", options=wanted)
        )
        if isinstance(answer, Failure):
            if answer.past_the_end:
                return b""
            return ABSENT if answer.absent else self._unknown(answer)
        first, last = answer.range
        body = await self._ask(self._allowance(last - first), answer.bytes_async())
        return self._unknown(body) if isinstance(body, Failure) else bytes(body)[:length]

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> Page | Unknown:
        page = await self._ask(self._bulk_timeout, self._list(prefix, after, limit))
        return self._unknown(page) if isinstance(page, Failure) else page

    async def delete(self, keys: Sequence[str]) -> None | Locked | Unknown:
        if not keys:
            return None
        paths = [f"{self._root}{key}" for key in keys]
        failure = await self._ask(self._bulk_timeout, obstore.delete_async(self._client, paths))
        if not isinstance(failure, Failure):
            return None
        # Azure and GCS call a missing key an error and leave open what became of the others; a lock refuses for one.
        if len(keys) > 1 and (failure.absent or self._locks is not None):
            answers = [await self.delete([key]) for key in keys]
            return next((answer for answer in answers if answer is not None), None)
        return None if failure.absent else await self._refused(keys[0], failure)

    async def erase(self, key: str) -> None | Locked | Unknown:
        if self._locks is None:
            return await self.delete([key])
        version = await self._locks.version(f"{self._root}{key}", self._log_timeout)
        if isinstance(version, Failure):
            return self._unknown(version)
        failure = await self._locks.delete_version(f"{self._root}{key}", version, self._log_timeout)
        return None if failure is None else await self._refused(key, failure, version)

    async def _refused(self, key: str, failure: Failure, version: str = "") -> Locked | Unknown:
        """A delete that failed: by a lock, which the store tells when it is asked, or nobody knows how."""
        if self._locks is not None and (failure.status == 403 or "AccessDenied" in failure.reason):
            until = await self.locked_until(key)
            if isinstance(until, datetime) and until > self._locks.clock.now():
                return Locked(key, until, version)
        return self._unknown(failure)

    async def close(self) -> None:
        """obstore's connections close with the client, when nothing refers to it any more."""
        if self._creates is not None:
            await self._creates.close()

    async def _put(self, key: str, body: bytes, mode: Any) -> Failure | None:
        put = obstore.put_async(self._client, f"{self._root}{key}", body, mode=mode)  # "create" is always one request
        answer = await self._ask(self._allowance(len(body)), put)
        return answer if isinstance(answer, Failure) else None

    async def _list(self, prefix: str, after: str, limit: int) -> Page:
        """Filtered and sorted here: one server ignores ``offset``, S3 directory buckets do not sort.

        A page that is full is enough: to see whether anything follows would cost as many requests again.
        """
        under = f"{self._root}{prefix}".rstrip("/")
        stream = obstore.list(self._client, under, offset=f"{self._root}{after}" if after else None)
        found: list[Listed] = []
        in_order, came, ended = True, 0, False
        while True:
            # Each answer is small: a store that hangs is found out as soon as by any other request.
            async with asyncio.timeout(self._log_timeout):
                batch = await anext(stream, None)
            if batch is None:
                ended = True
                break
            came += len(batch)
            for meta in batch:
                key = meta["path"][len(self._root) :]
                if key > after:
                    in_order = in_order and (not found or found[-1].key < key)
                    found.append(Listed(key, meta["size"]))
            if in_order and len(found) >= limit:
                break
        found.sort(key=lambda listed: listed.key)
        requests = max(-(-came // self._page), 1)
        return Page(tuple(found[:limit]), last=ended and len(found) <= limit, requests=requests)

    async def _ask(self, seconds: float, request: Awaitable[T]) -> T | Failure:
        try:
            async with asyncio.timeout(seconds):
                return await request
        except Exception as error:  # noqa: BLE001 (whatever the client meets is an answer, not a crash)
            return understand(error)

    def _allowance(self, size: int) -> float:
        return self._log_timeout if size <= SMALL else self._bulk_timeout

    def _unknown(self, failure: Failure) -> Unknown:
        kind = Unreadable if failure.damaged else Unknown
        return kind(f"{self._name} {failure.reason}")
