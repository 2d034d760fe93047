"""`threefold recover`: from the stores to a PostgreSQL that takes writes. Reads as the procedure.

Nothing on the stores is changed by it: whoever protects the recovered server claims the next epoch then, which fences
the old primary's log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from threefold.kernel.clock import Clock
from threefold.kernel.errors import BadInput
from threefold.kernel.keys import Keyring
from threefold.kernel.lsn import Lsn
from threefold.kernel.progress import Progress
from threefold.postgres.binaries import Binaries
from threefold.postgres.server import Server
from threefold.recover import overrides
from threefold.recover.configure import configure
from threefold.recover.destination import Destination, disk_errors, write_durably
from threefold.recover.log import OpensLog, open_quorum_log
from threefold.recover.plan import Plan, choose
from threefold.recover.restore import restore
from threefold.recover.start import Promoted, start_and_promote
from threefold.recover.targets import RestorePoint, Target
from threefold.recover.wal_files import place_wal
from threefold.stores.store import ObjectStore
from threefold.vault.chunk_store import Vault


@dataclass(frozen=True, slots=True)
class Serving:
    """How PostgreSQL is started on what was restored; ``settings`` go above every file's."""

    find_binaries: Callable[[int], Binaries]
    port: int
    host: str = "127.0.0.1"
    socket_dir: Path | None = None
    run_as: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recovery:
    """What was recovered, and what that rests on."""

    snapshot: str
    target: str
    into: Path
    system_identifier: int
    major: int
    timeline: int  # that the WAL was replayed of; the server goes on on `promoted.timeline`
    wal_start: Lsn
    wal_end: Lsn  # the WAL that was handed to PostgreSQL
    promoted: Promoted | None  # None: not started
    bytes_needed: int  # of the snapshot's files
    bytes_fetched: int  # of these, unpacked: fewer where chunks are shared, or were there from an interrupted recovery
    bytes_from: Mapping[str, int]  # store → bytes of packs and manifests read
    seconds: Mapping[str, float]  # a phase each
    notes: Sequence[str]
    server: Server | None = None


async def recover(
    *,
    stores: Mapping[str, ObjectStore],
    keyring: Keyring,
    clock: Clock,
    progress: Progress,
    target: Target,
    into: Path,
    only: str | None = None,
    snapshot: str | None = None,
    tablespaces: Mapping[int, Path] | None = None,
    start: Serving | None = None,
    open_log: OpensLog = open_quorum_log,
) -> Recovery:
    """Recover to ``target`` into a new folder; with ``start``, up to a server that takes writes.

    ``only`` reads one store alone, and proves what that one proves (notes). A recovery that was interrupted is gone on
    with by calling again with the same ``into``. Raises BadInput, Refused, NotThere, Damaged, Unavailable.
    """
    stores = _only(stores, only)
    heard = _Heard(progress, clock)
    vault = Vault(stores, keyring, clock, note=heard.note)

    with heard.phase("plan"):
        heard.step("plan", "finding the recovery points", unit="objects")
        catalogue, log = await asyncio.gather(vault.catalogue(), open_log(stores, keyring, clock, heard.note))
        for note in catalogue.notes:
            heard.note(note)
        plan = choose(catalogue.summaries, log.extent, target, snapshot=snapshot)
        if only is not None:
            heard.note(_what_one_proves(only, log.extent.end))
        if isinstance(target, RestorePoint) and snapshot is None and len(catalogue.summaries) > 1:
            heard.note(
                f"only replay finds {target}: beginning at the oldest snapshot that serves, {plan.snapshot.id}; "
                "a later one, named with --snapshot, is quicker if the restore point came after it"
            )
        binaries = start.find_binaries(plan.snapshot.major) if start else None
        destination = Destination.of(into, plan.snapshot.tablespaces, tablespaces or {})
        record = _record(plan)
        resumed = destination.claim(record)
        if resumed:
            heard.note(f"{into} holds an unfinished recovery: going on with it")
        manifest = await vault.manifest(plan.snapshot.id)

    with heard.phase("restore"):
        fetched = await restore(
            vault, manifest, destination, heard, resumed=resumed, wal_bytes=plan.wal_bytes + plan.snapshot.segment_size
        )
    with heard.phase("wal"), disk_errors(into):
        await place_wal(log, plan.snapshot, destination.into, heard, end=plan.end)
        settings = {**overrides.SEVERED, **plan.settings()}
        configure(
            destination.into, lambda before: overrides.appended(before, settings), heard, signal="recovery.signal"
        )

    server, promoted = None, None
    if start and binaries:
        with heard.phase("replay"):
            server = _server(start, binaries, destination, clock)
            log_from = server.log_file.stat().st_size if server.log_file.exists() else 0
            promoted = await start_and_promote(server, clock, heard, log_from=log_from)
            auto_conf = destination.into / "postgresql.auto.conf"
            settled = overrides.without_temporary(auto_conf.read_text(errors="surrogateescape"))
            await asyncio.to_thread(write_durably, auto_conf, settled)
    destination.mark({**record, "finished": True, "finished_at": clock.now().isoformat()})
    return Recovery(
        snapshot=plan.snapshot.id,
        target=str(target),
        into=destination.into,
        system_identifier=plan.snapshot.system_identifier,
        major=plan.snapshot.major,
        timeline=plan.timeline,
        wal_start=plan.start,
        wal_end=plan.end,
        promoted=promoted,
        bytes_needed=plan.snapshot.size,
        bytes_fetched=fetched,
        bytes_from=dict(vault.reader.bytes_from),
        seconds=heard.seconds,
        notes=tuple(heard.notes),
        server=server,
    )


def _server(start: Serving, binaries: Binaries, destination: Destination, clock: Clock) -> Server:
    # Above all: a data_directory in the restored postgresql.conf must not lead to another database.
    settings = {"data_directory": str(destination.into), "external_pid_file": "", **start.settings}
    return Server(
        binaries,
        destination.into,
        start.port,
        start.host,
        socket_dir=start.socket_dir,
        run_as=start.run_as,
        settings=settings,
        clock=clock,
    )


def _only(stores: Mapping[str, ObjectStore], only: str | None) -> Mapping[str, ObjectStore]:
    if only is None:
        return stores
    if only not in stores:
        raise BadInput(f"there is no store {only}", hint=f"there are {', '.join(stores)}")
    return {only: stores[only]}


def _what_one_proves(only: str, end: Lsn) -> str:
    """A store that was behind looks whole from inside; an entry that it alone has may be a fenced writer's."""
    return (
        f"{only} alone was read. It holds the log without a gap up to {end}, and every byte that is used is verified; "
        f"that nothing came after is not proved: changes that were confirmed while {only} was behind are on the other "
        "two stores only, and the very last ones here may never have been confirmed"
    )


def _record(plan: Plan) -> dict[str, Any]:
    return {
        "what": "made by threefold recover; an unfinished one is gone on with by running it again",
        "snapshot": plan.snapshot.id,
        "system_identifier": plan.snapshot.system_identifier,
        "target": str(plan.target),
        "timeline": plan.timeline,
        "wal_end": str(plan.end),
    }


class _Heard:
    """The caller's progress, with notes kept and phases timed."""

    def __init__(self, progress: Progress, clock: Clock) -> None:
        self._progress = progress
        self._clock = clock
        self.notes: list[str] = []
        self.seconds: dict[str, float] = {}
        self.step = progress.step
        self.advance = progress.advance

    def note(self, text: str) -> None:
        self.notes.append(text)
        self._progress.note(text)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        began = self._clock.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(self._clock.monotonic() - began, 3)
