"""The messages inside replication's COPY streams (PostgreSQL documentation, "Streaming Replication Protocol").

    w  start u64, server end u64, sent i64, WAL bytes              XLogData, from the primary
    k  server end u64, sent i64, reply asked u8                    keepalive, from the primary
    r  written u64, flushed u64, applied u64, sent i64, reply u8   standby status update, to the primary
    n  archive name, 0, tablespace location, 0                     base backup: a tar archive begins
    m                                                              the backup manifest begins
    d  bytes                                                       of the archive or manifest that began last
    p  bytes done u64                                              progress

Integers are big-endian; times are microseconds since 2000-01-01 UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from struct import Struct, error
from typing import Final

from threefold.kernel.errors import Damaged
from threefold.kernel.lsn import Lsn

POSTGRES_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)

_WAL = Struct("!cQQq")
_KEEPALIVE = Struct("!cQqB")
_STATUS = Struct("!cQQQqB")
_PROGRESS = Struct("!cQ")
_w, _k, _n, _m, _d, _p = b"wknmdp"


@dataclass(frozen=True, slots=True)
class WalData:
    """WAL bytes [start, start + len(data)); ``sent_at`` by the primary's clock, in microseconds since 2000.

    ``data`` is libpq's own buffer, not copied: a copy of its 128 kB would halve the speed of receiving.
    """

    start: Lsn
    server_end: Lsn
    sent_at: int
    data: bytes | memoryview

    @property
    def end(self) -> Lsn:
        return Lsn(self.start + len(self.data))


@dataclass(frozen=True, slots=True)
class Keepalive:
    """The primary is there; all WAL up to ``server_end`` has been sent. It wants an answer if ``reply_asked``."""

    server_end: Lsn
    sent_at: int
    reply_asked: bool


@dataclass(frozen=True, slots=True)
class ArchiveStarted:
    """A tar archive begins: ``base.tar`` (``tablespace`` is None), or ``{oid}.tar`` of the tablespace there."""

    name: str
    tablespace: str | None


@dataclass(frozen=True, slots=True)
class ArchiveData:
    """``data`` may be libpq's own buffer, not copied, as that of WalData."""

    data: bytes | memoryview


@dataclass(frozen=True, slots=True)
class ManifestStarted:
    pass


@dataclass(frozen=True, slots=True)
class ManifestData:
    data: bytes


@dataclass(frozen=True, slots=True)
class BackupProgress:
    """Bytes of archives that the primary has sent so far."""

    done: int


def microseconds(moment: datetime) -> int:
    """Since 2000-01-01 UTC, as PostgreSQL counts."""
    return (moment - POSTGRES_EPOCH) // timedelta(microseconds=1)


def moment(micros: int) -> datetime:
    return POSTGRES_EPOCH + timedelta(microseconds=micros)


def decode_stream(message: bytes | memoryview) -> WalData | Keepalive:
    """One CopyData message of START_REPLICATION. Raises Damaged."""
    try:
        if message[0] == _w:
            _, start, server_end, sent_at = _WAL.unpack_from(message)
            return WalData(Lsn(start), Lsn(server_end), sent_at, message[_WAL.size :])
        if message[0] == _k:
            _, server_end, sent_at, reply_asked = _KEEPALIVE.unpack(message)
            return Keepalive(Lsn(server_end), sent_at, bool(reply_asked))
    except (error, IndexError):
        raise Damaged("the primary sent a replication message that is cut short") from None
    raise Damaged(f"the primary sent a replication message of unknown kind {bytes(message[:1])!r}")


def encode_status(*, written: int, flushed: int, applied: int, sent_at: int, reply: bool = False) -> bytes:
    """Standby status update. ``flushed`` is what lets commits return: a quorum has every byte below it."""
    return _STATUS.pack(b"r", written, flushed, applied, sent_at, reply)


def decode_backup(
    message: bytes | memoryview, *, in_manifest: bool
) -> ArchiveStarted | ArchiveData | ManifestStarted | ManifestData | BackupProgress:
    """One CopyData message of BASE_BACKUP; ``in_manifest`` once ManifestStarted was seen. Raises Damaged."""
    kind = message[0] if len(message) else None
    if kind == _d:
        return ManifestData(bytes(message[1:])) if in_manifest else ArchiveData(message[1:])
    try:
        if kind == _n:
            name, location, rest = bytes(message[1:]).split(b"\0")
            if rest == b"":
                return ArchiveStarted(name.decode(), location.decode(errors="surrogateescape") or None)
        if kind == _m and len(message) == 1:
            return ManifestStarted()
        if kind == _p:
            return BackupProgress(_PROGRESS.unpack(message)[1])
    except (error, ValueError):
        pass
    raise Damaged(f"the primary sent a base backup message that is none, of kind {bytes(message[:1])!r}")
