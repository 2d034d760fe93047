"""The append-only journal: every change of this server, made durable by group commit.

`append` puts a record into the batch that is being gathered and says where it will stand; `durable` waits until
that batch is on the disk. One thread writes a batch with one pwrite and one fdatasync, while the next one gathers.
Where one request alone waits and the disk is quick, the event loop writes the batch itself: to hand it to the thread
and back costs more processor time than the write, and twice the wait for a free processor.

What holds:
- Nothing is answered before its batch is durable, and batches become durable in order (records.py).
- After a failed write or fdatasync nothing is acknowledged any more, ever: the kernel may have dropped the pages
  and say "fine" the next time (Rebello et al., "Can Applications Recover from fsync Failures?", ATC 2020; the
  PostgreSQL fsyncgate). The process ends; at the next start the last batch is written once more (replay.py).
- A batch counts as durable only while its file still has a name: an emptied data folder never acknowledges.
- The oldest file is emptied first, always (compaction.py); so a delete record needs to live no longer than its
  file, and the files form one unbroken range of numbers, in which a missing one is noticed.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Callable
from concurrent.futures import Future as ThreadFuture
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from threefold.kernel.clock import Clock
from threefold.kernel.errors import ThreefoldError, Unavailable
from threefold.storage_server.disk import DiskFull, NoNextFile, sync_folder, write_all
from threefold.storage_server.entries import Place
from threefold.storage_server.journal_file import JournalFile
from threefold.storage_server.records import PAGE, SALT_BYTES, FileHeader, Kind, encode, record_bytes

_log = logging.getLogger(__name__)
# Told once: None when it is durable, or what ended the journal.
Hear = Callable[[ThreefoldError | None], None]
_QUICK_S = 0.002
_END_BYTES = record_bytes(8, 0)


@dataclass(slots=True)
class _Batch:
    number: int
    file: JournalFile
    start: int
    parts: list[bytes] = field(default_factory=list)
    waiting: list[Hear] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class JournalState:
    """Where replay found the end of the journal."""

    files: dict[int, JournalFile]  # ascending, the active one included, a prepared spare not
    spare: JournalFile | None
    end: int
    batch: int  # the newest batch ever used
    first: int


class Journal:
    """Used from one event loop; the thread within touches only batches that are closed."""

    def __init__(
        self,
        folder: Path,
        state: JournalState,
        *,
        file_bytes: int,
        clock: Clock,
        quick_s: float = _QUICK_S,
    ) -> None:
        """``quick_s``: a disk that took longer for the last batch may not hold the event loop up."""
        self._folder = folder
        self._clock = clock
        self.quick_s = quick_s
        self._file_bytes = file_bytes
        self._loop = asyncio.get_running_loop()
        self.files = dict(state.files)
        self._active = self.files[max(self.files)]
        self._end = state.end
        self._first = state.first
        self._gathering = _Batch(state.batch + 1, self._active, state.end)
        self._in_flight: list[_Batch] = []  # closed; the first of them is being written if `_writing`
        self._writing = False
        self._took = 0.0  # seconds, by the last write
        self.durable_batch = state.batch
        self.failure: ThreefoldError | None = None
        self.on_failure: Callable[[], None] = lambda: None
        self._queue: SimpleQueue[_Batch | None] = SimpleQueue()
        self._maker = ThreadPoolExecutor(1, "journal-files")
        self._spare: ThreadFuture[JournalFile] = ThreadFuture()
        if state.spare is None:
            self._prepare_spare()
        else:
            self._spare.set_result(state.spare)
        self._thread = Thread(target=self._commit_batches, name="journal", daemon=True)
        self._thread.start()

    # gathering, on the event loop

    def append(self, kind: Kind, meta: bytes, body: bytes = b"") -> Place:
        """Raises NoNextFile, or what ended the journal. Durable only after `durable(place.batch)`."""
        if self.failure is not None:
            raise self.failure
        size = record_bytes(len(meta), len(body))
        if self._end + size + _END_BYTES > self._active.size:
            self._begin_next_file(size)
        batch = self._gathering
        if not batch.parts and not self._writing:
            # Everything that this turn of the event loop appends goes out together.
            self._loop.call_soon(self._send)
        head = encode(self._active.header.salt, kind, batch.number, self._end, batch.start, meta, body)
        batch.parts.append(head)
        batch.parts.append(body)
        batch.parts.append(bytes(size - len(head) - len(body)))
        place = Place(
            file=self._active.header.number,
            position=self._end,
            body_at=self._end + len(head),
            body_bytes=len(body),
            body_crc=int.from_bytes(head[12:16], "little"),
            batch=batch.number,
            record_bytes=size,
        )
        self._end += size
        return place

    def when_durable(self, batch: int, hear: Hear) -> None:
        """``hear`` is called in the turn in which ``batch``, not on the disk yet, is there, or never will be.

        Raises what ended the journal.
        """
        if self.failure is not None:
            raise self.failure
        for sent in self._in_flight:
            if sent.number == batch:
                sent.waiting.append(hear)
                return
        self._gathering.waiting.append(hear)

    async def durable(self, batch: int) -> None:
        """Returns when ``batch`` is on the disk; raises what ended the journal otherwise."""
        if batch <= self.durable_batch:
            return
        answer = self._loop.create_future()
        self.when_durable(batch, partial(_settle, answer))
        await answer

    @property
    def newest_batch(self) -> int:
        """The newest batch that holds anything."""
        return self._gathering.number if self._gathering.parts else self._gathering.number - 1

    @property
    def bytes_used(self) -> int:
        """Bytes in files, the active one up to its end."""
        return sum(file.size for file in self.files.values()) - self._active.size + self._end

    @property
    def active_number(self) -> int:
        return self._active.header.number

    def check_linked(self) -> None:
        """Raises Vanished (and ends the journal) when the data folder was emptied."""
        if self.failure is not None:
            raise self.failure
        try:
            self._active.check_linked()
        except ThreefoldError as gone:
            self.fail(gone)
            raise

    def fail(self, why: ThreefoldError) -> None:
        """Nothing is acknowledged from here on."""
        if self.failure is not None:
            return
        self.failure = why
        for batch in [*self._in_flight, self._gathering]:
            _tell(batch, why)
        self.on_failure()

    def _send(self) -> None:
        if self._writing or self.failure is not None:
            return
        if not self._in_flight:
            if not self._gathering.parts:
                return
            self._close_batch()
        self._writing = True
        batch = self._in_flight[0]
        if len(batch.waiting) <= 1 and self._took <= self.quick_s:
            self._committed(batch, self._write(batch))
        else:
            self._queue.put(batch)

    def _close_batch(self) -> None:
        batch = self._gathering
        self._in_flight.append(batch)
        self._gathering = _Batch(batch.number + 1, self._active, self._end)

    def _begin_next_file(self, needed: int) -> None:
        if needed + _END_BYTES + PAGE > self._file_bytes:
            raise ValueError("a record must fit into a journal file")
        try:
            spare = self._spare.result()
        except OSError as error:
            self._prepare_spare()
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise DiskFull("the disk has no room for the next journal file") from error
            reason = os.strerror(error.errno or 0).lower()
            raise NoNextFile(f"the next journal file cannot be made: {reason}") from error
        batch = self._gathering
        if not batch.parts and not self._writing:
            self._loop.call_soon(self._send)
        meta = spare.header.number.to_bytes(8, "little")
        batch.parts.append(encode(self._active.header.salt, Kind.END, batch.number, self._end, batch.start, meta, b""))
        self._active = spare
        self._end = PAGE
        self.files[spare.header.number] = spare
        self._close_batch()
        self._prepare_spare()

    def _prepare_spare(self) -> None:
        header = FileHeader(self._active.header.number + 1, os.urandom(SALT_BYTES), self._first)
        self._spare = self._maker.submit(JournalFile.make, self._folder, header, self._file_bytes)

    # the thread

    def _commit_batches(self) -> None:
        while (batch := self._queue.get()) is not None:
            failure = self._write(batch)
            self._loop.call_soon_threadsafe(self._committed, batch, failure)
            if failure is not None:
                return

    def _write(self, batch: _Batch) -> ThreefoldError | None:
        """Make it durable; by whoever has it, and `_writing` says that nobody else writes meanwhile."""
        began = self._clock.monotonic()
        try:
            write_all(batch.file.fd, b"".join(batch.parts), batch.start)
            os.fdatasync(batch.file.fd)
            batch.file.check_linked()
        except ThreefoldError as gone:
            return gone
        except OSError as error:
            return Unavailable(
                f"the journal could not be written: {error.strerror}",
                hint="check the disk; nothing that was acknowledged is affected",
            )
        self._took = self._clock.monotonic() - began
        return None

    def _committed(self, batch: _Batch, failure: ThreefoldError | None) -> None:
        if failure is not None:
            self.fail(failure)
        if self.failure is not None:
            return
        self._in_flight.pop(0)
        self._writing = False
        self.durable_batch = batch.number
        gathered = bool(self._in_flight or self._gathering.parts)
        _tell(batch, None)
        # What they appended while they were told has a turn of its own: written from here, one client's requests in
        # one piece would be written from within each other.
        if gathered:
            self._send()

    # the end of a file, and of the journal

    async def drop_before(self, first: int) -> None:
        """Files below ``first`` hold nothing that is needed: say so durably, then remove them."""
        place = self.append(Kind.FIRST, first.to_bytes(8, "little"))
        await self.durable(place.batch)
        self._first = first
        gone = [number for number in self.files if number < first]
        paths = [self.files.pop(number).path for number in sorted(gone)]
        await self._loop.run_in_executor(self._maker, _remove, self._folder, paths)

    async def close(self) -> None:
        """Everything appended is durable, and a mark says that the end is no accident."""
        if self.failure is None:
            await self.durable(self.newest_batch)
            with suppress(NoNextFile):
                await self.durable(self.append(Kind.CLOSED, b"").batch)
        self._queue.put(None)
        await self._loop.run_in_executor(None, self._thread.join)
        await self._loop.run_in_executor(None, self._maker.shutdown)


def _tell(batch: _Batch, failure: ThreefoldError | None) -> None:
    for hear in batch.waiting:
        try:
            hear(failure)
        except Exception:  # noqa: BLE001 - one listener's fault is not the others', who wait for their answer
            _log.exception("an answer could not be given")


def _settle(answer: asyncio.Future[None], failure: ThreefoldError | None) -> None:
    if answer.done():  # whoever asked went away
        return
    if failure is None:
        answer.set_result(None)
    else:
        answer.set_exception(failure)


def _remove(folder: Path, paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
    sync_folder(folder)
