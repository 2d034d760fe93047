"""The CRM behind its edge, with its API, in a process of its own; and people who ask it.

    async with api() as world:
        made = await world.ask("POST", "/accounts", {"name": "Acme"}, by="employee")

Run as a program it serves: ``python -m tests.api_world DSN PORT ORIGIN LEDGER``.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import psycopg
import uvicorn

from tests.edge_client import Answer, Client
from tests.pg import Cluster, cluster, free_port
from threefold.connectivity import erasing, invitations
from threefold.connectivity.app import Parts, create_app, edge_set
from threefold.connectivity.edge import Rates
from threefold.connectivity.limits import Rate
from threefold.crm.api import router
from threefold.crm.datalog.live import Live
from threefold.crm.erasing import erasure
from threefold.crm.erasing.erasure_ledger import ErasureLedger
from threefold.crm.exchange import imports
from threefold.crm.sql.database import Database
from threefold.crm.sql.migrate import crm_set, migrate
from threefold.kernel.clock import SystemClock

PASSWORD = "correct horse battery"
PEOPLE = ("administrator", "employee", "customer", "other")  # other: another customer


@dataclass
class Api:
    pg: Cluster
    port: int
    process: subprocess.Popen[bytes] | None = None
    people: dict[str, Client] = field(default_factory=dict)

    @property
    def ledger(self) -> Path:
        """Of erasures."""
        return self.pg.folder / "erased.jsonl"

    @property
    def origin(self) -> str:
        return f"http://localhost:{self.port}"

    def who(self, person: str) -> dict[str, Any]:
        found: dict[str, Any] = self.people[person].who["user"]
        return found

    async def ask(
        self,
        method: str,
        path: str,
        content: Any = None,
        *,
        by: str = "employee",
        match: str | None = None,
        key: str = "",
        raw: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        **query: Any,
    ) -> Answer:
        """``content``: sent as JSON; ``raw``: sent as it is."""
        target = f"/api/v1{path}" + (f"?{urlencode(query, doseq=True)}" if query else "")
        more: dict[str, str | None] = {**({"If-Match": match} if match is not None else {}), **(headers or {})}
        client = self.people[by].twin()
        try:
            sent = raw if raw is not None else content
            return await asyncio.to_thread(client.request, method, target, sent, key=key, headers=more)
        finally:
            client.close()

    async def make(self, kind: str, content: Any, *, by: str = "employee") -> dict[str, Any]:
        answer = await self.ask("POST", f"/{kind}", content, by=by)
        assert answer.status == 201, answer.body
        found: dict[str, Any] = answer.json()
        return found

    async def start(self) -> None:
        """Until it answers."""
        command = [
            sys.executable,
            "-m",
            "tests.api_world",
            self.pg.dsn(),
            str(self.port),
            self.origin,
            str(self.ledger),
        ]
        self.process = subprocess.Popen(command)
        for _ in range(300):
            try:
                if Client(self.origin).send("GET", "/readyz", None, {}).status == 200:
                    return
            except OSError:
                pass
            await asyncio.sleep(0.1)
        raise AssertionError("the server does not come up")

    async def enrol(self) -> None:
        """One client for each of `PEOPLE`."""
        async with Database(self.pg.dsn(), SystemClock()) as database:
            token = await invitations.first_administrator(database, name="Ada", email="ada@example.org", again=True)
        self._enrolled("administrator", token)
        self._enrolled("employee", self._invited(full_name="Bob", email="bob@example.org", role="employee"))
        for person, name in (("customer", "Cleo"), ("other", "Dan")):
            contact = await self.make("contacts", {"full_name": name, "email": f"{name.lower()}@example.com"})
            self._enrolled(person, self._invited(contact_id=contact["id"]))

    def _invited(self, **whom: Any) -> str:
        answer = self.people["administrator"].post("/connect/invitations", whom)
        assert answer.status == 201, answer.body
        return str(answer.json()["url"]).partition("#")[2]

    def _enrolled(self, person: str, token: str) -> None:
        client = Client(self.origin)
        answer = client.enrol(token, f"{person}'s laptop", password=PASSWORD)
        assert answer.status == 201, answer.body
        self.people[person] = client


@asynccontextmanager
async def api() -> AsyncIterator[Api]:
    async with cluster(18) as pg:
        with psycopg.connect(pg.dsn()) as connection:
            migrate(connection, crm_set(), edge_set())
        world = Api(pg, free_port())
        try:
            await world.start()
            await world.enrol()
            yield world
        finally:
            if world.process is not None:
                world.process.kill()
                world.process.wait()


def serve(dsn: str, port: int, origin: str, ledger: str) -> None:
    clock, plenty = SystemClock(), Rate(1e6, 1e6)
    rates = Rates(begin=plenty, failures=plenty, session=plenty)
    database = Database(dsn, clock)
    live = Live(database, clock)
    erase = partial(erasure.erase, ledger=ErasureLedger(Path(ledger)), hooks=(erasing.forget,))
    state = {"live": live, "erase": erase, "run_import": partial(imports.run_apart, database, clock)}
    parts = Parts(database, clock, origin, rates=rates, title="Test", api=router, opens=(live,), state=state)
    uvicorn.run(create_app(parts), host="127.0.0.1", port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
