"""What the server knows of one object, and how a journal record's meta says it.

Meta of PUT, PUT_FILE and PUT_DAMAGED, little-endian:

    u64 size | u64 modified, ms | u64 locked until, ms (0: not locked) | 32s SHA-256 of the object
    16s file id (zeros: the object is the record's body) | u8 lock mode | u8 bucket length
    u16 key length | u16 attributes length | u32 number of block checksums
    bucket, key (UTF-8), attributes (JSON: headers to give back), block checksums (u32 CRC-32C per MiB)

Meta of BUCKET: the name. Of DELETE: u8 bucket length, bucket, key. Of FIRST: u64. Of LOCK: u64 locked until, ms,
u8 lock mode, then as DELETE.

The ETag is the SHA-256 in hexadecimal: it is computed for the signature anyway, and with 64 digits no client takes
it for an MD5.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_PUT = struct.Struct("<QQQ32s16sBBHHI")
_LOCK = struct.Struct("<QB")
BLOCK_BYTES = 1 << 20
INLINE = bytes(16)
LOCK_MODES = ("", "GOVERNANCE", "COMPLIANCE")


@dataclass(slots=True)
class Place:
    """Where a record's body stands; ``batch`` is the group commit that made it durable."""

    file: int
    position: int
    body_at: int
    body_bytes: int
    body_crc: int
    batch: int
    record_bytes: int


@dataclass(slots=True)
class Entry:
    """One object. In the catalog only its place changes, as compaction moves its record, and its lock (`lengthen`)."""

    size: int
    modified_ms: int
    locked_until_ms: int
    lock_mode: int
    sha256: bytes
    file_id: bytes
    attributes: bytes
    checksums: bytes
    place: Place
    damaged: bool = False

    def lengthen(self, mode: int, until_ms: int) -> None:
        self.lock_mode, self.locked_until_ms = max(self.lock_mode, mode), max(self.locked_until_ms, until_ms)

    @property
    def etag(self) -> str:
        return self.sha256.hex()


def encode_put(bucket: str, key: str, entry: Entry) -> bytes:
    """The meta; ``entry.place`` is no part of it."""
    bucket_name, key_name = bucket.encode(), key.encode()
    return (
        _PUT.pack(
            entry.size,
            entry.modified_ms,
            entry.locked_until_ms,
            entry.sha256,
            entry.file_id,
            entry.lock_mode,
            len(bucket_name),
            len(key_name),
            len(entry.attributes),
            len(entry.checksums) // 4,
        )
        + bucket_name
        + key_name
        + entry.attributes
        + entry.checksums
    )


def decode_put(meta: bytes, place: Place, *, damaged: bool) -> tuple[str, str, Entry]:
    """Bucket, key, entry."""
    size, modified, until, sha256, file_id, mode, bucket_len, key_len, attr_len, blocks = _PUT.unpack_from(meta)
    key_at = _PUT.size + bucket_len
    attr_at = key_at + key_len
    sums_at = attr_at + attr_len
    entry = Entry(
        size=size,
        modified_ms=modified,
        locked_until_ms=until,
        lock_mode=mode,
        sha256=sha256,
        file_id=file_id,
        attributes=meta[attr_at:sums_at],
        checksums=meta[sums_at : sums_at + 4 * blocks],
        place=place,
        damaged=damaged,
    )
    return meta[_PUT.size : key_at].decode(), meta[key_at:attr_at].decode(), entry


def encode_delete(bucket: str, key: str) -> bytes:
    name = bucket.encode()
    return bytes([len(name)]) + name + key.encode()


def decode_delete(meta: bytes) -> tuple[str, str]:
    key_at = 1 + meta[0]
    return meta[1:key_at].decode(), meta[key_at:].decode()


def encode_lock(bucket: str, key: str, mode: int, until_ms: int) -> bytes:
    return _LOCK.pack(until_ms, mode) + encode_delete(bucket, key)


def decode_lock(meta: bytes) -> tuple[str, str, int, int]:
    """Bucket, key, mode, until when (ms)."""
    until_ms, mode = _LOCK.unpack_from(meta)
    return (*decode_delete(meta[_LOCK.size :]), mode, until_ms)
