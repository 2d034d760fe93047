"""When transactions committed, as their records in the WAL say (PostgreSQL source, access/xact.h).

A commit record has no block references, so its main data follows the record's header after at most an origin and a
top-level transaction id; the first eight bytes of it are the time, in microseconds since 2000. A record that runs over
a page's end is passed over: who asks wants to know about when, and the record before tells.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from threefold.kernel.lsn import Lsn
from threefold.postgres.wal import Record, first_boundary, records

_RM_XACT: Final = 1
_COMMITS: Final = {0x00, 0x30}  # XLOG_XACT_COMMIT, XLOG_XACT_COMMIT_PREPARED, by XLOG_XACT_OPMASK
_OPMASK: Final = 0x70
_HEADER_BYTES: Final = 24
_PAGE_BYTES: Final = 8192
_ORIGIN, _TOPLEVEL, _SHORT, _LONG = 253, 252, 255, 254  # XLR_BLOCK_ID_*
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)


def last_commit(data: bytes | memoryview, *, start: Lsn, segment_size: int) -> datetime | None:
    """Of the last commit in ``data`` that tells, from ``start``, a page's start, on. None: none tells."""
    view, found = memoryview(data), None
    first = first_boundary(view, start=start) if start % _PAGE_BYTES == 0 else None
    if first is None:
        return None
    for record in records(view, start=start, at=first, segment_size=segment_size):
        if record.resource_manager == _RM_XACT and record.info & _OPMASK in _COMMITS:
            found = _time_of(view, start, record) or found
    return found


def _time_of(view: memoryview, start: Lsn, record: Record) -> datetime | None:
    if record.start % _PAGE_BYTES + record.length > _PAGE_BYTES:
        return None
    body = bytes(view[record.start - start :][: record.length])[_HEADER_BYTES:]
    at = 0
    while at < len(body) and body[at] in {_ORIGIN, _TOPLEVEL}:
        at += 3 if body[at] == _ORIGIN else 5
    if at >= len(body) or body[at] not in {_SHORT, _LONG}:
        return None
    at += 2 if body[at] == _SHORT else 5
    micros = int.from_bytes(body[at : at + 8], "little", signed=True)
    return _EPOCH + timedelta(microseconds=micros) if len(body) >= at + 8 else None
