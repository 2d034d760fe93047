"""Writing a snapshot's files: chunks fetched from the stores in parallel, verified, put into their places.

Chunks are fetched pack by pack, neighbours in one ranged read, each read from whichever store gives it soonest
(stores/reads.py); what arrives is verified by key, name and length before it touches a file (invariant 6). A chunk that
several files share is fetched once.

Files that are there already, from a recovery that was interrupted, are compared chunk by chunk by digest: only what
differs is fetched, and what does not belong is removed. Everything is on disk (fsync) before `restore` returns.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from threefold.kernel.bulk_file import BulkFile, allocate
from threefold.kernel.progress import Progress
from threefold.recover.destination import MARKER, Destination, disk_errors, sync_folder
from threefold.vault.chunk_store import Vault
from threefold.vault.chunker import CHUNK_BYTES, ChunkNamer
from threefold.vault.manifest import File, Manifest
from threefold.vault.neighbours import neighbours
from threefold.vault.pack import Place

_READS_AT_ONCE: Final = 8
_SYNCS_AT_ONCE: Final = 8


@dataclass(slots=True)
class _Spot:
    """Where in a file a chunk goes."""

    path: Path
    offset: int


@dataclass(slots=True)
class _Wanted:
    """A chunk to fetch and where it goes."""

    name: bytes
    place: Place
    spots: list[_Spot] = field(default_factory=list)


async def restore(
    vault: Vault, manifest: Manifest, destination: Destination, progress: Progress, *, resumed: bool, wal_bytes: int
) -> int:
    """Write everything of the snapshot; the number of bytes fetched for it, unpacked.

    ``wal_bytes`` are still to be written by the caller: room is checked for both. Raises Damaged, naming the pack,
    where no store has a good copy of something.
    """
    files = [(file, path) for file in manifest.files if (path := destination.path(file.path)) is not None]
    with disk_errors(destination.into):
        await asyncio.to_thread(_make_folders, manifest, destination)
        if resumed:
            await asyncio.to_thread(_remove_foreign, manifest, destination, files)
    namer = ChunkNamer(vault.keyring) if resumed else None
    progress.step("restore-compare", "comparing what is there already", total=len(files), unit="files")
    wanted: dict[int, _Wanted] = {}
    room: dict[Path, int] = dict.fromkeys(destination.roots(), 0)
    room[destination.into] += wal_bytes
    for file, path in files:
        with disk_errors(path):
            lacking = await asyncio.to_thread(_lacking, manifest, file, path, namer) if namer else _all_of(file)
            still_to_take = max(file.size - _room_taken(path), 0)
        root = next(root for root in reversed(destination.roots()) if path.is_relative_to(root))
        lacking_bytes = 0
        for number, offset in lacking:
            chunk = wanted.setdefault(number, _Wanted(manifest.names[number], manifest.places[number]))
            chunk.spots.append(_Spot(path, offset))
            lacking_bytes += manifest.places[number].size
        room[root] += min(lacking_bytes, still_to_take)
        progress.advance(1)
    destination.check_room(room)

    total = sum(chunk.place.size * len(chunk.spots) for chunk in wanted.values())
    progress.step("restore", "restoring the database's files", total=total)
    with disk_errors(destination.into):
        await asyncio.to_thread(_make_files, files)
        await _fetch_all(vault, list(neighbours(sorted(wanted.values(), key=_place), _place)), progress)
        progress.step("restore-sync", "writing everything to the disk", total=len(files), unit="files")
        await asyncio.to_thread(_sync, manifest, destination, files)
    return sum(chunk.place.size for chunk in wanted.values())


def _place(chunk: _Wanted) -> Place:
    return chunk.place


async def _fetch_all(vault: Vault, reads: list[list[_Wanted]], progress: Progress) -> None:
    waiting = iter(reads)

    async def work() -> None:
        for read in waiting:
            plain = await vault.chunks([(chunk.name, chunk.place) for chunk in read])
            await asyncio.to_thread(_write, read, plain)
            progress.advance(sum(chunk.place.size * len(chunk.spots) for chunk in read))

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(_READS_AT_ONCE):
                group.create_task(work())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None


def _all_of(file: File) -> Iterator[tuple[int, int]]:
    return ((number, at * CHUNK_BYTES) for at, number in enumerate(file.chunks))


def _lacking(manifest: Manifest, file: File, path: Path, namer: ChunkNamer) -> list[tuple[int, int]]:
    """Which chunks of a file are not in place."""
    if not path.exists():
        return list(_all_of(file))
    with path.open("rb") as there:
        _read_from_the_disk(there.fileno())
        return [
            (number, offset)
            for number, offset in _all_of(file)
            if not namer.is_named(there.read(manifest.places[number].size), manifest.names[number])
        ]


def _read_from_the_disk(fd: int) -> None:
    """Not out of the page cache, which may hold as whole what an earlier run could not write.

    The kernel tells of a failed write once, to the run that asked; its pages are called clean then (fsync(2)).
    """
    os.fsync(fd)
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def _make_folders(manifest: Manifest, destination: Destination) -> None:
    for directory in sorted(manifest.directories, key=lambda each: each.path):
        path = destination.path(directory.path)
        if path is not None and path != destination.into:
            path.mkdir(mode=directory.mode | 0o700, parents=True, exist_ok=True)
    for oid, folder in destination.tablespaces.items():
        link = destination.into / "pg_tblspc" / str(oid)
        link.unlink(missing_ok=True)
        link.symlink_to(folder)


def _remove_foreign(manifest: Manifest, destination: Destination, files: Sequence[tuple[File, Path]]) -> None:
    """What an interrupted recovery, or the PostgreSQL it started, left and the snapshot does not have.

    Of a tablespace only PostgreSQL's own folders: a primary that is rebuilt may have other things beside them.
    """
    ours = {path for _, path in files} | {destination.into / MARKER}
    ours |= {path for each in manifest.directories if (path := destination.path(each.path)) is not None}
    ours |= {destination.into / "pg_tblspc" / str(oid) for oid in destination.tablespaces}
    ours |= {parent for path in ours for parent in path.parents}
    for root in destination.roots():
        for folder, folders, names in os.walk(root):
            if root != destination.into and Path(folder) == root:
                folders[:] = [name for name in folders if name.startswith("PG_")]
                names.clear()
            for name in [*folders, *names]:
                path = Path(folder) / name
                if path in ours:
                    continue
                if path.is_dir() and not path.is_symlink():
                    folders.remove(name)
                    shutil.rmtree(path)
                else:
                    path.unlink()


def _make_files(files: Sequence[tuple[File, Path]]) -> None:
    """Each with its final length and mode, so that chunks can be written in any order."""
    for file, path in files:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            os.ftruncate(descriptor, file.size)
            if file.size > CHUNK_BYTES:
                allocate(descriptor, file.size)
            os.fchmod(descriptor, file.mode)
        finally:
            os.close(descriptor)


def _room_taken(path: Path) -> int:
    """Bytes that an earlier run has on the disk for it, written or not (`allocate`)."""
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0


def _write(read: Sequence[_Wanted], plain: Sequence[bytes]) -> None:
    for chunk, data in zip(read, plain, strict=True):
        for spot in chunk.spots:
            file = BulkFile(spot.path, os.O_WRONLY | os.O_NOFOLLOW)
            try:
                file.write([data], spot.offset)
            finally:
                file.close()


def _sync(manifest: Manifest, destination: Destination, files: Sequence[tuple[File, Path]]) -> None:
    """Several at once: a file system's journal makes one transaction of what waits for it together."""
    folders = {path for each in manifest.directories if (path := destination.path(each.path)) is not None}
    with ThreadPoolExecutor(_SYNCS_AT_ONCE, "sync") as threads:
        list(threads.map(_sync_file, (path for _, path in files)))
        list(threads.map(sync_folder, {*destination.roots(), *(path.parent for _, path in files), *folders}))


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
