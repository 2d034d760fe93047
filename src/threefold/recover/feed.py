"""The log's bytes laid into the ``pg_wal`` of a standby that runs, where streaming did not bring them.

Nothing that the standby has, and that the log has as well, is written again; what differs where it may have been
replayed already is never overwritten: that copy is foreign (follow.py says why). The walreceiver has to have ended:
it writes the same files.

Existing segment files are written in place, as the walreceiver does it: the process that replays takes a record that
is half there for the end of the log, and looks again. A new segment appears whole, under its name, by a rename. A feed
that is killed at any moment is made good by the next one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

from threefold.kernel.clock import Clock
from threefold.kernel.errors import Damaged, Refused, Unavailable
from threefold.kernel.keys import Keyring
from threefold.kernel.lsn import Lsn
from threefold.postgres.binaries import Account
from threefold.postgres.timeline import History, history_name, parse_history, timeline_at
from threefold.postgres.wal import last_whole_record_end, segment_name, segment_no, segment_start
from threefold.quorum import keys
from threefold.quorum.driver import Driver
from threefold.quorum.majority import QUORUM
from threefold.quorum.requests import Answers, Ask, Procedure, Read
from threefold.quorum.timelines import open_history
from threefold.quorum.view import GRACE_S
from threefold.recover.destination import sync_folder
from threefold.recover.follow import first_difference, whole_until
from threefold.recover.wal_files import UNNAMED
from threefold.stores.store import ABSENT, ObjectStore

_ZEROS: Final = bytes(1024 * 1024)
_LOOKED_AT_BYTES: Final = 16 * 1024 * 1024
_ASK_AGAIN_S: Final = 0.5


class ForeignCopy(Refused):
    """The copy is not of the log's history: `Standby.prepare` makes it anew from the stores."""


class PgWal:
    """The segment files of one standby, named by the log's ``history``."""

    def __init__(self, pg_wal: Path, segment_size: int, history: History, owner: Account) -> None:
        self.folder = pg_wal
        self.size = segment_size
        self.history = history
        self._owner = owner
        self._lineage = [history.timeline, *(switch.timeline for switch in reversed(history.switches))]

    def find(self, number: int) -> Path | None:
        """The standby's file of a segment: PostgreSQL takes the newest timeline's."""
        names = (self.folder / segment_name(timeline, number, self.size) for timeline in self._lineage)
        return next((path for path in names if path.exists()), None)

    def read(self, start: Lsn, end: Lsn) -> bytes:
        """What the files hold from ``start`` on, up to ``end`` or the first that is missing."""
        parts = []
        at = start
        while at < end:
            path = self.find(segment_no(at, self.size))
            if path is None:
                break
            with path.open("rb") as file:
                file.seek(at % self.size)
                parts.append(file.read(min(end - at, self.size - at % self.size)))
            if not parts[-1]:
                break
            at = Lsn(at + len(parts[-1]))
        return b"".join(parts)

    def whole_until(self, replayed: Lsn) -> Lsn:
        """Up to where the standby's whole records reach behind what it has replayed."""
        start = segment_start(segment_no(max(replayed - 1, 0), self.size), self.size)
        at = replayed
        while True:
            data = self.read(start, Lsn(at + _LOOKED_AT_BYTES))
            end = whole_until(data, start=start, at=at, segment_size=self.size)
            if end <= at or start + len(data) < at + _LOOKED_AT_BYTES:
                return end
            start, at = segment_start(segment_no(end - 1, self.size), self.size), end

    def last_record_end(self, after: Lsn, end: Lsn) -> Lsn:
        """Where the last whole record before ``end`` ends; ``after`` where none does behind that."""
        number = segment_no(max(end - 1, 0), self.size)
        while segment_start(number, self.size) > after:
            start = segment_start(number, self.size)
            found = last_whole_record_end(self.read(start, end), start=start, segment_size=self.size)
            if found is not None:
                return found
            number -= 1  # one long record
        if after >= end:
            return after
        start = segment_start(segment_no(max(after - 1, 0), self.size), self.size)
        data = self.read(start, end)
        return last_whole_record_end(data, start=start, segment_size=self.size, at=after) or after

    def new(self) -> BinaryIO:
        return _new(self.folder, self._owner)


def put_histories(pg_wal: Path, files: Mapping[int, bytes], owner: Account) -> None:
    """Raises ForeignCopy where the standby knows another history of one of these timelines."""
    for timeline, content in files.items():
        path = pg_wal / history_name(timeline)
        if path.exists():
            there = parse_history(timeline, path.read_bytes()).switches
            wanted = parse_history(timeline, content).switches
            if [(each.timeline, each.at) for each in there] != [(each.timeline, each.at) for each in wanted]:
                raise ForeignCopy(f"the copy's timeline {timeline} is not the log's", hint=_ANEW)
            continue
        with _new(pg_wal, owner) as file:
            file.write(content)
            _appear(file, path)
    sync_folder(pg_wal)


def _new(pg_wal: Path, owner: Account) -> BinaryIO:
    file = (pg_wal / UNNAMED).open("wb+")
    os.fchmod(file.fileno(), 0o600)
    if os.geteuid() == 0:
        os.fchown(file.fileno(), owner.uid, owner.gid)
    return file


def _appear(file: BinaryIO, path: Path) -> None:
    """A new file is whole: it gets its name."""
    file.flush()
    os.fsync(file.fileno())
    path.with_name(UNNAMED).rename(path)


