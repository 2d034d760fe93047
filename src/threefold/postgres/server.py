"""A PostgreSQL server that we own: made, started, promoted, stopped - as a process of its own.

It runs in its own session, so that it outlives us, a Ctrl-C in our terminal does not reach it, and it can be killed
without us. ``postgres`` is started directly, not through pg_ctl: pg_ctl gives no process to watch, and what it does
beyond that is little (src/bin/pg_ctl/pg_ctl.c): state is read from ``postmaster.pid`` (line 8) and from
``global/pg_control`` (the state word at byte 16), promotion is a file named ``promote`` and SIGUSR1.

Settings given here go onto the command line, above every file of the data folder: a restored folder brings the
primary's own port and sockets along.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Literal

import psutil

from threefold.kernel.clock import Clock, SystemClock
from threefold.kernel.errors import BadInput, Refused, ThreefoldError, Unavailable
from threefold.postgres.binaries import Account, Binaries, account
from threefold.postgres.wal import SEGMENT_BYTES_DEFAULT, check_segment_size

_IN_PRODUCTION: Final = 6  # DBState, src/include/catalog/pg_control.h
_STATE_AT: Final = 16
_POLL_S: Final = 0.02
_KILL_ATTEMPTS: Final = 500  # of _POLL_S each
_STOP: Final = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_LOG_TAIL_BYTES: Final = 4096
_ENVIRONMENT: Final = ("PATH", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "LD_PRELOAD")


class Server:
    """One data folder and the server on it. ``host`` is the address it listens on; "" for the socket only."""

    def __init__(
        self,
        binaries: Binaries,
        data_dir: Path,
        port: int,
        host: str = "127.0.0.1",
        *,
        socket_dir: Path | None = None,
        run_as: str | None = None,
        settings: Mapping[str, str] | None = None,
        log_file: Path | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.binaries = binaries
        self.data_dir = data_dir
        self.port = port
        self.host = host
        self.socket_dir = socket_dir
        self.account: Account = account(run_as)
        self.settings = dict(settings or {})
        self.log_file = log_file or data_dir.with_name(data_dir.name + ".log")
        self._clock = clock or SystemClock()
        self._process: subprocess.Popen[bytes] | None = None

    # --- making ---

    async def initdb(
        self,
        *,
        superuser: str = "postgres",
        password: str | None = None,
        wal_segment_size: int = SEGMENT_BYTES_DEFAULT,
        auth_local: Literal["trust", "peer", "scram-sha-256"] = "trust",
        auth_host: Literal["trust", "scram-sha-256"] = "scram-sha-256",
        sync: bool = True,
    ) -> None:
        """A new, empty cluster: UTF-8, sorted by code point (the same on every machine), with data checksums.

        ``password`` is the superuser's; without one nobody can log in where scram-sha-256 is asked for.
        """
        check_segment_size(wal_segment_size)
        if self.data_dir.exists() and any(self.data_dir.iterdir()):
            raise Refused(f"{self.data_dir} is not empty", hint="name a new folder; nothing was touched")
        self.prepare_folders()
        command: list[str | Path] = [self.binaries.program("initdb"), "-D", self.data_dir, "-U", superuser]
        command += ["--encoding=UTF8", *self._locale(), "--data-checksums", f"--wal-segsize={wal_segment_size >> 20}"]
        command += [f"--auth-local={auth_local}", f"--auth-host={auth_host}", *([] if sync else ["--no-sync"])]
        reading, writing = os.pipe()
        try:
            os.write(writing, f"{password}\n".encode() if password else b"")
            os.close(writing)
            if password:
                # A pipe's name, so that the password is neither in the arguments nor in a file.
                command.append(f"--pwfile=/dev/fd/{reading}")
                os.fchown(reading, self.account.uid, self.account.gid)
            process: subprocess.Popen[bytes] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=self._environment(),
                pass_fds=(reading,),
                umask=0o077,
                **self.account.popen(),
            )
        finally:
            os.close(reading)
        try:
            while process.poll() is None:
                await self._clock.sleep(_POLL_S)
        except BaseException:
            process.kill()  # otherwise it goes on making what nobody waits for
            process.wait()
            raise
        said = process.stdout.read().decode(errors="replace") if process.stdout else ""
        if process.returncode:
            raise Unavailable(f"initdb failed in {self.data_dir}: {said.strip()[-1000:]}", hint=self._why_unreachable())

    def _locale(self) -> list[str]:
        if self.binaries.major >= 17:
            return ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        return ["--locale=C.UTF-8" if sys.platform == "linux" else "--locale=C"]

    def prepare_folders(self) -> None:
        """Make the folders that are missing; as root, give them and all in them to the user the server runs as.

        Raises BadInput where he cannot reach them.
        """
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.socket_dir is not None and not self.socket_dir.exists():
            self.socket_dir.mkdir(mode=0o755, parents=True)
            if os.geteuid() == 0:
                os.chown(self.socket_dir, self.account.uid, self.account.gid)
        if os.geteuid() == 0:
            give(self.data_dir, self.account)
            for link in (self.data_dir / "pg_tblspc").glob("*"):
                # A tablespace's own files lie in PG_{version} folders; what else lies beside them is not ours.
                os.chown(link, self.account.uid, self.account.gid)
                for folder in link.glob("PG_*"):
                    give(folder, self.account)
        reason = self._why_unreachable()
        if reason:
            raise BadInput(f"user {self.account.name} cannot reach {self.data_dir}", hint=reason)

    # --- running ---

    def command(self) -> list[str]:
        settings = {
            "port": str(self.port),
            "listen_addresses": self.host,
            "unix_socket_directories": "" if self.socket_dir is None else str(self.socket_dir),
            **self.settings,
        }
        flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(self.binaries.program("postgres")), "-D", str(self.data_dir), *flags]

    async def start(self, wait: bool = True, timeout: float = 60) -> None:
        """Start; with ``wait`` until it takes connections (a standby: until it runs).

        What the server says goes to ``log_file``. Raises Unavailable, with the end of that, where it does not come up.
        """
        if self.pid is not None:
            raise Refused(f"a server already runs on {self.data_dir}", hint=f"it is process {self.pid}")
        self.prepare_folders()
        self.log_file.touch(mode=0o600)  # it shows people's data: keys in errors, whole statements
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=self._environment(),
                start_new_session=True,
                umask=0o077,
                **self.account.popen(),
            )
        if wait:
            await self._until(lambda: self.status() in {"ready", "standby"}, timeout, "came up")

    @property
    def pid(self) -> int | None:
        """The postmaster's process, ours or one that an earlier run of us left; None: no server on this folder."""
        if self._process is not None and self._process.poll() is None:
            return self._process.pid
        lines = self._pid_file()
        if not lines or not lines[0].strip().isdigit():
            return None
        try:
            # The file outlives a killed server, and numbers are used again: a postmaster works in its data folder.
            process = psutil.Process(int(lines[0]))
            return process.pid if Path(process.cwd()) == self.data_dir.resolve() else None
        except (psutil.Error, OSError):
            return None

    def status(self) -> str | None:
        """``starting``, ``ready``, ``standby`` (up, and lets nobody in yet), ``stopping``; None: not running."""
        pid, lines = self.pid, self._pid_file()
        if pid is None:
            return None
        if len(lines) < 8 or lines[0].strip() != str(pid):
            return "starting"
        return lines[7].strip()

    def ready(self) -> bool:
        """Whether it takes connections."""
        return self.status() == "ready"

    def in_production(self) -> bool:
        """Whether the cluster is a primary by its control file: not recovering, not shut down."""
        try:
            with (self.data_dir / "global" / "pg_control").open("rb") as file:
                return int.from_bytes(file.read(_STATE_AT + 4)[_STATE_AT:], "little") == _IN_PRODUCTION
        except FileNotFoundError:
            return False

    async def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast", timeout: float = 60) -> None:
        """Stop and wait for it. Stopped already is fine."""
        pid = self.pid
        if pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, _STOP[mode])
        await self._until(lambda: self.pid is None, timeout, "stopped", may_end=True)

    def kill(self) -> None:
        """kill -9 of the postmaster and of every process of it, at once: what a crash is."""
        pid = self.pid
        if pid is None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            # The postmaster first, stopped, so that it cannot start another child meanwhile.
            postmaster = psutil.Process(pid)
            postmaster.suspend()
            processes = [postmaster, *postmaster.children(recursive=True)]
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            _wait_for_the_end(processes, _KILL_ATTEMPTS)
        if self._process is not None:
            self._process.wait(timeout=10)

    async def promote(self, timeout: float = 60) -> None:
        """Make a standby the primary; returns once it takes writes."""
        pid = self.pid
        if pid is None:
            raise Unavailable(f"no server runs on {self.data_dir}, so none can be promoted")
        if self.in_production():
            return
        trigger = self.data_dir / "promote"
        trigger.touch()
        if os.geteuid() == 0:
            os.chown(trigger, self.account.uid, self.account.gid)
        os.kill(pid, signal.SIGUSR1)
        await self._until(lambda: self.in_production() and self.ready(), timeout, "was promoted")

    def reload(self) -> None:
        """Have it read its configuration files again."""
        pid = self.pid
        if pid is not None:
            os.kill(pid, signal.SIGHUP)

    # --- helpers ---

    async def _until(self, done: Callable[[], bool], timeout: float, verb: str, *, may_end: bool = False) -> None:
        until = self._clock.monotonic() + timeout
        while not done():
            if not may_end and self.pid is None:
                raise self._failed(f"the server on {self.data_dir} ended before it {verb}")
            if self._clock.monotonic() > until:
                raise self._failed(f"the server on {self.data_dir} has not {verb} within {timeout:g} s")
            await self._clock.sleep(_POLL_S)

    def _failed(self, what: str) -> ThreefoldError:
        return Unavailable(f"{what}: {self.log_tail() or 'its log is empty'}", hint=f"its log: {self.log_file}")

    def log_tail(self) -> str:
        """The last lines of the log that say why."""
        try:
            with self.log_file.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        loud = [line for line in lines if "FATAL" in line or "PANIC" in line or "HINT" in line or "DETAIL" in line]
        return "; ".join((loud or lines)[-4:])

    def _pid_file(self) -> list[str]:
        try:
            return (self.data_dir / "postmaster.pid").read_text().splitlines()
        except OSError:
            return []

    def _environment(self) -> dict[str, str]:
        """Of ours only what a program needs to run, and in English.

        PG* would steer it; and a passphrase or a store's key that the environment gave to us is not for every superuser
        of the database to read.
        """
        kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        return {**kept, "LC_ALL": "C", "HOME": "/"}

    def _why_unreachable(self) -> str:
        """The first folder above the data folder that the server's user may not pass; "" where all are open."""
        if os.geteuid() != 0:
            return ""
        for folder in reversed(self.data_dir.resolve().parents):
            found = folder.stat()
            bit = 0o100 if found.st_uid == self.account.uid else 0o010 if found.st_gid == self.account.gid else 0o001
            if not found.st_mode & bit:
                return f"{folder} is closed to others: chmod o+x it, or choose a data folder elsewhere"
        return ""


def _wait_for_the_end(processes: list[psutil.Process], attempts: int) -> None:
    """A zombie has ended: it holds no file and no memory, and waits for a parent or an init that may take its time."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            while attempts > 0 and process.status() != psutil.STATUS_ZOMBIE:
                attempts -= 1
                with contextlib.suppress(psutil.TimeoutExpired):
                    process.wait(_POLL_S)


def give(tree: Path, owner: Account) -> None:
    """chown -R, links themselves included, never what they point to."""
    os.chown(tree, owner.uid, owner.gid)
    for folder, folders, files in os.walk(tree):
        for name in (*folders, *files):
            os.lchown(os.path.join(folder, name), owner.uid, owner.gid)  # noqa: PTH118 - thousands of files
