"""Files are cut into chunks, and a chunk is named by what it holds.

A chunk is `CHUNK_BYTES` of one file, cut at multiples of it from the file's start (the last one is shorter).
PostgreSQL writes its files in place, in pages of 8 kB: bytes never shift, so fixed cuts on page boundaries find the
unchanged parts of the snapshot before as well as content-defined cuts would, at no cost.

A chunk's name is HMAC-SHA256(subkey, SHA-256(bytes)): keyed, so that neither a store nor anybody who reads one can
test whether we hold content known to him. (The large hash runs outside the interpreter's lock, the HMAC is over 32
bytes.)
"""

from __future__ import annotations

import hmac
from typing import Final

from threefold.kernel.keys import Keyring, digest

CHUNK_BYTES: Final = 1024 * 1024
CHUNK_ID_BYTES: Final = 32


class ChunkNamer:
    """Names chunks under the master key in force, and knows them by the names that older keys gave them."""

    def __init__(self, keyring: Keyring) -> None:
        in_force = [key_id for key_id in keyring.ids if key_id == keyring.key_id]
        others = [key_id for key_id in keyring.ids if key_id != keyring.key_id]
        self._keys = [keyring.subkey("vault chunk names", key_id) for key_id in in_force + others]

    def names(self, plain: bytes) -> list[bytes]:
        """32 bytes each, the one to write first: equal for equal content, telling nothing to who lacks the key."""
        content = digest(plain)
        return [hmac.digest(key, content, "sha256") for key in self._keys]

    def name(self, plain: bytes) -> bytes:
        """The one to write."""
        return self.names(plain)[0]

    def is_named(self, plain: bytes, name: bytes) -> bool:
        """Whether any key of the ring gives this content that name."""
        return name in self.names(plain)


class Chunker:
    """Collects one file's bytes, in order, and hands out whole chunks, copying each byte once."""

    def __init__(self) -> None:
        self._held: list[bytes | memoryview] = []
        self._held_bytes = 0

    def feed(self, data: bytes | memoryview) -> list[bytes]:
        """The chunks that ``data`` completes. ``data`` must not change until its chunk is handed out."""
        chunks = []
        while self._held_bytes + len(data) >= CHUNK_BYTES:
            cut = CHUNK_BYTES - self._held_bytes
            self._held.append(data[:cut])
            chunks.append(self.finish())
            data = data[cut:]
        if data:
            self._held.append(data)
            self._held_bytes += len(data)
        return chunks

    def finish(self) -> bytes:
        """The last, shorter chunk; empty where the file ended on a cut. The chunker is ready for the next file."""
        last = b"".join(self._held)
        self._held.clear()
        self._held_bytes = 0
        return last
