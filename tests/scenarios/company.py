"""A company with two sites and three stores, each host a network namespace, every part a process that can be killed.

    async with company() as here:
        here.net.isolate("primary")
        ...

What runs where: *primary* has the PostgreSQL, a sentinel, and clients; *recovery* the DRaaS server and the standby's
agent; *s1*, *s2*, *s3* a storage server each; *third* a sentinel and clients; *watch* the tests' own eye. Everything is
started as a user starts it, by the command line, with a threefold.toml of its own in the host's folder.

The first company of a test run is built from nothing (a cluster, its first snapshot, the standby restored from it),
stopped in good order, and kept: later ones are copies of its disks, and start in a few seconds.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import shutil
import signal
import struct
import subprocess
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from tests.pg import PASSWORD, QUICK, SUPERUSER, folder
from tests.promise import Broken
from tests.protect_process import MASTER, SYNC, VERB, Failed, Process, until
from tests.scenarios import clients
from tests.scenarios.checker import Found, Ledger, check
from tests.scenarios.links import ADDRESS, STORES, Network
from tests.scenarios.netns import entered
from tests.scenarios.seen import Watching
from threefold.postgres.binaries import find_binaries
from threefold.postgres.server import Server
from threefold.storage_server.credentials import ENV_KEY, ENV_SECRET

PORT = 5432
STORE_PORT = 9000
USER = "clerk"
# Limits are multiplied by it: for a machine that has other work as well.
PATIENCE = float(os.environ.get("PATIENCE", "1"))
_ROOT = Path(__file__).parents[2]
_JUMP = Path(__file__).with_name("jump.c")

_SERVE = """
import sys
from pathlib import Path
from threefold.storage_server.engine import EngineOptions
from threefold.storage_server.serve import ServeConfig, create_bucket, serve
folder, host, port = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
engine = EngineOptions(min_free_bytes=2**26)
create_bucket(folder, "crm-dr", options=engine)
serve(ServeConfig(data_dir=folder, host=host, port=port, engine=engine, allow_http=True),
      on_ready=lambda *_: print("serving", flush=True))
"""


class Company:
    """Made by `company`."""

    def __init__(self, home: Path, net: Network, *, failover: str = "", system: str = "", recovery: str = "") -> None:
        self.home = home
        self.net = net
        self.processes: dict[str, Process] = {}  # by the name of the part: "protect", "agent", "sentinel-third", ...
        self.primary = self._server("primary")
        self.ledger_file = home / "ledger.jsonl"
        self.watching = Watching(home / "watch" / f"seen-{os.urandom(4).hex()}.jsonl")
        self._sections = {"failover": failover, "system": system, "recovery": recovery}
        self._clocks: dict[str, Path] = {}
        self._started: dict[str, Callable[[], Process]] = {}

    # --- settings ---

    def configure(self, host: str, *, recovery_site: str = "recovery") -> Path:
        """threefold.toml of that host; ``recovery_site`` names the host that is the recovery site for it."""
        here = self.home / host
        here.mkdir(parents=True, exist_ok=True)
        here.chmod(0o755)
        key = here / "master.key"
        key.touch(mode=0o600)
        key.write_text(b64encode(MASTER).decode())
        text = f"""
[system]
name = "crm"
dsn = "host={ADDRESS["primary"]} port={PORT} user={SUPERUSER} dbname=postgres"
password = "env:PRIMARY_PASSWORD"
site = "primary"
data_dir = "../primary/data"
listen = "{ADDRESS["primary"]}:{PORT}"
{self._sections["system"]}
[keys]
master = "file:master.key"

[recovery]
site = "{recovery_site}"
data_dir = "../{recovery_site}/data"
listen = "{ADDRESS[recovery_site]}:{PORT}"
{self._sections["recovery"]}
[failover]
policy = "automatic"
{self._sections["failover"]}
"""
        for store in STORES:
            text += f"""
