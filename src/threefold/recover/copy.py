"""Making the copy that a warm standby runs on: from nothing, or out of what stands in the folder.

Both are the newest snapshot laid into the folder, chunk by chunk, only what differs fetched (restore.py). An old
primary's folder shares nearly all of it with the snapshot, so a site that comes back is rebuilt at the price of its
changes. Killed at any moment, it is gone on with by calling again: the marker stands first, and a folder that is being
rebuilt has no control file, so that nobody starts a mixture.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threefold.kernel.clock import Clock
from threefold.kernel.errors import Refused
from threefold.kernel.keys import Keyring
from threefold.kernel.lsn import Lsn
from threefold.kernel.progress import Progress
from threefold.postgres.binaries import Binaries, major_of
from threefold.postgres.control import read_control
from threefold.recover import overrides
from threefold.recover.configure import configure
from threefold.recover.destination import MARKER, Destination, disk_errors
from threefold.recover.follow import ahead, laid_over
from threefold.recover.log import OpensLog
from threefold.recover.plan import choose, segment_begin
from threefold.recover.restore import restore
from threefold.recover.targets import Latest
from threefold.recover.wal_files import place_wal
from threefold.stores.store import ObjectStore
from threefold.vault.chunk_store import Vault


@dataclass(frozen=True, slots=True)
class Prepared:
    """What `Standby.prepare` did: ``kept``, ``restored`` or ``rebuilt``. The bytes are those of the snapshot's files.

    ``why``: what kept a former primary from becoming a standby as it is.
    """

    how: str
    snapshot: str = ""
    bytes_needed: int = 0
    bytes_fetched: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True)
class Copying:
    """The parts that a copy is made with."""

    stores: Mapping[str, ObjectStore]
    keyring: Keyring
    clock: Clock
    progress: Progress
    find_binaries: Callable[[int], Binaries]
    open_log: OpensLog


async def make_copy(with_: Copying, into: Path, *, rebuild: bool) -> Prepared:
    """Restore the newest snapshot as a standby that follows nobody yet. No server runs on ``into``.

    Raises Refused for another system's database, NotThere where the stores hold nothing to begin with, Damaged,
    Unavailable, BadInput.
    """
    progress = with_.progress
    vault = Vault(with_.stores, with_.keyring, with_.clock, note=progress.note)
    progress.step("plan", "finding the newest snapshot", unit="objects")
    catalogue, log = await asyncio.gather(
        vault.catalogue(), with_.open_log(with_.stores, with_.keyring, with_.clock, progress.note)
    )
    for note in catalogue.notes:
        progress.note(note)
    plan = choose(catalogue.summaries, log.extent, Latest())
    snapshot = plan.snapshot
    binaries = with_.find_binaries(snapshot.major)
    if rebuild:
        await _same_system(with_, into, snapshot.system_identifier)
    destination = Destination.of(into, snapshot.tablespaces, _links(into, {each.oid for each in snapshot.tablespaces}))
    record = {
        "what": "a warm standby, made by threefold standby; an unfinished one is gone on with by itself",
        "standby": True,
        "snapshot": snapshot.id,
        "system_identifier": snapshot.system_identifier,
    }
    resumed = destination.claim(record, rebuild=rebuild)
    if resumed:
        with disk_errors(into):
            _take_apart(into)
    manifest = await vault.restorable(snapshot.id)

    # The rest of the log is fed while it is replayed: it may be more than the disk holds.
    size = snapshot.segment_size
    begin = segment_begin(snapshot)
    end = min(log.extent.end, Lsn((snapshot.stop // size + 1) * size + ahead(size)))
    fetched = await restore(vault, manifest, destination, progress, resumed=resumed, wal_bytes=end - begin + size)
    with disk_errors(into):
        await place_wal(log, snapshot, into, progress, end=end)
        limits = (await read_control(binaries, into)).limits
        settings = laid_over(limits, size, follow="")
        configure(into, lambda before: overrides.with_standby(before, settings), progress, signal="standby.signal")
        destination.mark({**record, "finished": True, "finished_at": with_.clock.now().isoformat()})
    return Prepared("rebuilt" if rebuild else "restored", snapshot.id, snapshot.size, fetched)


def read_marker(into: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((into / MARKER).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        return {}  # ours is replaced as a whole: this one is somebody else's
    return record if isinstance(record, dict) else {}


async def _same_system(with_: Copying, into: Path, expected: int) -> None:
    major = major_of(into)
    if major is None:
        raise Refused(
            f"{into} holds no database that can be told: its PG_VERSION is missing or damaged",
            hint="if nothing in it is needed, remove it, and run this again",
        )
    control = await read_control(with_.find_binaries(major), into)
    if control.system_identifier != expected:
        raise Refused(
            f"{into} holds database system {control.system_identifier}, the log is that of {expected}",
            hint="it is another database: name another folder; nothing was touched",
        )


def _links(into: Path, wanted: set[int]) -> dict[int, Path]:
    """Where the tablespaces of what is there already lie: they are used again."""
    links = (into / "pg_tblspc").glob("*")
    return {
        int(link.name): link.readlink()
        for link in links
        if link.is_symlink() and link.name.isdigit() and int(link.name) in wanted
    }


def _take_apart(into: Path) -> None:
    """Nobody can start what is left, and its WAL, which may lead elsewhere, is not replayed."""
    (into / "global" / "pg_control").unlink(missing_ok=True)
    pg_wal = into / "pg_wal"  # may be a link: then nobody else goes in there
    if pg_wal.is_dir():
        for path in pg_wal.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
