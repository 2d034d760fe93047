"""Gives the journal's space back: the oldest file is emptied by writing what lives in it again, then removed.

Always the oldest, whatever lives in it (Rosenblum and Ousterhout, "The Design and Implementation of a
Log-Structured File System", SOSP 1991; FIFO cleaning). It runs only while more than half of the journal is dead, so
each byte is rewritten about once; and because everything older is gone, a delete record can be dropped with its
file instead of being carried on for ever.

A crash is harmless at every point: a record that was written twice says the same thing twice; the file counts until
FIRST is durable, and only then is it removed.
"""

from __future__ import annotations

import asyncio
import logging

from threefold.storage_server.catalog import Catalog
from threefold.storage_server.entries import Entry, Place, decode_put
from threefold.storage_server.journal import Journal
from threefold.storage_server.journal_file import JournalFile
from threefold.storage_server.records import Found, Kind, scan

_log = logging.getLogger(__name__)
_STEP_BYTES = 256 << 10  # rewritten between two waits, so that clients' batches stay small
_FILES_KEPT = 4


def is_due(journal: Journal, catalog: Catalog, *, file_bytes: int) -> bool:
    """More than half of the journal is dead, and it is worth a file."""
    return len(journal.files) > 1 and journal.bytes_used > 2 * catalog.live_bytes + _FILES_KEPT * file_bytes


async def compact_oldest(journal: Journal, catalog: Catalog) -> None:
    """Raises what ended the journal, or DiskFull; both leave everything as true as before."""
    number = min(journal.files)
    file = journal.files[number]
    records = await asyncio.to_thread(_records, file)
    written = 0
    for record in records:
        written += _move(journal, catalog, file, record)
        if written >= _STEP_BYTES:
            await journal.durable(journal.newest_batch)
            written = 0
    await journal.durable(journal.newest_batch)
    await journal.drop_before(number + 1)


def _records(file: JournalFile) -> tuple[Found, ...]:
    return scan(file.path.read_bytes(), file.header.salt, continued=True).records


def _move(journal: Journal, catalog: Catalog, file: JournalFile, record: Found) -> int:
    """Bytes written: none where the record is dead."""
    number = file.header.number
    if record.kind == Kind.BUCKET:
        bucket = catalog.buckets[record.meta.decode()]
        if (bucket.place.file, bucket.place.position) != (number, record.position):
            return 0
        catalog.make_bucket(record.meta.decode(), journal.append(Kind.BUCKET, record.meta))
        return bucket.place.record_bytes
    if record.kind not in {Kind.PUT, Kind.PUT_FILE, Kind.PUT_DAMAGED}:
        return 0
    bucket_name, key, _ = decode_put(record.meta, Place(0, 0, 0, 0, 0, 0, 0), damaged=False)
    entry = catalog.entry(bucket_name, key)
    if entry is None or (entry.place.file, entry.place.position) != (number, record.position):
        return 0
    kind, body = record.kind, b""
    if kind == Kind.PUT:
        kind, body = _body(file, entry, bucket_name, key)
    catalog.move(entry, journal.append(Kind(kind), record.meta, body))
    return entry.place.record_bytes


def _body(file: JournalFile, entry: Entry, bucket: str, key: str) -> tuple[Kind, bytes]:
    body = file.read(entry.place)
    if body is not None and not entry.damaged:
        return Kind.PUT, body
    # Its checksum would be computed anew and the damage be hidden: from now on the record itself says it.
    _log.error("the object %s/%s is damaged", bucket, key)
    entry.damaged = True
    return Kind.PUT_DAMAGED, b""
