"""A pack: many chunks in one immutable object, each encrypted for itself, with an index at the end.

     0   4  magic ``3FPK``
     4   1  version, 1
     5   3  zero
     8   .  chunks: zstd, then sealed (kernel/keys.py: magic, key id, AES-256-GCM); the chunk's name is authenticated
     .   .  index: sealed, one record a chunk: name (32), offset (4), stored bytes (4), plain bytes (4)
   -16   4  magic ``3FPI``
   -12   8  where the index begins
    -4   4  zero
Numbers are big-endian.

Nonces: each pack has a key of its own (HKDF over the master key and the pack's id), and within a pack the nonce is
the offset at which the ciphertext lies. A pack id holds 96 random bits and belongs to one attempt to write one pack,
whose bytes are fixed before the first request leaves: no key meets the same nonce with a second plaintext.

A chunk is read by range alone (a snapshot's manifest holds pack, offset and length). The index serves who has no
manifest: the next snapshot after one that was interrupted, and the scrubber.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Final, NamedTuple

import zstandard

from threefold.kernel.errors import Damaged
from threefold.kernel.keys import NONCE_BYTES, SEALED_MORE, Keyring, RingSealer
from threefold.vault.chunker import CHUNK_BYTES, CHUNK_ID_BYTES

# Large enough that a put's fixed cost vanishes, small enough that four of them are little memory.
PACK_BYTES: Final = 16 * 1024 * 1024
CHUNKS_MAX: Final = 16 * 1024  # keeps the index below INDEX_READ_BYTES
INDEX_READ_BYTES: Final = 1024 * 1024
ZSTD_LEVEL: Final = 1  # level 3 gains some 3 % on PostgreSQL's pages and costs half the speed

_HEADER: Final = b"3FPK\x01\0\0\0"
_TRAILER: Final = struct.Struct(">4sQI")
_TRAILER_MAGIC: Final = b"3FPI"
_RECORD: Final = struct.Struct(f">{CHUNK_ID_BYTES}sIII")
HEADER_BYTES: Final = len(_HEADER)
TRAILER_BYTES: Final = _TRAILER.size
RECORD_BYTES: Final = _RECORD.size  # what a chunk takes in the index
FRAME_BYTES: Final = HEADER_BYTES + SEALED_MORE + TRAILER_BYTES  # what is neither a chunk nor its record
TAG_BYTES: Final = 16
PREFIX: Final = "packs"

_local = threading.local()  # zstd's contexts are not to be shared between threads


class Place(NamedTuple):
    """Where a chunk lies: pack, offset and length there, and its plain length."""

    pack: str
    offset: int
    stored: int
    size: int


def new_pack_id(now: datetime, random_hex: str) -> str:
    """Time first, so that a listing can begin at the newest; 96 random bits, so that no two packs share a key."""
    return f"{now:%Y%m%dT%H%M%SZ}-{random_hex[:24]}"


def pack_key(pack: str) -> str:
    return f"{PREFIX}/{pack}"


def begins_as_pack(data: bytes) -> bool:
    """Whether an object's first `HEADER_BYTES` are a pack's."""
    return data == _HEADER


def ends(places: Iterable[Place]) -> dict[str, int]:
    """pack → where the last of these chunks ends in it: how far a copy has to reach."""
    found: dict[str, int] = {}
    for place in places:
        found[place.pack] = max(found.get(place.pack, 0), place.offset + place.stored)
    return found


def ends_as_chunk(data: bytes) -> bool:
    """Whether these may be a chunk's last `TAG_BYTES`: all of them there, and no hole that a file system left."""
    return len(data) == TAG_BYTES and any(data)


def compress(plain: bytes) -> bytes:
    """Safe to call from several threads."""
    if not hasattr(_local, "compressor"):
        _local.compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=False)
    compressor: zstandard.ZstdCompressor = _local.compressor
    return compressor.compress(plain)


