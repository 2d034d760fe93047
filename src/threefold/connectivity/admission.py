"""Who asks, and was it asked before: every request's session and proof, looked up and noted in batches.

Nothing is remembered between requests: each one finds its session, device and person in the database, so whoever is
revoked is out with the next request, in every process. To make that cheap, requests that arrive while a statement
runs share the next one: one round trip, on one connection, for all of them.

The same statement spends the proofs. An id that is there already is a replay, whichever process saw it first, unless
this very request spent it: where the connection broke, or the database moved, before the answer was read, the request
asks again, and finds its own mark beside the proof.

The connection commits asynchronously, for a read shall not wait for two stores, and yet replays stay refused where it
matters: a proof is committed *before* its request begins to work, hence before the request's own change, in the same
WAL. What survives a fail-over is a prefix of the WAL, so wherever the change survives, its proof is known; where the
proof is lost, nothing was done by it.

Where the server takes no writes (a standby that serves reads), proofs are remembered by this process; as soon as one
takes writes, they are spent there before anything else is looked at. A replay that this process did not see could only
read, for `SKEW`, what its owner just read: what is deferred meanwhile carries its proof's id in its name (intake.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import psycopg
import structlog

from threefold.connectivity.dpop import Proof
from threefold.connectivity.refusals import BadProof, Unauthenticated
from threefold.crm.desk import Connection, Row
from threefold.crm.model.actor import Actor, Role
from threefold.kernel.clock import Clock
from threefold.kernel.errors import ThreefoldError, Unavailable

_MOST: Final = 256  # requests in one statement
_PATIENCE_SECONDS: Final = 8.0
_GAP_SECONDS: Final = 3.0
_AGAIN_SECONDS: Final = 0.05
_SEEN_EVERY: Final = timedelta(seconds=60)
_REPLAYED: Final = "the proof was used before"
_ENDED: Final = "there is no such session, or it ended"

_VALID: Final = """
    s.ended_at IS NULL AND s.idle_until > now() AND s.expires_at > now()
    AND d.revoked_at IS NULL AND u.active AND u.deleted_at IS NULL"""
_WHO: Final = f"""
    SELECT a.n, a.proof, a.forget, a.request, d.thumbprint = a.thumbprint AS fits,
           s.id AS session, s.bearer, s.expires_at,
           s.seen_at < now() - %(seen_every)s AS unseen,
           u.id AS person, u.full_name, u.email, u.role, u.contact_id, d.id AS device, d.name AS device_name
    FROM unnest(%(n)s::text::int[], %(token)s::text::bytea[], %(thumbprint)s::text::text[], %(proof)s::text::uuid[],
                %(forget)s::text::timestamptz[], %(request)s::text::uuid[])
         AS a(n, token, thumbprint, proof, forget, request)
    JOIN edge.sessions s ON s.token_hash = a.token
    JOIN edge.devices d ON d.id = s.device_id
    JOIN crm.users u ON u.id = s.user_id
    WHERE {_VALID}"""  # noqa: S608 - put together from constants
_SPEND: Final = f"""
    WITH who AS MATERIALIZED ({_WHO}),
    fresh AS (
        SELECT proof, forget, request FROM who WHERE fits
        UNION ALL
        SELECT * FROM unnest(%(lone)s::text::uuid[], %(lone_forget)s::text::timestamptz[],
                             %(lone_request)s::text::uuid[])
    ),
    spent AS (
        INSERT INTO edge.proofs AS known (id, forget_at, request) SELECT * FROM fresh
        ON CONFLICT (id) DO UPDATE SET request = known.request WHERE known.request = EXCLUDED.request
        RETURNING id
    )
    SELECT who.*, spent.id AS spent FROM spent FULL JOIN who ON who.proof = spent.id"""  # noqa: S608 - constants
_SPEND_ALL: Final = """
    INSERT INTO edge.proofs (id, forget_at) SELECT * FROM unnest(%s::uuid[], %s::timestamptz[])
    ON CONFLICT DO NOTHING"""
# What somebody else has in hand is passed over: an end that waits for its stores would keep everybody waiting.
_SEEN: Final = """
    WITH free AS (SELECT id FROM edge.sessions WHERE id = ANY(%s) FOR NO KEY UPDATE SKIP LOCKED),
    seen AS (
        UPDATE edge.sessions SET seen_at = now(), idle_until = now() + %s WHERE id IN (SELECT id FROM free)
        RETURNING device_id
    ),
    theirs AS (
        SELECT id FROM edge.devices WHERE id IN (SELECT device_id FROM seen) FOR NO KEY UPDATE SKIP LOCKED
    )
    UPDATE edge.devices SET seen_at = now() WHERE id IN (SELECT id FROM theirs)"""
STILL_VALID: Final = f"""
    SELECT s.id, u.role, u.contact_id
    FROM edge.sessions s JOIN edge.devices d ON d.id = s.device_id JOIN crm.users u ON u.id = s.user_id
    WHERE s.id = ANY(%s) AND {_VALID}"""  # noqa: S608 - put together from constants

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Session:
    """Who asks, from where, as of this request."""

    id: UUID
    actor: Actor
    email: str
    device_name: str
    bearer: bool
    expires_at: datetime


@dataclass(slots=True)
class _Asked:
    token: bytes | None  # None: no session yet, only a proof to spend
    proof: Proof
    request: str  # a new UUID: who spends the proof, however often it has to be asked
    answer: asyncio.Future[Session | None]


def hashed(token: str) -> bytes:
    """How tokens of 256 bits of chance are kept."""
    return hashlib.sha256(token.encode()).digest()


class Admission:
    """Runs from `run` being started until it is cancelled; `admit` and `spend` wait for it.

    ``connect``: to the server that answers reads, as of its last look; where that fails, it looks for another.
    """

    def __init__(self, connect: Callable[[], Awaitable[Connection]], clock: Clock, idle: timedelta) -> None:
        self._connect = connect
        self._clock = clock
        self._idle = idle
        self._queue: list[_Asked] = []
        self._wanted = asyncio.Event()
        self._connection: Connection | None = None
        self._remembered: dict[UUID, datetime] = {}  # of the time when the server took no writes
        self._unspent = False  # some of them are not in the database yet
        self._looking: asyncio.Task[tuple[dict[int, Row], set[UUID]]] | None = None
        self._turned = False

    def turn(self) -> None:
        """The database moved: what is asked on the old connection is asked again on a new one."""
        self._turned = True
        if self._looking is not None:
            self._looking.cancel()
        if self._unspent:
            self._wanted.set()

    async def admit(self, token: str, proof: Proof) -> Session:
        """Raises Unauthenticated, BadProof for a replay, Unavailable."""
        session = await self._ask(hashed(token), proof)
        if session is None:
            raise Unauthenticated(_ENDED, hint="sign in again")
        return session

    async def spend(self, proof: Proof) -> None:
        """The proof of somebody without a session. Raises BadProof for a replay, Unavailable."""
        await self._ask(None, proof)

    async def _ask(self, token: bytes | None, proof: Proof) -> Session | None:
        asked = _Asked(token, proof, self._clock.new_id(), asyncio.get_running_loop().create_future())
        self._queue.append(asked)
        self._wanted.set()
        return await asked.answer

    async def run(self) -> None:
        """Serve batch after batch."""
        try:
            while True:
                await self._wanted.wait()
                batch, self._queue = self._queue[:_MOST], self._queue[_MOST:]
                if not self._queue:
                    self._wanted.clear()
                if batch or self._unspent:
                    await self._serve(self._without_twins(batch))
        finally:
            self._fail_all(self._queue, Unavailable("the server is stopping", hint="ask again in a moment"))
            await self._drop()

    @staticmethod
    def _without_twins(batch: list[_Asked]) -> list[_Asked]:
        """Two with the same proof: the statement could not tell which was first."""
        held: dict[UUID, _Asked] = {}
        for asked in batch:
            if held.setdefault(asked.proof.spent_id, asked) is not asked:
                _fail(asked, BadProof(_REPLAYED, hint="make a new proof for each request"))
        return list(held.values())

    async def _serve(self, batch: list[_Asked]) -> None:
        failure: ThreefoldError = Unavailable("the database does not answer", hint="ask again in a moment")
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                rows, spent = await self._while_it_stands(batch)
        except asyncio.CancelledError:
            self._fail_all(batch, Unavailable("the server is stopping", hint="ask again in a moment"))
            raise
        except Exception as error:  # whatever it is: who waits is told, and the next batch is served
            if isinstance(error, psycopg.Error | OSError | TimeoutError | Unavailable):
                log.warning("sessions cannot be looked up now", reason=type(error).__name__, detail=str(error))
            else:
                log.exception("sessions could not be looked up")
            await self._drop()
            self._fail_all(batch, failure)
            return
        for n, asked in enumerate(batch):
            _answer(asked, rows.get(n), new=asked.proof.spent_id in spent)
        unseen = [row["session"] for row in rows.values() if row["unseen"] and row["fits"]]
        if unseen and self._connection is not None:
            with contextlib.suppress(psycopg.Error):  # of use to people only; the next request tries again
                await self._connection.execute(_SEEN, (unseen, self._idle))

    async def _while_it_stands(self, batch: list[_Asked]) -> tuple[dict[int, Row], set[UUID]]:
        """A half-open connection is not waited for once it is known that the database moved."""
        while True:
            if self._turned:
                self._turned = False
                await self._drop()
            self._looking = asyncio.create_task(self._asked_until_answered(batch))
            try:
                return await self._looking
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if not self._turned or (task is not None and task.cancelling()):
                    raise
            finally:
                if not self._looking.done():
                    self._looking.cancel()
                self._looking = None

    async def _asked_until_answered(self, batch: list[_Asked]) -> tuple[dict[int, Row], set[UUID]]:
        """A connection that broke is made anew, wherever the database is by then, as long as a switch's gap may last.

        What an earlier try spent is known by its request.
        """
        until = self._clock.monotonic() + _GAP_SECONDS
        while True:
            try:
                return await self._looked_up(batch)
            except psycopg.OperationalError:
                await self._drop()
                if self._clock.monotonic() > until:
                    raise
            await self._clock.sleep(_AGAIN_SECONDS)

    @staticmethod
    def _fail_all(batch: list[_Asked], error: ThreefoldError) -> None:
        for asked in batch:
            _fail(asked, error)

    async def _looked_up(self, batch: list[_Asked]) -> tuple[dict[int, Row], set[UUID]]:
        """The sessions by place in the batch, and the proofs that are new."""
        with_session = [(n, asked) for n, asked in enumerate(batch) if asked.token is not None]
        alone = [asked for asked in batch if asked.token is None]
        values: dict[str, Any] = {
            "n": _array([n for n, _ in with_session]),
            "token": _array([f'"\\\\x{asked.token.hex()}"' for _, asked in with_session if asked.token is not None]),
            "thumbprint": _array([f'"{asked.proof.thumbprint}"' for _, asked in with_session]),
            "proof": _array([asked.proof.spent_id for _, asked in with_session]),
            "forget": _array([f'"{asked.proof.forget_at.isoformat()}"' for _, asked in with_session]),
            "request": _array([asked.request for _, asked in with_session]),
            "lone": _array([asked.proof.spent_id for asked in alone]),
            "lone_forget": _array([f'"{asked.proof.forget_at.isoformat()}"' for asked in alone]),
            "lone_request": _array([asked.request for asked in alone]),
            "seen_every": _SEEN_EVERY,
        }
        if self._connection is None or self._connection.closed:
            self._connection = await self._connect()
        try:
            await self._spend_remembered(self._connection)
            cursor = await self._connection.execute(_SPEND, values)
        except psycopg.errors.ReadOnlySqlTransaction:
            cursor = await self._connection.execute(_WHO, values)
            found = {row["n"]: row for row in await cursor.fetchall()}
            return found, self._remember([asked.proof for asked in batch])
        rows = await cursor.fetchall()
        found = {row["n"]: row for row in rows if row["n"] is not None}
        return found, {row["spent"] for row in rows if row["spent"] is not None} - self._remembered.keys()

    async def _spend_remembered(self, connection: Connection) -> None:
        """Of the time without writes; before anything is let in where writes are taken."""
        if self._unspent:
            await connection.execute(_SPEND_ALL, (list(self._remembered), list(self._remembered.values())))
            self._unspent = False

    def _remember(self, proofs: list[Proof]) -> set[UUID]:
        now = self._clock.now()
        self._remembered = {key: until for key, until in self._remembered.items() if until > now}
        new = {proof.spent_id for proof in proofs} - self._remembered.keys()
        self._unspent = True
        self._remembered |= {proof.spent_id: proof.forget_at for proof in proofs if proof.spent_id in new}
        return new

    async def _drop(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            with contextlib.suppress(psycopg.Error, OSError):
                await connection.close()


def _array(elements: list[Any]) -> str:
    """As PostgreSQL reads an array; of what is ours or was decoded, so there is nothing to be escaped in it."""
    return f"{{{','.join(map(str, elements))}}}"


def _answer(asked: _Asked, row: Row | None, *, new: bool) -> None:
    if asked.answer.done():  # its request was given up
        return
    if asked.token is not None and row is None:
        asked.answer.set_result(None)
    elif row is not None and not row["fits"]:
        _fail(asked, BadProof("the session belongs to another device's key", hint="sign in on this device"))
    elif not new:
        _fail(asked, BadProof(_REPLAYED, hint="make a new proof for each request"))
    else:
        asked.answer.set_result(_session(row) if row is not None else None)


def _fail(asked: _Asked, error: ThreefoldError) -> None:
    if not asked.answer.done():
        asked.answer.set_exception(error)


def _session(row: Row) -> Session:
    actor = Actor(Role(row["role"]), row["person"], row["device"], row["contact_id"], row["full_name"])
    return Session(row["session"], actor, row["email"], row["device_name"], row["bearer"], row["expires_at"])
