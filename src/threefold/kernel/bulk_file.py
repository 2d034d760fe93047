"""Large pieces written to the disk past the page cache (open(2), O_DIRECT), where the file system can.

For what is written once and not read soon: packs and segments on a store, a database that is being restored. Through
the page cache each 4 KiB of them costs a page and a copy, which was half of a recovery's processor time; they push out
what is in use; and they go to the disk in one burst, at the fsync. Past it the disk works from the first piece on, and
what is read back to be verified is what the disk has.

Nothing is promised by that: what is written is durable after fsync, as ever. Where a file system does not offer it
(it says so when asked, or at the first write), and for what is small or lies askew, the page cache is used.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

PIECE_BYTES: Final = 1 << 20
_ALIGNED: Final = 4096  # in memory and in the file; no disk in use asks for more
# What is smaller waits for the disk longer than it would cost in the page cache.
_LARGE_BYTES: Final = 256 * 1024
_NOT_OFFERED: Final = {errno.EINVAL, errno.EOPNOTSUPP}
# glibc writes a byte into each block where it is not offered, after reading it: not in a file open for writing only.
_NOT_ALLOCATED: Final = _NOT_OFFERED | {errno.EBADF}
_O_DIRECT: Final[int] = getattr(os, "O_DIRECT", 0)  # Linux
_local = threading.local()


class BulkFile:
    """One file that is written. Raises OSError, as the system calls do."""

    def __init__(self, path: Path, flags: int, mode: int = 0o600) -> None:
        """``flags`` and ``mode`` as of open(2)."""
        self.fd = os.open(path, flags | os.O_CLOEXEC, mode)
        self._flags = fcntl.fcntl(self.fd, fcntl.F_GETFL)
        self._able = _O_DIRECT != 0
        self._direct = False

    def write(self, pieces: Sequence[bytes], position: int) -> None:
        """All of them, one behind the other, from ``position`` on."""
        room, filled = _room(), 0
        for piece in pieces:
            rest = memoryview(piece)
            while rest:
                part = rest[: PIECE_BYTES - filled]
                room[filled : filled + len(part)] = part
                filled += len(part)
                rest = rest[len(part) :]
                if filled == PIECE_BYTES:
                    self._put(room, position)
                    position, filled = position + filled, 0
        if filled:
            self._put(room[:filled], position)

    def close(self) -> None:
        os.close(self.fd)

    def _put(self, data: memoryview, position: int) -> None:
        whole = len(data) - len(data) % _ALIGNED
        if whole >= _LARGE_BYTES and position % _ALIGNED == 0 and self._able:
            done = self._put_direct(data[:whole], position)
            data, position = data[done:], position + done
        if data:
            self._switch(direct=False)
        while data:
            done = os.pwrite(self.fd, data, position)
            data, position = data[done:], position + done

    def _put_direct(self, data: memoryview, position: int) -> int:
        """How many bytes went past the cache; the rest of a write that stopped short is left to the cache."""
        try:
            self._switch(direct=True)
            return os.pwrite(self.fd, data, position)
        except OSError as error:
            if error.errno not in _NOT_OFFERED:
                raise
            self._able = False
            return 0

    def _switch(self, *, direct: bool) -> None:
        if direct != self._direct:
            fcntl.fcntl(self.fd, fcntl.F_SETFL, self._flags | (_O_DIRECT if direct else 0))
            self._direct = direct


def allocate(fd: int, size: int) -> None:
    """Room for a file in one piece, if it can be had. ``fd`` is open for writing only. Raises OSError.

    Past the page cache nothing gathers what comes in any order: each piece in a hole would get a place of its own.
    """
    if not hasattr(os, "posix_fallocate"):  # macOS
        return
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in _NOT_ALLOCATED:
            raise


def _room() -> memoryview:
    """The calling thread's own, aligned to a page."""
    if not hasattr(_local, "room"):
        # Private: a forked child would write into the same room otherwise.
        _local.room = memoryview(mmap.mmap(-1, PIECE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    room: memoryview = _local.room
    return room
