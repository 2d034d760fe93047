"""The gate: every request passes here before anything of the CRM runs, and every answer on its way out.

In this order: size of the headers; our own name (DNS rebinding, and because passkeys and proofs are bound to it);
whether another site made the browser ask; then, unless the path is public, the session and the device's proof
(admission.py) and the rate; and at last the CRM, with a `Desk` on ``request.state``. Answers get their security
headers, failures become problem+json, and what still runs when its session ends is cut (streams.py).

A browser that opens an address cannot sign it by itself: the service worker does. Where it is not in control yet, the
answer is the shell: a static page without data that starts it and loads again. The same for a link on another site,
for which the browser holds the cookie back.

Plain ASGI: a middleware that wrapped requests in tasks of their own would sit between a commit and its cancellation.
"""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any, Final
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from threefold.connectivity import desks, headers, idempotency, mode, sessions
from threefold.connectivity.body import Body, bound
from threefold.connectivity.deferrable import MOST_BYTES, deferrable
from threefold.connectivity.edge import Edge
from threefold.connectivity.headers import Asked
from threefold.connectivity.problems import problem_of
from threefold.connectivity.refusals import BadProof, Misdirected, TooLarge, TooMany, Unauthenticated
from threefold.connectivity.streams import Stream
from threefold.crm.model.errors import Forbidden
from threefold.kernel.errors import Unavailable

PUBLIC: Final = frozenset(
    {
        *("/join", "/signin", "/offline", "/sw.js", "/manifest.webmanifest", "/favicon.ico", "/robots.txt"),
        *("/healthz", "/readyz", "/api/v1/openapi.json", "/api/v1/docs"),
    }
)
PUBLIC_FOLDERS: Final = ("/static/", "/api/v1/docs/")
BEGIN: Final = frozenset(
    {
        "/connect/invitation",
        *("/connect/enrol/options", "/connect/enrol"),
        *("/connect/signin/options", "/connect/signin"),
    }
)
# Changes that are made though the CRM is read-only on purpose: somebody has to be able to take that back.
ALWAYS: Final = frozenset({*BEGIN, "/connect/signout", "/api/v1/read-only", "/admin/read-only"}) - {"/connect/enrol"}
ANY_NAME: Final = frozenset({"/healthz", "/readyz"})  # asked by address, by whatever watches
LOST: Final = "threefold.lost"  # in the scope: what is answered comes of a connection that broke
LINGER_SECONDS: Final = 5.0  # that a caller who sends too much may go on sending, to be told so
_LAST_EVENT: Final = b"event: signed-out\ndata: {}\n\n"


class Gate:
    def __init__(self, app: ASGIApp, edge: Edge) -> None:
        self._app = app
        self._edge = edge
        edge.filing.app = app  # what was deferred goes the same way, behind this gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await _Passage(self._app, self._edge, scope, send).go(receive)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # nothing here speaks it
        else:
            await self._app(scope, receive, send)


