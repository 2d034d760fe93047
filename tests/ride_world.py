"""A CRM that is to ride through a disaster: primary, standby, three storage servers, and one or two edges of it.

    async with riding() as crm:
        crm.two.primary.server.kill()
        answer = await crm.ask("customer", "POST", "/api/v1/queries", {...}, key="...")

Everything is a process of its own: `threefold crm serve` twice (as two hosts would), PostgreSQL, the stores.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from tests.edge_client import Answer, Client
from tests.pair import Pair, pair
from tests.pg import PASSWORD as PG_PASSWORD
from tests.pg import folder, free_port
from tests.protect_process import Storage
from threefold.connectivity import invitations
from threefold.connectivity.app import edge_set
from threefold.crm.model.actor import SYSTEM
from threefold.crm.model.kinds import KINDS
from threefold.crm.records import records
from threefold.crm.sql.database import Database
from threefold.crm.sql.migrate import crm_set, migrate
from threefold.kernel.clock import SystemClock

PASSWORD = "correct horse battery"
NAMES = ("S1", "S2", "S3")
_PATIENCE = 40.0


@dataclass
class Edge:
    port: int
    process: subprocess.Popen[bytes] | None = None

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@dataclass
class Riding:
    home: Path
    two: Pair
    stores: dict[str, Storage]
    edges: list[Edge]
    people: dict[str, Client] = field(default_factory=dict)
    deferring: bool = True
    config: Path = Path()

    @property
    def origin(self) -> str:
        """The one address of all edges; a client is told which of them it reaches."""
        return f"http://localhost:{self.edges[0].port}"

    def configure(self) -> None:
        self.config = self.home / "threefold.toml"
        primary, standby = self.two.primary.server.port, self.two.standby.server.port
        key = self.home / "master.key"
        if not key.exists():
            key.touch(mode=0o600)
            key.write_text(b64encode(secrets.token_bytes(32)).decode())
        text = (
            f'[crm]\nlisten = "127.0.0.1:{self.edges[0].port}"\npublic_url = "{self.origin}"\n'
            f'dsn = "{self.two.dsn(password=None)}"\npassword = "env:PG_PASSWORD"\nsite = "somewhere"\n'
        )
        if self.deferring:
            text += (
                f'[system]\nname = "crm"\nsite = "north"\ndsn = "host=127.0.0.1 port={primary} user=x"\n'
                f'[recovery]\nsite = "south"\nlisten = "127.0.0.1:{standby}"\n[keys]\nmaster = "file:master.key"\n'
            )
            for name, store in self.stores.items():
                text += (
                    f'[[store]]\nname = "{name}"\nurl = "s3://crm-dr/threefold"\n'
                    f'endpoint = "http://127.0.0.1:{store.port}"\naccess_key_id = "env:{name}_KEY"\n'
                    f'secret_access_key = "env:{name}_SECRET"\nprovider = "own-{name}"\n'
                )
        self.config.write_text(text)

    @property
    def environment(self) -> dict[str, str]:
        secret = {f"{name}_SECRET": f"only loopback sees {name}" for name in NAMES}
        return {**os.environ, "PG_PASSWORD": PG_PASSWORD, **{f"{name}_KEY": name for name in NAMES}, **secret}

    async def start(self, number: int = 0, *options: str) -> None:
        """Until it answers."""
        edge = self.edges[number]
        serve = ["serve", "--config", str(self.config), "--quiet", "--listen", f"127.0.0.1:{edge.port}", *options]
        edge.process = subprocess.Popen(
            [sys.executable, "-m", "threefold", "crm", *serve],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=(self.home / f"edge{number}.log").open("ab"),
        )
        deadline = time.monotonic() + _PATIENCE
        probe = Client(self.origin, ("127.0.0.1", edge.port))
        while True:
            try:
                if (await asyncio.to_thread(probe.send, "GET", "/readyz", None, {})).status == 200:
                    return
            except OSError:
                pass
            assert edge.process.poll() is None, self.said(number)
            assert time.monotonic() < deadline, self.said(number)
            await asyncio.sleep(0.1)

    def said(self, number: int = 0) -> str:
        return (self.home / f"edge{number}.log").read_text()[-4000:]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`threefold crm ...`"""
        command = [sys.executable, "-m", "threefold", "crm", *arguments, "--config", str(self.config), "--json"]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False, timeout=60)

    async def ask(
        self,
        person: str,
        method: str,
        target: str,
        content: Any = None,
        *,
        key: str = "",
        edge: int = 0,
        headers: Mapping[str, str | None] | None = None,
    ) -> Answer:
        client = self.people[person].twin()
        client.connect = ("127.0.0.1", self.edges[edge].port)
        try:
            return await asyncio.to_thread(client.request, method, target, content, key=key, headers=headers)
        finally:
            client.close()

    async def away(self) -> None:
        """The primary is gone, and every edge knows."""
        await self.two.caught_up()
        self.two.primary.server.kill()
        for number, edge in enumerate(self.edges):
            while edge.process is not None:
                answer = await self.ask("employee", "GET", "/api/v1/me", edge=number)
                if answer.headers.get("threefold-writes") not in {"taken", None}:
                    break
                await asyncio.sleep(0.1)

    async def back(self, *, promote: bool = True) -> None:
        """Another server takes writes, and every edge knows."""
        if promote:
            await self.two.promote()
        elif not await self.two.alive():
            await self.two.primary.server.start()
        for number, edge in enumerate(self.edges):
            while edge.process is not None:
                if (await self.ask("employee", "GET", "/api/v1/me", edge=number)).headers[
                    "threefold-writes"
                ] == "taken":
                    break
                await asyncio.sleep(0.1)

    async def up_again(self) -> None:
        """Everything as at the start, the stores too; the primary came back."""
        for store in self.stores.values():
            store.go_on()
        await self.back(promote=False)
        await self.two.caught_up()

    async def until(self, id_: str, person: str = "customer", edge: int = 0) -> dict[str, Any]:
        """The intake, once it is decided."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            answer = await self.ask(person, "GET", f"/api/v1/intake/{id_}", edge=edge)
            if answer.status == 200 and answer.json()["state"] != "waiting":
                found: dict[str, Any] = answer.json()
                return found
            assert time.monotonic() < deadline, (answer.status, answer.body, self.said(edge))
            await asyncio.sleep(0.1)

    async def sql(self, query: str, params: Any = None) -> list[tuple[Any, ...]]:
        """Where writes are taken."""
        async with await psycopg.AsyncConnection.connect(
            self.two.dsn() + " target_session_attrs=read-write", autocommit=True
        ) as connection:
            cursor = await connection.execute(query, params)
            return await cursor.fetchall() if cursor.description else []

    async def enrol(self) -> None:
        """An administrator, an employee, and three customers."""
        async with Database(self.two.dsn(), SystemClock()) as database:
            token = await invitations.first_administrator(database, name="Ada", email="ada@example.org", again=True)
            await self.enrolled("administrator", token)
            async with database.write(SYSTEM) as tx:
                whom = {"full_name": "Bob", "email": "bob@example.org", "role": "employee"}
                token = (await invitations.invite_new(tx, whom)).token
            await self.enrolled("employee", token)
            for person, name in (("customer", "Cleo"), ("other", "Dan"), ("thief", "Theo")):
                async with database.write(SYSTEM) as tx:
                    values = {"full_name": name, "email": f"{name.lower()}@example.com"}
                    contact = await records.create(tx, KINDS["contacts"], values)
                    token = (await invitations.invite_contact(tx, contact["id"])).token
                await self.enrolled(person, token)

    async def enrolled(self, person: str, token: str) -> None:
        client = Client(self.origin, ("127.0.0.1", self.edges[0].port))
        answer = await asyncio.to_thread(client.enrol, token, f"{person}'s laptop", password=PASSWORD)
        assert answer.status == 201, answer.body
        client.close()
        self.people[person] = client


@asynccontextmanager
async def riding(*, edges: int = 1, deferring: bool = True) -> AsyncIterator[Riding]:
    home = folder("tf-riding-")
    stores = {name: Storage(name, home / name, home / f"{name}.log") for name in NAMES} if deferring else {}
    try:
        async with pair() as two:
            with psycopg.connect(two.primary.dsn()) as connection:
                migrate(connection, crm_set(), edge_set())
            crm = Riding(home, two, stores, [Edge(free_port()) for _ in range(edges)], deferring=deferring)
            try:
                for store in stores.values():
                    store.start()
                for store in stores.values():
                    await store.ready()
                crm.configure()
                await asyncio.gather(*(crm.start(number) for number in range(edges)))
                await crm.enrol()
                yield crm
            finally:
                for edge in crm.edges:
                    edge.kill()
    finally:
        for store in stores.values():
            if store.process is not None:
                store.go_on()
                store.kill()
        shutil.rmtree(home, ignore_errors=True)