class Layer:
    """Takes the log's bytes in order, and sees that the files hold them up to ``end``. No server need run."""

    def __init__(self, files: PgWal, *, replayed: Lsn, end: Lsn) -> None:
        self._files = files
        self._replayed = replayed
        self._end = end
        self._whole: Lsn | None = None
        self._number = -1
        self._path: Path | None = None
        self._base: BinaryIO | None = None  # what the standby has of this segment
        self._file: BinaryIO | None = None  # what is written: the same, or a new one
        self._dirty = False
        self._at = Lsn(0)
        self.written = 0

    def put(self, start: Lsn, data: bytes) -> None:
        """The next bytes. Raises ForeignCopy; Damaged where they do not follow on those before."""
        if self._at not in {0, start}:
            raise Damaged(f"the log has no bytes from {self._at} to {start}", hint="`threefold verify` shows the gap")
        view = memoryview(data)
        at = start
        while view:
            number = segment_no(at, self._files.size)
            if number != self._number:
                self._close(at)
                self._open(number, at)
            taken = view[: self._files.size - at % self._files.size]
            if self._file is not None:
                self._lay(at, bytes(taken))
            at = Lsn(at + len(taken))
            view = view[len(taken) :]
        self._at = at

    def finish(self) -> None:
        """All up to ``end`` was put, and is on the disk when this returns."""
        if self._at not in {0, self._end}:
            raise Damaged(f"the log's bytes stop at {self._at}, not at {self._end}")
        self._close(self._end)
        sync_folder(self._files.folder)

    def abandon(self) -> None:
        """Nothing more comes; what is in the files is as good as it was."""
        for file in {self._file, self._base} - {None}:
            if file is not None:
                with suppress(OSError):
                    file.close()
        self._file = self._base = None

    def _open(self, number: int, at: Lsn) -> None:
        self._number, self._dirty = number, False
        size = self._files.size
        timeline = timeline_at(self._files.history, min(self._end, (number + 1) * size) - 1)
        self._path = self._files.folder / segment_name(timeline, number, size)
        there = self._files.find(number)
        if there is None and (number + 1) * size <= self._replayed:
            return  # replayed, and removed since
        if self._path.exists():
            self._file = self._base = self._path.open("rb+", buffering=0)
            return
        self._base = there.open("rb", buffering=0) if there is not None else None
        if at % size and self._base is None:
            raise Damaged(f"the log begins at {at}, and the copy lacks the segment's bytes before")
        self._file = self._files.new()
        for _ in range(0, size, len(_ZEROS)):
            self._file.write(_ZEROS)
        self._file.seek(0)
        if at % size and self._base is not None:
            self._file.write(self._base.read(at % size))

    def _lay(self, at: Lsn, data: bytes) -> None:
        offset = at % self._files.size
        have = b""
        if self._base is not None:
            self._base.seek(offset)
            have = self._base.read(len(data))
        differs = first_difference(have, data)
        if differs is not None and have:
            if self._whole is None:
                self._whole = self._files.whole_until(self._replayed)
            if at + differs < self._whole:
                raise ForeignCopy(
                    f"the copy differs from the log at {Lsn(at + differs)}, below {self._whole}, where it has been",
                    hint=_ANEW,
                )
        if self._file is not self._base:
            differs = 0
        if differs is None or self._file is None:
            return
        self._file.seek(offset + differs)
        self._file.write(data[differs:])
        self.written += len(data) - differs
        self._dirty = True

    def _close(self, at: Lsn) -> None:
        """``at``: where the bytes that were put into this segment end."""
        file, base, path = self._file, self._base, self._path
        if file is None or path is None:
            self.abandon()
            return
        try:
            if self._dirty and at % self._files.size and file is base:
                # What was there behind the log's end is nothing whole: the next record must not be guessed from it.
                file.seek(at % self._files.size)
                if any(file.read(self._files.size)):
                    file.seek(at % self._files.size)
                    left = self._files.size - at % self._files.size
                    while left:
                        left -= file.write(_ZEROS[:left])
            if file is not base:
                _appear(file, path)
            elif self._dirty:
                os.fsync(file.fileno())
        finally:
            self.abandon()


_ANEW: Final = "it is made anew from the stores; only what differs is fetched"


async def taken_timelines(
    stores: Mapping[str, ObjectStore], keyring: Keyring, clock: Clock, *, above: int, patience: float
) -> dict[int, bytes]:
    """Timelines above the log's newest that the stores know: somebody was promoted, and never wrote to the log.

    PostgreSQL takes the first number that has no ``.history`` file; so it is looked as far as they follow on each
    other. Raises Unavailable.
    """
    taken: dict[int, bytes] = {}
    driver, until = Driver(stores, clock), clock.monotonic() + patience
    while True:
        timeline = above + len(taken) + 1
        answers = await driver.run(_read_each(tuple(stores), keys.timeline_key(timeline)))
        bodies = [answer for answer in answers.values() if isinstance(answer, bytes)]
        if not bodies and sum(answer is ABSENT for answer in answers.values()) >= min(QUORUM, len(stores)):
            return taken
        for body in bodies:
            with suppress(Damaged):
                taken[timeline] = open_history(keyring, timeline, body)
                break
        else:
            if clock.monotonic() > until:
                raise Unavailable(f"too few stores say whether they know timeline {timeline}")
            await clock.sleep(_ASK_AGAIN_S)


def _read_each(stores: tuple[str, ...], key: str) -> Procedure[Answers]:
    """From every store; once two have told, a third that hangs is waited for a moment only."""

    def two(answers: Answers) -> bool:
        told = sum(answer is ABSENT or isinstance(answer, bytes) for answer in answers.values())
        return told >= min(QUORUM, len(stores))

    answers: Answers = yield Ask(tuple(Read(store, key) for store in stores), two, GRACE_S)
    return answers
