"""A whole deployment on this machine, every part a process of its own that can be killed, stopped, wiped.

    async with site(18) as here:
        await here.protect()
        ...
        here.stores["S1"].kill()

PostgreSQL, three of our storage servers and the DRaaS server run as users run them: by the command line, with a
threefold.toml. What a process says goes to a file in the site's folder. `Team` writes, and remembers what it was told.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg

from tests.pg import PASSWORD, SUPERUSER, Cluster, cluster, folder, free_port
from tests.promise import keep
from threefold.bootstrap import Parts, open_parts
from threefold.kernel.lsn import Lsn
from threefold.postgres.server import Server
from threefold.postgres.wal import parse_size, segment_name
from threefold.protect.beacon import LeaderStatus, read_leader
from threefold.quorum import keys
from threefold.quorum.reader import read_extent, read_wal
from threefold.recover.destination import MARKER
from threefold.settings import load
from threefold.storage_server.credentials import ENV_KEY, ENV_SECRET
from threefold.stores.store import Page

NAMES = ("S1", "S2", "S3")
MASTER = bytes(range(32))
PASSPHRASE = "a passphrase of tests"
SYNC = "ANY 1 (threefold)"


# What `threefold storage serve` does, without the second that the command line's imports take.
_SERVE = """
import sys
from pathlib import Path
from threefold.storage_server.engine import EngineOptions
from threefold.storage_server.serve import ServeConfig, create_bucket, serve
folder, port, least = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
engine = EngineOptions(min_free_bytes=least)
create_bucket(folder, "crm-dr", options=engine)
serve(ServeConfig(data_dir=folder, port=port, engine=engine), on_ready=lambda *_: print("serving", flush=True))
"""


# One verb as cli/main.py runs it, without the seconds that importing all the others takes.
VERB = """
import importlib, sys
import typer
from threefold.cli.output import Output
from threefold.kernel.errors import ThreefoldError
verb = sys.argv.pop(1)
app = typer.Typer(pretty_exceptions_enable=False)
app.command()(getattr(importlib.import_module(f"threefold.cli.{verb}"), verb))
try:
    app(standalone_mode=False)
except ThreefoldError as error:
    Output(as_json="--json" in sys.argv).error(error)
    sys.exit(error.exit_code)
"""


class Failed(AssertionError):
    """A process did not do what it had to; with what it said."""


class Process:
    """One of ours. ``said`` is all that it wrote, stdout and stderr."""

    def __init__(self, arguments: Sequence[str | Path], log: Path, environment: Mapping[str, str]) -> None:
        self._log = log
        with log.open("ab") as file:
            self._from = file.tell()
            self._process = subprocess.Popen(
                [sys.executable, *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env={**os.environ, **environment},
                start_new_session=True,
            )

    @property
    def name(self) -> str:
        return self._log.name

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def code(self) -> int | None:
        return self._process.poll()

    @property
    def said(self) -> str:
        return self._log.read_bytes()[self._from :].decode(errors="replace")

    def rss(self) -> int:
        return int(psutil.Process(self.pid).memory_info().rss)

    def signal(self, number: int) -> None:
        """Nothing where it has ended: its number may be somebody else's by now, which a bare kill would not know."""
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self._process.wait(10)

    async def ended(self, within: float = 60) -> int:
        await until(lambda: self.code is not None, f"an end of {self._log.name}", within, lambda: self.said)
        assert self.code is not None
        return self.code

    async def says(self, text: str, within: float = 60) -> None:
        def heard() -> bool:
            if text not in self.said and self.code is not None:
                raise Failed(f"ended with {self.code}, never said {text!r}: {self.said[-2000:]}")
            return text in self.said

        await until(heard, f"{text!r} in {self._log.name}", within, lambda: self.said)


async def until(
    done: Callable[[], bool | Awaitable[bool]], what: str, within: float = 60, said: Callable[[], str] = lambda: ""
) -> None:
    end = asyncio.get_running_loop().time() + within
    while True:
        answer = done()
        if answer if isinstance(answer, bool) else await answer:
            return
        if asyncio.get_running_loop().time() > end:
            raise Failed(f"no {what} within {within} s: {said()[-3000:]}")
        await asyncio.sleep(0.05)


@dataclass
class Storage:
    """One storage server and its disk."""

    name: str
    data: Path
    log: Path
    port: int = field(default_factory=free_port)
    min_free: int = 64 * 2**20
    process: Process | None = None

    def start(self) -> None:
        secrets = {ENV_KEY: self.name, ENV_SECRET: f"only loopback sees {self.name}"}
        self.process = Process(["-c", _SERVE, self.data, str(self.port), str(self.min_free)], self.log, secrets)

    async def ready(self) -> None:
        assert self.process is not None
        await self.process.says("serving")

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.signal(number)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()

    def stop(self) -> None:
        self.signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.signal(signal.SIGCONT)

    def wipe(self) -> None:
        """The server is dead; its disk is replaced by an empty one."""
        shutil.rmtree(self.data)


