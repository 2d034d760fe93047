"""The CRM as one ASGI application: the gate in front, then the API, the pages, and the edge's own endpoints."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Final, Protocol
from urllib.parse import quote

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from threefold.connectivity import begin_routes, intake, mode, people_routes, routes
from threefold.connectivity.answers import answer
from threefold.connectivity.edge import Edge, Rates
from threefold.connectivity.gate import LOST, Gate
from threefold.connectivity.headers import origin_of
from threefold.connectivity.intake import Deferred, Intake
from threefold.connectivity.loops import Loop, running
from threefold.connectivity.problems import problem_of
from threefold.connectivity.sessions import Lifetimes
from threefold.connectivity.standing import About, ReadOnlyMode
from threefold.crm.model.errors import Lost
from threefold.crm.sql.database import Database
from threefold.crm.sql.migrate import Migration, read_set
from threefold.kernel.clock import Clock
from threefold.kernel.errors import BadInput, ThreefoldError, Unavailable

_READY_SECONDS: Final = 3.0
_READY_HOLDS_SECONDS: Final = 0.5
_FOR_EVER: Final = "public, max-age=31536000, immutable"


class Opens(Protocol):
    """A part that lives as long as the application: the database's pool, the live hub."""

    async def open(self) -> None: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Pages:
    """What the edge needs of the CRM's pages (threefold.crm.pages)."""

    router: APIRouter
    shell: Callable[[], bytes]
    static: str
    problem_page: Callable[[Request, Mapping[str, Any]], Response | None] = lambda _request, _problem: None


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that `create_app` puts together; chosen by whoever starts the server.

    ``public_url``: how people reach us: the origin of proofs and cookies, and its host the one of passkeys.
    ``trust_proxy``: a proxy of ours stands in front, and the last X-Forwarded-For is its word on who asks.
    ``opens``: opened in order and closed in reverse, after the database. ``loops``: run while we serve.
    ``stores``: what is deferred lies there; None: nothing is. ``about``: what else is known of where the data is.
    ``read_only``: this process takes no changes, whatever the database says.
    """

    database: Database
    clock: Clock
    public_url: str
    api: APIRouter | None = None
    pages: Pages | None = None
    title: str = "Threefold"
    trust_proxy: bool = False
    opens: Sequence[Opens] = ()
    loops: Sequence[Loop] = ()
    lifetimes: Lifetimes = field(default_factory=Lifetimes)
    rates: Rates = field(default_factory=Rates)
    stores: Intake | None = None
    about: About = field(default_factory=About)
    read_only: mode.Mode = mode.WRITABLE
    state: Mapping[str, Any] = field(default_factory=dict)  # put on app.state


def edge_set() -> list[Migration]:
    """The edge's tables, for `migrate`, after the CRM's."""
    return read_set("edge", files("threefold.connectivity.schema"))


def create_app(parts: Parts) -> FastAPI:
    """Raises BadInput for a public address under which browsers give neither keys nor cookies."""
    origin = origin_of(parts.public_url)
    if origin is None:
        raise BadInput(
            f"people cannot sign in at {parts.public_url}",
            hint="passkeys want https, or http://localhost on this machine; never an IP address",
        )
    edge = Edge(
        parts.database,
        parts.clock,
        origin,
        parts.title,
        parts.trust_proxy,
        lifetimes=parts.lifetimes,
        rates=parts.rates,
        stores=parts.stores,
        about=parts.about,
        read_only=parts.read_only,
    )

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        opened: list[Opens] = []
        try:
            for part in (parts.database, *parts.opens):
                await part.open()
                opened.append(part)
            edge.filing.scope = {"app": app}
            async with edge.running(), running(parts.loops, parts.clock):
                yield
        finally:
            for part in reversed(opened):
                await part.close()

    app = FastAPI(title=parts.title, lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None)
    state = {"site": edge.standing.site, "intake": edge.deferral, "read_only": ReadOnlyMode(edge.database, edge)}
    for name, value in {**state, **parts.state}.items():
        setattr(app.state, name, value)
    app.state.edge = edge
    _answer_failures(app, edge)
    # Mounts first: each is one look at a path, where an included router is one for each of its routes.
    if parts.api is not None:
        app.include_router(parts.api)
    app.mount("/connect", _connect())
    app.include_router(_health(edge))
    if parts.pages is not None:
        edge.shell, edge.problem_page = parts.pages.shell, parts.pages.problem_page
        app.mount("/static", _Static(directory=parts.pages.static), name="static")
        app.include_router(parts.pages.router)
    app.add_middleware(Gate, edge=edge)
    return app


def _answer_failures(app: FastAPI, edge: Edge) -> None:
    """What is foreseen is answered here, under the gate; the gate answers what is not."""

    async def failed(request: Request, error: Exception) -> Response:
        problem = problem_of(error, edge.clock)
        request.scope[LOST] = isinstance(error, Lost)
        return edge.page_of(request, problem) or problem.response()

    async def deferred(request: Request, kept: Exception) -> Response:
        if not isinstance(kept, Deferred):  # not reached: it is registered for that alone
            raise kept
        said = intake.told(kept.envelope)
        where = f"/api/v1/intake/{said['id']}"
        more = {"Location": where, "Retry-After": "5"}
        if request.headers.get("hx-request"):  # a page shows it as a message, and keeps what it shows
            more |= {"HX-Reswap": "none", "Threefold-Message": quote(intake.MESSAGE)}
        response = answer({**said, "message": intake.MESSAGE, "goto": ""}, 202)
        response.headers.update(more)
        return response

    app.add_exception_handler(Deferred, deferred)
    for kind in (ThreefoldError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, failed)


def _connect() -> APIRouter:
    router = APIRouter()
    for part in (begin_routes.router, routes.router, people_routes.router):
        router.routes.extend(part.routes)
    return router


def _health(edge: Edge) -> APIRouter:
    router = APIRouter()
    looked: list[float] = []

    @router.get("/healthz")
    async def alive() -> Response:
        """The process answers. Says nothing about the database: restarting us would not bring it back."""
        return answer({"status": "ok"})

    @router.get("/readyz")
    async def ready() -> Response:
        """Requests can be served: the database answers, or did a moment ago: anybody may ask here, and often."""
        if not looked or edge.clock.monotonic() - looked[-1] > _READY_HOLDS_SECONDS:
            try:
                async with asyncio.timeout(_READY_SECONDS), edge.database.read() as connection:
                    await connection.execute("SELECT 1")
            except TimeoutError:
                raise Unavailable("the database does not answer", hint="ask again in a moment") from None
            looked[:] = [edge.clock.monotonic()]
        return answer({"status": "ready"})

    return router


class _Static(StaticFiles):
    """Files that are asked for by their digest never change under that address."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        if response.status_code == 200:
            response.headers["Cache-Control"] = _FOR_EVER if b"v=" in scope["query_string"] else "no-cache"
        return response
