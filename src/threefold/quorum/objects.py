"""The bytes of entries, seals and segments.

    offset  size
         0     4  magic ``3FLG``
         4     1  version, 1; 2: the payload is several zstd frames (segments only)
         5     1  kind: 1 start (slot 0), 2 entry, 3 seal, 4 segment, 5 bundle
         6     2  key: the first bytes of the id of the master key that it was made with (zero: the founding one)
         8     8  log: PostgreSQL's system identifier
        16     8  epoch   }  entry, seal: where it lies; segment: the slot that holds the byte after its end,
        24     8  slot    }  which is where a reader goes on; bundle: its number
        32    16  writer  who made it: new for every attempt to lead
        48     4  timeline
        52     8  start LSN
        60     8  end LSN
        68    32  link: SHA-256 of the whole entry before (start, seal, segment: zeros)
       100    16  HMAC-SHA256 of the header, cut: the header can be trusted without the rest
       116     .  zstd-compressed payload, AES-256-GCM, the header being authenticated with it (no payload in a seal)

A segment takes the frames of large entries as they are, instead of compressing their bytes a second time. A reader of
version 1 would stop after the first frame without a word, so several frames are another version.

Every payload has a key of its own, HMAC-SHA256(log key, header). A header is sealed with one payload only (bytes of a
slot are fixed once they exist, and a writer id is used for one epoch), so the nonce can be constant.

A seal is exactly `SEAL_BYTES` long and everything else is longer; trimming relies on it never to touch a seal.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256
from typing import Final

import zstandard

from threefold.kernel.errors import BadInput, Damaged, OtherKey
from threefold.kernel.keys import NONCE_BYTES, TAG_DIGITS, Keyring, Sealer, goes_on_under_another
from threefold.kernel.lsn import Lsn
from threefold.quorum.keys import SEGMENT_BYTES

_HEADER: Final = struct.Struct(">4sBB2sQQQ16sIQQ32s")
_MAGIC: Final = b"3FLG"
_TAG_BYTES: Final = 16
_VERSION_AT: Final = 4
_KEY_AT: Final = slice(6, 8)
_NO_KEY: Final = bytes(2)
_NONCE: Final = bytes(NONCE_BYTES)
NO_LINK: Final = bytes(32)
NOWHERE: Final = Lsn(0)
HEADER_BYTES: Final = _HEADER.size + _TAG_BYTES
SEAL_BYTES: Final = HEADER_BYTES
_ONE_FRAME: Final = 1
_FRAMES: Final = 2
# What a payload may unpack to: slot 0 may carry a tail of a segment or two besides its history.
_PAYLOAD_BYTES_MAX: Final = 8 * SEGMENT_BYTES


class Kind(IntEnum):
    START = 1
    ENTRY = 2
    SEAL = 3
    SEGMENT = 4
    BUNDLE = 5


@dataclass(frozen=True, slots=True)
class Header:
    """What stands before every payload. ``writer`` is 32 hexadecimal digits, LSNs are half-open [start, end)."""

    kind: Kind
    epoch: int
    slot: int
    writer: str
    timeline: int = 0
    start: Lsn = NOWHERE
    end: Lsn = NOWHERE
    link: bytes = NO_LINK


@dataclass(frozen=True, slots=True)
class LogObject:
    """An opened object: ``payload`` in clear, ``body`` as it lies in the stores, ``digest`` names it in the chain."""

    header: Header
    payload: bytes
    body: bytes
    digest: bytes

    @property
    def position(self) -> tuple[int, int]:
        """Epoch and slot."""
        return self.header.epoch, self.header.slot

    @property
    def is_seal(self) -> bool:
        return self.header.kind is Kind.SEAL


@dataclass(frozen=True, slots=True)
class Frame:
    """Bytes of WAL that `Codec.compress` compressed already."""

    compressed: bytes


class Codec:
    """Encodes and opens the objects of one log. Not to be shared between threads.

    It seals with the key in force, and never with an older one than it has opened an object of: a host that has not
    heard yet of a new key in force does not go back behind it.
    """

    def __init__(self, keyring: Keyring, log: int) -> None:
        self.log = log
        marks = [bytes.fromhex(key_id[:TAG_DIGITS]) for key_id in keyring.ids]
        self._tag_keys = {
            mark: keyring.subkey("log header", each) for mark, each in zip(marks, keyring.ids, strict=True)
        }
        self._payload_keys = {
            mark: keyring.subkey("log payload", each) for mark, each in zip(marks, keyring.ids, strict=True)
        }
        self._order = {mark: place for place, mark in enumerate(marks)}
        for keys in (self._tag_keys, self._payload_keys):
            keys[_NO_KEY] = keys[marks[0]]
        self._order[_NO_KEY] = 0
        self._mark = marks[keyring.ids.index(keyring.key_id)]
        self._compressor = zstandard.ZstdCompressor(level=1, write_content_size=True)
        self._decompressor = zstandard.ZstdDecompressor()  # to make one takes longer than to open a small entry
        self._keyring = keyring

    def fork(self) -> Codec:
        """Another one, for another thread."""
        other = Codec(self._keyring, self.log)
        other._mark = self._mark
        return other

    def other_key(self, key_id: str) -> BadInput:
        """What to raise where the log is known to go on under a key that we do not have."""
        return goes_on_under_another(key_id, self._keyring)

    def compress(self, payload: bytes) -> bytes:
        """Compressed: one zstd frame."""
        return self._compressor.compress(payload)

    def encode(self, header: Header, payload: bytes = b"", compressed: bytes | None = None) -> LogObject:
        """Compress, encrypt, frame. A seal has no payload. ``compressed``: what `compress` made of it already."""
        if header.kind is Kind.SEAL:
            head = self._head(header)
            body = head + self._tag(head)
        else:
            body = self._sealed(header, _ONE_FRAME, self.compress(payload) if compressed is None else compressed)
        return LogObject(header, payload, body, sha256(body).digest())

    def encode_parts(self, header: Header, parts: Sequence[bytes | Frame]) -> bytes:
        """The body of an object whose payload is ``parts``; what is compressed already stays as it is."""
        frames = [part.compressed if isinstance(part, Frame) else self.compress(part) for part in parts]
        return self._sealed(header, _FRAMES if len(frames) > 1 else _ONE_FRAME, b"".join(frames))

    def _sealed(self, header: Header, version: int, compressed: bytes) -> bytes:
        head = self._head(header, version)
        return head + self._tag(head) + self._sealer(head).seal(compressed, nonce=_NONCE, header=head)

    def open(self, body: bytes) -> LogObject:
        """Raises Damaged for anything that is not exactly what `encode` made with this key for this log."""
        header = self.open_header(body)
        if header.kind is Kind.SEAL:
            if len(body) != SEAL_BYTES:
                raise Damaged("a seal has bytes after its header")
            return LogObject(header, b"", body, sha256(body).digest())
        head = body[: _HEADER.size]
        compressed = self._sealer(head).open(body[HEADER_BYTES:], nonce=_NONCE, header=head)
        try:
            payload = self._unpack(header, head[_VERSION_AT], compressed)
        except zstandard.ZstdError as error:
            raise Damaged("an object of the log does not unpack") from error
        return LogObject(header, payload, body, sha256(body).digest())

    def _unpack(self, header: Header, version: int, compressed: bytes) -> bytes:
        if version == _ONE_FRAME:
            return self._decompressor.decompress(compressed, max_output_size=_PAYLOAD_BYTES_MAX)
        size = min(header.end - header.start, _PAYLOAD_BYTES_MAX)
        with self._decompressor.stream_reader(compressed, read_across_frames=True) as frames:
            payload: bytes = frames.read(size)
            if len(payload) != size or frames.read(1):
                raise Damaged("a segment has not as many bytes as its header says")
        return payload

    def open_header(self, body: bytes) -> Header:
        """The header alone, from the first `HEADER_BYTES` of an object. Raises Damaged."""
        if len(body) < HEADER_BYTES:
            raise Damaged(f"an object of the log has {len(body)} bytes, too few for its header")
        head = body[: _HEADER.size]
        if not self._is_ours(head, body[_HEADER.size : HEADER_BYTES]):
            raise Damaged("the header of an object of the log is damaged")
        magic, version, kind, mark, log, epoch, slot, writer, timeline, start, end, link = _HEADER.unpack(head)
        if magic != _MAGIC or version not in ((_ONE_FRAME, _FRAMES) if kind == Kind.SEGMENT else (_ONE_FRAME,)):
            raise Damaged(f"an object of the log has the unknown format version {version}")
        if log != self.log:
            raise Damaged(f"an object belongs to the log of another database system, {log}, not {self.log}")
        if self._order[mark] > self._order[self._mark]:
            self._mark = mark
        return Header(Kind(kind), epoch, slot, writer.hex(), timeline, Lsn(start), Lsn(end), link)

    def _is_ours(self, head: bytes, tag: bytes) -> bool:
        """Whether the header is whole. Raises OtherKey where it names a key that we do not have, and nothing else."""
        if head[_KEY_AT] in self._tag_keys:
            return hmac.compare_digest(self._tag(head), tag)
        before, after = head[: _KEY_AT.start], head[_KEY_AT.stop :]
        hurt = any(hmac.compare_digest(self._tag(before + mark + after), tag) for mark in self._tag_keys)
        if hurt or not head.startswith(_MAGIC):
            return False
        raise OtherKey(f"{head[_KEY_AT].hex()}...")

    def _head(self, header: Header, version: int = _ONE_FRAME) -> bytes:
        return _HEADER.pack(
            _MAGIC,
            version,
            header.kind,
            self._mark,
            self.log,
            header.epoch,
            header.slot,
            bytes.fromhex(header.writer),
            header.timeline,
            header.start,
            header.end,
            header.link,
        )

    def _tag(self, head: bytes) -> bytes:
        return hmac.digest(self._tag_keys[head[_KEY_AT]], head, "sha256")[:_TAG_BYTES]

    def _sealer(self, head: bytes) -> Sealer:
        return Sealer(hmac.digest(self._payload_keys[head[_KEY_AT]], head, "sha256"))