class Site:
    """Made by `site`."""

    def __init__(self, home: Path, primary: Cluster) -> None:
        self.home = home
        self.primary = primary
        self.stores: dict[str, Storage] = {name: Storage(name, home / name, home / f"{name}.log") for name in NAMES}
        self.places: dict[str, str] = {}  # lines of a store's section, where it is none of ours
        self.secrets = {f"{name}_SECRET": f"only loopback sees {name}" for name in NAMES} | {
            f"{name}_KEY": name for name in NAMES
        }
        self.ports = {name: store.port for name, store in self.stores.items()}  # where the clients go: maybe a proxy
        self.config = home / "threefold.toml"
        self.master = MASTER
        self.processes: list[Process] = []
        self.servers: list[Server] = []

    # --- settings ---

    def configure(
        self, *, system: str = "", stores: Mapping[str, str] | None = None, key: bytes = MASTER, more: str = ""
    ) -> Path:
        """Write threefold.toml; ``stores``: lines that replace a store's url; ``more``: sections at its end."""
        (self.home / "master.key").touch(mode=0o600)
        (self.home / "master.key").write_text(b64encode(key).decode())
        text = f"""
[system]
name = "crm"
dsn = "host=127.0.0.1 port={self.primary.server.port} user={SUPERUSER} dbname=postgres"
password = "env:PRIMARY_PASSWORD"
{system}
[keys]
master = "file:master.key"
"""
        if (self.home / "wrapped.key").exists():
            text += 'wrapped = "file:wrapped.key"\n'
        for name, port in self.ports.items():
            url = (self.places | dict(stores or {})).get(
                name
            ) or f'url = "s3://crm-dr/threefold"\nendpoint = "http://127.0.0.1:{port}"'
            text += f"""
[[store]]
name = "{name}"
{url}
access_key_id = "env:{name}_KEY"
secret_access_key = "env:{name}_SECRET"
provider = "own-{name}"
"""
        self.config.write_text(text + more)
        return self.config

    def environment(self) -> dict[str, str]:
        return {"PRIMARY_PASSWORD": PASSWORD, **self.secrets}

    async def add_store(self, name: str) -> Storage:
        """One storage server more; no settings name it yet."""
        store = self.stores[name] = Storage(name, self.home / name, self.home / f"{name}.log")
        self.secrets |= {f"{name}_KEY": name, f"{name}_SECRET": f"only loopback sees {name}"}
        store.start()
        await store.ready()
        return store

    @asynccontextmanager
    async def parts(self) -> AsyncIterator[Parts]:
        os.environ.update(self.environment())
        async with open_parts(load(self.config)) as parts:
            yield parts

    # --- processes ---

    def run(self, *arguments: str | Path, log: str = "command", env: Mapping[str, str | None] | None = None) -> Process:
        """Any verb, with our configuration."""
        process = Process(
            ["-c", VERB, *arguments, "--config", self.config],
            self.home / f"{log}-{len(self.processes)}.log",
            {**self.environment(), **{name: value or "" for name, value in (env or {}).items()}},
        )
        self.processes.append(process)
        return process

    async def done(self, *arguments: str | Path, within: float = 60) -> dict[str, Any]:
        """A verb that ends well: its result."""
        process = self.run(*arguments, "--json")
        code = await process.ended(within)
        if code != 0:
            raise Failed(f"{arguments} ended with {code}: {process.said}")
        lines = [json.loads(line) for line in process.said.splitlines() if line.startswith("{")]
        return next(line for line in reversed(lines) if line.get("type") == "result")

    async def refused(
        self, *arguments: str | Path, within: float = 60, env: Mapping[str, str | None] | None = None
    ) -> dict[str, Any]:
        """A verb that ends with an error: kind, error, hint, exit_code."""
        process = self.run(*arguments, "--json", env=env)
        code = await process.ended(within)
        lines = [json.loads(line) for line in process.said.splitlines() if line.startswith("{")]
        error = next((line for line in reversed(lines) if line.get("type") == "error"), None)
        assert error is not None, f"{arguments} ended with {code}: {process.said}"
        assert error["exit_code"] == code
        assert error["hint"], error
        assert error["error"][0].islower() or error["error"].split()[0].isupper() or "/" in error["error"], error
        assert "only loopback" not in process.said
        assert PASSWORD not in process.said
        return error

    def begin_protecting(self, *options: str) -> Process:
        return self.run("protect", *options, log="protect")

    async def protect(self, *options: str, within: float = 60) -> Process:
        """Started, and streaming."""
        process = self.begin_protecting(*options)
        await process.says('"streaming"', within)
        return process

    # --- looking ---

    async def leader(self) -> LeaderStatus | None:
        async with self.parts() as parts:
            return await read_leader(parts.stores, parts.keyring)

    async def objects(self, name: str) -> dict[str, int]:
        """Everything that a store lists, beacons aside."""
        found: dict[str, int] = {}
        async with self.parts() as parts:
            for prefix in ("format", "keys", "epochs", "log", "timelines", "wal", "snapshots", "packs"):
                after = ""
                while True:
                    page = await parts.stores[name].list(prefix, after=after)
                    assert isinstance(page, Page), page
                    found.update((each.key, each.size) for each in page.objects)
                    if page.last:
                        break
                    after = page.objects[-1].key
            if isinstance(await parts.stores[name].read(keys.FORMAT), bytes):
                found[keys.FORMAT] = 0
        return found

    async def log_end(self) -> tuple[Any, int, int]:
        """(end, timeline, epoch) of the log as two stores give it."""
        async with self.parts() as parts:
            extent = await read_extent(parts.stores, parts.keyring, parts.clock)
            return extent.end, extent.timeline, extent.epoch

    async def same_as_primary(self) -> None:
        """The log, as two stores give it, has what the primary has flushed, byte for byte; needs its whole pg_wal."""
        ((flushed,),) = await self.primary.sql("SELECT pg_current_wal_flush_lsn()::text")
        size = parse_size((await self.primary.sql("SHOW wal_segment_size"))[0][0])
        pg_wal = self.primary.server.data_dir / "pg_wal"
        async with self.parts() as parts:
            extent = await read_extent(parts.stores, parts.keyring, parts.clock)
            keep(extent.end >= Lsn.parse(flushed), f"the log ends at {extent.end}, {flushed} was confirmed")
            wal = read_wal(parts.stores, parts.keyring, parts.clock, extent, start=extent.start, end=extent.end)
            async for timeline, at, data in wal:
                done = 0
                while done < len(data):
                    number, offset = divmod(at + done, size)
                    name = segment_name(timeline, number, size)
                    theirs = (pg_wal / name).read_bytes()[offset : offset + len(data) - done]
                    keep(theirs == data[done : done + len(theirs)], f"{name} differs from the log behind {at}")
                    done += len(theirs)

    async def whole(self, within: float = 60) -> LeaderStatus:
        """Until all three stores vote, lack nothing, and the leader lives."""
        async with self.parts() as parts:
            beats: set[tuple[int, int]] = set()
            seen: list[LeaderStatus] = []

            async def fine() -> bool:
                for store in parts.stores.values():
                    if not isinstance(await store.read(keys.FORMAT), bytes):
                        beats.clear()
                        return False
                leader = await read_leader(parts.stores, parts.keyring)
                if leader is None or leader.state != "streaming":
                    return False
                seen.append(leader)
                if any(line.state != "voting" or line.missing or line.waiting_bytes > 2**22 for line in leader.stores):
                    beats.clear()
                    return False
                beats.add((leader.epoch, leader.beat))
                return len(beats) > 1

            await until(fine, "three good stores", within, lambda: f"{seen[-1:]}\n{self.processes[-1].said}")
            return seen[-1]

    # --- disaster ---

    def destroy_primary(self) -> None:
        self.primary.server.kill()
        shutil.rmtree(self.primary.server.data_dir, ignore_errors=True)

    async def recover(
        self, *options: str | Path, into: Path | None = None, kill_after: float | None = None
    ) -> dict[str, Any]:
        """By the command line, to a running server in the primary's place (same port)."""
        into = into or folder("tf-recovered-") / "data"
        old = self.primary.server
        arguments = ["recover", "--into", into, "--start", "--port", str(old.port), *options]
        server = Server(old.binaries, into, old.port, settings={"fsync": "off", "shared_buffers": "16MB"})
        self.servers.append(server)
        if kill_after is not None:
            process = self.run(*arguments, "--json", log="recover")
            await asyncio.sleep(kill_after)
            process.kill()
            server.kill()
            marker = into / MARKER
            if marker.exists() and json.loads(marker.read_text())["finished"]:
                # It came to its end before the kill did. What stands there is somebody's database, and is refused.
                shutil.rmtree(into)
        result = await self.done(*arguments)
        self.primary = Cluster(server, into.parent)
        return result

    async def sync(self) -> None:
        """A recovered primary waits for nobody until it is told to, when its new DRaaS server streams."""
        await self.primary.set(synchronous_standby_names=SYNC)
        await until(self._is_sync, "synchronous standby")

    async def _is_sync(self) -> bool:
        rows = await self.primary.sql("SELECT sync_state FROM pg_stat_replication WHERE application_name = 'threefold'")
        return any(state == "quorum" for (state,) in rows)

    def close(self) -> None:
        for process in self.processes:
            process.signal(signal.SIGCONT)
            process.kill()
        for store in self.stores.values():
            if store.process is not None:
                store.kill()
        for server in self.servers:
            server.kill()
            shutil.rmtree(server.data_dir.parent, ignore_errors=True)


