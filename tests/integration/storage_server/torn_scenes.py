"""Journals whose last batch a crash may have torn: every kind of record, alone and together, and over two files."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import Awaitable, Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import pytest
from storage_engines import OPTIONS, crash, journal_files, opened, put

from threefold.storage_server.compaction import compact_oldest
from threefold.storage_server.engine import Engine
from threefold.storage_server.entries import INLINE
from threefold.storage_server.records import Found, Kind, decode_file_header, scan
from threefold.storage_server.replay import open_journal

SECTOR = 512
UNTIL = 2**42
# By bucket and key: the SHA-256 of what is read (None: it is damaged, and says so), and until when it is locked.
Contents = dict[str, dict[str, tuple[str | None, int]]]


@dataclass(frozen=True)
class Act:
    """One record: how it comes about, and what it changes."""

    kind: Kind
    key: str
    do: Callable[[Engine], Awaitable[object]]
    body: bytes = b""

    def change(self, contents: Contents) -> None:
        there = contents["b-b"]
        if self.kind == Kind.BUCKET:
            contents[self.key] = {}
        elif self.kind == Kind.DELETE:
            there.pop(self.key)
        elif self.kind == Kind.LOCK:
            there[self.key] = (there[self.key][0], UNTIL)
        elif self.kind in {Kind.PUT, Kind.PUT_FILE}:
            there[self.key] = (hashlib.sha256(self.body).hexdigest(), 0)


def putting(key: str, body: bytes) -> Act:
    kind = Kind.PUT if len(body) <= OPTIONS.inline_bytes_max else Kind.PUT_FILE
    return Act(kind, key, lambda engine: put(engine, key, body), body)


def deleting(key: str) -> Act:
    return Act(Kind.DELETE, key, lambda engine: engine.delete("b-b", key))


def locking(key: str) -> Act:
    return Act(Kind.LOCK, key, lambda engine: engine.lengthen_lock("b-b", key, ("COMPLIANCE", UNTIL)))


def making(bucket: str) -> Act:
    return Act(Kind.BUCKET, bucket, lambda engine: engine.make_bucket(bucket))


ALONE = {
    "put": [putting("new", b"n" * 40)],
    "put of nothing": [putting("new", b"")],
    "put over another": [putting("old", b"o" * 33)],
    "put of a large one": [putting("large", b"l" * 1500)],
    "put of a large one over a small one": [putting("old", b"l" * 1500)],
    "put of a small one over a large one": [putting("big", b"s" * 9)],
    "delete": [deleting("gone")],
    "delete of a large one": [deleting("big")],
    "lock": [locking("old")],
    "bucket": [making("c-c")],
}
TOGETHER = [
    putting("new", os.urandom(300)),
    deleting("gone"),
    locking("old"),
    putting("large", b"l" * 1500),
    making("c-c"),
    putting("zeros", bytes(600)),
    putting("kept", os.urandom(500)),
    deleting("new"),
    putting("new", os.urandom(400)),
]


@dataclass(frozen=True)
class Scene:
    """``files``: the journal's, whole. The last batch stands in ``torn`` at [start, end).

    ``states``: what there is after none of its records, after the first, and so on.
    """

    files: dict[str, bytes]
    torn: str
    start: int
    end: int
    states: list[Contents]

    @property
    def whole(self) -> bytes:
        return self.files[self.torn]

    def write(self, folder: Path, image: bytes) -> None:
        """A folder as the crash left it, ``image`` in place of the torn file."""
        journal = folder / "journal"
        journal.mkdir(parents=True, exist_ok=True)
        for path in journal.iterdir():
            path.unlink()
        for name, data in (self.files | {self.torn: image}).items():
            (journal / name).write_bytes(data)

    def before(self) -> bytes:
        """Nothing of the last batch has reached the disk."""
        return self.whole[: self.start] + bytes(self.end - self.start) + self.whole[self.end :]

    def with_pieces(self, chosen: int) -> bytes:
        """Of the last batch's sectors only those have reached the disk whose bit is set."""
        image = bytearray(self.before())
        for bit, first in enumerate(self.sectors()):
            if chosen >> bit & 1:
                at, end = max(first, self.start), min(first + SECTOR, self.end)
                image[at:end] = self.whole[at:end]
        return bytes(image)

    def sectors(self) -> range:
        return range(self.start - self.start % SECTOR, self.end, SECTOR)


def records(data: bytes) -> tuple[Found, ...]:
    header = decode_file_header(data)
    assert header is not None
    return scan(data, header.salt, continued=False).records


