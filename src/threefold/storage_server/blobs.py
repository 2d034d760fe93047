"""Large objects: files of their own, under random names.

    objects/{two hexadecimal digits}/{32 hexadecimal digits}

A file is written, fsynced and its folder fsynced *before* the journal names it; it is unlinked only *after* the
journal's word that it is gone is durable. So no rename is needed: a file that the journal does not name does not
exist, and is swept at start. Every MiB has a CRC-32C in the journal, checked before its bytes go out.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import ParamSpec, TypeVar

import google_crc32c

from threefold.kernel.bulk_file import BulkFile
from threefold.kernel.errors import Damaged
from threefold.storage_server.disk import Vanished, make_folder, sync_folder
from threefold.storage_server.entries import BLOCK_BYTES, INLINE, Entry

P = ParamSpec("P")
T = TypeVar("T")
_THREADS = 4


class Blobs:
    """The folder ``objects``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._slots = asyncio.Semaphore(_THREADS)  # so that slow disks do not take every thread of the loop's pool

    @classmethod
    def open(cls, data_dir: Path) -> Blobs:
        folder = data_dir / "objects"
        make_folder(folder)
        for missing in {f"{first:02x}" for first in range(256)} - {path.name for path in folder.iterdir()}:
            (folder / missing).mkdir(mode=0o700)
        sync_folder(folder)
        return cls(folder)

    async def act(self, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do a step that waits for the disk, off the event loop."""
        async with self._slots:
            return await asyncio.to_thread(step, *args, **kwargs)

    def path(self, file_id: bytes) -> Path:
        name = file_id.hex()
        return self._folder / name[:2] / name

    def create(self) -> BlobWriter:
        file_id = os.urandom(len(INLINE))
        return BlobWriter(file_id, self.path(file_id))

    async def remove(self, file_id: bytes) -> None:
        await self.act(self.path(file_id).unlink, missing_ok=True)

    def sweep(self, named: Iterable[bytes]) -> int:
        """Remove the files that the journal does not name; returns how many."""
        keep = {file_id.hex() for file_id in named}
        swept = 0
        for path in self._folder.glob("??/*"):
            if path.name not in keep:
                path.unlink()
                swept += 1
        return swept

    async def read(self, entry: Entry, start: int, end: int) -> AsyncIterator[bytes]:
        """Bytes [start, end), block by block. Raises Damaged before a byte of a damaged block goes out."""
        try:
            fd = await self.act(os.open, self.path(entry.file_id), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise Damaged("the object's file is missing") from None
        try:
            for at in range(start - start % BLOCK_BYTES, end, BLOCK_BYTES):
                block = await self.act(os.pread, fd, BLOCK_BYTES, at)
                number = at // BLOCK_BYTES
                expected = entry.checksums[4 * number : 4 * number + 4]
                if _checksum(block) != expected or len(block) != min(BLOCK_BYTES, entry.size - at):
                    raise Damaged(f"the object's bytes from {at} are not what was written")
                yield block[max(0, start - at) : end - at]
        finally:
            os.close(fd)


class BlobWriter:
    """One new file. Its steps wait for the disk: call them through `Blobs.act`, one after the other."""

    def __init__(self, file_id: bytes, path: Path) -> None:
        self._file = BulkFile(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        self.file_id = file_id
        self.size = 0
        self._path = path
        self._block: list[bytes] = []  # what came of the block that is being filled, not copied
        self._block_bytes = 0
        self._crc = 0
        self._checksums: list[bytes] = []

    def write(self, data: bytes) -> None:
        while data:
            piece = data[: BLOCK_BYTES - self._block_bytes]
            self._crc = google_crc32c.extend(self._crc, piece)
            self._block.append(piece)
            self._block_bytes += len(piece)
            if self._block_bytes == BLOCK_BYTES:
                self._end_block()
            data = data[len(piece) :]

    def _end_block(self) -> None:
        self._file.write(self._block, self.size)
        self._checksums.append(self._crc.to_bytes(4, "little"))
        self.size += self._block_bytes
        self._block.clear()
        self._block_bytes = self._crc = 0

    def finish(self) -> bytes:
        """Durable, name and all; returns the checksums of the blocks."""
        if self._block:
            self._end_block()
        os.fsync(self._file.fd)
        sync_folder(self._path.parent)
        if os.fstat(self._file.fd).st_nlink == 0:
            raise Vanished("the data folder was emptied while an object was being written")
        return b"".join(self._checksums)

    def __del__(self) -> None:
        if hasattr(self, "_file"):  # not where opening it failed
            self._file.close()

    def abandon(self) -> None:
        """Leave nothing behind; fine at any time before the journal names the file."""
        self._path.unlink(missing_ok=True)


def _checksum(block: bytes) -> bytes:
    crc: int = google_crc32c.value(block)
    return crc.to_bytes(4, "little")