class _Passage:
    """One request's way through."""

    def __init__(self, app: ASGIApp, edge: Edge, scope: Scope, send: Send) -> None:
        self._app = app
        self._edge = edge
        self._scope = scope
        self._send = send
        self._asked = Asked(scope["headers"])
        self._path: str = scope["path"]
        self._public = self._path in PUBLIC | BEGIN or self._path.startswith(PUBLIC_FOLDERS)
        self._navigates = self._asked.navigates(scope["method"])
        self._body: Body | None = None
        self._deferrable = False
        self._stream: Stream | None = None
        self._task: asyncio.Task[None] | None = None  # the request's own
        self._receive: Receive = self._nothing
        self._heard_all = False
        self._started = False
        self._replaced = False
        self._event_stream = False
        self._may_again = self._again = False

    async def go(self, receive: Receive) -> None:
        self._task, self._receive = asyncio.current_task(), receive
        try:
            await self._pass(self._hear)
        except asyncio.CancelledError:
            if self._stream is None or not self._stream.cut:
                raise
            await self._cut()
        except Exception as error:  # whatever it is, the caller gets a problem and the log the rest
            if self._started:
                raise
            await self._fail(error)
        finally:
            if self._stream is not None:
                self._edge.streams.remove(self._stream)

    async def _pass(self, receive: Receive) -> None:
        asked, edge = self._asked, self._edge
        if asked.size + len(self._scope.get("raw_path") or b"") > headers.MOST_HEADER_BYTES:
            raise TooLarge(
                "the request's headers are too large", hint="clear this site's cookies, or shorten the address"
            )
        if self._path not in ANY_NAME and asked.get("host").lower() != edge.origin.host:
            if self._scope["method"] not in {"GET", "HEAD"}:
                raise Misdirected("this is not our name", hint=f"ask {edge.origin.url}")
            return await self._answer(RedirectResponse(edge.origin.url + self._target(), 307))
        if self._scope["method"] in headers.UNSAFE and asked.from_elsewhere(edge.origin):
            raise Forbidden("the request was made by another site", hint="do it on our own pages")
        self._deferrable = deferrable(self._scope["method"], self._target(), asked.get("content-type"))
        hold = MOST_BYTES + 1 if self._deferrable and edge.deferral.stores is not None else 0
        self._body = Body(receive, bound(self._path, asked), asked.get("content-length"), hold)
        if self._path in BEGIN:
            self._limit(edge.begin.take(self._caller(), edge.clock.monotonic()))
        elif not self._public:
            response = await self._enter(self._body)
            if response is not None:
                return await self._answer(response)
        return await self._run(self._body)

    async def _run(self, body: Body) -> None:
        """The CRM. A read that lost its server half-way is made once more: another may answer by now."""
        self._may_again = self._scope["method"] not in headers.UNSAFE
        scope: Scope = {**self._scope, "state": dict(self._scope.get("state", {}))}
        await self._app(scope, body.receive, self._sent_by(scope))
        if self._again:
            self._may_again = self._again = False
            await self._app(self._scope, body.receive, self._sent)

    def _sent_by(self, scope: Scope) -> Send:
        """Whatever an answer holds that comes of a lost connection, it goes nowhere."""

        async def sent(message: Message) -> None:
            self._again = self._again or (self._may_again and not self._started and bool(scope.get(LOST)))
            if not self._again:
                await self._sent(message)

        return sent

    async def _enter(self, body: Body) -> Response | None:
        """Set the desk up; or say what is answered instead, which holds no data."""
        edge, asked = self._edge, self._asked
        self._limit(edge.failures.wait(self._caller(), edge.clock.monotonic()))
        token, bearer = self._token()
        try:
            if self._navigates and not asked.get("dpop") and (token or asked.get("sec-fetch-site") == "cross-site"):
                return Response(edge.shell(), media_type="text/html")
            if not token:
                raise Unauthenticated("nobody is signed in", hint="sign in, or send Authorization: DPoP and a proof")
            proof = edge.check(self._scope, asked, token if bearer else None)
            session = await edge.admission.admit(token, proof)
            if session.bearer != bearer:
                raise Unauthenticated("the session's token came by the wrong way", hint="sign in again")
        except (Unauthenticated, BadProof) as error:
            edge.failures.take(self._caller(), edge.clock.monotonic())
            if self._navigates and isinstance(error, Unauthenticated):
                return self._without_cookie(RedirectResponse(self._signin(), 303))
            raise
        if self._scope["method"] in headers.UNSAFE and self._path not in ALWAYS and edge.mode.on:
            raise mode.refusal(edge.mode, edge.clock.now())
        counts = session.actor.user if session.actor.is_customer else session.id  # who may open many
        self._limit(edge.session.take(str(counts), edge.clock.monotonic()))
        if self._scope["method"] not in headers.UNSAFE and self._task is not None:
            self._stream = edge.streams.add(session, self._task)
        key, keyed = asked.get("idempotency-key"), asked.count("idempotency-key") > 0  # an empty one protects nobody
        request = desks.Request(
            self._scope["method"],
            self._target(),
            self._caller(),
            idempotency.usable(key) if keyed and self._scope["method"] in headers.UNSAFE else "",
            body,
            proof,
            asked.get("content-type"),
            self._deferrable,
        )
        state: MutableMapping[str, Any] = self._scope.setdefault("state", {})
        state["desk"] = desks.EdgeDesk(edge.database, edge.audit, edge.turns, edge.deferral, session, request)
        return None

    def _token(self) -> tuple[str, bool]:
        """What the request says its session is, and whether by Authorization."""
        scheme, _, token = self._asked.get("authorization").partition(" ")
        if scheme:
            return (token.strip(), True) if scheme.lower() == "dpop" else ("", True)
        return self._asked.cookie(sessions.COOKIE), False

    def _limit(self, wait: float) -> None:
        if wait > 0:
            raise TooMany("too many requests", wait, hint="hold still for a moment")

    def _caller(self) -> str:
        return headers.caller(self._scope.get("client"), self._asked, trust_proxy=self._edge.trust_proxy)

    def _target(self) -> str:
        raw: bytes = self._scope.get("raw_path") or quote(self._path).encode()
        query: bytes = self._scope["query_string"]
        return (raw + (b"?" + query if query else b"")).decode("latin-1")

    def _signin(self) -> str:
        target = self._target()
        return "/signin?to=" + quote(target if target.startswith("/") and not target.startswith("//") else "/", safe="")

    def _without_cookie(self, response: Response) -> Response:
        if self._asked.cookie(sessions.COOKIE):
            response.headers.append("set-cookie", sessions.no_cookie())
        return response

    async def _fail(self, error: Exception) -> None:
        problem = problem_of(error, self._edge.clock)
        response = self._edge.page_of(Request(self._scope), problem) or problem.response()
        if isinstance(error, Unauthenticated):
            self._without_cookie(response)
            if self._asked.get("hx-request"):
                response.headers["HX-Redirect"] = "/signin"
        if isinstance(error, TooLarge):
            response.headers["Connection"] = "close"
            await self._drop_the_rest()
        await self._answer(response)

    async def _drop_the_rest(self) -> None:
        """Closing under a caller who still sends resets the connection, and the reset takes the answer with it.

        Whoever waits for leave to send (Expect) is answered at once; nobody is heard out longer than LINGER_SECONDS.
        """
        if self._asked.get("expect"):
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while not self._heard_all:
                    await self._hear()

    async def _hear(self) -> Message:
        message = await self._receive()
        self._heard_all = not message.get("more_body", False)  # or the caller is gone
        return message

    async def _answer(self, response: Response) -> None:
        await response(self._scope, self._nothing, self._sent)

    @staticmethod
    async def _nothing() -> Message:
        return {"type": "http.disconnect"}

    async def _sent(self, message: Message) -> None:
        if self._replaced:
            return
        if self._body is not None and self._body.too_large and not self._started:
            self._body.too_large = False
            await self._fail(TooLarge("the request is larger than is read here", hint="send less at once"))
            self._replaced = True  # a framework took it for a broken body; what it answers goes nowhere
            return
        if message["type"] == "http.response.start":
            self._started = True
            said = list(message.get("headers", ()))
            kept = self._path.startswith("/static/") or self._path in PUBLIC
            told = [] if kept or self._path in ANY_NAME else self._edge.standing.headers()
            message["headers"] = headers.finished([*said, *told], self._edge.origin, public=kept)
            self._event_stream = any(k == b"content-type" and v.startswith(b"text/event-stream") for k, v in said)
        await self._send(message)

    async def _cut(self) -> None:
        """Events end with a word; of anything else the connection breaks, so that half of it is not taken for whole.

        Who is somebody else now comes again by itself, and is asked who it is.
        """
        out = self._stream is not None and self._stream.out
        if self._task is not None:
            self._task.uncancel()
        if not self._started:
            ended = Unauthenticated("the session ended meanwhile", hint="sign in again")
            await self._fail(ended if out else Unavailable("your role was changed meanwhile", hint="ask again"))
        elif self._event_stream:
            await self._send({"type": "http.response.body", "body": _LAST_EVENT if out else b"", "more_body": False})
