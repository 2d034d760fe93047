"""The spool: WAL on the DRaaS server's own disk while fewer than two stores answer ([failover] without_quorum).

One file, ``{log}.spool``, readable by its owner alone. It begins with a line of JSON (whose WAL it is, and the
declaration that goes to the stores), then frames:

    offset  size
         0     8  LSN of the first byte
         8     4  length
        12     4  CRC-32 of the bytes
        16     .  WAL

What `append` returned from is on the disk. A frame that was torn by the end of the process is not whole, was never
confirmed, and ends the spool. The bytes go into the log from the front while new ones come at the end; the file goes
when the log has them all.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Final

from threefold.kernel.errors import Damaged
from threefold.kernel.lsn import Lsn
from threefold.quorum.degraded import DRAINED, Declaration

_FRAME: Final = struct.Struct(">QII")


class Spool:
    """Of one log, one timeline, contiguous from ``start`` to ``end``. Calls block: for a thread."""

    def __init__(self, path: Path, log: int, declaration: Declaration, end: Lsn, size: int) -> None:
        self.path = path
        self.log = log
        self.declaration = declaration
        self.end = end
        self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._size = size
        os.ftruncate(self._file, size)
        os.lseek(self._file, size, os.SEEK_SET)
        # Where the next bytes to be read stand: (LSN, offset of their frame).
        self._next = (declaration.start, self._first())

    @property
    def start(self) -> Lsn:
        return self.declaration.start

    @property
    def size(self) -> int:
        return self._size

    @classmethod
    def begin(cls, path: Path, log: int, declaration: Declaration) -> Spool:
        """A new, empty one. Raises OSError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        head = json.dumps({"log": log, "declaration": asdict(declaration)}).encode() + b"\n"
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            os.write(file, head)
            os.fsync(file)
        finally:
            os.close(file)
        _sync_folder(path.parent)
        return cls(path, log, declaration, declaration.start, len(head))

    @classmethod
    def found(cls, path: Path) -> Spool | None:
        """The one that a process before us left. Raises Damaged where it is not one."""
        if not path.exists():
            return None
        with path.open("rb") as file:
            line = file.readline()
            try:
                head = json.loads(line)
                record = head["declaration"]
                declaration = Declaration(**{**record, "start": Lsn(record["start"]), "end": None})
                log, end, size = int(head["log"]), declaration.start, len(line)
            except (ValueError, TypeError, KeyError) as error:
                raise Damaged(f"{path} does not begin as a spool") from error
            while len(frame := file.read(_FRAME.size)) == _FRAME.size:
                start, length, crc = _FRAME.unpack(frame)
                data = file.read(length)
                if start != end or len(data) < length or zlib.crc32(data) != crc:
                    break
                end, size = Lsn(end + length), size + _FRAME.size + length
        return cls(path, log, declaration, end, size)

    def append(self, at: Lsn, data: bytes) -> None:
        """Returns when the bytes are on the disk. Raises OSError; then nothing was taken."""
        if at != self.end:
            raise ValueError(f"bytes of {at} do not go on where the spool ends, at {self.end}")
        frame = _FRAME.pack(self.end, len(data), zlib.crc32(data)) + data
        try:
            written = 0
            while written < len(frame):
                written += os.pwrite(self._file, memoryview(frame)[written:], self._size + written)
            os.fdatasync(self._file)
        except OSError:
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(frame)
        self.end = Lsn(self.end + len(data))

    def read(self, at: Lsn) -> bytes:
        """The bytes from ``at`` to the end of their frame; empty at the end. Quickest in order."""
        if at < self._next[0]:
            self._next = (self.start, self._first())
        start, offset = self._next
        while offset < self._size:
            _, length, crc = _FRAME.unpack(os.pread(self._file, _FRAME.size, offset))
            if at < start + length:
                data = os.pread(self._file, length, offset + _FRAME.size)
                if zlib.crc32(data) != crc:
                    raise Damaged(f"{self.path} is damaged behind {start}")
                self._next = (start, offset)
                return data[at - start :]
            start, offset = Lsn(start + length), offset + _FRAME.size + length
            self._next = (start, offset)
        return b""

    def bytes(self, begin: Lsn, end: Lsn) -> bytes:
        parts, at = [], begin
        while at < end and (data := self.read(at)):
            parts.append(data)
            at = Lsn(at + len(data))
        return b"".join(parts)[: end - begin]

    def retire(self) -> Path:
        """The log has it all; what is left is kept until the stores were told."""
        return self._rename(f"{self.start:016x}{DRAINED}")

    def set_aside(self, unique: str) -> Path:
        """It fits nothing any more: kept for a person, never applied."""
        return self._rename(f"{unique}.aside")

    def _rename(self, suffix: str) -> Path:
        self.close()
        renamed = self.path.with_name(f"{self.path.name}.{suffix}")
        self.path.rename(renamed)
        _sync_folder(self.path.parent)
        return renamed

    def close(self) -> None:
        os.close(self._file)

    def _first(self) -> int:
        return os.pread(self._file, 65536, 0).index(b"\n") + 1


def _sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
