"""The erasure ledger: who was erased, outside of the database, so that no recovery brings them back.

A file of JSON lines, ``{"contact": "<id>", "at": "<time>"}``, only ever appended to; it holds ids and times, and no
person. A line is on the disk before the database commits the erasure: a crash in between leaves a line too many, which
the next replay carries out, and never one too few. It belongs where a recovery of the database does not reach, and is
copied with whatever else is kept outside of it.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from threefold.kernel.errors import Damaged, Unavailable


class ErasureLedger:
    """Several processes may append to one file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def append(self, contacts: Sequence[UUID], at: str) -> None:
        """Returns when the lines are on the disk."""
        text = "".join(json.dumps({"contact": str(contact), "at": at}) + "\n" for contact in contacts)
        try:
            await asyncio.to_thread(self._append, text.encode())
        except OSError as error:
            raise Unavailable(
                f"the erasure ledger cannot be written: {error.strerror}",
                hint=f"nothing was erased; see to {self.path} and ask again",
            ) from error

    def read(self) -> list[UUID]:
        """Everybody in it, each once, in the order of their erasures.

        A torn last line was never followed by a commit. Any other line that cannot be read is damage, and a person
        has to look: going on would bring somebody back.
        """
        try:
            lines = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        found: dict[UUID, None] = {}
        for number, line in enumerate(lines, 1):
            if not line:
                continue
            try:
                found[UUID(json.loads(line)["contact"])] = None
            except (ValueError, KeyError, TypeError, AttributeError):
                if number == len(lines):
                    break
                raise Damaged(
                    f"line {number} of the erasure ledger cannot be read",
                    hint=f"mend {self.path} from its copy: everybody it names has to stay erased",
                ) from None
        return list(found)

    def _append(self, lines: bytes) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = not self.path.exists()
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            self._cut_torn(file)
            written = 0
            while written < len(lines):
                written += os.write(file, lines[written:])
            os.fsync(file)
        finally:
            os.close(file)
        if fresh:
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _cut_torn(self, file: int) -> None:
        """What a crash left of a last line is taken away, or the next would run into it."""
        size = os.fstat(file).st_size
        tail = os.pread(file, min(size, 4096), max(0, size - 4096))
        if tail and not tail.endswith(b"\n"):
            os.ftruncate(file, size - len(tail) + tail.rfind(b"\n") + 1)