class PackBuilder:
    """A pack in the making."""

    def __init__(self, pack: str, keyring: Keyring) -> None:
        self.pack = pack
        self._sealer = _sealer(keyring, pack)
        self._parts: list[bytes] = [_HEADER]
        self._records: list[bytes] = []
        self.size = len(_HEADER)

    @property
    def empty(self) -> bool:
        return not self._records

    @property
    def full(self) -> bool:
        return self.size >= PACK_BYTES or len(self._records) >= CHUNKS_MAX

    def add(self, name: bytes, plain_bytes: int, compressed: bytes) -> Place:
        """Seal one chunk and say where it lies."""
        sealed = self._sealer.seal(compressed, nonce=_nonce(self.size), header=name)
        place = Place(self.pack, self.size, len(sealed), plain_bytes)
        self._records.append(_RECORD.pack(name, place.offset, place.stored, place.size))
        self._parts.append(sealed)
        self.size += len(sealed)
        return place

    def finish(self) -> bytes:
        """The pack's bytes; nothing can be added any more."""
        index = self._sealer.seal(b"".join(self._records), nonce=_nonce(self.size), header=_TRAILER_MAGIC)
        self._parts += [index, _TRAILER.pack(_TRAILER_MAGIC, self.size, 0)]
        return b"".join(self._parts)


class PackOpener:
    """Opens chunks, keeping the keys of the packs it met. Safe to call from several threads."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._sealers: dict[str, RingSealer] = {}

    def chunk(self, name: bytes, place: Place, sealed: bytes) -> bytes:
        """A chunk's plain bytes. Raises Damaged where a bit differs or a part is missing."""
        compressed = self._sealer(place.pack).open(sealed, nonce=_nonce(place.offset), header=name)
        return _decompress(compressed, place.size)

    def index(self, pack: str, tail: bytes, pack_bytes: int) -> Iterator[tuple[bytes, Place]]:
        """What a pack holds. ``tail`` is the end of the object, reaching back to its index at least."""
        begin = index_begin(tail)
        sealed = tail[len(tail) - (pack_bytes - begin) : -TRAILER_BYTES]
        plain = self._sealer(pack).open(sealed, nonce=_nonce(begin), header=_TRAILER_MAGIC)
        if len(plain) % _RECORD.size:
            raise Damaged(f"the index of pack {pack} is not whole")
        for name, offset, stored, size in _RECORD.iter_unpack(plain):
            yield name, Place(pack, offset, stored, size)

    def _sealer(self, pack: str) -> RingSealer:
        if pack not in self._sealers:
            self._sealers[pack] = _sealer(self._keyring, pack)
        return self._sealers[pack]


def index_begin(tail: bytes) -> int:
    """Where the index begins, from the pack's last bytes."""
    if len(tail) < TRAILER_BYTES:
        raise Damaged("the pack is cut short")
    magic, begin, zero = _TRAILER.unpack(tail[-TRAILER_BYTES:])
    if magic != _TRAILER_MAGIC or zero != 0:
        raise Damaged("the pack has no trailer: it is cut short, or not a pack")
    return int(begin)


def _sealer(keyring: Keyring, pack: str) -> RingSealer:
    return keyring.sealer(f"vault pack {pack}")


def _nonce(offset: int) -> bytes:
    return offset.to_bytes(NONCE_BYTES, "big")


def _decompress(compressed: bytes, size: int) -> bytes:
    if not hasattr(_local, "decompressor"):
        _local.decompressor = zstandard.ZstdDecompressor(max_window_size=8 * CHUNK_BYTES)
    decompressor: zstandard.ZstdDecompressor = _local.decompressor
    try:
        plain = decompressor.decompress(compressed, max_output_size=max(size, 1))
    except zstandard.ZstdError:
        raise Damaged("a chunk does not unpack") from None
    if len(plain) != size:
        raise Damaged(f"a chunk has {len(plain)} bytes, not {size}")
    return plain
