"""One PostgreSQL, and the standbys that are measured on it: stock ones and ours, as processes of their own.

All data lies in one folder, so on one disk. Only the standbys of the variant that is measured run at that time; the
storage servers stay, and cost nothing while nobody asks them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

import psutil
import psycopg
from psycopg.conninfo import make_conninfo

from bench.tls import Certificate, make_certificate
from threefold.local.create import BUCKET, any_ports, create_home
from threefold.local.home import REPLICATION_USER, SUPERUSER, Home
from threefold.postgres.binaries import find_binaries
from threefold.postgres.server import Server
from threefold.storage_server.serve import create_bucket

STORES = ("S1", "S2", "S3")
RECEIVERS = ("receiver1", "receiver2", "receiver3")
_SLOT: Final = "threefold_crm"  # ours, of the system that `threefold init` names
_SETTLE_S: Final = 4.0  # a new leader compares the stores once; that is not what is measured
SERVER_SETTINGS: Final = {
    "fsync": "on",
    "synchronous_commit": "on",
    "shared_buffers": "256MB",
    "max_wal_size": "16GB",  # no checkpoint falls into a measurement
    "checkpoint_timeout": "1h",
    "max_connections": "200",
    "max_wal_senders": "10",
    "autovacuum": "off",
    "wal_level": "replica",
    "log_checkpoints": "off",
}


class Rig:
    """Use as a context manager; everything is stopped and removed at the end.

    ``secure``: the store that is spoken to over TLS, with a certificate of the run's own authority; the others are not.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        major: int = 18,
        secure: str = "",
        settings: Mapping[str, str] | None = None,
    ) -> None:
        # PostgreSQL runs as another user where we are root: the folder has to be passable.
        self.base = Path(tempfile.mkdtemp(prefix="threefold-bench-", dir=folder))
        self.base.chmod(0o755)
        create_home(self.base / "home", ports=any_ports(), passphrase="only for a benchmark")
        self.home = Home.at(self.base / "home")
        self.tls: Certificate | None = None
        self._secure = secure
        if secure:
            self.tls = make_certificate(self.base / "tls")
            self._speak_tls_to(secure, self.tls.authority)
        self.config = self.home.config
        self.binaries = find_binaries(major)
        sockets = self.base / "sockets"
        self.server = Server(
            self.binaries,
            self.home.primary,
            self.home.primary_port,
            socket_dir=sockets,
            settings=SERVER_SETTINGS | dict(settings or {}),
        )
        self.conninfo = {"host": str(sockets), "port": str(self.home.primary_port), "user": SUPERUSER}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.retired_cpu: dict[str, float] = {}

    def __enter__(self) -> Self:
        try:
            asyncio.run(self.server.initdb(superuser=SUPERUSER, password=self.home.secret("postgres.password")))
            with (self.home.primary / "pg_hba.conf").open("a") as hba:
                hba.write("host replication all 127.0.0.1/32 scram-sha-256\n")
            asyncio.run(self.server.start())
            password = self.home.secret(f"{REPLICATION_USER}.password")
            self.sql(f"CREATE ROLE {REPLICATION_USER} LOGIN REPLICATION PASSWORD '{password}'")
            self.sql(f"GRANT pg_monitor TO {REPLICATION_USER}")
            for name in STORES:
                self.start_store(name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self.processes):
            self.stop(name, hard=True)
        with contextlib.suppress(Exception):
            asyncio.run(self.server.stop("immediate", timeout=10))
        shutil.rmtree(self.base, ignore_errors=True)

    # --- PostgreSQL ---

    def connect(self, dbname: str = "postgres") -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(make_conninfo(dbname=dbname, **self.conninfo), autocommit=True)

    def sql(self, command: str, dbname: str = "postgres") -> list[tuple[object, ...]]:
        with self.connect(dbname) as connection:
            cursor = connection.execute(command.encode())
            return cursor.fetchall() if cursor.description else []

    def program(self, name: str) -> str:
        return str(self.binaries.program(name))

    def require(self, standbys: str) -> None:
        """``synchronous_standby_names``."""
        self.sql(f"ALTER SYSTEM SET synchronous_standby_names = '{standbys}'")
        self.sql("SELECT pg_reload_conf()")

    # --- processes ---

    def start(self, name: str, *command: str, environment: dict[str, str] | None = None) -> None:
        with (self.base / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )

    def stop(self, name: str, *, hard: bool = False) -> None:
        process = self.processes.pop(name)
        with contextlib.suppress(psutil.Error):
            self.retired_cpu[name] = self.retired_cpu.get(name, 0.0) + cpu_of(psutil.Process(process.pid))
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGKILL if hard else signal.SIGTERM)
        process.wait(timeout=30)

    def threefold(self, *arguments: str) -> list[str]:
        return [*_THREEFOLD, *arguments]

    def json(self, *arguments: str) -> dict[str, Any]:
        """What a verb of ours answers."""
        command = self.threefold(*arguments, "--json", "--quiet", "--config", str(self.config))
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        for line in reversed(done.stdout.splitlines()):
            facts: dict[str, Any] = json.loads(line)
            if facts["type"] == "result":
                return facts
        raise RuntimeError(f"{arguments[0]} ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}")

    def address(self, name: str) -> str:
        """HOST:PORT where `start_store` lets a store listen."""
        return next(self.home.address(store) for store in self.home.settings.store if store.name == name)

    def start_store(self, name: str, address: str = "", inside: Sequence[str] = ()) -> None:
        """``inside``: the command that runs another one on another host (apart.py)."""
        address = address or self.address(name)
        command = ["storage", "serve", "--data", str(self.home.storage(name)), "--listen", address]
        if self.tls is not None and name == self._secure:
            command += ["--tls-cert", str(self.tls.certificate), "--tls-key", str(self.tls.key)]
        elif not address.startswith("127."):
            command += ["--allow-http"]
        secrets = {
            "THREEFOLD_STORAGE_ACCESS_KEY_ID": self.home.secret(f"{name}.key"),
            "THREEFOLD_STORAGE_SECRET_ACCESS_KEY": self.home.secret(f"{name}.secret"),
        }
        self.start(name, *inside, *self.threefold(*command), environment=secrets)
        host, _, port = address.rpartition(":")
        self.until(lambda: _answers(host, int(port)), name)

    @contextmanager
    def elsewhere(self, addresses: Mapping[str, str]) -> Iterator[None]:
        """Whoever of ours is started meanwhile finds these stores at these addresses."""
        text = self.home.config.read_text()
        for name, address in addresses.items():
            found = rf'(name = "{name}"\nurl = [^\n]*\n)endpoint = [^\n]*'
            text, replaced = re.subn(found, rf'\1endpoint = "http://{address}"\nallow_http = true', text)
            assert replaced == 1, name
        self.config = self.home.folder / "elsewhere.toml"
        self.config.write_text(text)
        try:
            yield
        finally:
            self.config = self.home.config

    def empty_stores(self) -> None:
        """Three new disks: what was written before is gone, and so is the primary's slot, which spoke of it."""
        for name in STORES:
            self.stop(name)
            shutil.rmtree(self.home.storage(name))
            create_bucket(self.home.storage(name), BUCKET)
            self.start_store(name)
        self._drop_slot(_SLOT)

    def _speak_tls_to(self, name: str, authority: Path) -> None:
        config = self.home.config
        text = config.read_text()
        address = next(self.home.address(store) for store in self.home.settings.store if store.name == name)
        config.write_text(text.replace(f'"http://{address}"', f'"https://{address}"\nca_file = "{authority}"'))
        self.home = Home.at(self.home.folder)

    # --- variants ---

    @contextmanager
    def no_standby(self) -> Iterator[None]:
        self.require("")
        yield

    @contextmanager
    def receivers(self, count: int = 3, quorum: int = 2, ports: Sequence[int] = ()) -> Iterator[None]:
        """pg_receivewal --synchronous: each its own folder and slot. ``ports``: where each finds the primary."""
        names = RECEIVERS[:count]
        ports = ports or [self.home.primary_port] * count
        # A slot keeps all WAL since its standby was last here: what was written meanwhile is nobody's to send.
        for name, port in zip(names, ports, strict=True):
            folder = self.base / name
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            self._drop_slot(name)
            self.sql(f"SELECT pg_create_physical_replication_slot('{name}')")
            dsn = f"host=127.0.0.1 port={port} user={REPLICATION_USER} application_name={name}"
            command = ("-D", str(folder), "--synchronous", "--slot", name, "--no-loop", "--no-password", "-d", dsn)
            password = {"PGPASSWORD": self.home.secret(f"{REPLICATION_USER}.password")}
            self.start(name, self.program("pg_receivewal"), *command, environment=password)
        try:
            self.require(f"ANY {quorum} ({', '.join(names)})")
            self.until_streaming(names)
            yield
        finally:
            self.require("")
            for name in names:
                self.stop(name)
                self._drop_slot(name)

    @contextmanager
    def ours(self) -> Iterator[None]:
        self.start("protect", *self.threefold("protect", "--config", str(self.config)))
        try:
            self.require("ANY 1 (threefold)")
            self.until_streaming(("threefold",))
            time.sleep(_SETTLE_S)
            yield
        finally:
            self.require("")
            self.stop("protect")

    def _drop_slot(self, name: str) -> None:
        self.until(lambda: self._slot_is_free(name), f"slot {name}")
        self.sql(f"SELECT pg_drop_replication_slot('{name}') FROM pg_replication_slots WHERE slot_name = '{name}'")

    def _slot_is_free(self, name: str) -> bool:
        return not self.sql(f"SELECT 1 FROM pg_replication_slots WHERE slot_name = '{name}' AND active")

    def until_streaming(self, names: tuple[str, ...]) -> None:
        """Until each of them has everything and counts for commits."""
        quoted = ", ".join(f"'{name}'" for name in names)
        query = (
            "SELECT 1 FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = 'quorum' "
            f"AND flush_lsn >= pg_current_wal_flush_lsn() AND application_name IN ({quoted})"
        )
        self.until(lambda: len(self.sql(query)) == len(names), f"{names} stream", within=120)

    def until(self, done: Callable[[], bool], what: str, within: float = 60) -> None:
        end = time.monotonic() + within
        while not done():
            for name, process in self.processes.items():
                if process.poll() is not None:
                    said = (self.base / f"{name}.log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"{name} ended with {process.returncode}: {said}")
            if time.monotonic() > end:
                raise TimeoutError(f"{what}: not within {within:g} s")
            time.sleep(0.05)

    # --- processor time ---

    def cpu(self) -> dict[str, float]:
        """Seconds of processor time so far, by process; PostgreSQL with all its children is one."""
        used = dict(self.retired_cpu)
        for name, process in self.processes.items():
            used[name] = used.get(name, 0.0) + cpu_of(psutil.Process(process.pid))
        pid = self.server.pid
        if pid is not None:
            postmaster = psutil.Process(pid)
            times = postmaster.cpu_times()
            used["postgres"] = times.user + times.system + times.children_user + times.children_system
            for child in postmaster.children():
                with contextlib.suppress(psutil.Error):
                    used["postgres"] += cpu_of(child)
        return used


_THREEFOLD = [sys.executable, "-m", "threefold"]


def cpu_of(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _answers(host: str, port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection((host, port), timeout=1).close()
        return True
    return False
