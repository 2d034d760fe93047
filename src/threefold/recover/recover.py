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
from threefold.kernel.errors import BadInput, Damaged, NotThere, ThreefoldError, Unavailable
from threefold.kernel.keys import Keyring
from threefold.kernel.lsn import Lsn
from threefold.kernel.progress import Progress
from threefold.postgres.binaries import Binaries
from threefold.postgres.server import Server
from threefold.recover import overrides
from threefold.recover.configure import configure
from threefold.recover.destination import Destination, disk_errors, write_durably
from threefold.recover.log import OpenLog, OpensLog, open_quorum_log, open_remains
from threefold.recover.plan import Plan, choose
from threefold.recover.reachable import newest_reachable, told
from threefold.recover.restore import restore
from threefold.recover.start import Promoted, start_and_promote
from threefold.recover.targets import Immediate, Position, RestorePoint, Target, Time
from threefold.recover.wal_files import place_wal
from threefold.stores.store import ObjectStore
from threefold.vault.chunk_store import Vault
from threefold.vault.manifest import Summary


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
    work = _Work(Vault(stores, keyring, clock, note=heard.note), heard, open_log, into, target)
    try:
        plan, destination, binaries = await work.plan(only, snapshot, start, tablespaces or {})
        fetched = await work.place(plan, destination)
    except (Damaged, NotThere) as error:
        raise await work.with_what_can_be_had(error, plan_of=work.chosen) from error

    server, promoted = None, None
    if start and binaries:
        with heard.phase("replay"):
            server = _server(start, binaries, destination, clock)
            log_from = server.log_file.stat().st_size if server.log_file.exists() else 0
            promoted = await start_and_promote(server, clock, heard, log_from=log_from)
            auto_conf = destination.into / "postgresql.auto.conf"
            settled = overrides.without_temporary(auto_conf.read_text(errors="surrogateescape"))
            await asyncio.to_thread(write_durably, auto_conf, settled)
    destination.mark({**_record(plan), "finished": True, "finished_at": clock.now().isoformat()})
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
        bytes_from=dict(work.vault.reader.bytes_from),
        seconds=heard.seconds,
        notes=tuple(heard.notes),
        server=server,
    )


@dataclass
class _Work:
    """What is placed before a server is started, and what to say where that cannot be done."""

    vault: Vault
    heard: _Heard
    open_log: OpensLog
    into: Path
    target: Target
    log: OpenLog | None = None
    snapshots: Sequence[Summary] = ()
    chosen: Plan | None = None
    resumed: bool = False

    async def plan(
        self, only: str | None, snapshot: str | None, start: Serving | None, tablespaces: Mapping[int, Path]
    ) -> tuple[Plan, Destination, Binaries | None]:
        with self.heard.phase("plan"):
            self.heard.step("plan", "finding the recovery points", unit="objects")
            catalogue, opened = await asyncio.gather(self.vault.catalogue(), self._open())
            self.snapshots = catalogue.summaries
            for note in catalogue.notes:
                self.heard.note(note)
            self.log = log = opened if not isinstance(opened, ThreefoldError) else await self._remains(opened)
            plan = self.chosen = choose(catalogue.summaries, log.extent, self.target, snapshot=snapshot)
            if only is not None:
                self.heard.note(_what_one_proves(only, log.extent.end))
            if isinstance(self.target, RestorePoint) and snapshot is None and len(catalogue.summaries) > 1:
                self.heard.note(
                    f"only replay finds {self.target}: beginning at the oldest snapshot that serves, "
                    f"{plan.snapshot.id}; a later one, named with --snapshot, is quicker if the restore point came "
                    "after it"
                )
            binaries = start.find_binaries(plan.snapshot.major) if start else None
            destination = Destination.of(self.into, plan.snapshot.tablespaces, tablespaces)
            self.resumed = destination.claim(_record(plan))
            if self.resumed:
                self.heard.note(f"{self.into} holds an unfinished recovery: going on with it")
        return plan, destination, binaries

    async def place(self, plan: Plan, destination: Destination) -> int:
        """Everything under the folder, ready to be started; the bytes fetched of the snapshot."""
        if self.log is None:
            raise ValueError("a log is planned with before it is placed")
        with self.heard.phase("restore"):
            wal_bytes = plan.wal_bytes + plan.snapshot.segment_size
            manifest = await self.vault.restorable(plan.snapshot.id)
            fetched = await restore(
                self.vault, manifest, destination, self.heard, resumed=self.resumed, wal_bytes=wal_bytes
            )
        with self.heard.phase("wal"), disk_errors(self.into):
            await place_wal(self.log, plan.snapshot, destination.into, self.heard, end=plan.end)
            settings = {**overrides.SEVERED, **plan.settings()}
            configure(
                destination.into,
                lambda before: overrides.appended(before, settings),
                self.heard,
                signal="recovery.signal",
            )
        return fetched

    async def _open(self) -> OpenLog | ThreefoldError:
        vault = self.vault
        try:
            return await self.open_log(vault.stores, vault.keyring, vault.clock, self.heard.note)
        except (Damaged, NotThere, Unavailable) as error:
            return error

    async def _remains(self, why: ThreefoldError) -> OpenLog:
        """What is left, for a point that was named and lies within it. Raises ``why`` for any other."""
        vault, target = self.vault, self.target
        log = self.log = await open_remains(vault.stores, vault.keyring, vault.clock, self.snapshots, self.heard.note)
        if log is None:
            raise why
        named = isinstance(target, Time | Immediate) or (isinstance(target, Position) and target.lsn <= log.extent.end)
        if not named:
            raise Damaged(why.message, hint=why.hint)
        self.heard.note(
            f"the log does not read to its end ({why.message}): what is left of it ends at {log.extent.end}"
        )
        return log

    async def with_what_can_be_had(self, error: ThreefoldError, *, plan_of: Plan | None) -> ThreefoldError:
        """The newest point that can be had, and how, beside what cannot."""
        if self.log is None or not self.snapshots:
            return error
        self.heard.note(f"{error.message}; looking for what can be had")
        try:
            point = await newest_reachable(self.vault, self.log, self.snapshots, self.heard)
        except ThreefoldError:
            return error
        same = (
            point is not None
            and plan_of is not None
            and (point.snapshot, point.lsn) == (plan_of.snapshot.id, plan_of.end)
        )
        only = next(iter(self.vault.stores)) if len(self.vault.stores) == 1 else ""
        return error if same else told(error, point, str(self.into), only=only)


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