def read(folder: Path) -> Contents:
    """What the journal says there is. Raises Damaged."""
    replayed = open_journal(folder / "journal", file_bytes=OPTIONS.journal_file_bytes)
    contents: Contents = {}
    for name, bucket in replayed.catalog.buckets.items():
        contents[name] = {}
        for key, entry in bucket.objects.items():
            digest: str | None = entry.sha256.hex()
            if entry.file_id == INLINE:
                body = replayed.state.files[entry.place.file].read(entry.place)
                digest = hashlib.sha256(body).hexdigest() if body is not None else None
                assert (digest is None) == entry.damaged
                assert digest in {None, entry.sha256.hex()}
            contents[name][key] = (digest, entry.locked_until_ms)
    return contents


async def begun(folder: Path) -> tuple[Engine, Contents]:
    engine = await opened(folder)
    contents: Contents = {"b-b": {}}
    for key, size in (("kept", 40), ("old", 40), ("gone", 40), ("big", 1200)):
        act = putting(key, key.encode() * size)
        await act.do(engine)
        act.change(contents)
    return engine, contents


async def in_one_batch(engine: Engine, acts: list[Act], patch: pytest.MonkeyPatch) -> None:
    """They gather behind a batch that is held up on its way to the disk."""
    gate, real = threading.Event(), os.fdatasync

    def held_up(fd: int) -> None:
        gate.wait(10)
        real(fd)

    engine.journal.quick_s = -1.0  # all by the thread: the event loop must not be held up with it
    with patch.context() as patched:
        patched.setattr(os, "fdatasync", held_up)
        tasks = [asyncio.create_task(put(engine, "kept", b"held up"))]
        await asyncio.sleep(0.02)
        for act in acts:
            tasks.append(asyncio.ensure_future(act.do(engine)))  # type: ignore[arg-type]
            await asyncio.sleep(0.05 if act.kind == Kind.PUT_FILE else 0.005)
        gate.set()
        await asyncio.gather(*tasks)


def after_each(contents: Contents, acts: list[Act]) -> list[Contents]:
    states = [deepcopy(contents)]
    for act in acts:
        states.append(deepcopy(states[-1]))
        act.change(states[-1])
    return states


def scene_of(folder: Path, states: list[Contents], kinds: list[Kind], which: int = 0) -> Scene:
    """The last batch is in the ``which``th file, and is made of these."""
    files = {path.name: path.read_bytes() for path in journal_files(folder)}
    torn = sorted(files)[which]
    found = records(files[torn])
    last = [record for record in found if record.batch == found[-1].batch]
    assert [record.kind for record in last] == kinds
    return Scene(files, torn, last[0].position, last[-1].end, states)


async def alone_or_together(folder: Path, acts: list[Act], patch: pytest.MonkeyPatch) -> Scene:
    engine, contents = await begun(folder)
    if len(acts) == 1:
        await acts[0].do(engine)
    else:
        await in_one_batch(engine, acts, patch)
        putting("kept", b"held up").change(contents)
    await crash(engine)
    return scene_of(folder, after_each(contents, acts), [act.kind for act in acts])


async def closed(folder: Path) -> Scene:
    engine, contents = await begun(folder)
    await engine.close()
    return scene_of(folder, [contents], [Kind.CLOSED])


async def over_two_files(folder: Path, patch: pytest.MonkeyPatch) -> tuple[Scene, Scene]:
    """One turn of the event loop whose records go into two files: what may be torn in the first, and in the second."""
    engine, contents = await begun(folder)
    while engine.journal._active.size - engine.journal._end > 1300:
        act = putting("filler", os.urandom(300))
        await act.do(engine)
        act.change(contents)
    acts = [putting("new", os.urandom(100)), putting("next", os.urandom(1000))]
    await in_one_batch(engine, acts, patch)
    putting("kept", b"held up").change(contents)
    await crash(engine)
    states = after_each(contents, acts)
    second = scene_of(folder, states[1:], [Kind.PUT], 1)
    first = scene_of(folder, [*states[:2], states[1]], [Kind.PUT, Kind.END])
    blank = first.files | {second.torn: second.before()}  # written only after the first one's batch is on the disk
    return Scene(blank, first.torn, first.start, first.end, first.states), second


async def compacted(folder: Path) -> tuple[Scene, Scene]:
    """What lives in the oldest file is written again, then the file is declared done with: nothing may change."""
    engine, contents = await begun(folder)
    while engine.journal.active_number == 1:
        act = putting("filler", os.urandom(300))
        await act.do(engine)
        act.change(contents)
    (oldest, *_) = journal_files(folder)
    data = oldest.read_bytes()
    await compact_oldest(engine.journal, engine._catalog)
    await crash(engine)
    oldest.write_bytes(data)
    done = scene_of(folder, [contents], [Kind.FIRST], 1)
    moved = records(done.whole)[-2]
    whole = done.before()
    return Scene(done.files | {done.torn: whole}, done.torn, moved.batch_start, moved.end, [contents]), done
