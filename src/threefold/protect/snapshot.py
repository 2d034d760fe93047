"""Taking a snapshot: the primary's base backup, or a standby's, streamed into the vault.

Nothing touches a disk of ours. The tar streams are cut into files, the files into chunks; two threads name and
compress the chunks; what the vault does not hold yet is sealed into packs, which go to all three stores while the
next one fills. Memory is bounded by the chunks at work and the packs on their way, whatever the database's size, and a
slow store is left behind (vault/uploads.py).

The order makes the snapshot safe: what arrived is compared with PostgreSQL's manifest; every pack is on two stores;
the WAL up to the stop LSN, without which the files are worthless, is settled; and only then the manifest is written,
and withdrawn again should a prune be deleting what it names (vault/marks.py).
An attempt that dies before leaves packs, and the next attempt finds their chunks and does not send them again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Protocol

import google_crc32c

from threefold.kernel.clock import Clock
from threefold.kernel.errors import Damaged, NotThere, Unavailable
from threefold.kernel.lsn import Lsn
from threefold.kernel.progress import Progress
from threefold.postgres.messages import ArchiveData, ArchiveStarted, BackupProgress, ManifestData, ManifestStarted
from threefold.postgres.replication import BackupEnded, BackupEvent, BackupStarted, Identity
from threefold.protect.backup_manifest import Received, check_received
from threefold.protect.tar import Kind, Member, MemberEnd, TarReader
from threefold.vault import pack as packs
from threefold.vault.chunk_store import NeededLog, Vault
from threefold.vault.chunker import CHUNK_BYTES, Chunker, ChunkNamer
from threefold.vault.manifest import Directory, File, Manifest, Summary, Tablespace, new_snapshot_id
from threefold.vault.pack import PackBuilder, Place
from threefold.vault.uploads import COPIES, Uploads

_THREADS: Final = 2
_CHUNKS_AT_WORK: Final = 8
_SIZE_UNITS: Final = {"kB": 1024, "MB": 1024**2, "GB": 1024**3}


class Link(Protocol):
    """What a snapshot asks of the primary (postgres/replication.py)."""

    async def identify(self) -> Identity: ...

    async def show(self, parameter: str) -> str: ...

    async def now(self) -> datetime: ...

    def base_backup(self, *, label: str, fast: bool = True) -> AsyncIterator[BackupEvent]: ...


@dataclass(frozen=True, slots=True)
class ViaStandby:
    """The files come from a standby, so that the primary is not read; only the time is its, whose clock stamps commits.

    What the standby had replayed at the backup's end, the primary had committed before it is asked.
    """

    standby: Link
    primary: Link

    async def identify(self) -> Identity:
        return await self.standby.identify()

    async def show(self, parameter: str) -> str:
        return await self.standby.show(parameter)

    async def now(self) -> datetime:
        return await self.primary.now()

    def base_backup(self, *, label: str, fast: bool = True) -> AsyncIterator[BackupEvent]:
        return self.standby.base_backup(label=label, fast=fast)


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """A snapshot that is there."""

    summary: Summary
    seconds: float
    sent: int  # bytes of new packs and of the manifest, for each store
    chunks: int
    chunks_reused: int
    missing: Mapping[str, Sequence[str]]  # store → keys that it lacks and the other two have


async def take_snapshot(
    link: Link,
    vault: Vault,
    *,
    settled: Callable[[Lsn], Awaitable[None]],
    needed_log: Callable[[Lsn, Lsn], Awaitable[NeededLog]],
    clock: Clock,
    progress: Progress,
) -> SnapshotInfo:
    """Take one. ``settled(lsn)`` returns when the WAL below ``lsn`` is on a quorum.

    ``needed_log(start, stop)`` tells of the log that the base backup between them needs (needed_log.py).

    Raises Unavailable when two stores do not take it, or when what it needs is going or not known to stay; Damaged when
    what arrived is not what was sent.
    """
    began, started = clock.monotonic(), clock.now()
    snapshot = new_snapshot_id(started, clock.new_id())
    identity = await link.identify()
    major = int(await link.show("server_version_num")) // 10000
    segment_size = _bytes(await link.show("wal_segment_size"))

    progress.step("snapshot-known", "looking up what the stores hold already", unit="chunks")
    known = await vault.known_chunks()
    async with Uploads(vault.stores, clock) as uploads:
        intake = _Intake(vault, known, uploads, clock)
        with ThreadPoolExecutor(_THREADS, "chunks") as threads:
            backup = await _receive(link, snapshot, intake, threads, progress)
        check_received(
            backup.manifest,
            {file.path: Received(file.size, file.crc32c) for file in intake.files},
            timeline=backup.started.timeline,
        )
        progress.step("snapshot-settle", "waiting for the copies and for the WAL that belongs to them", unit="objects")
        await uploads.finish()
        await _still_there(vault, intake.reused_places())
    await settled(backup.ended.lsn)

    summary = Summary(
        id=snapshot,
        label=backup.label,
        system_identifier=identity.system_id,
        major=major,
        segment_size=segment_size,
        timeline=backup.started.timeline,
        start=backup.started.lsn,
        stop=backup.ended.lsn,
        started=started,
        stopped=backup.stopped,
        size=sum(file.size for file in intake.files),
        files=len(intake.files),
        tablespaces=tuple(
            Tablespace(space.oid, space.location) for space in backup.started.tablespaces if space.oid is not None
        ),
    )
    manifest = Manifest(
        summary,
        tuple(file.frozen() for file in intake.files),
        tuple(intake.directories),
        intake.names,
        intake.places,
        backup.manifest,
    )
    manifest_bytes, manifest_missing = await vault.publish(manifest)
    try:
        log = await needed_log(summary.start, summary.stop)
    except (Damaged, NotThere, Unavailable) as error:
        raise Unavailable(
            f"where the log of snapshot {snapshot} lies is not to be told ({error.message})",
            hint="it stays where it is, and may be whole: `threefold verify` tells; or take another",
        ) from error
    await vault.unaffected(manifest, log)
    missing = {
        store: (*uploads.missing.get(store, ()), *manifest_missing.get(store, ()))
        for store in sorted(uploads.missing.keys() | manifest_missing.keys())
    }
    return SnapshotInfo(
        summary,
        seconds=clock.monotonic() - began,
        sent=uploads.bytes + manifest_bytes,
        chunks=len(intake.names),
        chunks_reused=intake.reused,
        missing=missing,
    )


@dataclass(slots=True)
class _FileDraft:
    path: str
    mode: int
    size: int
    mtime: int
    crc32c: int = 0
    chunks: list[int] = field(default_factory=list)

    def frozen(self) -> File:
        return File(self.path, self.mode, self.size, self.mtime, self.crc32c, tuple(self.chunks))


@dataclass(slots=True)
class _Backup:
    """The base backup, its files aside."""

    started: BackupStarted
    ended: BackupEnded
    stopped: datetime  # by the primary's clock, which stamped every commit before the stop LSN no later
    label: str
    manifest: str


class _Intake:
    """Files become chunks, chunks become packs."""

    def __init__(self, vault: Vault, known: Mapping[bytes, Place], uploads: Uploads, clock: Clock) -> None:
        self.files: list[_FileDraft] = []
        self.directories: list[Directory] = []
        self.names: list[bytes] = []
        self.places: list[Place] = []
        self.reused = 0
        self._keyring = vault.keyring
        self._namer = ChunkNamer(vault.keyring)
        self._known = known
        self._uploads = uploads
        self._clock = clock
        self._numbers: dict[bytes, int] = {}
        self._packs: set[str] = set()
        self._chunker = Chunker()
        self._at_work: deque[tuple[_FileDraft, int, asyncio.Future[tuple[bytes, bytes | None]]]] = deque()
        self._pack = self._new_pack()

    async def take(self, prefix: str, item: Member | memoryview | MemberEnd, threads: ThreadPoolExecutor) -> None:
        """The next thing out of an archive whose members lie under ``prefix``."""
        if isinstance(item, Member):
            if item.kind is Kind.FILE:
                self.files.append(_FileDraft(prefix + item.path, item.mode, item.size, item.mtime))
            elif item.kind is Kind.DIRECTORY:
                self.directories.append(Directory((prefix + item.path).rstrip("/"), item.mode))
            else:
                raise Damaged(f"the base backup holds {item.path!r}, a symbolic link that nobody asked for")
            return
        chunks = [self._chunker.finish()] if isinstance(item, MemberEnd) else self._chunker.feed(item)
        for chunk in filter(None, chunks):
            file = self.files[-1]
            file.crc32c = google_crc32c.extend(file.crc32c, chunk)
            work = asyncio.get_running_loop().run_in_executor(threads, self._compressed, chunk)
            self._at_work.append((file, len(chunk), work))
            while len(self._at_work) >= _CHUNKS_AT_WORK:
                await self._settle_oldest()

    async def finish(self) -> None:
        """All archives are over: the last pack is on its way."""
        while self._at_work:
            await self._settle_oldest()
        await self._send_pack()

    def reused_places(self) -> list[Place]:
        return [place for place in self.places if place.pack not in self._packs]

    def _compressed(self, chunk: bytes) -> tuple[bytes, bytes | None]:
        """In a thread. None: the vault holds it already."""
        names = self._namer.names(chunk)  # under older keys as well: a new key is no reason to send all anew
        known = next((name for name in names if name in self._known), None)
        return (known, None) if known is not None else (names[0], packs.compress(chunk))

    async def _settle_oldest(self) -> None:
        """In the order in which they were cut, so that neighbours in a file are neighbours in a pack."""
        file, size, work = self._at_work.popleft()
        name, compressed = await work
        number = self._numbers.get(name)
        if number is not None:
            file.chunks.append(number)
            return
        if compressed is None:
            place = self._known[name]
            self.reused += 1
        else:
            place = self._pack.add(name, size, compressed)
        file.chunks.append(len(self.names))
        self._numbers[name] = len(self.names)
        self.names.append(name)
        self.places.append(place)
        if self._pack.full:
            await self._send_pack()

    def _new_pack(self) -> PackBuilder:
        return PackBuilder(packs.new_pack_id(self._clock.now(), self._clock.new_id()), self._keyring)

    async def _send_pack(self) -> None:
        if self._pack.empty:
            return
        pack, self._pack = self._pack, self._new_pack()
        self._packs.add(pack.pack)
        await self._uploads.put(packs.pack_key(pack.pack), await asyncio.to_thread(pack.finish))


async def _receive(
    link: Link, snapshot: str, intake: _Intake, threads: ThreadPoolExecutor, progress: Progress
) -> _Backup:
    label = f"threefold {snapshot}"
    started: BackupStarted | None = None
    ended: BackupEnded | None = None
    reader, prefix = TarReader(), ""
    manifest: list[bytes] = []
    untold = 0
    progress.step("snapshot-checkpoint", "waiting for the primary's checkpoint", unit="checkpoints")
    async for event in link.base_backup(label=label):
        match event:
            case BackupStarted():
                started = event
                total = sum(space.size_kib or 0 for space in event.tablespaces) * 1024
                progress.step("snapshot", "copying the database into the vault", total=total or None)
            case ArchiveStarted():
                reader.finish()
                reader, prefix = TarReader(), _prefix(event)
            case ArchiveData():
                for item in reader.feed(event.data):
                    await intake.take(prefix, item, threads)
                untold += len(event.data)
                if untold >= CHUNK_BYTES:
                    progress.advance(untold)
                    untold = 0
            case ManifestStarted():
                reader.finish()
                progress.advance(untold)
            case ManifestData():
                manifest.append(event.data)
            case BackupProgress():
                pass
            case BackupEnded():
                ended = event
    if started is None or ended is None:
        raise Unavailable("the primary ended the base backup early", hint="see the primary's log, and try again")
    stopped = await link.now()
    await intake.finish()
    if started.timeline != ended.timeline:
        raise Damaged(
            f"the primary went from timeline {started.timeline} to {ended.timeline} during the base backup",
            hint="take the snapshot again",
        )
    text = b"".join(manifest).decode(errors="surrogateescape")
    return _Backup(started, ended, stopped, label, text)


async def _still_there(vault: Vault, reused: Sequence[Place]) -> None:
    """Packs of earlier snapshots were on two stores when we began; retention may have gone on since.

    A store that does not answer now has not lost anything: only definite absence counts.
    """
    presence = await vault.presence(packs.ends(reused), enough=COPIES)
    lost = sorted(pack for pack, found in presence.items() if len(found.on | found.unknown) < COPIES)
    if lost:
        raise Unavailable(
            f"{len(lost)} packs shared with earlier snapshots went away while this one was taken, {lost[0]} first",
            hint="take it again: what is missing is uploaded anew",
        )


def _prefix(archive: ArchiveStarted) -> str:
    """Where an archive's members lie in the data folder: a tablespace is named by its OID."""
    oid = archive.name.removesuffix(".tar")
    return f"pg_tblspc/{oid}/" if oid.isdigit() else ""


def _bytes(setting: str) -> int:
    """A size as SHOW gives it (``16MB``)."""
    return int(setting[:-2]) * _SIZE_UNITS[setting[-2:]]
