"""The edge in a process of its own, over a few routes that work as the CRM's do; and a CRM to test it with.

    async with edge_crm() as crm:            # a cluster, its schema, a running server
        admin = await crm.administrator()    # an enrolled Client
        crm.server.kill(); await crm.start()

Run as a program it serves: ``python -m tests.edge_server DSN PORT``.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any
from uuid import UUID

import psycopg
import uvicorn
from fastapi import APIRouter, Depends, Request
from fastapi.responses import StreamingResponse
from starlette.responses import Response

from tests.edge_client import Client
from tests.pg import Cluster, cluster, free_port
from threefold.connectivity import invitations
from threefold.connectivity.app import Pages, Parts, create_app, edge_set
from threefold.connectivity.edge import Rates
from threefold.connectivity.limits import Rate
from threefold.crm.desk import Change, Desk, Reply, Tx, desk_of
from threefold.crm.model.errors import Forbidden
from threefold.crm.sql.database import Database
from threefold.crm.sql.migrate import crm_set, migrate
from threefold.kernel.clock import SystemClock

PASSWORD = "correct horse battery"
ADesk = Annotated[Desk, Depends(desk_of)]
router = APIRouter()


@router.get("/t/me")
async def me(desk: ADesk) -> Response:
    async with desk.read() as connection:
        row = await (await connection.execute("SELECT count(*) AS n FROM public.done")).fetchone()
    desk.saw("contacts", desk.actor.user or UUID(int=0))
    return Response(json.dumps({"n": row and row["n"], "role": desk.actor.role}).encode())


@router.post("/t/do")
async def do(request: Request, desk: ADesk) -> Response:
    """One row more. ``fail``: raised, or answered, after the row was written."""
    sent = json.loads(await request.body() or b"{}")

    async def work(tx: Tx) -> Reply:
        await tx.connection.execute("INSERT INTO public.done (id, what) VALUES (%s, %s)", (tx.new_id(), sent["what"]))
        await tx.connection.execute("SELECT pg_sleep(%s)", (sent.get("slow", 0),))
        if "about" in sent:
            tx.changed.add(Change("contacts", UUID(sent["about"])))
        if sent.get("fail") == "raise":
            raise Forbidden("not this")
        if sent.get("fail") == "crash":
            raise RuntimeError("a mistake of ours")
        if sent.get("fail") == "answer":
            return Reply(422, b"{}")
        n = await (await tx.connection.execute("SELECT count(*) AS n FROM public.done")).fetchone()
        said = {"n": n and n["n"], "echo": sent.get("echo", "")}
        return Reply(201, json.dumps(said).encode(), headers={"ETag": '"1"'})

    reply = await desk.write(work)
    return Response(reply.body, reply.status, dict(reply.headers), reply.media_type)


@router.get("/t/wait")
async def wait(desk: ADesk) -> Response:
    await asyncio.sleep(20)
    return Response(b"told")


@router.get("/t/slow")
async def slow(desk: ADesk) -> Response:
    async with desk.read() as connection:
        await connection.execute("SELECT pg_sleep(0.5)")
    return Response(b"{}")


@router.get("/t/stream")
async def stream(desk: ADesk, kind: str = "text/event-stream") -> Response:
    async def lines() -> AsyncIterator[bytes]:
        yield b"data: first\n\n"
        await asyncio.sleep(60)

    return StreamingResponse(lines(), media_type=kind)


@router.get("/join")
async def join() -> Response:
    return Response(b"join", media_type="text/html")


@dataclass
class Crm:
    cluster: Cluster
    port: int
    process: subprocess.Popen[bytes] | None = None
    clients: list[Client] = field(default_factory=list)
    settings: str = "{}"

    @property
    def origin(self) -> str:
        return f"http://localhost:{self.port}"

    def client(self) -> Client:
        return Client(self.origin)

    async def start(self, port: int | None = None) -> None:
        """Until it answers."""
        dsn, listen = self.cluster.dsn(), port or self.port
        command = [sys.executable, "-m", "tests.edge_server", dsn, str(listen), self.origin, self.settings]
        self.process = subprocess.Popen(command)
        probe = Client(self.origin, ("127.0.0.1", listen))
        for _ in range(200):
            try:
                if probe.send("GET", "/readyz", None, {}).status == 200:
                    probe.close()
                    return
            except OSError:
                pass
            await asyncio.sleep(0.1)
        raise AssertionError("the server does not come up")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    async def administrator(self) -> Client:
        async with Database(self.cluster.dsn(), SystemClock()) as database:
            token = await invitations.first_administrator(database, name="Ada", email="ada@example.com", again=True)
        client = self.client()
        answer = await asyncio.to_thread(client.enrol, token, "Ada's laptop", password=PASSWORD)
        assert answer.status == 201, answer.body
        return client

    def invite(self, by: Client, **whom: Any) -> str:
        """The token of an invitation."""
        answer = by.post("/connect/invitations", whom)
        assert answer.status == 201, answer.body
        return str(answer.json()["url"]).partition("#")[2]

    def employee(self, by: Client, name: str = "Emil", role: str = "employee") -> Client:
        token = self.invite(by, full_name=name, email=f"{name.lower()}@example.com", role=role)
        client = self.client()
        answer = client.enrol(token, f"{name}'s laptop", password=PASSWORD)
        assert answer.status == 201, answer.body
        return client


@asynccontextmanager
async def edge_crm(**settings: Any) -> AsyncIterator[Crm]:
    async with cluster(18) as primary:
        with psycopg.connect(primary.dsn()) as connection:
            migrate(connection, crm_set(), edge_set())
            connection.execute("CREATE TABLE public.done (id uuid PRIMARY KEY, what text NOT NULL)")
        crm = Crm(primary, free_port(), settings=json.dumps(settings))
        try:
            await crm.start()
            yield crm
        finally:
            crm.stop()


def serve(dsn: str, port: int, origin: str, settings: dict[str, Any]) -> None:
    clock = SystemClock()
    rates = Rates(
        begin=Rate(settings.get("begin", 1e6), 1),
        failures=Rate(settings.get("failures", 1e6), 1),
        session=Rate(settings.get("session", 1e6), 1),
    )
    parts = Parts(
        Database(dsn, clock), clock, origin, rates=rates, title="Test", pages=Pages(router, lambda: b"<p>shell", ".")
    )
    uvicorn.run(create_app(parts), host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4]))