[[store]]
name = "{store.upper()}"
url = "s3://crm-dr/threefold"
endpoint = "http://{ADDRESS[store]}:{STORE_PORT}"
access_key_id = "env:{store.upper()}_KEY"
secret_access_key = "env:{store.upper()}_SECRET"
provider = "own-{store}"
allow_http = true
"""
        (here / "threefold.toml").write_text(text)
        return here / "threefold.toml"

    def environment(self, host: str) -> dict[str, str]:
        secrets = {f"{store.upper()}_SECRET": f"only tests see {store}" for store in STORES}
        keys = {f"{store.upper()}_KEY": store for store in STORES}
        return {"PRIMARY_PASSWORD": PASSWORD, "PGPASSWORD": PASSWORD, **keys, **secrets, **self._clock(host)}

    # --- clocks ---

    def _clock(self, host: str) -> dict[str, str]:
        library = jump_library()
        if library is None:
            return {}
        if host not in self._clocks:
            (self.home / host).mkdir(exist_ok=True)
            self._clocks[host] = self.home / host / "clock"
            self._clocks[host].write_bytes(bytes(8))
            self._clocks[host].chmod(0o644)
        return {"LD_PRELOAD": str(library), "THREEFOLD_TEST_JUMP": str(self._clocks[host])}

    def jump(self, host: str, seconds: int) -> None:
        """The time of day of every process of that host, from this moment on."""
        with self._clocks[host].open("r+b") as file:
            file.write(struct.pack("q", seconds))

    # --- processes ---

    def start(self, part: str, host: str, arguments: Sequence[str | Path], **environment: str) -> Process:
        """One of ours on that host."""
        space, log = self.net.namespaces[host], self.home / host / f"{part}.log"
        log.parent.mkdir(exist_ok=True)
        with space.inside():
            process = Process(
                arguments, log, {**self.environment(host), "PYTHONPATH": f"{_ROOT}:{_ROOT / 'src'}", **environment}
            )
        self.processes[part] = process
        self._started[part] = lambda: self.start(part, host, arguments, **environment)
        return process

    def again(self, part: str) -> None:
        """A part that has ended, started as it was."""
        self._started[part]()

    def verb(self, part: str, host: str, *arguments: str | Path) -> Process:
        """A verb of the command line, with that host's configuration."""
        config = self.home / host / "threefold.toml"
        return self.start(part, host, ["-c", VERB, *arguments, "--config", config])

    async def done(self, host: str, *arguments: str | Path, within: float = 60) -> str:
        """A verb that ends well: all that it said."""
        part = f"{arguments[0]}-{len(self.processes)}"
        process = self.verb(part, host, *arguments, "--json")
        code = await process.ended(within * PATIENCE)
        assert code == 0, f"{arguments} ended with {code}: {process.said}"
        return process.said

    def start_store(self, store: str) -> None:
        environment = {ENV_KEY: store, ENV_SECRET: f"only tests see {store}"}
        where = [self.home / store / "disk", ADDRESS[store], str(STORE_PORT)]
        self.start(store, store, ["-c", _SERVE, *where], **environment)

    def start_protect(self, host: str = "recovery", *options: str, part: str = "protect") -> Process:
        return self.verb(part, host, "protect", *options)

    def start_agent(self, site: str = "recovery", *options: str) -> Process:
        return self.verb(f"agent-{site}", site, "standby", "--site", site, *options)

    def start_sentinel(self, host: str) -> Process:
        return self.verb(f"sentinel-{host}", host, "sentinel", "--name", host, "--site", host)

    def start_primary(self) -> None:
        with self._on("primary"):
            _at_once(self.primary.start(wait=False))

    def start_clients(self, host: str, connections: int = 3, seed: int = 1, pause: float = 0.03) -> Process:
        dsn = make_conninfo(user=USER, dbname="postgres", port=PORT)
        arguments = ["-m", "tests.scenarios.clients", "--who", f"{host}{len(self.processes)}-", "--dsn", dsn]
        arguments += ["--ledger", str(self.ledger_file), "--hosts", ",".join(self.client_hosts())]
        arguments += ["--connections", str(connections), "--seed", str(seed), "--pause", str(pause)]
        return self.start(f"clients-{host}", host, arguments)

    def client_hosts(self) -> list[str]:
        return [ADDRESS[host] for host in ("primary", "recovery", "third")]

    def kill(self, *parts: str) -> None:
        for part in parts:
            self.processes[part].signal(signal.SIGCONT)
            self.processes[part].kill()

    @contextmanager
    def _on(self, host: str) -> Iterator[None]:
        """What is forked meanwhile is on that host, with its clock."""
        before = dict(os.environ)
        os.environ.update(self.environment(host))
        try:
            with self.net.namespaces[host].inside():
                yield
        finally:
            os.environ.clear()
            os.environ.update(before)

    def _server(self, host: str) -> Server:
        here = self.home / host
        return Server(find_binaries(18), here / "data", PORT, ADDRESS[host], socket_dir=here / "socket")

    # --- looking ---

    async def sql(self, host: str, query: str, *, within: float = 10) -> list[tuple[Any, ...]]:
        """At that host's PostgreSQL, from where nothing is broken."""
        return await asyncio.to_thread(self._sql, host, query, within)

    def _sql(self, host: str, query: str, within: float) -> list[tuple[Any, ...]]:
        with entered(self.net.namespaces["watch"].name):
            conninfo = make_conninfo(
                host=ADDRESS[host], port=PORT, user=SUPERUSER, password=PASSWORD, dbname="postgres", connect_timeout="3"
            )
            conninfo = make_conninfo(conninfo, tcp_user_timeout=str(int(within * 1000)))
            with psycopg.connect(conninfo, autocommit=True) as connection:
                cursor = connection.execute(query.encode())
                return cursor.fetchall() if cursor.description else []

    def ledger(self) -> Ledger:
        ledger = Ledger()
        if self.ledger_file.exists():
            ledger.add(self.ledger_file.read_text())
        return ledger

    async def acks(
        self, more: int = 20, *, within: float, site: str | None = None, since: float | None = None
    ) -> float:
        """Until so many more changes were acknowledged; returns when the first of them was, CLOCK_MONOTONIC."""
        since = time.monotonic() if since is None else since
        address = ADDRESS[site] if site else None
        await self.until(
            lambda: len(self.ledger().acks_since(since, address)) >= more,
            f"{more} more acknowledged changes" + (f" at {site}" if site else ""),
            within,
        )
        return self.ledger().acks_since(since, address)[0].at

    async def until(self, done: Callable[[], bool], what: str, within: float) -> None:
        """Raises Failed, with all that each part said last."""
        try:
            await until(done, what, within * PATIENCE)
        except Failed as failed:
            raise Failed(f"{failed}\n{self.said()}") from None

    def said(self) -> str:
        """The last that each part said, for whoever reads why a scenario failed."""
        parts = {name: process.said[-1500:] for name, process in self.processes.items()}
        text = "\n".join(f"--- {name}\n{said}" for name, said in parts.items() if said)
        return f"{text}\n--- seen\n{self.watching.tale()}"

    async def judge(self, site: str) -> Ledger:
        """The clients go home; what they were told is compared with what that site holds. Raises Broken."""
        for part in [name for name in self.processes if name.startswith("clients-")]:
            self.processes[part].signal(signal.SIGCONT)
            self.processes[part].signal(signal.SIGTERM)
            with suppress(AssertionError):
                await self.processes[part].ended(3)
            self.kill(part)
            del self.processes[part]
        ledger = self.ledger()
        wrong = check(ledger, await self.found(site), balance=clients.BALANCE)
        if wrong:
            raise Broken("\n".join([*wrong, self.said()]))
        return ledger

    async def found(self, site: str) -> Found:
        return Found(
            entries=await self.sql(site, "SELECT key, position, item FROM entries"),  # type: ignore[arg-type]
            transfers=await self.sql(site, "SELECT item, debtor, creditor, amount FROM transfers"),  # type: ignore[arg-type]
            balances=dict(await self.sql(site, "SELECT id, balance FROM accounts")),  # type: ignore[arg-type]
        )

    # --- life ---

    async def found_cluster(self) -> None:
        """A new primary: made, its roles and tables in place."""
        server = self.primary
        await server.initdb(superuser=SUPERUSER, password=PASSWORD, sync=False)
        with (server.data_dir / "postgresql.conf").open("a") as file:
            # The standby's configuration is restored from here: what holds for one holds for both.
            file.writelines(f"{name} = '{value}'\n" for name, value in QUICK.items())
            file.write("wal_keep_size = '128MB'\nwal_sender_timeout = '10s'\n")
        with (server.data_dir / "pg_hba.conf").open("a") as file:
            file.write("host all all 10.77.0.0/24 scram-sha-256\nhost replication all 10.77.0.0/24 scram-sha-256\n")

    async def begin(self) -> None:
        """Everything runs, the standby is in place, commits wait for two stores, and clients are at work."""
        for host in ("primary", "recovery", "third", "watch"):
            self.configure(host)
        for store in STORES:
            self.start_store(store)
        self.start_primary()
        self.start_protect()
        config = self.home / "watch" / "threefold.toml"
        self.watching.process = self.start(
            "watch",
            "watch",
            ["-m", "tests.scenarios.watch", "--config", config, "--into", self.watching.file],
        )
        new = not (self.home / "founded").exists()
        if new:
            await self.until(self.primary.ready, "primary", 30)
            await self.sql("primary", clients.SCHEMA)
            await self.sql("primary", f"CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'")
            await self.sql("primary", f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {USER}")
            await self.processes["protect"].says('"streaming"', 30 * PATIENCE)
            await self.sql("primary", f"ALTER SYSTEM SET synchronous_standby_names = '{SYNC}'")
            await self.sql("primary", "SELECT pg_reload_conf()")
            await self.done("recovery", "snapshot")
        self.begin_watching_sites()
        await self.processes["protect"].says('"streaming"', 30 * PATIENCE)
        await self.ready()
        (self.home / "founded").touch()

    def begin_watching_sites(self) -> None:
        """Agent and sentinels, where this version has them."""
        if has_verb("standby"):
            self.start_agent()
        if has_verb("sentinel"):
            self.start_sentinel("primary")
            self.start_sentinel("third")

    async def ready(self, within: float = 40) -> None:
        if has_verb("standby"):
            await self.until(self._in_place, "standby in place", within)

    def active_site(self) -> str:
        """By the newest journal that was seen."""
        won = {"promoting", "serving", "protected"}
        active = [each["to"] for each in self.watching.switches() if each["steps"][-1]["kind"] in won]
        return str(active[-1]) if active else "primary"

    async def settled_switch(self, within: float) -> None:
        """No switch stands half-way any more."""

        def settled() -> bool:
            switches = self.watching.switches()
            return not switches or switches[-1]["steps"][-1]["kind"] in {"serving", "protected", "abandoned"}

        await self.until(settled, "end of the switch under way", within)

    async def protected_again(self, number: int = 1, within: float = 40) -> None:
        """The switch of that number came to its end: the new site is protected as the old one was."""
        done = lambda: self.watching.step(number, "protected") is not None  # noqa: E731
        await self.until(done, f"protection after switch {number}", within)

    def _in_place(self) -> bool:
        for name, process in self.processes.items():
            assert process.code is None or name.startswith("snapshot"), f"{name} has ended: {process.said}"
        return self.watching.in_place("recovery")

    async def end(self) -> None:
        """In good order, so that the disks can be copied."""
        for part in ("protect", *(name for name in self.processes if name.startswith(("agent", "sentinel")))):
            self.processes[part].signal(signal.SIGTERM)
        for part in ("protect", *(name for name in self.processes if name.startswith(("agent", "sentinel")))):
            await self.processes[part].ended(20)
        await self.primary.stop("fast")
        await self._server("recovery").stop("fast")
        for store in STORES:
            self.processes[store].signal(signal.SIGTERM)
            await self.processes[store].ended(20)

    def close(self) -> None:
        for process in self.processes.values():
            process.signal(signal.SIGCONT)
            process.kill()
        self.net.close()
        for host in ("primary", "recovery", "third"):
            _free_shared_memory(self.home / host / "data" / "postmaster.pid")


@asynccontextmanager
async def company(
    *,
    clients_at: Sequence[str] = ("primary", "third"),
    prepare: Callable[[Path], None] | None = None,
    **sections: str,
) -> AsyncIterator[Company]:
    """``prepare``: done to the disks before anything runs; ``sections``: more of [failover], [system], [recovery]."""
    template = await _template()
    home = folder("tf-world-")
    try:
        subprocess.run(["cp", "-a", "--reflink=auto", f"{template}/.", home], check=True)  # owners as well
        if prepare is not None:
            prepare(home)
        with Network() as net:
            here = Company(home, net, **sections)
            try:
                await here.begin()
                for host in clients_at:
                    here.start_clients(host)
                if clients_at:
                    await here.acks(20, within=30)
                yield here
            finally:
                here.close()
    finally:
        if not os.environ.get("TF_KEEP"):
            shutil.rmtree(home, ignore_errors=True)


_templates: list[Path] = []


async def _template() -> Path:
    if not _templates:
        home = folder("tf-world-first-")
        atexit.register(_remove, os.getpid(), home)
        with Network() as net:
            first = Company(home, net)
            try:
                await first.found_cluster()
                await first.begin()
                await first.end()
            finally:
                first.close()
        for log in home.glob("*/*.log"):
            log.unlink()
        _templates.append(home)
    return _templates[0]


def _remove(maker: int, home: Path) -> None:
    if os.getpid() == maker:
        shutil.rmtree(home, ignore_errors=True)


def _free_shared_memory(pid_file: Path) -> None:
    """What a killed PostgreSQL leaves behind: a System V segment, named in line 7 of its postmaster.pid."""
    with suppress(OSError, IndexError):
        segment = pid_file.read_text().splitlines()[6].split()[1]
        subprocess.run(["ipcrm", "-m", segment], capture_output=True, check=False)


def has_verb(name: str) -> bool:
    return (_ROOT / "src" / "threefold" / "cli" / f"{name}.py").exists()


def has_option(verb: str, option: str) -> bool:
    return has_verb(verb) and option in (_ROOT / "src" / "threefold" / "cli" / f"{verb}.py").read_text()


def _at_once(work: Any) -> None:
    """Run a coroutine that waits for nothing: in a namespace nothing may be awaited."""
    try:
        work.send(None)
    except StopIteration:
        return
    work.close()
    raise AssertionError("it waited")


_library: list[Path | None] = []


def jump_library() -> Path | None:
    """jump.c, compiled; None where no compiler is."""
    if not _library:
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            _library.append(None)
        else:
            made = folder("tf-jump-")
            atexit.register(_remove, os.getpid(), made)
            library = made / "jump.so"
            subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, _JUMP, "-ldl"], check=True)
            library.chmod(0o755)
            _library.append(library)
    return _library[0]
