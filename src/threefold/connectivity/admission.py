"""Who asks, and was it asked before: every request's session and proof, looked up and noted in batches.

Of sessions nothing is remembered between requests: each finds its session, device and person in the database, so
whoever is revoked is out with the next request, in every process. To make that cheap, requests that arrive while a
statement runs share the next one: one round trip, on one connection, for all of them.

The same statement spends the proofs. An id that is there already is a replay, whichever process saw it first, unless
this very request spent it: where the connection broke, or the database moved, before the answer was read, the request
asks again, and finds its own mark beside the proof.

The connection commits asynchronously, for a read shall not wait for two stores, and yet replays stay refused where it
matters: a proof is committed *before* its request begins to work, hence before the request's own change, in the same
WAL. What survives a fail-over is a prefix of the WAL, so wherever the change survives, its proof is known. For what a
switch may lose, each process remembers what it let in for as long as a proof is good, and spends it again on every
new connection before anything else is looked at.

Where the server takes no writes (a standby that serves reads), what it knows and what this process remembers is
refused. A replay of what neither has heard of yet could only read, for `SKEW`, what its owner just read: what is
deferred meanwhile carries its proof's id or its key in its name (intake.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Iterable
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
_GAP_SECONDS: Final = 3.0  # in a switch, from the last answer of one server to the first of another
_AGAIN_SECONDS: Final = 0.05  # doubled each time
_AGAIN_AT_MOST_SECONDS: Final = 0.5
_LET_GO_SECONDS: Final = 0.1
_SEEN_SECONDS: Final = 2.0
_FORGET_EVERY_SECONDS: Final = 10.0
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
# In order, as everywhere where proofs are spent: replays are locked, and two processes must not wait for each other.
_SPEND: Final = f"""
    WITH who AS MATERIALIZED ({_WHO}),
    fresh (id, forget_at, request) AS (
        SELECT proof, forget, request FROM who WHERE fits
        UNION ALL
        SELECT * FROM unnest(%(lone)s::text::uuid[], %(lone_forget)s::text::timestamptz[],
                             %(lone_request)s::text::uuid[])
    ),
    spent AS (
        INSERT INTO edge.proofs AS known (id, forget_at, request) SELECT * FROM fresh ORDER BY id
        ON CONFLICT (id) DO UPDATE SET request = known.request WHERE known.request = EXCLUDED.request
        RETURNING id
    )
    SELECT who.*, spent.id AS spent FROM spent FULL JOIN who ON who.proof = spent.id"""  # noqa: S608 - constants
_SPEND_ALL: Final = """
    INSERT INTO edge.proofs (id, forget_at)
    SELECT * FROM unnest(%s::uuid[], %s::timestamptz[]) AS remembered (id, forget_at) ORDER BY id
    ON CONFLICT DO NOTHING"""
_SPENT_BY_OTHERS: Final = """
    SELECT p.id FROM edge.proofs p JOIN unnest(%s::uuid[], %s::uuid[]) AS a (id, request) USING (id)
    WHERE p.request IS DISTINCT FROM a.request"""
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
        self._remembered: dict[UUID, datetime] = {}  # the proofs that were let in, until they are good no more
        self._forgot_at = 0.0
        self._unspent = False  # some of them may not be in the database
        self._looking: asyncio.Task[Any] | None = None
        self._turned = False
        self._away_since: float | None = None

    def turn(self) -> None:
        """The database moved: what is asked on the old connection is asked again on a new one."""
        self._turned = True
        self._away_since = None
        if self._looking is not None:
            _let_go(self._looking)
        if self._remembered:  # spent anew at once, not with the next request: another process may be asked first
            self._unspent = True
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
                self._queue = [asked for asked in self._queue if not asked.answer.done()]  # or nobody waits any more
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
        """Two with the same proof: the statement refuses all of a batch in which one row is spent twice."""
        held: dict[UUID, _Asked] = {}
        for asked in batch:
            if held.setdefault(asked.proof.spent_id, asked) is not asked:
                _fail(asked, BadProof(_REPLAYED, hint="make a new proof for each request"))
        return list(held.values())

    async def _serve(self, batch: list[_Asked]) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                rows, spent = await self._while_it_stands(batch)
        except asyncio.CancelledError:
            self._fail_all(batch, Unavailable("the server is stopping", hint="ask again in a moment"))
            raise
        except Exception as error:  # whatever it is: who waits is told, and the next batch is served
            if isinstance(error, psycopg.Error | OSError | TimeoutError | Unavailable):
                self._is_away(error)
            else:
                log.exception("sessions could not be looked up")
            await self._drop()
            failure = Unavailable("the database does not answer", hint="ask again in a moment")
            self._fail_all(batch, error if isinstance(error, Unavailable) else failure)
            return
        self._remember(asked.proof for asked in batch if asked.proof.spent_id in spent)
        for n, asked in enumerate(batch):
            _answer(asked, rows.get(n), new=asked.proof.spent_id in spent)
        unseen = [row["session"] for row in rows.values() if row["unseen"] and row["fits"]]
        if unseen and self._connection is not None:
            await self._say_seen(self._connection, unseen)

    async def _say_seen(self, connection: Connection, sessions: list[UUID]) -> None:
        """Of use to people only: where it fails, the next request tries again."""
        self._looking = asyncio.create_task(connection.execute(_SEEN, (sessions, self._idle)))
        try:
            await asyncio.wait({self._looking}, timeout=_SEEN_SECONDS)
        finally:
            if not await _ended(self._looking):
                await self._drop()
            self._looking = None

    async def _while_it_stands(self, batch: list[_Asked]) -> tuple[dict[int, Row], set[UUID]]:
        """A half-open connection is not waited for once it is known that the database moved."""
        while True:
            if self._turned:
                self._turned = False
                await self._drop()
            looking = asyncio.create_task(self._asked_until_answered(batch))
            self._looking = looking
            try:
                return await looking
            except asyncio.CancelledError:
                if _is_cancelled():
                    raise
                if not self._turned:
                    raise Unavailable("the database does not answer", hint="ask again in a moment") from None
            finally:
                await _ended(looking)
                self._looking = None

    async def _asked_until_answered(self, batch: list[_Asked]) -> tuple[dict[int, Row], set[UUID]]:
        """A connection that broke is made anew, wherever the database is by then, as long as a switch's gap may last.

        What an earlier try spent is known by its request. A gap is everybody's: who comes when it has lasted too long
        finds out at once.
        """
        pause = _AGAIN_SECONDS
        while True:
            try:
                found = await self._looked_up(batch)
            except psycopg.OperationalError as error:
                broken = self._connection is None or self._connection.closed
                await self._drop()
                if not broken or _is_cancelled():
                    raise
                if self._is_away(error) > _GAP_SECONDS:
                    raise
            else:
                self._away_since = None
                return found
            await self._clock.sleep(pause)
            pause = min(2 * pause, _AGAIN_AT_MOST_SECONDS)

    def _is_away(self, error: Exception) -> float:
        """For how many seconds nothing was answered; said once."""
        now = self._clock.monotonic()
        if self._away_since is None:
            self._away_since = now
            log.warning("the database does not answer", reason=type(error).__name__, detail=str(error))
        return now - self._away_since

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
            self._unspent = bool(self._remembered)
        try:
            await self._spend_remembered(self._connection)
            cursor = await self._connection.execute(_SPEND, values)
        except psycopg.errors.ReadOnlySqlTransaction:
            cursor = await self._connection.execute(_WHO, values)
            found = {row["n"]: row for row in await cursor.fetchall()}
            ids = [asked.proof.spent_id for asked in batch]
            cursor = await self._connection.execute(_SPENT_BY_OTHERS, (ids, [asked.request for asked in batch]))
            self._unspent = True
            return found, {*ids} - {row["id"] for row in await cursor.fetchall()} - self._remembered.keys()
        except psycopg.errors.UndefinedColumn:
            raise Unavailable(
                "the database's tables are of an earlier version", hint="start a CRM that may write there first"
            ) from None
        rows = await cursor.fetchall()
        found = {row["n"]: row for row in rows if row["n"] is not None}
        return found, {row["spent"] for row in rows if row["spent"] is not None} - self._remembered.keys()

    async def _spend_remembered(self, connection: Connection) -> None:
        """Before anything is let in, where writes are taken."""
        if self._unspent:
            await connection.execute(_SPEND_ALL, (list(self._remembered), list(self._remembered.values())))
            self._unspent = False

    def _remember(self, proofs: Iterable[Proof]) -> None:
        if self._clock.monotonic() - self._forgot_at > _FORGET_EVERY_SECONDS:
            self._forgot_at, now = self._clock.monotonic(), self._clock.now()
            self._remembered = {key: until for key, until in self._remembered.items() if until > now}
        self._remembered |= {proof.spent_id: proof.forget_at for proof in proofs}

    async def _drop(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            with contextlib.suppress(psycopg.Error, OSError):
                await connection.close()


def _is_cancelled() -> bool:
    """Whether somebody wants the task that runs to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _let_go(task: asyncio.Task[Any]) -> None:
    """psycopg asks the server to cancel, and waits ten seconds for one that hangs; told twice, it closes."""
    task.cancel()
    asyncio.get_running_loop().call_later(_LET_GO_SECONDS, task.cancel)


async def _ended(task: asyncio.Task[Any]) -> bool:
    """Whether it came to a good end; it has ended in any case."""
    if not task.done():
        _let_go(task)
        await asyncio.wait({task})
    return not task.cancelled() and task.exception() is None


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
