"""`threefold eject`: everything that one store holds, as plain PostgreSQL base backups and an archive of WAL files.

The way out: what is written needs nothing of ours any more. One store alone is read, whatever becomes of the others and
of us; every byte is verified as in a recovery.

    README.md               how stock PostgreSQL recovers from this, with the commands
    base/{snapshot}/        a base backup as pg_basebackup --format=plain writes it, backup_manifest included
    base/{snapshot}-tablespaces/{oid}/
    wal/                    the log as segment files, and .history files: what a restore_command serves
    threefold-eject.json    how far it came; run again, it goes on, and adds what is new in the store
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from threefold.kernel.clock import Clock
from threefold.kernel.errors import BadInput, Damaged, NotThere, Refused
from threefold.kernel.keys import Keyring
from threefold.kernel.lsn import Lsn
from threefold.kernel.progress import Progress
from threefold.recover.destination import MARKER, Destination, disk_errors, write_durably
from threefold.recover.log import OpenLog, OpensLog, open_quorum_log
from threefold.recover.plan import choose, segment_begin
from threefold.recover.restore import restore
from threefold.recover.targets import Immediate
from threefold.recover.wal_files import WalFiles, write_histories
from threefold.stores.store import ObjectStore
from threefold.vault.chunk_store import Vault
from threefold.vault.manifest import Summary
from threefold.vault.revisions import original

STATE: Final = "threefold-eject.json"
_TABLESPACES: Final = """

The database has tablespaces: `base/ID-tablespaces/OID` holds one each, and `pg_tblspc/OID` in the base backup is a
link to it. Copy the folder as well, and lead the link to the copy: `ln -sfn /new/place/OID $PGDATA/pg_tblspc/OID`."""


@dataclass(slots=True)
class _State:
    """What is there already."""

    system_identifier: int = 0
    snapshots: list[str] = field(default_factory=list)
    timeline: int = 0
    wal_from: str = ""
    wal_until: str = ""  # whole segments up to here are there


@dataclass(frozen=True, slots=True)
class Ejected:
    """What lies in the folder now."""

    store: str
    to: Path
    snapshots: Sequence[str]
    skipped: Mapping[str, str]  # snapshot → why it cannot be written out
    resumed: bool
    wal_start: Lsn | None
    wal_end: Lsn | None
    timeline: int
    bytes_fetched: int
    seconds: float


async def eject(
    *,
    store: ObjectStore,
    keyring: Keyring,
    clock: Clock,
    progress: Progress,
    to: Path,
    open_log: OpensLog = open_quorum_log,
) -> Ejected:
    """Raises Refused for a folder that holds something else, NotThere, Damaged, Unavailable."""
    began = clock.monotonic()
    stores = {store.name: store}
    to, state, resumed = await asyncio.to_thread(_claim, to)
    progress.step("eject-plan", f"finding what {store.name} holds", unit="objects")
    vault = Vault(stores, keyring, clock, note=progress.note)
    catalogue, log = await asyncio.gather(vault.catalogue(), open_log(stores, keyring, clock, progress.note))
    extent = log.extent
    if state.system_identifier not in {0, extent.system_identifier}:
        raise Refused(f"{to} holds what another database system left", hint="name a new or an empty folder")
    state.system_identifier = extent.system_identifier
    skipped = dict.fromkeys(catalogue.damaged, "its manifest does not read")
    fit: list[Summary] = []
    for summary in catalogue.summaries:
        try:
            choose(catalogue.summaries, extent, Immediate(), snapshot=summary.id)
            fit.append(summary)
        except (NotThere, BadInput) as error:
            skipped[summary.id] = error.message
    if not fit:
        raise NotThere(f"{store.name} holds no snapshot to write out", hint="another store may hold one")
    with disk_errors(to):
        await asyncio.to_thread(_save, to, state)
    fetched = 0
    for summary in fit:
        name = original(summary.id)  # of its files, by whatever revision
        if name in state.snapshots:
            continue
        try:
            fetched += await _base(vault, summary, to / "base" / name, progress)
        except (Damaged, NotThere) as error:
            skipped[name] = error.message
            progress.note(f"snapshot {name} is left out: {error.message}")
            continue
        state.snapshots.append(name)
        await asyncio.to_thread(_save, to, state)
    done = [summary for summary in fit if original(summary.id) in state.snapshots]
    if not done:
        raise Damaged(f"no snapshot on {store.name} reads whole", hint="eject another store; or scrub, then try again")
    start = min(segment_begin(summary) for summary in done)
    with disk_errors(to):
        await _wal(log, to, state, start, done[0].segment_size, progress)
        await asyncio.to_thread(write_durably, to / "README.md", _readme(store.name, done, skipped, log, start))
    return Ejected(
        store.name,
        to,
        tuple(state.snapshots),
        skipped,
        resumed,
        start,
        extent.end,
        extent.timeline,
        fetched,
        round(clock.monotonic() - began, 3),
    )


async def _base(vault: Vault, summary: Summary, into: Path, progress: Progress) -> int:
    destination = Destination.of(into, summary.tablespaces, {})
    into.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    resumed = destination.claim({"what": "being written by threefold eject", "snapshot": summary.id})
    manifest = await vault.restorable(summary.id)
    fetched = await restore(vault, manifest, destination, progress, resumed=resumed, wal_bytes=0)
    (into / "pg_wal").mkdir(mode=0o700, exist_ok=True)
    if manifest.backup_manifest:
        await asyncio.to_thread(write_durably, into / "backup_manifest", manifest.backup_manifest)
    (into / MARKER).unlink()  # as pg_basebackup leaves it: nothing of ours
    return fetched


async def _wal(log: OpenLog, to: Path, state: _State, start: Lsn, segment_size: int, progress: Progress) -> None:
    """From where an earlier run stopped, if it was this log; the last segment is filled up anew each time."""
    folder = to / "wal"
    folder.mkdir(mode=0o700, exist_ok=True)
    extent, at = log.extent, start
    if (state.timeline, state.wal_from) == (extent.timeline, str(start)) and state.wal_until:
        at = max(Lsn.parse(state.wal_until), start)
    state.timeline, state.wal_from = extent.timeline, str(start)
    progress.step("eject-wal", "writing the log as WAL files", total=extent.end - at)
    await asyncio.to_thread(write_histories, folder, extent.history_files)
    files, saved = WalFiles(folder, segment_size, at), at
    if at < extent.end:
        async for timeline, position, data in log.read(at, extent.end):
            await asyncio.to_thread(files.write, timeline, position, data)
            progress.advance(len(data))
            whole = Lsn((position + len(data)) // segment_size * segment_size)
            if whole > saved:
                saved, state.wal_until = whole, str(whole)
                await asyncio.to_thread(_save, to, state)
    await asyncio.to_thread(files.finish, extent.end)


def _claim(to: Path) -> tuple[Path, _State, bool]:
    """The whole path, and the state of an earlier run, or a new one for an empty folder."""
    to = to.absolute()
    try:
        return to, _State(**json.loads((to / STATE).read_text())), True
    except FileNotFoundError:
        pass
    except (ValueError, TypeError):
        raise Refused(f"{to / STATE} is not readable", hint="name a new or an empty folder") from None
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise Refused(f"{to} is not an empty folder", hint="name a new or an empty folder; nothing was touched")
    to.mkdir(mode=0o700, parents=True, exist_ok=True)
    return to, _State(), False


def _save(to: Path, state: _State) -> None:
    record: dict[str, Any] = asdict(state)
    write_durably(to / STATE, f"{json.dumps(record, indent=1)}\n")


def _readme(store: str, snapshots: Sequence[Summary], skipped: Mapping[str, str], log: OpenLog, start: Lsn) -> str:
    newest = max(snapshots, key=lambda each: each.stop)
    rows = "\n".join(
        f"| `base/{original(each.id)}` | {each.stopped:%Y-%m-%d %H:%M:%S} UTC | {each.major} | {each.stop} "
        f"| {each.timeline} |"
        for each in sorted(snapshots, key=lambda each: each.stop)
    )
    left_out = "".join(f"\nLeft out: {name}: {why}." for name, why in sorted(skipped.items()))
    spaces = _TABLESPACES if any(each.tablespaces for each in snapshots) else ""
    return f"""\
