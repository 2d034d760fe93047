"""The warm standby: one PostgreSQL data folder at a site that is not active, kept so that it can serve at once.

It is restored from the stores, follows the active site's primary by streaming, and takes from the log what streaming
did not bring: the primary is gone, or has recycled its WAL. No slot is held for it there (invariant 10: one of ours,
the DRaaS server's), and its application_name is not the one that commits wait for.

It may hold more than the log: what its primary had flushed and nobody had acknowledged. That is fine (follow.py). It
may not differ from the log below the log's end; then it is of another history, `ForeignCopy` says so, and the next
`prepare` makes it anew.

Whoever runs this may be killed at any moment: PostgreSQL goes on, and `prepare` and `start` take it up again as it is.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from threefold.kernel.clock import Clock
from threefold.kernel.errors import BadInput, NotThere, Refused, Unavailable
from threefold.kernel.keys import Keyring
from threefold.kernel.lsn import Lsn
from threefold.kernel.progress import Progress
from threefold.postgres.binaries import Binaries, major_of
from threefold.postgres.control import read_control
from threefold.postgres.server import Server
from threefold.postgres.timeline import begins_at, history_name, parse_history, timeline_at
from threefold.postgres.wal import segment_no, segment_start
from threefold.recover import overrides
from threefold.recover.configure import AUTO_CONF
from threefold.recover.copy import Copying, Prepared, make_copy, read_marker
from threefold.recover.destination import MARKER, disk_errors, write_durably
from threefold.recover.feed import ForeignCopy, Layer, PgWal, put_histories, taken_timelines
from threefold.recover.follow import SYNC, Do, Folder, ahead, kept_when_promoted, laid_over, what_to_do
from threefold.recover.former import why_not_as_it_is
from threefold.recover.log import OpenLog, OpensLog, open_log_in_a_hurry
from threefold.recover.questions import Position, Questions
from threefold.recover.start import Promoted, explain, said_since
from threefold.recover.upstream import hba_lines, own_conninfo, primary_conninfo
from threefold.stores.store import ObjectStore

__all__ = ["Fed", "ForeignCopy", "Position", "Prepared", "Promoted", "Standby"]

_POLL_S: Final = 0.01
_OPENS_S: Final = 600.0
_STALL_S: Final = 60.0
_PATIENCE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Fed:
    """The log up to ``end`` is in the copy; ``written`` bytes of it were not there before."""

    end: Lsn
    written: int


class Standby:
    """One PostgreSQL data folder at this site. One coroutine at a time; `position` may be asked meanwhile."""

    def __init__(
        self,
        *,
        site: str,
        stores: Mapping[str, ObjectStore],
        keyring: Keyring,
        clock: Clock,
        progress: Progress,
        data_dir: Path,
        host: str,
        port: int,
        login: str,
        find_binaries: Callable[[int], Binaries],
        run_as: str | None = None,
        socket_dir: Path | None = None,
        settings: Mapping[str, str] | None = None,
        open_log: OpensLog = open_log_in_a_hurry,
    ) -> None:
        """``login``: the conninfo of [system] dsn with its password; that role asks the copy where it is.

        ``settings`` go above every file's.
        """
        self.site = site
        self.data_dir = data_dir.absolute()
        self._clock = clock
        self._progress = progress
        self._with = Copying(stores, keyring, clock, progress, find_binaries, open_log)
        self.port = port
        self._host, self._socket_dir, self._run_as = host, socket_dir, run_as
        self._login = login
        self._own = own_conninfo(login, host=host, port=port, socket_dir=socket_dir)
        self._questions = Questions(self._own, clock)
        # Above all: a data_directory in the restored postgresql.conf must not lead to another database.
        self._settings = {"data_directory": str(self.data_dir), "external_pid_file": "", **(settings or {})}
        self._server: Server | None = None
        self._follow: str | None = None
        self._severed = False  # no walreceiver runs, and none is started
        self._replays = 0  # the timeline that `complete` has reached; what PostgreSQL says of itself lags behind

    @property
    def server(self) -> Server:
        """Raises NotThere before there is a data folder."""
        if self._server is None:
            major = major_of(self.data_dir)
            if major is None:
                raise NotThere(f"there is no PostgreSQL data folder in {self.data_dir}", hint="prepare it first")
            self._server = Server(
                self._with.find_binaries(major),
                self.data_dir,
                self.port,
                self._host,
                socket_dir=self._socket_dir,
                run_as=self._run_as,
                settings=self._settings,
                clock=self._clock,
            )
        return self._server

    @property
    def conninfo(self) -> str:
        """How it is reached from here, password and all."""
        return self._own

    # --- the folder ---

    async def prepare(self, *, rebuild: bool = False) -> Prepared:
        """See that the folder holds a copy: kept as it is, made from the stores, or made anew.

        ``rebuild``: what is there, this site's former primary, is given up; only what differs is fetched. Refused for
        a database that nobody gave up, another system's, or one that a server runs on.
        """
        found = self._look()
        match what_to_do(found, rebuild=rebuild):
            case Do.KEEP:
                return Prepared("kept")
            case Do.RESTORE:
                again = False
            case Do.REBUILD:
                again = True
        if found.running is not None:
            await self.stop()
        await asyncio.to_thread(self.data_dir.mkdir, mode=0o700, parents=True, exist_ok=True)
        made = await make_copy(self._with, self.data_dir, rebuild=again)
        self._server = None  # of another major version, it may be
        self._let_us_in()
        return made

    async def demote(self) -> Prepared:
        """Make this site's former primary, which was stopped in good order, a standby.

        As it is, where the log has all that it has; else it is rebuilt, and what only it had is gone (nobody was told
        that it was saved).
        """
        found = self._look()
        if found.ours or found.empty or not found.postgres or (found.marker or {}).get("finished") is False:
            return await self.prepare()
        if found.running is not None:
            raise Refused(
                f"PostgreSQL is running in {self.data_dir}, process {found.running}: it cannot become a standby",
                hint=f"stop it first: pg_ctl stop -D {self.data_dir}",
            )
        control = await read_control(self.server.binaries, self.data_dir)
        log = await self._open_log()
        why = await why_not_as_it_is(control, log, self.data_dir / "pg_wal", self.server.account)
        if why:
            self._progress.note(f"the former primary is rebuilt from the stores: {why}")
            made = await self.prepare(rebuild=True)
            return Prepared(made.how, made.snapshot, made.bytes_needed, made.bytes_fetched, why)
        with disk_errors(self.data_dir):
            self._lay_over(laid_over(control.limits, control.segment_size, follow=""))
            self._let_us_in()
            self._mark(foreign="")
            write_durably(self.data_dir / "standby.signal", "")
        return Prepared("kept")

    # --- running ---

    async def start(self, follow: str | None) -> None:
        """Run as a hot standby of ``follow``, or of nobody; one that runs already is taken up.

        Returns when it lets readers in. Raises Refused for a folder that is no standby's; Damaged, BadInput or
        Unavailable, with what PostgreSQL says, where it ends instead.
        """
        if not (self.data_dir / "standby.signal").exists():
            raise Refused(
                f"{self.data_dir} is no standby's folder", hint="was it promoted? Then it is the primary; or prepare it"
            )
        self._follow = follow
        self._severed = False
        await self._write_settings()
        port = self._port_of_running()
        if port is not None and port != self.port:
            await self.stop()
        if self.server.pid is None:
            await self._run()
        else:
            self.server.reload()
            await self._until_open(0)

    async def follow(self, conninfo: str | None) -> None:
        """Follow another primary, or none: None ends the walreceiver."""
        self._follow = conninfo
        self._severed = False
        await self._write_settings()
        if self._server is not None and self.server.pid is not None:
            self.server.reload()

    async def position(self) -> Position:
        """Raises Unavailable where it does not run, or lets nobody in yet."""
        return await self._questions.position()

    async def stop(self) -> None:
        """Stopped already is fine."""
        await self._questions.close()
        if major_of(self.data_dir) is not None:
            await self.server.stop()

    async def close(self) -> None:
        """Let go of it; PostgreSQL goes on."""
        await self._questions.close()

    # --- taking the log ---

    async def feed(self) -> Fed:
        """Bring in of the log what streaming did not; afterwards it follows again.

        Nothing is done while it streams. Raises ForeignCopy, NotThere where the log no longer has what comes next
        (then `prepare(rebuild=True)`), Damaged, Unavailable.
        """
        here = await self._awake()
        if here.streaming:
            return Fed(here.replayed, 0)
        log = await self._open_log()
        await self._sever()
        try:
            written = await self._lay(log, log.extent.end)
        finally:
            if self._follow:
                await self.follow(self._follow)
        return Fed(log.extent.end, written)

    async def complete(self, end: Lsn, timeline: int) -> None:
        """Every whole record of the log below ``end`` is replayed when this returns. It follows nobody any more.

        ``end`` is where a take-over fixed the log. Raises as `feed` does.
        """
        self._follow = None
        began, log = await asyncio.gather(self._awake(), self._open_log())
        if log.extent.end < end:
            raise Unavailable(f"the stores give the log up to {log.extent.end}, not to {end}", hint="it is tried again")
        await self._sever(hurry=True)
        files = self._files(log)
        if timeline_at(files.history, end - 1) != timeline:
            raise Refused(f"the log is on timeline {timeline_at(files.history, end - 1)} below {end}, not {timeline}")
        await self._lay(log, end)
        await self._until_replayed(await asyncio.to_thread(files.last_record_end, began.replayed, end))
        self._replays = timeline

    async def promote(self, *, settings: Mapping[str, str]) -> Promoted:
        """Make it the primary; ``settings`` hold from the first write on. Again, after a kill: what it became.

        Raises Unavailable, with what PostgreSQL says.
        """
        server = self.server
        if server.pid is None:
            await self._run()
        here = await self.position()
        last_commit = ""
        if not here.primary:
            if not self._severed:
                self._follow = None
                await self._sever(hurry=True)
            await self._be_told(settings, here)
            ((said,),) = await self._questions.rows("SELECT coalesce(pg_last_xact_replay_timestamp()::text, '')")
            last_commit = said
            await server.promote()
            while not (here := await self.position()).primary:
                await self._clock.sleep(_POLL_S)
        control = await read_control(server.binaries, self.data_dir)
        stays = kept_when_promoted(laid_over(control.limits, control.segment_size, follow=""), settings)
        self._lay_over(stays)
        server.reload()
        path = self.data_dir / "pg_wal" / history_name(here.timeline)
        history = parse_history(here.timeline, path.read_bytes() if path.exists() else None)
        return Promoted(here.timeline, begins_at(history), last_commit)

    async def _be_told(self, settings: Mapping[str, str], here: Position) -> None:
        """What must hold before the first write holds; and no number of a timeline will be used twice."""
        control = await read_control(self.server.binaries, self.data_dir)
        if not self._replays:
            history = self._files(await self._open_log()).history
            self._replays = timeline_at(history, max(here.replayed - 1, 0))
        timeline = max(self._replays, here.timeline)
        taken = await taken_timelines(
            self._with.stores, self._with.keyring, self._clock, above=timeline, patience=_PATIENCE_S
        )
        target = str(timeline) if taken else "latest"
        laid = laid_over(control.limits, control.segment_size, follow="", timeline=target, hurry=True)
        self._lay_over({**laid, **settings})
        ((waits_for,),) = await self._questions.rows("SHOW synchronous_standby_names")
        wanted = settings.get("synchronous_standby_names", SYNC)
        if not taken and wanted in {"", waits_for}:
            self.server.reload()
            return
        # Changed by a reload, it would reach the process that commits go by some time after the promotion; and with
        # these .history files in pg_wal, a server that looks for the latest timeline would change over to theirs.
        await self.stop()
        await asyncio.to_thread(put_histories, self.data_dir / "pg_wal", taken, self.server.account)
        await self._run(write=False)
        await self._until_replayed(here.replayed)

    # --- steps ---

    async def _awake(self) -> Position:
        """It runs, and replays: started where it does not, restarted where a setting of the primary's outgrew its own.

        PostgreSQL stops replaying then, and its control file says what it needs.
        """
        if self.server.pid is None:
            await self._run()
        here = await self.position()
        if here.primary:
            raise Refused(f"{self.data_dir} is no standby any more: it was promoted", hint="it takes writes already")
        if here.paused:
            self._progress.note("the primary's limits were raised: the standby is restarted with them")
            await self.stop()
            await self._run()
            here = await self.position()
        return here

    async def _run(self, *, write: bool = True) -> None:
        if write and (self.data_dir / "standby.signal").exists():
            await self._write_settings()
        log_file = self.server.log_file
        log_from = log_file.stat().st_size if log_file.exists() else 0
        await self.server.start(wait=False)
        await self._until_open(log_from)

    async def _until_open(self, log_from: int) -> None:
        """Until it lets readers in: it has replayed as far as the copy is a mixture of moments."""
        until = self._clock.monotonic() + _OPENS_S
        while not self.server.ready():
            if self.server.pid is None:
                raise explain(said_since(self.server, log_from))
            if self._clock.monotonic() > until:
                raise Unavailable(f"the standby is not consistent within {_OPENS_S:g} s: {self.server.log_tail()}")
            await self._clock.sleep(_POLL_S)

    async def _sever(self, *, hurry: bool = False) -> None:
        """End the walreceiver for good."""
        if self._severed and not hurry:
            return
        control = await read_control(self.server.binaries, self.data_dir)
        self._lay_over(laid_over(control.limits, control.segment_size, follow="", hurry=hurry))
        self.server.reload()
        until = self._clock.monotonic() + _STALL_S
        gone = 0
        # Twice: PostgreSQL may have been about to start one when it was told.
        while (gone := 0 if await self._questions.receiving() else gone + 1) < 2:
            if self._clock.monotonic() > until:
                raise Unavailable("the standby's walreceiver does not end", hint="see the standby's log")
            await self._clock.sleep(_POLL_S)
        self._severed = True

    async def _lay(self, log: OpenLog, end: Lsn) -> int:
        """The log below ``end``, never far ahead of replay; the bytes that were written."""
        files = self._files(log)
        pg_wal, size = files.folder, files.size
        try:
            await asyncio.to_thread(put_histories, pg_wal, log.extent.history_files, self.server.account)
            replayed = (await self._awake()).replayed
            start = segment_start(segment_no(max(min(replayed, end) - 1, 0), size), size)
            if replayed < log.extent.start:
                raise NotThere(
                    f"the copy needs the log from {replayed} on, which begins at {log.extent.start}",
                    hint="it is made anew from a snapshot",
                )
            start = max(start, log.extent.start)
            written = 0
            self._progress.step("feed", "bringing the log into the standby", total=max(end - start, 0))
            while start < end:
                stop = Lsn(min(end, segment_start(segment_no(start, size), size) + ahead(size)))
                layer = Layer(files, replayed=(await self._awake()).replayed, end=stop)
                try:
                    with disk_errors(pg_wal):
                        async for _, at, data in log.read(start, stop):
                            await asyncio.to_thread(layer.put, at, data)
                            self._progress.advance(len(data))
                        await asyncio.to_thread(layer.finish)
                finally:
                    layer.abandon()
                written += layer.written
                if stop < end:
                    await self._until_replayed(Lsn(max(stop - ahead(size) // 2, 0)))
                start = stop
        except ForeignCopy as foreign:
            self._mark(foreign=foreign.message)
            raise
        return written

    async def _until_replayed(self, target: Lsn) -> None:
        at, since = Lsn(0), self._clock.monotonic()
        while (here := await self._awake()).replayed < target:
            if here.replayed > at:
                at, since = here.replayed, self._clock.monotonic()
            elif self._clock.monotonic() - since > _STALL_S:
                raise Unavailable(
                    f"the standby replays no further than {here.replayed}, and {target} was put there",
                    hint=f"its log says why: {self.server.log_file}",
                )
            await self._clock.sleep(_POLL_S)

    # --- helpers ---

    def _look(self) -> Folder:
        there = self.data_dir
        exists = there.is_dir()
        postgres = major_of(there) is not None and (there / "global").is_dir()
        return Folder(
            there,
            empty=not exists or not any(path.name != f"{MARKER}.new" for path in there.iterdir()),
            marker=read_marker(there),
            postgres=postgres,
            signal=(there / "standby.signal").exists(),
            running=self.server.pid if postgres else None,
        )

    async def _open_log(self) -> OpenLog:
        with_ = self._with
        return await with_.open_log(with_.stores, with_.keyring, with_.clock, with_.progress.note)

    def _files(self, log: OpenLog) -> PgWal:
        extent = log.extent
        history = parse_history(extent.timeline, extent.history_files.get(extent.timeline))
        return PgWal(self.data_dir / "pg_wal", extent.segment_size, history, self.server.account)

    async def _write_settings(self) -> None:
        control = await read_control(self.server.binaries, self.data_dir)
        passfile = self.data_dir.with_name(f"{self.data_dir.name}.pgpass")
        follow = (
            primary_conninfo(self._follow, site=self.site, passfile=passfile, owner=self.server.account)
            if self._follow
            else ""
        )
        for name, least in control.limits.items():
            if int(self._settings.get(name, least)) < int(least):
                raise BadInput(
                    f"{name} is {self._settings[name]} here and {least} at the primary: a standby needs as much",
                    hint=f"leave {name} out of the standby's own settings",
                )
        self._lay_over(laid_over(control.limits, control.segment_size, follow=follow))

    def _lay_over(self, settings: Mapping[str, str]) -> None:
        path = self.data_dir / AUTO_CONF
        before = path.read_text(errors="surrogateescape") if path.exists() else ""
        after = overrides.with_standby(before, settings)
        if after != before:
            write_durably(path, after)

    def _let_us_in(self) -> None:
        path, lines = self.data_dir / "pg_hba.conf", hba_lines(self._login)
        before = path.read_text(errors="surrogateescape") if path.exists() else ""
        if lines not in before:
            write_durably(path, f"# By threefold standby, for its own role from this machine:\n{lines}{before}")

    def _mark(self, *, foreign: str) -> None:
        record = {**(read_marker(self.data_dir) or {}), "standby": True, "finished": True, "foreign": foreign}
        write_durably(self.data_dir / MARKER, f"{json.dumps(record, indent=1)}\n")

    def _port_of_running(self) -> int | None:
        """Line 4 of postmaster.pid."""
        if self.server.pid is None:
            return None
        lines = (self.data_dir / "postmaster.pid").read_text().splitlines()
        return int(lines[3]) if len(lines) > 3 and lines[3].strip().isdigit() else self.port
