"""The write-ahead log's arithmetic and its records: which segment holds a byte, where whole records begin and end.

Why records are read at all: a recovered primary forks at F, the end of the last *whole* record it replayed, while
our log ends at L, the last *byte* that was settled. It continues our log only if no whole record begins in [F, L)
(quorum-log, "Check again"). That is read, not assumed, and read so that doubt says "there is one": a refusal costs
an operator's look, a wrong "none" costs acknowledged changes. Hence a record is judged by its CRC alone, not by
what else PostgreSQL checks of it.

Layout, the same in PostgreSQL 15 to 18 (src/include/access/xlog_internal.h, xlogrecord.h), little-endian:

    page, 8 kB       magic u16, info u16, timeline u32, page LSN u64, remaining u32, 4 unused            24 bytes
    first of segment ... and system identifier u64, segment size u32, page size u32                      40 bytes
    record           length u32, xid u32, previous LSN u64, info u8, resource manager u8, 2 unused,
                     CRC-32C u32 (over the body, then over the 20 bytes before it)                       24 bytes + body

Records begin at multiples of 8; one that does not fit continues behind the next page's header, whose ``remaining``
counts what is left of it. After a switch record (XLOG_SWITCH) the rest of the segment is zeros, page headers
included. A primary that crashed in the middle of a record marks the page behind what was written of it
FIRST_IS_OVERWRITE_CONTRECORD: that record never was.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from struct import Struct
from typing import Final

import google_crc32c

from threefold.kernel.errors import BadInput, Refused
from threefold.kernel.lsn import Lsn

PAGE_BYTES: Final = 8192
SEGMENT_BYTES_DEFAULT: Final = 16 * 2**20
SEGMENT_BYTES_MIN: Final = 2**20
SEGMENT_BYTES_MAX: Final = 2**30

_PAGE = Struct("<HHIQI")
_SHORT_HEADER, _LONG_HEADER = 24, 40
_FIRST_IS_CONTRECORD, _HAS_LONG_HEADER, _FIRST_IS_OVERWRITE = 0x1, 0x2, 0x8
_MAGIC_OF_THIS_ERA = 0xD1  # high byte: 0xD110 is PostgreSQL 15, 0xD118 is 18

_RECORD = Struct("<IIQBBxxI")
_RECORD_HEADER = _RECORD.size  # 24
_CRC_AT = 20
_RM_XLOG, _XLOG_SWITCH = 0, 0x40

_SEGMENT_NAME = re.compile(r"([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})")


# --- segments ------------------------------------------------------------------------------------------------------


def check_segment_size(size: int) -> int:
    """A power of two from 1 MB to 1 GB, as initdb --wal-segsize demands. Raises BadInput."""
    if not SEGMENT_BYTES_MIN <= size <= SEGMENT_BYTES_MAX or size & (size - 1):
        raise BadInput(f"not a WAL segment size: {size} bytes", hint="a power of two from 1 MB to 1 GB")
    return size


def parse_size(setting: str) -> int:
    """Bytes of a setting as SHOW gives it (``16MB``). Raises BadInput."""
    match = re.fullmatch(r"(\d+)(B|kB|MB|GB)", setting)
    if match is None:
        raise BadInput(f"not a size: {setting!r}")
    return int(match[1]) * {"B": 1, "kB": 1024, "MB": 1024**2, "GB": 1024**3}[match[2]]


def segment_no(lsn: int, size: int) -> int:
    """The segment that holds the byte at ``lsn``; an LSN exactly at a segment's start belongs to the next one."""
    return lsn // size


def segment_start(segno: int, size: int) -> Lsn:
    return Lsn(segno * size)


