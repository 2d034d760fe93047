"""The disk's cache: what kill -9 keeps, and what a power cut takes.

kill -9 leaves the kernel's page cache, so it proves in which order the server writes and answers, and nothing of its
syncs. Here the cache goes, too. In the server's process `Watch` stands before the system calls that change files and
writes each change into a list before it is made, with what stood there, and each sync after it returned. The list
outlives kill -9. `cut_power` then takes back, of what no sync covers, a part by chance:

- of bytes, 512 at a time: any of a file's sectors, each back to any earlier state of its own;
- of names (made, renamed, removed), those after some moment, for each folder by itself.

What a sync covers, stays: of a file's bytes, fsync and fdatasync of the file; of names, fsync of the folder.
`Watch` also ends the process by its own SIGKILL at one call of many, before, after, or in the middle of a write.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import signal
import threading
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

SECTOR = 512
_UNSEEN = ("write", "writev", "pwritev", "ftruncate")  # nothing watched may be changed by them
CALLS = ("pwrite", "fdatasync", "fsync", "rename", "unlink")
HOWS = ("before", "after", "half")  # half: of a write; the other calls have no middle


@dataclass(frozen=True, slots=True)
class Death:
    """At the ``count``th such call in ``part``: journal, objects. ``share``: of the bytes, in the middle of a write."""

    call: str
    part: str
    count: int
    how: str
    share: float


class Watch:
    """Used by all threads of the server's process, for the files below ``journal`` and ``objects``."""

    def __init__(self, data_dir: Path, notes: Path, death: Death | None) -> None:
        """``notes``: the folder of the list and of files that lost their name."""
        self._root = data_dir.resolve()
        self._watched = tuple(str(self._root / name) for name in ("journal", "objects"))
        self._kept = notes / "kept"
        self._kept.mkdir(parents=True, exist_ok=True)
        self._list = os.open(notes / "list", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(self._list, b"\n")  # the one before may have died within a line
        self._number = _last_number(notes)
        self._lock = threading.Lock()
        self._death = death
        self._calls = 0
        self._real = {name: getattr(os, name) for name in (*CALLS, "open")}

    def install(self) -> None:
        for name in (*CALLS, "open"):
            setattr(os, name, getattr(self, name))
        for name in _UNSEEN:
            setattr(os, name, partial(_refused, self._watched, name, getattr(os, name)))

    # what the server calls instead of the system

    def pwrite(self, fd: int, data: Any, position: int) -> int:
        path = path_of(fd)
        if not path.startswith(self._watched):
            return self._real["pwrite"](fd, data, position)
        stat = os.fstat(fd)
        there = max(0, min(len(data), stat.st_size - position))
        old = os.pread(fd, there, position) if there else b""
        self._note("write", stat.st_ino, at=position, size=len(data), old=old.rstrip(b"\0").hex())
        how = self._dies("pwrite", path)
        if how == "half":
            # Past the cache only whole blocks can be written.
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_DIRECT)
            self._real["pwrite"](fd, bytes(data)[: int(len(data) * self._share)], position)
        self._end(how in {"before", "half"})
        written = self._real["pwrite"](fd, data, position)
        self._end(how == "after")
        return written

    def fsync(self, fd: int) -> None:
        self._sync("fsync", fd)

    def fdatasync(self, fd: int) -> None:
        self._sync("fdatasync", fd)

    def _sync(self, call: str, fd: int) -> None:
        with self._lock:
            covered = self._number
        path = path_of(fd)
        how = self._dies(call, path) if path.startswith(self._watched) else ""
        self._end(how in {"before", "half"})
        self._real[call](fd)
        if path.startswith(self._watched):
            self._note("sync", os.fstat(fd).st_ino, covered=covered)
        self._end(how == "after")

    def open(self, path: Any, flags: int, *more: Any, **named: Any) -> int:
        new = flags & os.O_CREAT and self._is_watched(path) and not os.path.exists(path)  # noqa: PTH110
        fd: int = self._real["open"](path, flags, *more, **named)
        if new:
            self._note("make", _folder(path), path=os.fspath(path))
        return fd

    def rename(self, source: Any, target: Any, **named: Any) -> None:
        if not self._is_watched(target):
            self._real["rename"](source, target, **named)
            return
        self._note(
            "rename",
            _folder(target),
            path=os.fspath(target),
            source=os.fspath(source),
            kept=self._keep(target),
            moved=os.stat(source).st_ino,  # noqa: PTH116
        )
        how = self._dies("rename", target)
        self._end(how in {"before", "half"})
        self._real["rename"](source, target, **named)
        self._end(how == "after")

    def unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        if dir_fd is not None or not self._is_watched(path):
            self._real["unlink"](path, dir_fd=dir_fd)
            return
        self._note("unlink", _folder(path), path=os.fspath(path), kept=self._keep(path))
        how = self._dies("unlink", path)
        self._end(how in {"before", "half"})
        self._real["unlink"](path)
        self._end(how == "after")

    # the list

    def _is_watched(self, path: Any) -> bool:
        return isinstance(path, str | os.PathLike) and os.path.realpath(path).startswith(self._watched)

    def _keep(self, path: Any) -> str:
        """Another name for what loses this one, "": there is nothing."""
        if not os.path.exists(path):  # noqa: PTH110
            return ""
        with self._lock:
            kept = str(self._kept / f"{self._number}-{os.urandom(4).hex()}")
        os.link(path, kept)
        return kept

    def _note(self, what: str, node: int, **more: Any) -> None:
        with self._lock:
            self._number += 1
            line = json.dumps({"n": self._number, "what": what, "node": node} | more) + "\n"
            os.write(self._list, line.encode())

    # the end

    def _dies(self, call: str, path: Any) -> str:
        death = self._death
        if death is None or death.call != call:
            return ""
        if not os.path.realpath(path).startswith(str(self._root / death.part)):
            return ""
        with self._lock:
            self._calls += 1
            return death.how if self._calls == death.count else ""

    @property
    def _share(self) -> float:
        return self._death.share if self._death else 0.0

    def _end(self, now: bool) -> None:
        if now:
            os.kill(os.getpid(), signal.SIGKILL)


