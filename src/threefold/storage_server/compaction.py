"""Gives the journal's space back: the oldest file is emptied by writing what lives in it again, then removed.

Always the oldest, whatever lives in it (Rosenblum and Ousterhout, "The Design and Implementation of a
Log-Structured File System", SOSP 1991; FIFO cleaning). It runs only while more than half of the journal is dead, so
each byte is rewritten about once; and because everything older is gone, a delete record can be dropped with its
file instead of being carried on for ever. So can a lock's: its object's own record is in the same file or was written
again since, with the lock.

What lives in a file is what the catalog places there; the file only says which names to look up. Where it does not
say so any more (damaged since the start), every name is looked up: an object must not vanish with its record.

A crash is harmless at every point: a record that was written twice says the same thing twice; the file counts until
FIRST is durable, and only then is it removed.
"""

from __future__ import annotations

import asyncio
import logging

from threefold.storage_server.catalog import Catalog
from threefold.storage_server.entries import INLINE, Entry, Place, decode_put, encode_put
from threefold.storage_server.journal import Journal
from threefold.storage_server.journal_file import JournalFile
from threefold.storage_server.records import Kind, scan

_log = logging.getLogger(__name__)
_STEP_BYTES = 256 << 10  # rewritten between two waits, so that clients' batches stay small
_FILES_KEPT = 4


def is_due(journal: Journal, catalog: Catalog, *, file_bytes: int) -> bool:
    """More than half of the journal is dead, and it is worth a file."""
    return len(journal.files) > 1 and journal.bytes_used > 2 * catalog.live_bytes + _FILES_KEPT * file_bytes


async def compact_oldest(journal: Journal, catalog: Catalog) -> None:
    """Raises what ended the journal, or NoNextFile; both leave everything as true as before."""
    number = min(journal.files)
    file = journal.files[number]
    names = await asyncio.to_thread(_names, file)
    if names is None:
        _log.error("journal file %s was damaged while the server ran: what lives in it is written again", file.path)
        names = _names_by_memory(catalog, number)
    written = 0
    for bucket, key in names:
        written += _move(journal, catalog, file, bucket, key)
        if written >= _STEP_BYTES:
            await journal.durable(journal.newest_batch)
            written = 0
    await journal.durable(journal.newest_batch)
    await journal.drop_before(number + 1)


def _names(file: JournalFile) -> list[tuple[str, str]] | None:
    """Bucket and key of all that was ever put into the file; no key: the bucket itself. None: some do not read."""
    result = scan(file.path.read_bytes(), file.header.salt, continued=True)
    if result.lost:
        return None
    names = []
    for record in result.records:
        if record.kind == Kind.BUCKET:
            names.append((record.meta.decode(), ""))
        elif record.kind in {Kind.PUT, Kind.PUT_FILE, Kind.PUT_DAMAGED}:
            names.append(decode_put(record.meta, Place(0, 0, 0, 0, 0, 0, 0), damaged=False)[:2])
    return names


def _names_by_memory(catalog: Catalog, number: int) -> list[tuple[str, str]]:
    """What lives in a file, by looking at everything there is."""
    names = [(name, "") for name in catalog.buckets]
    for name, bucket in catalog.buckets.items():
        names += [(name, key) for key, entry in bucket.objects.items() if entry.place.file == number]
    return names


def _move(journal: Journal, catalog: Catalog, file: JournalFile, bucket: str, key: str) -> int:
    """Bytes written: none where it does not live in this file."""
    number = file.header.number
    if not key:
        if catalog.buckets[bucket].place.file != number:
            return 0
        place = journal.append(Kind.BUCKET, bucket.encode())
        catalog.make_bucket(bucket, place)
        return place.record_bytes
    entry = catalog.entry(bucket, key)
    if entry is None or entry.place.file != number:
        return 0
    kind, body = (Kind.PUT_FILE, b"") if entry.file_id != INLINE else _body(file, entry, bucket, key)
    catalog.move(entry, journal.append(kind, encode_put(bucket, key, entry), body))
    return entry.place.record_bytes


def _body(file: JournalFile, entry: Entry, bucket: str, key: str) -> tuple[Kind, bytes]:
    body = file.read(entry.place)
    if body is not None and not entry.damaged:
        return Kind.PUT, body
    # Its checksum would be computed anew and the damage be hidden: from now on the record itself says it.
    _log.error("the object %s/%s is damaged", bucket, key)
    entry.damaged = True
    return Kind.PUT_DAMAGED, b""