def segment_name(timeline: int, segno: int, size: int) -> str:
    """PostgreSQL's file name: timeline, then the segment number split at 4 GB, 8 hexadecimal digits each."""
    high, low = divmod(segno, 2**32 // size)
    return f"{timeline:08X}{high:08X}{low:08X}"


def parse_segment_name(name: str, size: int) -> tuple[int, int]:
    """(timeline, segment number) of a file name. Raises BadInput for what is not a whole segment's name."""
    match = _SEGMENT_NAME.fullmatch(name)
    per_name = 2**32 // size
    if match is None or int(match[3], 16) >= per_name:
        raise BadInput(f"not a WAL segment's name: {name!r}", hint="24 hexadecimal digits, for the segment size in use")
    return int(match[1], 16), int(match[2], 16) * per_name + int(match[3], 16)


# --- records -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Record:
    """A whole record.

    ``end`` is where the next one begins, or the page boundary before it, as PostgreSQL counts: a recovery that
    replays this record last forks there.
    """

    start: Lsn
    end: Lsn
    previous: Lsn
    length: int
    resource_manager: int
    info: int


def records(data: bytes | memoryview, *, start: Lsn, at: Lsn, segment_size: int) -> Iterator[Record]:
    """The whole records of ``data`` (WAL bytes from ``start`` on), beginning with the one at ``at``.

    They end before the first that is not whole: cut off by the end of ``data``, zeros, or a wrong CRC-32C.

    ``at`` must be a record's start, or the page boundary before it (the end of the record before).
    """
    view = memoryview(data)
    position = int(at)
    while isinstance(found := _record_at(view, start, position, segment_size), Record):
        yield found
        position = int(found.end)


def first_whole_record_after(data: bytes | memoryview, *, start: Lsn, at: Lsn, segment_size: int) -> Lsn | None:
    """Where the first whole record at or after ``at`` begins, in ``data``: the log's bytes from ``start`` to its end.

    None: a primary that forked at ``at`` has replayed all there is, and continues the log. Raises Refused where
    ``at`` is no place in this log at which a record ends: then that primary replayed other bytes than these.

    ``start`` lies at or before the page of the byte below ``at`` (a segment's start does); at the log's very
    first byte there is nothing to compare.
    """
    view = memoryview(data)
    if start < at and not _ends_record(view, start, at, segment_size):
        raise _other_history(at)
    found = _record_at(view, start, at, segment_size)
    if found is _Not.VALID:
        raise _other_history(at)
    return found.start if isinstance(found, Record) else None


def last_whole_record_end(
    data: bytes | memoryview, *, start: Lsn, segment_size: int, at: Lsn | None = None
) -> Lsn | None:
    """The end of the last whole record: where a recovery from these bytes forks. None where there is no record.

    Without ``at`` the first record's boundary is found from the page headers; ``start`` is then a page's start.
    """
    first = first_boundary(data, start=start) if at is None else at
    end = None
    if first is not None:
        for record in records(data, start=start, at=first, segment_size=segment_size):
            end = record.end
    return end


def first_boundary(data: bytes | memoryview, *, start: Lsn) -> Lsn | None:
    """Where the first record that begins in ``data`` begins; ``start``, where ``data`` begins, is a page's start.

    None: not within these bytes (a long record runs through them), or they are not WAL of this place.
    """
    if start % PAGE_BYTES:
        raise BadInput(f"not a WAL page's start: {start}")
    past = _past_continuation(memoryview(data), start, start)
    return None if past is None or past > start + len(data) else Lsn(past)


@dataclass(frozen=True, slots=True)
class _Page:
    address: int
    header: int
    remaining: int
    continued: bool
    overwrites: bool


def _page_at(view: memoryview, offset: int) -> _Page | None:
    """The page header at ``offset``; None where the bytes end before its end, or are none."""
    if offset + _SHORT_HEADER > len(view):
        return None
    magic, info, _, address, remaining = _PAGE.unpack_from(view, offset)
    if magic >> 8 != _MAGIC_OF_THIS_ERA:
        return None
    return _Page(
        address=address,
        header=_LONG_HEADER if info & _HAS_LONG_HEADER else _SHORT_HEADER,
        remaining=remaining,
        continued=bool(info & _FIRST_IS_CONTRECORD),
        overwrites=bool(info & _FIRST_IS_OVERWRITE),
    )


def _past_continuation(view: memoryview, start: int, position: int) -> int | None:
    """From a page's start past what is continued there: the first record's start, or the page boundary before it."""
    while True:
        page = _page_at(view, position - start)
        if page is None or page.address != position:
            return None
        if not page.continued:
            return position + page.header
        if page.remaining <= PAGE_BYTES - page.header:
            return position + page.header + _align(page.remaining)
        position += PAGE_BYTES


class _Not(Enum):
    """Why there is no whole record."""

    THERE = "the bytes end before it does"
    WRITTEN = "zeros"
    VALID = "its CRC-32C or a page's header is wrong"


def _record_at(view: memoryview, start: int, position: int, segment_size: int) -> Record | _Not:
    """The whole record that begins at ``position``, or behind the page header there."""
    if position < start:
        raise BadInput(f"the WAL at hand begins at {Lsn(start)}, after {Lsn(position)}", hint="read an earlier segment")
    if position % PAGE_BYTES == 0:
        if position - start + _SHORT_HEADER > len(view):
            return _Not.THERE
        page = _page_at(view, position - start)
        if page is None or page.address != position:
            return _Not.VALID if any(view[position - start :][:PAGE_BYTES]) else _Not.WRITTEN
        if page.continued:
            return _Not.VALID
        position += page.header
    offset = position - start
    if offset + 4 > len(view):
        return _Not.THERE
    length = int.from_bytes(view[offset : offset + 4], "little")
    if length == 0:
        return _Not.WRITTEN
    if length < _RECORD_HEADER:
        return _Not.VALID
    room = PAGE_BYTES - position % PAGE_BYTES
    raw, end = bytes(view[offset : offset + min(length, room)]), position + _align(length)
    if length > room:
        pieces, left, end = [raw], length - room, position + room
        while left:
            if end - start + _SHORT_HEADER > len(view):
                return _Not.THERE
            page = _page_at(view, end - start)
            if page is not None and page.address == end and page.overwrites:
                return _record_at(view, start, end, segment_size)
            if page is None or page.address != end or not page.continued or page.remaining != left:
                return _Not.VALID if any(view[end - start :][:PAGE_BYTES]) else _Not.WRITTEN
            body, taken = end - start + page.header, min(left, PAGE_BYTES - page.header)
            pieces.append(bytes(view[body : body + taken]))
            left -= taken
            end += PAGE_BYTES if left else page.header + _align(taken)
        raw = b"".join(pieces)
    if len(raw) < length:
        return _Not.THERE
    _, _, previous, info, resource_manager, crc = _RECORD.unpack_from(raw)
    if google_crc32c.extend(google_crc32c.value(raw[_RECORD_HEADER:]), raw[:_CRC_AT]) != crc:
        return _Not.VALID
    if resource_manager == _RM_XLOG and info & 0xF0 == _XLOG_SWITCH:
        end += -end % segment_size
    return Record(Lsn(position), Lsn(end), Lsn(previous), length, resource_manager, info)


def _ends_record(view: memoryview, start: int, at: int, segment_size: int) -> bool:
    """Whether a record ends at ``at``: judged from the page that holds the byte below it.

    The bytes may end a little before ``at``: without the padding of the last record, or what a switch leaves empty.
    """
    last = min(at, start + len(view))
    if at % segment_size == 0:
        floor = max(start, at - segment_size)
        last = floor + len(bytes(view[floor - start : last - start]).rstrip(b"\0"))
    page = (last - 1) // PAGE_BYTES * PAGE_BYTES
    if page < start:
        raise BadInput(f"the WAL at hand begins at {Lsn(start)}, too near {Lsn(at)}", hint="read the whole segment")
    end = _past_continuation(view, start, page)
    if end is None or end > at:
        return False
    for record in records(view[: at - start], start=Lsn(start), at=Lsn(end), segment_size=segment_size):
        end = int(record.end)
    after_switch = at % segment_size == 0 and not any(view[end - start : at - start])
    return end == at or after_switch


def _other_history(at: Lsn) -> Refused:
    return Refused(
        f"no record of the log ends at {at}, where the primary's timeline begins: it holds another history",
        hint="protect it under a name of its own, or recover the log into a new primary",
    )


def _align(length: int) -> int:
    return (length + 7) & ~7
