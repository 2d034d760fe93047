"""The bytes of a journal file, and the rule that tells a torn tail from damage.

A journal file has a fixed size and is zero-filled before its first use, so that an append changes no metadata and
one fdatasync is one disk write. All integers little-endian.

    0      file header, in a page of its own
             8s magic "3FJOURN1" | u32 CRC-32C of the rest | u64 file number | 8s salt | u64 first
           ``first``: the oldest journal file that still mattered when this one was made
    4096   records, each at a multiple of 8, then zeros

    record   8s salt             random per file: bytes left over from an earlier life are never taken for records
             u32 head CRC-32C    of the header after this field, and meta
             u32 body CRC-32C
             u64 batch           the group commit that it went out with; rises by one with each fdatasync
             u32 position        its own place in the file (a misdirected write is not a record)
             u32 batch start     where the first record of its batch stands in this file
             u32 body length | u32 meta length | u8 kind | 7 zero bytes
             meta, body, zeros up to a multiple of 8

**Invariant: batch n+1 is written only after the fdatasync of batch n has returned, and nothing of a batch is
acknowledged before that.** So only the last batch can be torn by a crash, and nobody was told that it is safe: it
is cut off at its first bad byte. Damage in any earlier batch hits what was acknowledged: it is never cut, but
reported, per object where the head is whole (it has a CRC of its own), as refusal to start where it is not.
``batch start`` settles the one doubtful case: bad bytes before a whole record of the last batch.

Compare PostgreSQL's xl_prev and xl_crc (access/transam/README), LevelDB's log_format.md, and Pillai et al., "All
File Systems Are Not Created Equal" (OSDI 2014).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import google_crc32c

PAGE = 4096
_FILE_HEADER = struct.Struct("<8sIQ8sQ")
_HEADER = struct.Struct("<8sIIQIIIIB7x")
_MAGIC = b"3FJOURN1"
HEADER_BYTES = _HEADER.size
SALT_BYTES = 8


class Kind(IntEnum):
    """What a record says. The numbers are on disk for good."""

    BUCKET = 1
    PUT = 2  # the object is the record's body
    PUT_FILE = 3  # the object is a file of its own
    PUT_DAMAGED = 4  # the object was lost to the disk; its name, size and lock live on
    DELETE = 5
    FIRST = 6  # journal files below this number are done with
    END = 7  # the journal goes on in the next file
    CLOSED = 8  # the server stopped in good order: a batch of its own, so that those before it cannot be torn
    LOCK = 9  # the retention lock of an object, longer than before


@dataclass(frozen=True, slots=True)
class FileHeader:
    number: int
    salt: bytes
    first: int


@dataclass(frozen=True, slots=True)
class Found:
    """A record whose head and meta are whole; ``whole`` says the same of its body."""

    kind: int
    position: int
    batch: int
    batch_start: int
    meta: bytes
    body_at: int
    body_bytes: int
    body_crc: int
    end: int
    whole: bool


@dataclass(frozen=True, slots=True)
class Gap:
    """Bytes that are no record, though something was written there."""

    position: int
    end: int


@dataclass(frozen=True, slots=True)
class Scan:
    """One file, judged: what counts, where the next record goes, and what is wrong with it."""

    records: tuple[Found, ...]
    end: int
    torn: bool  # bytes of the unacknowledged last batch stand at ``end`` and must be wiped
    lost: tuple[Gap, ...]  # acknowledged records are gone, and nobody knows which


def encode_file_header(header: FileHeader) -> bytes:
    """A whole page."""
    packed = _FILE_HEADER.pack(_MAGIC, 0, header.number, header.salt, header.first)
    crc = google_crc32c.value(packed[12:])
    return _FILE_HEADER.pack(_MAGIC, crc, header.number, header.salt, header.first).ljust(PAGE, b"\0")


def decode_file_header(page: bytes) -> FileHeader | None:
    if len(page) < _FILE_HEADER.size:
        return None
    magic, crc, number, salt, first = _FILE_HEADER.unpack_from(page)
    if magic != _MAGIC or google_crc32c.value(page[12 : _FILE_HEADER.size]) != crc:
        return None
    return FileHeader(number, salt, first)


def record_bytes(meta_bytes: int, body_bytes: int) -> int:
    """What a record takes in the file."""
    return (HEADER_BYTES + meta_bytes + body_bytes + 7) & ~7


def encode(salt: bytes, kind: int, batch: int, position: int, batch_start: int, meta: bytes, body: bytes) -> bytes:
    """Header and meta; the body follows it, then zeros up to ``record_bytes``."""
    head = _HEADER.pack(salt, 0, google_crc32c.value(body), batch, position, batch_start, len(body), len(meta), kind)
    crc: int = google_crc32c.value(head[12:] + meta)
    return head[:8] + crc.to_bytes(4, "little") + head[12:] + meta


def decode_at(data: bytes, salt: bytes, position: int) -> Found | None:
    """The record at ``position``, or None where its head or meta is not whole."""
    if position + HEADER_BYTES > len(data):
        return None
    mark, head_crc, body_crc, batch, own, start, body_bytes, meta_bytes, kind = _HEADER.unpack_from(data, position)
    meta_at = position + HEADER_BYTES
    end = position + record_bytes(meta_bytes, body_bytes)
    if mark != salt or own != position or end > len(data):
        return None
    if google_crc32c.value(data[position + 12 : meta_at + meta_bytes]) != head_crc:
        return None
    body_at = meta_at + meta_bytes
    whole = google_crc32c.value(data[body_at : body_at + body_bytes]) == body_crc
    return Found(kind, position, batch, start, data[meta_at:body_at], body_at, body_bytes, body_crc, end, whole)


def _walk(data: bytes, salt: bytes) -> Iterator[Found | Gap]:
    position = PAGE
    while position < len(data):
        found = decode_at(data, salt, position)
        if found is not None:
            yield found
            position = found.end
            continue
        if data[position:] == bytes(len(data) - position):
            return
        after = data.find(salt, position + 1)
        while after >= 0 and decode_at(data, salt, after) is None:
            after = data.find(salt, after + 1)
        gap_end = after if after >= 0 else len(data)
        yield Gap(position, gap_end)
        position = gap_end


def scan(data: bytes, salt: bytes, *, continued: bool) -> Scan:
    """Judge a whole file. ``continued``: later files hold records, so nothing in this one can be a torn tail."""
    parts = list(_walk(data, salt))
    found = [part for part in parts if isinstance(part, Found)]
    newest = max((record.batch for record in found), default=0)
    last_start = max((record.batch_start for record in found if record.batch == newest), default=PAGE)
    records: list[Found] = []
    lost: list[Gap] = []
    end = PAGE
    for index, part in enumerate(parts):
        if isinstance(part, Found):
            if not part.whole and part.batch == newest and not continued:
                return Scan(tuple(records), end, torn=True, lost=tuple(lost))
            records.append(part)
            end = part.end
        elif not continued and (part.position >= last_start or index == len(parts) - 1):
            return Scan(tuple(records), end, torn=True, lost=tuple(lost))
        else:
            lost.append(part)
    return Scan(tuple(records), end, torn=False, lost=tuple(lost))
