"""From the journal's files back to the catalog, and to a journal that can go on.

1. The newest unbroken range of file numbers counts. Older stragglers are leftovers of a finished compaction, or
   else a file is missing: then start is refused.
2. Every file but the last with records ends with END, and nothing of it may be torn. The last one may end in a torn
   batch, which is wiped (records.py says why that loses nothing). Up to two unused files follow it: the next one, and
   the spare after that, which may have its name before this file's END is on the disk.
3. Before anything is served, the last batch is **written once more** and synced, with zeros after it. It may have
   come from the page cache alone: after kill -9 (never synced), or after an fdatasync that failed, where the kernel
   keeps the pages, calls them clean, and a second fdatasync says nothing (fsyncgate).
4. Records are applied in their order. A damaged object stays in the catalog: reading it is an error, never a 404.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from threefold.kernel.errors import Damaged
from threefold.storage_server.catalog import Catalog
from threefold.storage_server.disk import sync_folder, write_all
from threefold.storage_server.entries import Place, decode_delete, decode_lock, decode_put
from threefold.storage_server.journal import JournalState
from threefold.storage_server.journal_file import JournalFile, path_of
from threefold.storage_server.records import (
    PAGE,
    SALT_BYTES,
    FileHeader,
    Found,
    Kind,
    Scan,
    decode_file_header,
    scan,
)

_UNUSED_MAX = 2
_HINT = "this copy lost acknowledged records: set the folder aside, start on an empty one, and let repair fill it in"


@dataclass(slots=True)
class Replayed:
    """What `open_journal` found."""

    catalog: Catalog
    state: JournalState
    damaged: list[tuple[str, str]]  # bucket and key of objects whose bytes are lost


def open_journal(folder: Path, *, file_bytes: int) -> Replayed:
    """Raises Damaged where acknowledged records are missing and nobody can say which."""
    for draft in folder.glob("*.new"):
        draft.unlink()
    numbers = sorted(int(path.stem, 16) for path in folder.glob("*.journal"))
    if not numbers:
        JournalFile.make(folder, FileHeader(1, os.urandom(SALT_BYTES), 1), file_bytes)
        numbers = [1]
    lowest = numbers[-1]
    while lowest - 1 in numbers:
        lowest -= 1
    files = {number: _open(folder, number) for number in range(lowest, numbers[-1] + 1)}

    replayed = _replay(files)
    if lowest > replayed.state.first:
        raise Damaged(f"journal file {path_of(folder, lowest - 1)} is missing", hint=_HINT)
    for number in [number for number in numbers if number < replayed.state.first]:
        path_of(folder, number).unlink()
        replayed.state.files.pop(number, None)
    sync_folder(folder)
    return replayed


def _open(folder: Path, number: int) -> JournalFile:
    path = path_of(folder, number)
    with path.open("rb") as file:
        header = decode_file_header(file.read(PAGE))
    if header is None or header.number != number:
        raise Damaged(f"the header of journal file {path} is not readable", hint=_HINT)
    return JournalFile(path, header)


def _replay(files: dict[int, JournalFile]) -> Replayed:
    catalog = Catalog()
    damaged: dict[tuple[str, str], None] = {}
    first = max(file.header.first for file in files.values())
    newest = 0
    written = max(files)
    while written - 1 in files and _unused(files[written]):
        written -= 1
    if max(files) - written > _UNUSED_MAX:
        raise Damaged(f"journal file {files[written + 1].path} is empty, and others follow it", hint=_HINT)
    ended = False
    for number in range(min(files), written + 1):
        file = files[number]
        data = file.path.read_bytes()
        result = scan(data, file.header.salt, continued=number < written)
        ended = bool(result.records) and result.records[-1].kind == Kind.END
        if result.lost or (number < written and not ended):
            at = result.lost[0].position if result.lost else result.end
            raise Damaged(f"journal file {file.path} is damaged at byte {at}", hint=_HINT)
        for record in result.records:
            newest = record.batch
            if record.kind == Kind.FIRST:
                first = max(first, int.from_bytes(record.meta, "little"))
            else:
                _apply(catalog, number, record, damaged)
        if number == written:
            _settle_end(file, data, result)
    if ended and written + 1 not in files:
        raise Damaged(f"journal file {path_of(files[written].path.parent, written + 1)} is missing", hint=_HINT)
    active = written + 1 if ended else written
    state = JournalState(
        files={number: file for number, file in files.items() if number <= active},
        spare=files.get(active + 1),
        end=PAGE if ended else result.end,
        batch=newest,
        first=first,
    )
    return Replayed(catalog, state, list(damaged))


def _unused(file: JournalFile) -> bool:
    result = scan(file.path.read_bytes(), file.header.salt, continued=False)
    return not result.records and not result.torn


def _settle_end(file: JournalFile, data: bytes, result: Scan) -> None:
    start = result.records[-1].batch_start if result.records else PAGE
    written = len(data.rstrip(b"\0")) if result.torn else result.end
    write_all(file.fd, data[start : result.end] + bytes(max(0, written - result.end)), start)
    os.fdatasync(file.fd)


def _apply(catalog: Catalog, number: int, record: Found, damaged: dict[tuple[str, str], None]) -> None:
    place = Place(
        file=number,
        position=record.position,
        body_at=record.body_at,
        body_bytes=record.body_bytes,
        body_crc=record.body_crc,
        batch=record.batch,
        record_bytes=record.end - record.position,
    )
    if record.kind == Kind.BUCKET:
        catalog.make_bucket(record.meta.decode(), place)
    elif record.kind in {Kind.PUT, Kind.PUT_FILE, Kind.PUT_DAMAGED}:
        whole = record.whole and record.kind != Kind.PUT_DAMAGED
        bucket, key, entry = decode_put(record.meta, place, damaged=not whole)
        _expect_bucket(catalog, bucket)
        catalog.put(bucket, key, entry)
        damaged.pop((bucket, key), None)
        if not whole:
            damaged[bucket, key] = None
    elif record.kind == Kind.DELETE:
        bucket, key = decode_delete(record.meta)
        _expect_bucket(catalog, bucket)
        catalog.delete(bucket, key, 0)
        damaged.pop((bucket, key), None)
    elif record.kind == Kind.LOCK:
        bucket, key, mode, until_ms = decode_lock(record.meta)
        entry_there = catalog.entry(bucket, key)
        if entry_there is not None:
            entry_there.lengthen(mode, until_ms)


def _expect_bucket(catalog: Catalog, bucket: str) -> None:
    """Compaction may have moved the bucket's own record behind those of its objects."""
    if bucket not in catalog.buckets:
        catalog.make_bucket(bucket, Place(0, 0, 0, 0, 0, 0, 0))
