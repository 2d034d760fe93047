"""Small acts on a disk, each as durable as its name says.

A file is durable when its bytes *and* its name are: fsync of the file, then fsync of its folder (fsync(2), NOTES).
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from threefold.kernel.errors import Refused, Unavailable

_ZEROS = bytes(1 << 20)
_LOCK_ATTEMPTS = 10
_LOCK_RETRY_S = 0.05


class Vanished(Unavailable):
    """The data folder was emptied or removed while the server ran: nothing can be promised any more."""


class NoNextFile(Unavailable):
    """The next journal file could not be made: nothing is written until it can be. Reads go on."""


class DiskFull(NoNextFile):
    """For want of room."""


def sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folder(folder: Path) -> None:
    """Durably, for the owner only; fine where it stands already."""
    missing = [each for each in (folder, *folder.parents) if not each.is_dir()]
    for each in reversed(missing):
        each.mkdir(mode=0o700 if each == folder else 0o755, exist_ok=True)
        sync_folder(each.parent)


def write_all(fd: int, data: bytes, position: int) -> None:
    done = os.pwrite(fd, data, position)
    while done < len(data):
        done += os.pwrite(fd, memoryview(data)[done:], position + done)


def fill_with_zeros(fd: int, start: int, end: int) -> None:
    """Really written, not only allocated: an unwritten extent costs metadata at its first write."""
    for at in range(start, end, len(_ZEROS)):
        write_all(fd, _ZEROS[: min(len(_ZEROS), end - at)], at)


def free_bytes(folder: Path) -> int:
    """What an unprivileged process may still write there."""
    stat = os.statvfs(folder)
    return stat.f_bavail * stat.f_frsize


class FolderLock:
    """One process owns a data folder. The lock goes with the process, however it ends (flock(2))."""

    def __init__(self, folder: Path) -> None:
        self._fd = os.open(folder / "LOCK", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        for attempt in range(_LOCK_ATTEMPTS):
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if attempt + 1 < _LOCK_ATTEMPTS:
                    # A process that has just been killed, or whose descriptors somebody lists, lets go a moment late.
                    time.sleep(_LOCK_RETRY_S)
            else:
                return
        os.close(self._fd)
        raise Refused(
            f"another process serves {folder}",
            hint="one server owns a data folder: stop the other one, or give this one a folder of its own",
        )

    def release(self) -> None:
        os.close(self._fd)
