"""What was deferred is filed when the database is back: once, in its author's order, the way it would have gone then.

Each request goes through the CRM again, the same routes and the same checks, at a desk of its own; its author is looked
up anew, so whoever was revoked meanwhile files nothing. The proofs of all that waits are spent first. In one
transaction with what a request changes stand the row of edge.intake that says so (it is what makes it once, however
many edges file at the same time) and the answer under its Idempotency-Key (a late repetition gets that). Then the
copies are removed from the stores; one that comes back later finds the row.

What turns out impossible is kept with its reason and its words, for those who work here, and told to its author. What
only failed is tried again, and what comes after it of the same author waits for it; one that fails again and again by
a mistake of ours is set aside like that too, so that it does not hold up the rest for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from uuid import UUID

import psycopg
import structlog
from psycopg.types.json import Jsonb
from starlette.types import ASGIApp, Message

from threefold.connectivity import deferrable, idempotency
from threefold.connectivity.audit import Audit, Note
from threefold.connectivity.deferrable import Envelope
from threefold.connectivity.intake import Deferral
from threefold.crm.desk import Connection, Reply, Tx, Work
from threefold.crm.model.actor import SYSTEM, Actor, Role
from threefold.crm.model.errors import Conflict
from threefold.crm.sql.database import Database
from threefold.kernel.clock import Clock
from threefold.kernel.errors import Damaged, ThreefoldError, Unavailable

_AT_ONCE: Final = 3  # authors; the rest of the connections are for those who ask now
_EVERY_S: Final = 20.0  # a look, though nothing is known to wait: another edge may have died
_AGAIN_S: Final = 0.5
_TRIES: Final = 5
_DONE: Final = b"SELECT FROM edge.intake WHERE id = %s"
_CONFIRM: Final = b"UPDATE edge.intake SET state = state WHERE id = %s"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """``status``: as HTTP has it. ``link``: where the record is."""

    status: int
    body: bytes = b""
    link: str = ""

    def problem(self) -> dict[str, Any]:
        with contextlib.suppress(ValueError):
            said = json.loads(self.body)
            if isinstance(said, dict) and said.get("detail"):
                return {name: said[name] for name in ("title", "status", "detail", "hint", "fields") if name in said}
        return {"title": "It could not be filed", "status": self.status, "detail": "it could not be filed"}


class Filing:
    """One for each process; `run` goes on for as long as it lives."""

    def __init__(self, database: Database, clock: Clock, audit: Audit, deferral: Deferral) -> None:
        self.app: ASGIApp | None = None  # the CRM behind the gate
        self.scope: dict[str, Any] = {}  # what the server put on every request
        self.allowed: Callable[[], bool] = lambda: True  # False: read-only on purpose
        self._database = database
        self._clock = clock
        self._audit = audit
        self._deferral = deferral
        self._failures: Counter[UUID] = Counter()
        database.watch.turned.append(lambda found: self._turned(away=found.writer is None))

    def _turned(self, *, away: bool) -> None:
        self._deferral.current = self._deferral.stores is None or (self._deferral.current and not away)
        self._deferral.changed.set()

    async def run(self) -> None:
        """Also while the database is away: other edges' intakes count."""
        if self._deferral.stores is None:
            await asyncio.Event().wait()
        while True:
            await self._turn()
            pause = _AGAIN_S if self._deferral.waiting or not self._deferral.current else _EVERY_S
            self._deferral.changed.clear()
            waiting = asyncio.ensure_future(self._deferral.changed.wait())
            pausing = asyncio.ensure_future(self._clock.sleep(pause))
            try:
                await asyncio.wait({waiting, pausing}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                waiting.cancel()
                pausing.cancel()

    async def _turn(self) -> None:
        """One pass. What fails is passed over: the next is soon."""
        try:
            await self._deferral.refresh()
            if self._database.watch.writable and self.allowed():
                await self.drain()
        except (ThreefoldError, psycopg.Error, OSError) as error:
            log.info("what was deferred still waits", waiting=len(self._deferral.waiting), reason=type(error).__name__)

    async def drain(self) -> None:
        """All that waits, author by author. Raises Unavailable."""
        waiting = sorted(self._deferral.waiting.values(), key=lambda each: (each.taken, each.id))
        if waiting:
            await self._spend(waiting)
        self._deferral.current = True
        by_author: dict[UUID, list[Envelope]] = defaultdict(list)
        for each in waiting:
            by_author[each.user].append(each)
        turns = asyncio.Semaphore(_AT_ONCE)

        async def author(theirs: list[Envelope]) -> None:
            async with turns:
                for each in theirs:
                    await self._file(each)

        results = await asyncio.gather(*map(author, by_author.values()), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _spend(self, waiting: list[Envelope]) -> None:
        """Their proofs, before anything else: from now on no edge lets one in again."""
        async with self._database.write(SYSTEM) as tx, tx.connection.cursor() as cursor:
            await tx.connection.execute("SET LOCAL synchronous_commit = off")
            await cursor.executemany(
                "INSERT INTO edge.proofs (id, forget_at) VALUES (%s, %s) ON CONFLICT DO NOTHING",
                sorted((each.proof, each.forget_at) for each in waiting),
            )

    async def _file(self, held: Envelope) -> None:
        """It is filed or rejected, and gone from the stores. Raises Unavailable where it has to wait."""
        stores = self._deferral.stores
        if stores is None:
            return
        try:
            envelope, others = deferrable.chosen(await stores.read(str(held.id)))
        except Damaged:
            if not await self._confirmed(held.id):
                raise Unavailable("no copy of an intake can be read now") from None
            self._deferral.dropped(held.id)  # another edge was faster
            return
        if not await self._confirmed(envelope.id):
            await self._decide(envelope)
            if not await self._confirmed(envelope.id):
                raise Unavailable("an intake was answered, and is not there")
        for other in others:
            await self._reject(other, Outcome(422, _problem(_USED, 422)), keep_words=True)
        await stores.remove(str(envelope.id))
        self._deferral.dropped(envelope.id)
        self._failures.pop(envelope.id, None)

    async def _decide(self, envelope: Envelope) -> None:
        async with self._database.read() as connection:
            actor, why = await _author(connection, envelope)
        outcome = Outcome(403, _problem(why)) if actor is None else await self._ask(envelope, actor)
        if outcome.status >= 500 and self._failures[envelope.id] < _TRIES:
            self._failures[envelope.id] += outcome.status == 500
            raise Unavailable("an intake could not be filed yet")
        if outcome.status >= 400:
            await self._reject(envelope, outcome, keep_words=why != _GONE)
        log.info("an intake was decided", intake=str(envelope.id), status=outcome.status)

    async def _confirmed(self, id_: UUID) -> bool:
        """Whether it is done, safely.

        Seeing the row is not enough: a primary that came up again shows what no store has. So this writes, and what
        stands before it in the WAL is as safe as its own commit.
        """
        async with self._database.write(SYSTEM) as tx:
            return (await tx.connection.execute(_CONFIRM, (id_,))).rowcount > 0

    async def _ask(self, envelope: Envelope, actor: Actor) -> Outcome:
        """Through the CRM, as its author."""
        if self.app is None:
            raise Unavailable("the CRM is not served yet")
        desk = FilingDesk(self._database, self._audit, envelope, actor)
        said: dict[str, Any] = {"status": 500, "headers": [], "body": b""}
        asked = [
            (b"content-type", envelope.media_type.encode("latin-1")),
            (b"content-length", str(len(envelope.body)).encode()),
            (b"accept", b"application/json"),
            (b"x-outbox", b"1"),
        ]
        scope: dict[str, Any] = {
            **self.scope,
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": envelope.method,
            "scheme": "http",
            "path": envelope.target,
            "raw_path": envelope.target.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": asked,
            "client": None,
            "server": None,
            "state": {"desk": desk},
        }

        async def receive() -> Message:
            return {"type": "http.request", "body": envelope.body, "more_body": False}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                said["status"], said["headers"] = message["status"], message.get("headers", [])
            elif message["type"] == "http.response.body":
                said["body"] += message.get("body", b"")

        try:
            await self.app(scope, receive, send)
        except Exception:
            log.exception("an intake could not be filed", intake=str(envelope.id))
            return Outcome(500)
        return Outcome(said["status"], said["body"])

    async def _reject(self, envelope: Envelope, outcome: Outcome, *, keep_words: bool) -> None:
        words = envelope.body.decode(errors="replace").replace("\0", "")
        sent = {"method": envelope.method, "target": envelope.target, "type": envelope.media_type, "body": words}
        async with self._database.write(SYSTEM) as tx:
            await tx.connection.execute(
                """INSERT INTO edge.intake (id, user_id, device_id, state, title, taken_at, problem, sent)
                   VALUES (%s, %s, %s, 'rejected', %s, %s, %s, %s) ON CONFLICT DO NOTHING""",
                (
                    envelope.id,
                    envelope.user,
                    envelope.device,
                    envelope.title.replace("\0", "") if keep_words else "",
                    envelope.taken,
                    Jsonb(outcome.problem()),
                    Jsonb(sent) if keep_words else None,
                ),
            )
        log.warning("an intake was rejected", intake=str(envelope.id), status=outcome.status)


class FilingDesk:
    """One envelope's. Implements crm.desk.Desk."""

    def __init__(self, database: Database, audit: Audit, envelope: Envelope, actor: Actor) -> None:
        self._database = database
        self._audit = audit
        self._envelope = envelope
        self.actor = actor

    def read(self) -> contextlib.AbstractAsyncContextManager[Connection]:
        return self._database.read()

    async def write(self, work: Work) -> Reply:
        """The work, the answer under its key, and that this intake is done: one transaction."""
        held = self._envelope
        asked = idempotency.fingerprint(held.method, held.target, held.digest)
        reason = f"taken in at {held.taken:%Y-%m-%d %H:%M:%S} UTC, while the database was away"
        try:
            async with self._database.write(self.actor, reason) as tx:
                lock = int.from_bytes(held.id.bytes[:8], signed=True)
                await tx.connection.execute("SELECT pg_advisory_xact_lock(%s)", (lock,))
                if (await tx.connection.execute(_DONE, (held.id,))).rowcount:
                    return Reply(200)  # another edge was faster
                reply = await self._kept(tx, asked)
                if reply is None:
                    reply = await work(tx)
                    if reply.status >= 400:
                        raise _Refused(reply)
                    await idempotency.keep(tx, held.user, held.filed_under, asked, reply)
                await self._done(tx, reply)
        except _Refused as refused:
            return refused.reply
        return reply

    async def _kept(self, tx: Tx, asked: bytes) -> Reply | None:
        """Its author may be asking again at this moment: that is waited for."""
        try:
            return await idempotency.replayed(tx, self._envelope.user, self._envelope.filed_under, asked)
        except Conflict as error:
            raise Unavailable(error.message) from error

    async def _done(self, tx: Tx, reply: Reply) -> None:
        held = self._envelope
        await tx.connection.execute(
            """INSERT INTO edge.intake (id, user_id, device_id, state, title, link, taken_at)
               VALUES (%s, %s, %s, 'applied', %s, %s, %s)""",
            (held.id, held.user, held.device, held.title.replace("\0", ""), link_of(held.target, reply), held.taken),
        )

    def saw(self, kind: str, record: UUID) -> None:
        self._audit.note(Note("saw", self.actor, kind, record))

    def did(self, what: str, kind: str = "", record: UUID | None = None, **detail: str) -> None:
        self._audit.note(Note(what, self.actor, kind, record, "", detail))


class _Refused(Exception):  # never leaves this file
    def __init__(self, reply: Reply) -> None:
        super().__init__()
        self.reply = reply


def link_of(target: str, reply: Reply) -> str:
    """Where what was filed is: as the answer says, or the page that it was written on."""
    if reply.headers.get("Location"):
        return reply.headers["Location"]
    with contextlib.suppress(ValueError):
        said = json.loads(reply.body or b"{}")
        if isinstance(said, dict) and said.get("goto"):
            return str(said["goto"])
    return target.removesuffix("/answer") if target.endswith("/answer") else ""


_GONE: Final = "its author is not here any more"
_USED: Final = "its Idempotency-Key was used for another request"
_REVOKED: Final = "the device that sent it was revoked"


async def _author(connection: Connection, envelope: Envelope) -> tuple[Actor | None, str]:
    """Who sent it, as of now; or why nobody does."""
    cursor = await connection.execute(
        """SELECT u.role, u.contact_id, u.full_name, u.active AND u.deleted_at IS NULL AS here,
                  d.id IS NOT NULL AND d.revoked_at IS NULL AS holds
           FROM crm.users u LEFT JOIN edge.devices d ON d.id = %s AND d.user_id = u.id WHERE u.id = %s""",
        (envelope.device, envelope.user),
    )
    row = await cursor.fetchone()
    if row is None or not row["here"]:
        return None, _GONE
    if not row["holds"]:
        return None, _REVOKED
    return Actor(Role(row["role"]), envelope.user, envelope.device, row["contact_id"], row["full_name"]), ""


def _problem(detail: str, status: int = 403) -> bytes:
    return json.dumps({"title": HTTPStatus(status).phrase, "status": status, "detail": detail}).encode()
