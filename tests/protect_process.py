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
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.pg import PASSWORD, SUPERUSER, Cluster, cluster, folder
from tests.processes import VERB, Failed, Process, Storage, until
from tests.promise import keep
from tests.team import Team, team
from threefold.bootstrap import Parts, open_parts
from threefold.kernel.lsn import Lsn
from threefold.postgres.server import Server
from threefold.postgres.wal import parse_size, segment_name
from threefold.protect.beacon import LeaderStatus, read_leader
from threefold.quorum import keys
from threefold.quorum.reader import read_extent, read_wal
from threefold.recover.destination import MARKER
from threefold.settings import load
from threefold.stores.store import Page

# All that a test with a site asks for comes from here.
__all__ = [
    "MASTER",
    "NAMES",
    "PASSPHRASE",
    "SYNC",
    "VERB",
    "Failed",
    "Process",
    "Site",
    "Storage",
    "Team",
    "site",
    "team",
    "until",
]

NAMES = ("S1", "S2", "S3")
MASTER = bytes(range(32))
PASSPHRASE = "a passphrase of tests"
SYNC = "ANY 1 (threefold)"


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
        self,
        *,
        system: str = "",
        stores: Mapping[str, str] | None = None,
        key: bytes = MASTER,
        more: str = "",
        to: str = "threefold.toml",
    ) -> Path:
        """Write threefold.toml; ``stores``: lines that replace a store's url; ``more``: sections at its end.

        ``to``: another file, which `run` is told: several ways to go wrong may be tried side by side.
        """
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
        path = self.home / to
        path.write_text(text + more)
        return path

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

    def run(
        self,
        *arguments: str | Path,
        log: str = "command",
        env: Mapping[str, str | None] | None = None,
        config: Path | None = None,
    ) -> Process:
        """Any verb, with our configuration."""
        process = Process(
            ["-c", VERB, *arguments, "--config", config or self.config],
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
        self,
        *arguments: str | Path,
        within: float = 60,
        env: Mapping[str, str | None] | None = None,
        config: Path | None = None,
    ) -> dict[str, Any]:
        """A verb that ends with an error: kind, error, hint, exit_code."""
        process = self.run(*arguments, "--json", env=env, config=config)
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