@asynccontextmanager
async def site(
    major: int = 18,
    *,
    wal_segment_size: int = 16 * 2**20,
    settings: Mapping[str, str] | None = None,
    start: bool = True,
) -> AsyncIterator[Site]:
    """Three storage servers and a primary run; the DRaaS server is started by `protect`."""
    home = folder("tf-site-")
    waits = {"synchronous_standby_names": SYNC, "wal_keep_size": "2GB", **(settings or {})}
    async with cluster(major, wal_segment_size=wal_segment_size, settings=waits) as primary:
        here = Site(home, primary)
        try:
            here.configure()
            if start:
                for store in here.stores.values():
                    store.start()
                for store in here.stores.values():
                    await store.ready()
            yield here
        finally:
            here.close()
            shutil.rmtree(home, ignore_errors=True)


class Team:
    """Several connections that commit as fast as they are told "saved", and remember exactly that."""

    TABLE = "CREATE TABLE IF NOT EXISTS saved (who int, number int, what text, PRIMARY KEY (who, number))"

    def __init__(self, site: Site, size: int = 4, *, level: str = "on", pause: float = 0.02) -> None:
        self._site = site
        self._level = level
        self._pause = pause
        self.tried: set[tuple[int, int]] = set()
        self.acked: set[tuple[int, int]] = set()
        self.times: list[tuple[float, float]] = []  # (when it was acked, how long it took)
        self._may = asyncio.Event()
        self._may.set()
        self._tasks = [asyncio.create_task(self._work(who)) for who in range(size)]
        self._busy = dict.fromkeys(range(size), False)

    async def _work(self, who: int) -> None:
        loop = asyncio.get_running_loop()
        number = 0
        while True:
            # Read-only: it was made the other site's standby under our feet.
            with suppress(
                psycopg.OperationalError, psycopg.errors.UndefinedTable, psycopg.errors.ReadOnlySqlTransaction
            ):
                dsn = self._site.primary.dsn(connect_timeout="5")
                async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
                    warned: list[str] = []
                    connection.add_notice_handler(lambda notice, warned=warned: warned.append(str(notice)))
                    await connection.execute(f"SET synchronous_commit = {self._level}")
                    while True:
                        await self._may.wait()
                        number += 1
                        self.tried.add((who, number))
                        self._busy[who] = True
                        began = loop.time()
                        await connection.execute(
                            "INSERT INTO saved VALUES (%s, %s, %s)", (who, number, os.urandom(100).hex())
                        )
                        self._busy[who] = False
                        if not warned:
                            self.acked.add((who, number))
                            self.times.append((loop.time(), loop.time() - began))
                        await asyncio.sleep(self._pause)
            self._busy[who] = False
            await asyncio.sleep(0.1)

    def pause(self) -> None:
        self._may.clear()

    def resume(self) -> None:
        self._may.set()

    async def progress(self, more: int = 20, within: float = 90) -> None:
        """Until so many more commits were acked."""
        before = len(self.acked)
        said = self._site.processes
        await until(
            lambda: len(self.acked) >= before + more,
            f"{more} more commits",
            within,
            lambda: "\n".join(each.said[-1500:] for each in said[-2:]),
        )

    async def stop(self) -> None:
        """Where it can be, between two commits."""
        self.pause()
        with suppress(Failed):
            await until(lambda: not any(self._busy.values()), "quiet", 1)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def judge(self) -> None:
        """Everything that was acked is there, and nothing that was not tried."""
        # A recovered primary takes their writes again: what it acknowledges while it is asked is not in the answer.
        acked = set(self.acked)
        rows = {(who, number) for who, number in await self._site.primary.sql("SELECT who, number FROM saved")}
        lost = acked - rows
        keep(not lost, f"{len(lost)} of {len(acked)} acknowledged changes are lost, {sorted(lost)[:5]} first")
        keep(rows <= self.tried, "there is what nobody wrote")


@asynccontextmanager
async def team(here: Site, size: int = 4, **more: Any) -> AsyncIterator[Team]:
    await here.primary.sql(Team.TABLE)
    working = Team(here, size, **more)
    try:
        yield working
    finally:
        await working.stop()
