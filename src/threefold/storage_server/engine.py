"""One data folder, served: what is asked of it, in the order in which the journal has it.

    DIR/LOCK                 flock: one process owns the folder
    DIR/journal/*.journal    every change, and small objects themselves (records.py)
    DIR/objects/??/*         large objects (blobs.py)
    DIR/uploads/             parts of multipart uploads under way (uploads.py)

**Invariant: no answer says more than what is durable.** A decision (does the key exist?) and the append that follows
from it happen in one turn of the event loop, so that no other request comes between. What the decision rested on may
still be on its way to the disk: the answer waits for that, too. So a lost create is told 412 only when the winner is
safe, and a fresh object is read only when it cannot vanish again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from threefold.kernel.clock import Clock
from threefold.kernel.errors import Damaged, ThreefoldError
from threefold.storage_server.blobs import Blobs, BlobWriter
from threefold.storage_server.catalog import Bucket, Catalog, Listing
from threefold.storage_server.compaction import compact_oldest, is_due
from threefold.storage_server.disk import DiskFull, FolderLock, NoNextFile, free_bytes, make_folder
from threefold.storage_server.entries import INLINE, LOCK_MODES, Entry, Place, encode_delete, encode_lock, encode_put
from threefold.storage_server.journal import Hear, Journal
from threefold.storage_server.records import Kind
from threefold.storage_server.replay import open_journal
from threefold.storage_server.s3 import (
    Condition,
    disk_full,
    locked,
    no_such_bucket,
    no_such_key,
    precondition_failed,
)

_log = logging.getLogger(__name__)
_NOWHERE = Place(0, 0, 0, 0, 0, 0, 0)
_NO_LOCK = ("", 0)
_TICK_S = 1.0


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """``journal_file_bytes``: size of one journal file. ``inline_bytes_max``: larger objects get a file.

    ``min_free_bytes``: below it puts are refused; it is what deletes, compaction and restarts live on.
    """

    journal_file_bytes: int = 16 << 20
    inline_bytes_max: int = 256 << 10
    min_free_bytes: int = 256 << 20


class Engine:
    """Used from one event loop."""

    def __init__(self, data_dir: Path, clock: Clock, options: EngineOptions) -> None:
        self.options = options
        self.data_dir = data_dir
        self._clock = clock
        make_folder(data_dir)
        self._lock = FolderLock(data_dir)
        try:
            folder = data_dir / "journal"
            make_folder(folder)
            replayed = open_journal(folder, file_bytes=options.journal_file_bytes)
            for bucket, key in replayed.damaged:
                _log.error("the object %s/%s is damaged: put it again, or let repair do so", bucket, key)
            self._catalog: Catalog = replayed.catalog
            self.blobs = Blobs.open(data_dir)
            self.blobs.sweep(entry.file_id for entry in self._entries())
            self._measure()
            self.journal = Journal(folder, replayed.state, file_bytes=options.journal_file_bytes, clock=clock)
        except BaseException:
            self._lock.release()
            raise
        self._tender = asyncio.create_task(self._tend())

    def _entries(self) -> list[Entry]:
        return [entry for bucket in self._catalog.buckets.values() for entry in bucket.objects.values()]

    async def close(self) -> None:
        self._tender.cancel()
        await asyncio.gather(self._tender, return_exceptions=True)
        await self.journal.close()
        self._lock.release()

    # buckets

    async def make_bucket(self, name: str) -> bool:
        """False: it stands already."""
        bucket = self._catalog.buckets.get(name)
        made = bucket is None
        if bucket is None:
            place = self._append(Kind.BUCKET, name.encode())
            self._catalog.make_bucket(name, place)
        else:
            place = bucket.place
        await self.journal.durable(place.batch)
        return made

    async def buckets(self) -> list[str]:
        await self.journal.durable(self.journal.newest_batch)
        return list(self._catalog.buckets)

    def bucket(self, name: str) -> Bucket:
        """Raises S3Error: a bucket is never made by using it, so that an emptied disk shows."""
        bucket = self._catalog.buckets.get(name)
        if bucket is None:
            raise no_such_bucket()
        return bucket

    # reading

    async def find(self, bucket: str, key: str) -> Entry:
        """The object's entry, durable. Raises S3Error where there is none, durably."""
        while (entry := self.bucket(bucket).objects.get(key)) is not None:
            if (said := self._said_by(entry)) <= self.journal.durable_batch:
                break
            await self.journal.durable(said)  # and look again: it may have changed or moved
        if entry is None:
            await self.journal.durable(self._catalog.vanished_batch)
            raise no_such_key()
        self.journal.files[entry.place.file].check_linked()
        return entry

    async def read_small(self, entry: Entry) -> bytes:
        """The bytes of an object in the journal, right after `find`. Raises Damaged."""
        file, place = self.journal.files[entry.place.file], entry.place
        body = None if entry.damaged else file.read_cached(place)
        if body is None and not entry.damaged:
            body = await asyncio.to_thread(file.read, place)
        if body is None:
            raise Damaged("the object's bytes are not what was written")
        return body

    def read_file(self, entry: Entry, start: int, end: int) -> AsyncIterator[bytes]:
        return self.blobs.read(entry, start, end)

    async def list(self, bucket: str, *, prefix: str, after: str, delimiter: str, limit: int) -> Listing:
        listing = self.bucket(bucket).list(prefix=prefix, after=after, delimiter=delimiter, limit=limit)
        await self.journal.durable(self.journal.newest_batch)
        return listing

    # writing

    async def admit(self, bucket: str, key: str, condition: Condition, size: int) -> None:
        """Raises S3Error where a put has to be refused. When it returns without waiting, append at once."""
        before = self.bucket(bucket).objects.get(key)
        if not condition.holds(before.etag if before else None):
            await self.journal.durable(before.place.batch if before else self._catalog.vanished_batch)
            raise no_such_key() if before is None else precondition_failed()
        await self._check_lock(before)
        self.check_room(size)

    def check_room(self, size: int) -> None:
        """Raises S3Error where the disk is nearly full."""
        if self._room < size:
            self._measure()
            if self._room < size:
                raise disk_full()

    async def put_small(
        self,
        bucket: str,
        key: str,
        body: bytes,
        *,
        sha256: bytes,
        condition: Condition,
        attributes: bytes,
        lock: tuple[str, int],
    ) -> Entry:
        """Durable when it returns."""
        entry = self._entry(len(body), sha256, INLINE, b"", attributes, lock)
        await self._commit(bucket, key, entry, Kind.PUT, body, condition)
        return entry

    def create_at_once(self, bucket: str, key: str, body: bytes, sha256: bytes, hear: Hear) -> bool:
        """Create a small object where nothing stands; ``hear`` is told when it is durable.

        False: nothing was done, for whatever reason; `put_small` does it or says why not.
        """
        found = self._catalog.buckets.get(bucket)
        if found is None or key in found.objects or self._room < len(body) or self.journal.failure is not None:
            return False
        entry = self._entry(len(body), sha256, INLINE, b"", b"", _NO_LOCK)
        try:
            entry.place = self.journal.append(Kind.PUT, encode_put(bucket, key, entry), body)
        except (ThreefoldError, OSError):
            return False
        self._catalog.put(bucket, key, entry)
        self._room -= entry.size  # until the next measurement
        self.journal.when_durable(entry.place.batch, hear)
        return True

    async def put_file(
        self,
        bucket: str,
        key: str,
        writer: BlobWriter,
        *,
        sha256: bytes,
        condition: Condition,
        attributes: bytes,
        lock: tuple[str, int],
    ) -> Entry:
        """For a file that is fully written. Durable when it returns; the file is abandoned where it raises S3Error."""
        checksums = await self.blobs.act(writer.finish)
        entry = self._entry(writer.size, sha256, writer.file_id, checksums, attributes, lock)
        await self._commit(bucket, key, entry, Kind.PUT_FILE, b"", condition)
        return entry

    async def delete(self, bucket: str, key: str) -> None:
        """Durably not there when it returns; what was not there is fine. Raises S3Error for a locked object."""
        before = self.bucket(bucket).objects.get(key)
        if before is None:
            await self.journal.durable(self._catalog.vanished_batch)
            return
        await self._check_lock(before)
        place = self._append(Kind.DELETE, encode_delete(bucket, key))
        self._catalog.delete(bucket, key, place.batch)
        await self.journal.durable(place.batch)
        await self._discard(before)

    async def lengthen_lock(self, bucket: str, key: str, lock: tuple[str, int]) -> None:
        """Durable when it returns. Raises S3Error for one that would end sooner than the one that holds."""
        entry = await self.find(bucket, key)
        mode, until_ms = LOCK_MODES.index(lock[0]), lock[1]
        if until_ms < entry.locked_until_ms and entry.locked_until_ms > self._clock.now().timestamp() * 1000:
            raise locked()
        place = self._append(Kind.LOCK, encode_lock(bucket, key, mode, until_ms))
        self._catalog.lengthen(entry, mode, until_ms, place.batch)
        await self.journal.durable(place.batch)

    async def _commit(self, bucket: str, key: str, entry: Entry, kind: Kind, body: bytes, condition: Condition) -> None:
        await self.admit(bucket, key, condition, entry.size)
        entry.place = self._append(kind, encode_put(bucket, key, entry), body)
        before = self._catalog.put(bucket, key, entry)
        self._room -= entry.size  # until the next measurement
        await self.journal.durable(entry.place.batch)
        if before is not None:
            await self._discard(before)

    async def _discard(self, before: Entry) -> None:
        """After the journal's word that it is gone. A file that stays is swept at the next start."""
        if before.file_id == INLINE:
            return
        try:
            await self.blobs.remove(before.file_id)
        except OSError as error:
            _log.warning("a large object's file could not be removed: %s", error)

    def _entry(
        self, size: int, sha256: bytes, file_id: bytes, checksums: bytes, attributes: bytes, lock: tuple[str, int]
    ) -> Entry:
        return Entry(
            size=size,
            modified_ms=int(self._clock.now().timestamp() * 1000),
            locked_until_ms=lock[1],
            lock_mode=LOCK_MODES.index(lock[0]),
            sha256=sha256,
            file_id=file_id,
            attributes=attributes,
            checksums=checksums,
            place=_NOWHERE,
        )

    async def _check_lock(self, entry: Entry | None) -> None:
        """Returns without waiting, or raises S3Error once the lock is durable."""
        if entry is not None and entry.locked_until_ms > self._clock.now().timestamp() * 1000:
            await self.journal.durable(self._said_by(entry))
            raise locked()

    def _said_by(self, entry: Entry) -> int:
        """The batch that has to be durable before anything is said of it, or because of it."""
        return max(entry.place.batch, self._catalog.lengthened_batch) if entry.lock_mode else entry.place.batch

    def _append(self, kind: Kind, meta: bytes, body: bytes = b"") -> Place:
        try:
            return self.journal.append(kind, meta, body)
        except DiskFull:
            raise disk_full() from None

    # upkeep

    def _measure(self) -> None:
        self._room = free_bytes(self.data_dir) - self.options.min_free_bytes

    async def _tend(self) -> None:
        """Once a second: is the folder still there, how full is the disk, is there space to win back?"""
        while self.journal.failure is None:
            await self._clock.sleep(_TICK_S)
            try:
                self.journal.check_linked()
                self._measure()
                while is_due(self.journal, self._catalog, file_bytes=self.options.journal_file_bytes):
                    await compact_oldest(self.journal, self._catalog)
            except (NoNextFile, OSError) as error:
                _log.warning("the journal's space could not be won back: %s", error)
            except ThreefoldError as error:
                _log.error("the journal has ended: %s", error)
