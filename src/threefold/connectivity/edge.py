"""The edge's parts, made once for a process and handed to the gate and to the routes of /connect."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg
from psycopg.rows import dict_row
from starlette.requests import Request
from starlette.responses import Response

from threefold.connectivity import dpop, headers, idempotency, loops, mode
from threefold.connectivity.admission import Admission
from threefold.connectivity.audit import Audit
from threefold.connectivity.filing import Filing
from threefold.connectivity.headers import Origin
from threefold.connectivity.intake import Deferral, Intake
from threefold.connectivity.limits import Buckets, Rate
from threefold.connectivity.passkeys import Passkeys
from threefold.connectivity.problems import Problem
from threefold.connectivity.refusals import BadProof
from threefold.connectivity.sessions import Lifetimes
from threefold.connectivity.standing import About, Standing
from threefold.connectivity.streams import Streams
from threefold.connectivity.turns import Turns
from threefold.crm.desk import Connection
from threefold.crm.model.actor import SYSTEM
from threefold.crm.sql.database import Database
from threefold.kernel.clock import Clock

_BEGIN: Final = Rate(burst=40, per_second=0.5)
_FAILURES: Final = Rate(burst=100, per_second=2)
_SESSION: Final = Rate(burst=300, per_second=100)
_PRUNE_SECONDS: Final = 60.0
_PRUNES: Final = (
    "DELETE FROM edge.proofs WHERE forget_at < now()",
    "DELETE FROM edge.challenges WHERE expires_at < now()",
    "DELETE FROM edge.attempts WHERE tried_at < now() - interval '2 days'",
    "DELETE FROM edge.replies WHERE created_at < now() - %(replies)s",
    "DELETE FROM edge.sessions WHERE expires_at < now() - interval '30 days'",
)


@dataclass(frozen=True, slots=True)
class Rates:
    """How much is let through.

    ``begin``: per address, of what needs no session; ``failures``: per address, of requests refused for want of a
    session or proof; ``session``: of the rest, per session, and of a customer's all together.
    """

    begin: Rate = _BEGIN
    failures: Rate = _FAILURES
    session: Rate = _SESSION


@dataclass
class Edge:
    database: Database
    clock: Clock
    origin: Origin
    title: str = "Threefold"
    trust_proxy: bool = False
    lifetimes: Lifetimes = field(default_factory=Lifetimes)
    rates: Rates = field(default_factory=Rates)
    stores: Intake | None = None
    about: About = field(default_factory=About)
    read_only: mode.Mode = mode.WRITABLE  # this process's own
    shell: Callable[[], bytes] = lambda: b""
    problem_page: Callable[[Request, Mapping[str, Any]], Response | None] = lambda _request, _problem: None

    def __post_init__(self) -> None:
        self.database.watch.ask_also = mode.ASK
        self.admission = Admission(self._connect, self.clock, self.lifetimes.idle)
        self.database.watch.turned.append(lambda _: self.admission.turn())
        self.audit = Audit(self.database, self.clock)
        self.streams = Streams(self.database, self.clock)
        self.turns = Turns()
        self.deferral = Deferral(self.database, self.clock, self.stores)
        self.filing = Filing(self.database, self.clock, self.audit, self.deferral)
        self.filing.allowed = lambda: not self.mode.on
        self.standing = Standing(self.database.watch, self.deferral, self.about, lambda: self.mode)
        self.passkeys = Passkeys(self.database, self.origin, self.title)
        self.begin = Buckets(self.rates.begin)
        self.failures = Buckets(self.rates.failures)
        self.session = Buckets(self.rates.session)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The loops, until the end; what the audit still holds is written then."""
        beside = [self.admission.run, self.audit.run, self.streams.run, self._prune]
        riding = [self.database.watch.run, self.filing.run]
        try:
            async with loops.running([*beside, *riding], self.clock):
                yield
        finally:
            with contextlib.suppress(Exception):  # the database may be gone, and the process ends in any case
                async with asyncio.timeout(2):
                    await self.audit.flush()

    @property
    def mode(self) -> mode.Mode:
        """Read-only on purpose, or not: this process's flag, else the administrators' word as of the last look."""
        return self.read_only if self.read_only.on else mode.of_row(self.database.watch.also)

    def caller(self, request: Request) -> str:
        asked = headers.Asked(request.scope["headers"])
        return headers.caller(request.scope.get("client"), asked, trust_proxy=self.trust_proxy)

    async def proven(self, request: Request) -> dpop.Proof:
        """The proof of a request that has no session yet, spent. Raises BadProof, Unavailable."""
        proof = self.check(request.scope, headers.Asked(request.scope["headers"]))
        await self.admission.spend(proof)
        return proof

    def check(self, scope: Mapping[str, Any], asked: headers.Asked, token: str | None = None) -> dpop.Proof:
        """The request's proof, not spent yet. Raises BadProof."""
        if asked.count("dpop") > 1:
            raise BadProof("the request carries more than one proof", hint="send one DPoP header")
        raw: bytes = scope.get("raw_path") or scope["path"].encode()
        return dpop.check(
            asked.get("dpop"),
            method=scope["method"],
            address=self.origin.address(raw.decode("latin-1")),
            now=self.clock.now(),
            token=token,
        )

    def page_of(self, request: Request, problem: Problem) -> Response | None:
        """The failure as a page, for people who opened an address; None: problem+json does."""
        if headers.Asked(request.scope["headers"]).navigates(request.method):
            return self.problem_page(request, problem.content())
        return None

    async def _connect(self) -> Connection:
        """For admission: a connection of its own, which does not wait for stores (admission.py says why)."""
        options = "-c synchronous_commit=off -c statement_timeout=5s"
        try:
            return await psycopg.AsyncConnection.connect(
                self.database.conninfo_to_read,
                autocommit=True,
                row_factory=dict_row,
                options=options,
                connect_timeout=3,
            )
        except psycopg.OperationalError:
            await self.database.watch.look()  # sooner than the next look: another may answer by now
            raise

    async def _prune(self) -> None:
        while True:
            await self.clock.sleep(_PRUNE_SECONDS * (0.75 + self.clock.random() / 2))
            with contextlib.suppress(Exception):  # next minute
                await self.prune()

    async def prune(self) -> None:
        """Forget what can be asked for no more."""
        for statement in _PRUNES:
            async with self.database.write(SYSTEM) as tx:
                await tx.connection.execute("SET LOCAL synchronous_commit = off")
                await tx.connection.execute(statement.encode(), {"replies": idempotency.KEPT})
