"""The CRM's API and pages without the edge, in this process; and every statement that they send, as they send it.

    async with world(database) as crm:
        with recorded() as sent:
            answer = await crm.ask("GET", "/records/contacts")
        sent[0].text, sent[0].params

What a request does at its desk is all there: the transaction, the Idempotency-Key. What the edge asks before it lets
somebody in is not.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import UUID

import psycopg
from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send

from threefold.connectivity import idempotency
from threefold.connectivity.admission import Session
from threefold.connectivity.audit import Audit
from threefold.connectivity.body import Body
from threefold.connectivity.desks import EdgeDesk, Request
from threefold.connectivity.dpop import Proof
from threefold.connectivity.intake import Deferral
from threefold.connectivity.turns import Turns
from threefold.crm import api, pages
from threefold.crm.datalog.live import Live
from threefold.crm.erasing import erasure
from threefold.crm.erasing.erasure_ledger import ErasureLedger
from threefold.crm.exchange import imports
from threefold.crm.model.actor import Actor
from threefold.crm.sql.database import Database
from threefold.kernel.clock import SystemClock


@dataclass(frozen=True, slots=True)
class Sent:
    """One statement; ``plain``: planned anew each time, because it was asked for so."""

    text: str
    params: Any
    binary: bool
    plain: bool


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


@contextmanager
def recorded() -> Iterator[list[Sent]]:
    """Whatever any connection of this process executes meanwhile. COPY is not among it."""
    sent: list[Sent] = []
    execute = psycopg.AsyncCursor.execute

    async def watched(
        cursor: Any, query: Any, params: Any = None, *, prepare: bool | None = None, binary: bool | None = None
    ) -> Any:
        text = (
            query.decode() if isinstance(query, bytes) else query if isinstance(query, str) else query.as_string(None)
        )
        sent.append(Sent(text, params, bool(binary), prepare is False))
        return await execute(cursor, query, params, prepare=prepare, binary=binary)

    with patch.object(psycopg.AsyncCursor, "execute", watched):
        yield sent


class World:
    def __init__(self, database: Database, actor: Actor, live: Live, erasures: Path) -> None:
        clock = SystemClock()
        self.database = database
        self.actor = actor
        self._audit = Audit(database, clock)
        self._app = FastAPI()
        state = self._app.state
        state.live = live
        state.erase = partial(erasure.erase, ledger=ErasureLedger(erasures), hooks=())
        state.run_import = partial(imports.run_apart, database, clock)
        state.webhooks_private = False
        self._app.include_router(api.router)
        self._app.include_router(pages.router)

    async def ask(
        self, method: str, target: str, body: Any = None, *, key: str = "", headers: Mapping[str, str] | None = None
    ) -> Answer:
        """What goes wrong is raised. ``body``: JSON, or bytes as they are."""
        content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        path, _, query = target.partition("?")
        given = {"host": "localhost", "accept": "text/html", **(headers or {})}
        if content:
            given = {"content-type": "application/json", **given, "content-length": str(len(content))}
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": content, "more_body": False}

        async def send(message: Message) -> None:
            sent.append(message)

        took = Body(receive, 2**26, "")
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "scheme": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in given.items()],
            "client": ("127.0.0.1", 1),
            "server": ("localhost", 80),
            "state": {"desk": self._desk(method, target, key, took)},
        }
        await _call(self._app, scope, took.receive, send)
        start = next(each for each in sent if each["type"] == "http.response.start")
        said = {name.decode().lower(): value.decode() for name, value in start["headers"]}
        content = b"".join(each.get("body", b"") for each in sent if each["type"] == "http.response.body")
        return Answer(start["status"], said, content)

    def _desk(self, method: str, target: str, key: str, body: Body) -> EdgeDesk:
        session = Session(UUID(int=1), self.actor, "e@example.com", "a laptop", True, datetime(2100, 1, 1, tzinfo=UTC))
        proof = Proof("", {}, UUID(int=2), session.expires_at)
        request = Request(method, target, "127.0.0.1", idempotency.usable(key) if key else "", body, proof)
        deferral = Deferral(self.database, SystemClock(), None)
        return EdgeDesk(self.database, self._audit, Turns(), deferral, session, request)


async def _call(app: Any, scope: Scope, receive: Receive, send: Send) -> None:
    await app(scope, receive, send)


@asynccontextmanager
async def world(database: Database, actor: Actor, erasures: Path = Path("/nowhere")) -> AsyncIterator[World]:
    """``database`` is open, and ``actor`` is somebody in it."""
    live = Live(database, SystemClock())
    await live.open()
    try:
        yield World(database, actor, live, erasures)
    finally:
        await live.close()
