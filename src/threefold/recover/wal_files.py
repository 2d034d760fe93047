"""The log's bytes as PostgreSQL's segment files in ``pg_wal``.

Segments are whole files: the last, partial one is filled up with zeros, which replay takes for the end of the log. A
segment in which the timeline changes is named after the newer one and begins with the older one's bytes, as
PostgreSQL itself makes them at a promotion; it looks for the newest timeline's name first.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Final

from threefold.kernel.errors import Damaged
from threefold.kernel.lsn import Lsn
from threefold.kernel.progress import Progress
from threefold.postgres.timeline import history_name
from threefold.postgres.wal import segment_name, segment_no
from threefold.recover.destination import sync_folder
from threefold.recover.log import OpenLog
from threefold.recover.plan import segment_begin
from threefold.vault.manifest import Summary

_ZEROS: Final = bytes(1024 * 1024)
UNNAMED: Final = "threefold-segment.new"


class WalFiles:
    """Takes the log's bytes in order, from a segment's start on."""

    def __init__(self, pg_wal: Path, segment_size: int, start: Lsn) -> None:
        if start % segment_size:
            raise Damaged(f"the WAL to replay begins at {start}, which is no segment's start")
        self._pg_wal = pg_wal
        self._size = segment_size
        self._at = start
        self._timeline = 0
        self._file: BinaryIO | None = None

    def write(self, timeline: int, start: Lsn, data: bytes) -> None:
        """The next bytes. Raises Damaged where they do not follow on those before."""
        if start != self._at:
            raise Damaged(f"the log has no bytes from {self._at} to {start}", hint="`threefold verify` shows the gap")
        view = memoryview(data)
        while view:
            if self._file is None:
                self._file = (self._pg_wal / UNNAMED).open("wb")
            taken = view[: self._size - self._at % self._size]
            self._file.write(taken)
            self._at = Lsn(self._at + len(taken))
            self._timeline = timeline
            view = view[len(taken) :]
            if self._at % self._size == 0:
                self._name(self._at - 1)

    def finish(self, end: Lsn) -> None:
        """Fill up the last segment. Raises Damaged where the bytes stopped short of ``end``."""
        if self._at != end:
            raise Damaged(f"the log's bytes stop at {self._at}, not at {end}", hint="`threefold verify` shows more")
        if self._file is not None:
            left = self._size - self._at % self._size
            while left:
                left -= self._file.write(_ZEROS[:left])
            self._name(self._at)
        sync_folder(self._pg_wal)

    def _name(self, within: int) -> None:
        if self._file is None:
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        name = segment_name(self._timeline, segment_no(within, self._size), self._size)
        (self._pg_wal / UNNAMED).rename(self._pg_wal / name)


def write_histories(pg_wal: Path, history_files: Mapping[int, bytes]) -> None:
    """All that are known, also of timelines left behind: a promotion takes a number that none of them has."""
    for timeline, content in history_files.items():
        with (pg_wal / history_name(timeline)).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())


async def place_wal(log: OpenLog, snapshot: Summary, into: Path, progress: Progress, *, end: Lsn) -> None:
    """The log from where the snapshot needs it up to ``end``, into ``pg_wal``; no server runs there."""
    pg_wal, start = into / "pg_wal", segment_begin(snapshot)
    pg_wal.mkdir(mode=0o700, exist_ok=True)
    progress.step("fetch-wal", "fetching the log", total=end - start)
    files = WalFiles(pg_wal, snapshot.segment_size, start)
    async for timeline, at, data in log.read(start, end):
        await asyncio.to_thread(files.write, timeline, at, data)
        progress.advance(len(data))
    await asyncio.to_thread(files.finish, end)
    await asyncio.to_thread(write_histories, pg_wal, log.extent.history_files)