# A PostgreSQL, written out from store {store} by threefold eject

Plain base backups and WAL files: stock PostgreSQL recovers from them, nothing else is needed. Database system
{log.extent.system_identifier}; the WAL goes from {start} to {log.extent.end} on timeline {log.extent.timeline}.

| base backup | of | PostgreSQL | consistent from | timeline |
|---|---|---|---|---|
{rows}
{left_out}
## Recover
With PostgreSQL {newest.major} (the major version of the base backup), as the user that it runs as (`postgres`), and
PGDATA a folder that does not exist yet. `HERE` is this folder.
```
cp -a HERE/base/{original(newest.id)} $PGDATA && chmod 700 $PGDATA
touch $PGDATA/recovery.signal
cat >> $PGDATA/postgresql.auto.conf <<'END'
restore_command = 'cp "HERE/wal/%f" "%p"'
recovery_target_timeline = 'latest'
recovery_target_action = 'promote'
synchronous_standby_names = ''
primary_conninfo = ''
archive_mode = 'off'
END
pg_ctl start -w -D $PGDATA -l $PGDATA/../recovery.log
```
For a moment in between add `recovery_target_time = '2026-11-24 12:00:00+00'` (or `recovery_target_lsn`), and begin with
the newest base backup that was taken before it. Look through `postgresql.conf` first: paths and addresses in it are
those of the machine that it comes from; without one (Debian keeps it in /etc), an empty file will do.
Check a base backup with `pg_verifybackup --no-parse-wal HERE/base/ID`.{spaces}

## What one store proves
Every byte here was verified. That nothing came after {log.extent.end} is not: what was confirmed while {store} was
behind lies on the other two stores only.
"""
