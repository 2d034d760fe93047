"""One journal file, open: made durable before its first use, read without blocking where the page is in memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import google_crc32c

from threefold.storage_server.disk import Vanished, fill_with_zeros, sync_folder, write_all
from threefold.storage_server.entries import Place
from threefold.storage_server.records import PAGE, FileHeader, encode_file_header

_NOWAIT: Final[int] = getattr(os, "RWF_NOWAIT", 0)  # Linux: EAGAIN instead of waiting for the disk


def path_of(folder: Path, number: int) -> Path:
    return folder / f"{number:016x}.journal"


class JournalFile:
    """Closed when the last reader lets go of it."""

    def __init__(self, path: Path, header: FileHeader) -> None:
        self.path = path
        self.header = header
        self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self.size = os.fstat(self.fd).st_size

    def __del__(self) -> None:
        if hasattr(self, "fd"):  # not where opening it failed
            os.close(self.fd)

    @classmethod
    def make(cls, folder: Path, header: FileHeader, size: int) -> JournalFile:
        """Zero-filled and durable under its name, or not there."""
        path = path_of(folder, header.number)
        draft = path.with_suffix(".new")
        fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            write_all(fd, encode_file_header(header), 0)
            fill_with_zeros(fd, PAGE, size)
            os.fsync(fd)
        except OSError:
            draft.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)
        draft.rename(path)
        sync_folder(folder)
        return cls(path, header)

    def check_linked(self) -> None:
        """Raises Vanished when the file has no name any more: what is written to it would be lost."""
        if os.fstat(self.fd).st_nlink == 0:
            raise Vanished(
                f"{self.path} was removed while the server ran",
                hint="the data folder was emptied: start the server again on it and let repair fill it in",
            )

    def read_cached(self, place: Place) -> bytes | None:
        """The body, or None where that would wait for the disk, or where it is not what was written."""
        if not _NOWAIT:
            return None
        body = bytearray(place.body_bytes)
        try:
            got = os.preadv(self.fd, [body], place.body_at, _NOWAIT)
        except OSError:
            return None
        if got != place.body_bytes:
            return None
        data = bytes(body)
        return data if google_crc32c.value(data) == place.body_crc else None

    def read(self, place: Place) -> bytes | None:
        """The body, or None where it is not what was written."""
        data = os.pread(self.fd, place.body_bytes, place.body_at)
        return data if google_crc32c.value(data) == place.body_crc else None