def _refused(watched: tuple[str, ...], name: str, real: Any, fd: int, *more: Any) -> Any:
    """A call that the list does not know: what it changed could not be taken back, and nothing would be proved."""
    if path_of(fd).startswith(watched):
        raise AssertionError(f"{name} of a watched file would not be seen")
    return real(fd, *more)


def path_of(fd: int) -> str:
    return str(Path(f"/proc/self/fd/{fd}").readlink())


def _folder(path: Any) -> int:
    return os.stat(os.path.dirname(path)).st_ino  # noqa: PTH116, PTH120


def _last_number(notes: Path) -> int:
    return max((note["n"] for note in _read(notes)), default=0)


def _read(notes: Path) -> list[dict[str, Any]]:
    listed = []
    for line in (notes / "list").read_text().splitlines():
        with suppress(ValueError):  # died while it wrote the line: the change itself was not made
            listed.append(json.loads(line))
    return listed


def cut_power(data_dir: Path, notes: Path, chance: random.Random) -> tuple[int, int]:
    """The server is dead: take back what no sync covers, in part. How many sectors and how many names went."""
    listed = _read(notes)
    covered: dict[int, int] = {}
    for note in listed:
        if note["what"] == "sync":
            covered[note["node"]] = max(covered.get(note["node"], 0), note["covered"])
    loose = [note for note in listed if note["what"] != "sync" and note["n"] > covered.get(note["node"], 0)]
    # First the bytes: they belong to the file, under whatever name.
    sectors = _take_back_bytes(data_dir, notes, [note for note in loose if note["what"] == "write"], chance)
    names = _take_back_names([note for note in loose if note["what"] != "write"], chance)
    (notes / "list").write_text("")
    shutil.rmtree(notes / "kept")
    (notes / "kept").mkdir()
    return sectors, names


def _take_back_bytes(data_dir: Path, notes: Path, writes: list[dict[str, Any]], chance: random.Random) -> int:
    paths = {path.stat().st_ino: path for root in (data_dir, notes) for path in root.rglob("*") if path.is_file()}
    of_sector: dict[tuple[int, int], list[tuple[int, bytes]]] = defaultdict(list)
    for note in writes:
        old = bytes.fromhex(note["old"]).ljust(note["size"], b"\0")
        at, end = note["at"], note["at"] + note["size"]
        while at < end:
            stop = min(end, at - at % SECTOR + SECTOR)
            of_sector[note["node"], at // SECTOR].append((at, old[at - note["at"] : stop - note["at"]]))
            at = stop
    bias = chance.choice([0.0, 0.1, 0.5, 0.9, 1.0])  # towards going
    gone = 0
    for (node, _), states in sorted(of_sector.items()):
        if node not in paths:
            continue
        kept = 0 if chance.random() < bias else chance.randint(0 if bias else len(states), len(states))
        with paths[node].open("r+b", buffering=0) as file:
            for at, old in reversed(states[kept:]):
                os.pwrite(file.fileno(), old, at)
                gone += 1
    return gone


def _take_back_names(changes: list[dict[str, Any]], chance: random.Random) -> int:
    of_folder: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for note in changes:
        of_folder[note["node"]].append(note)
    taken = [
        note
        for notes in of_folder.values()
        for note in notes[chance.choice([0, len(notes), chance.randint(0, len(notes))]) :]
    ]
    for note in sorted(taken, key=lambda note: -note["n"]):
        path = Path(note["path"])
        if note["what"] == "make":
            path.unlink(missing_ok=True)
        elif note["what"] == "rename":
            if path.exists() and path.stat().st_ino == note["moved"]:
                path.rename(note["source"])
                if note["kept"]:
                    os.link(note["kept"], path)
        elif note["kept"] and not path.exists():
            os.link(note["kept"], path)
    return len(taken)
