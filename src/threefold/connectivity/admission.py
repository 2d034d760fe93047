"""Who asks, and was it asked before: every request's session and proof, looked up and noted in batches.

Of sessions nothing is remembered between requests: each finds its session, device and person in the database, so
whoever is revoked is out with the next request, in every process. To make that cheap, requests that arrive while a
statement runs share the next one: one round trip, on one connection, for all of them.

The same statement spends the proofs. An id that is there already is a replay, whichever process saw it first, unless
this very request spent it: where the connection broke, or the database moved, before the answer was read, the request
asks again, and finds its own mark beside the proof.

The connection commits asynchronously, for a read shall not wait for two stores, and yet replays stay refused where it
matters: a proof is committed *before* its request begins to work, hence before the request's own change, in the same
WAL. What survives a fail-over is a prefix of the WAL, so wherever the change survives, its proof is known. Of what a
switch loses nevertheless, each process spends anew what it let in (proof_ledger.py). What is left: a replay within
`SKEW` of what was let in a moment before, by a process that is gone or has not reached the new server yet, could read
what its owner just read. What is deferred meanwhile carries its proof's id or its key in its name (intake.py).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import psycopg
import structlog

from threefold.connectivity.dpop import Proof
from threefold.connectivity.proof_ledger import Asked, Found, ProofLedger
from threefold.connectivity.refusals import BadProof, Unauthenticated
from threefold.crm.desk import Connection, Row
from threefold.crm.model.actor import Actor, Role
from threefold.kernel.clock import Clock
from threefold.kernel.errors import ThreefoldError, Unavailable

_MOST: Final = 256  # requests in one statement
_PATIENCE_SECONDS: Final = 8.0
_GAP_SECONDS: Final = 5.0  # in a switch, from the last answer of one server to the first of another; as reads wait
_AGAIN_SECONDS: Final = 0.05  # doubled each time
_AGAIN_AT_MOST_SECONDS: Final = 0.5
_LET_GO_SECONDS: Final = 0.1
_SEEN_SECONDS: Final = 2.0
_ANEW_AFTER_SECONDS: Final = 10.0
_REPLAYED: Final = "the proof was used before"
_ENDED: Final = "there is no such session, or it ended"

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
class _Waiting:
    asked: Asked
    answer: asyncio.Future[Session | None]


def hashed(token: str) -> bytes:
    """How tokens of 256 bits of chance are kept."""
    return hashlib.sha256(token.encode()).digest()


class Admission:
    """Runs from `run` being started until it is cancelled; `admit` and `spend` wait for it.

    ``connect``: to the server that answers reads, as of its last look; where that fails, it looks for another.
    """

    def __init__(self, connect: Callable[[], Awaitable[Connection]], clock: Clock, idle: timedelta) -> None:
        self._ledger = ProofLedger(connect, clock)
        self._clock = clock
        self._idle = idle
        self._queue: list[_Waiting] = []
        self._wanted = asyncio.Event()
        self._looking: asyncio.Task[Any] | None = None
        self._turned = False
        self._away_since: float | None = None
        self._failed_at = 0.0

    def turn(self) -> None:
        """The database moved: what is asked on the old connection is asked again on a new one.

        What is remembered is spent there at once, not with the next request: another process may be asked first.
        """
        self._turned = self._ledger.owes = True
        self._away_since = None
        if self._looking is not None:
            _let_go(self._looking)
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
        asked = Asked(token, proof, self._clock.new_id())
        self._queue.append(waiting := _Waiting(asked, asyncio.get_running_loop().create_future()))
        self._wanted.set()
        return await waiting.answer

    async def run(self) -> None:
        """Serve batch after batch."""
        try:
            while True:
                await self._wanted.wait()
                self._queue = [each for each in self._queue if not each.answer.done()]  # or nobody waits any more
                batch, self._queue = self._queue[:_MOST], self._queue[_MOST:]
                if not self._queue:
                    self._wanted.clear()
                if batch or self._ledger.owes:
                    await self._serve(_without_twins(batch))
        finally:
            _fail_all(self._queue, Unavailable("the server is stopping", hint="ask again in a moment"))
            await self._ledger.drop()

    async def _serve(self, batch: list[_Waiting]) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                found = await self._while_it_stands([each.asked for each in batch])
        except asyncio.CancelledError:
            _fail_all(batch, Unavailable("the server is stopping", hint="ask again in a moment"))
            raise
        except Exception as error:  # whatever it is: who waits is told, and the next batch is served
            if not isinstance(error, psycopg.OperationalError | OSError | TimeoutError | Unavailable):
                log.exception("sessions could not be looked up")
            await self._failed(batch, error)
            return
        self._ledger.remember(each.asked.proof for each in batch if each.asked.proof.spent_id in found.new)
        for n, each in enumerate(batch):
            _answer(each, found.rows.get(n), new=each.asked.proof.spent_id in found.new)
        unseen = [row["session"] for row in found.rows.values() if row["unseen"] and row["fits"]]
        if unseen and found.writable:
            await self._say_seen(unseen)

    async def _failed(self, batch: list[_Waiting], error: Exception) -> None:
        if isinstance(error, psycopg.OperationalError | OSError | TimeoutError):
            self._is_away(error)
            if self._ledger.broken:  # who came meanwhile would wait as long for the same
                batch, self._queue = [*batch, *self._queue], []
        away = Unavailable("the database does not answer", hint="ask again in a moment")
        _fail_all(batch, error if isinstance(error, Unavailable) else away)
        await self._ledger.drop()
        if self._ledger.owes:  # nobody may ask for long
            asyncio.get_running_loop().call_later(_AGAIN_AT_MOST_SECONDS, self._wanted.set)

    async def _say_seen(self, sessions: list[UUID]) -> None:
        """Of use to people only: where it fails, the next request tries again."""
        if self._ledger.connection is None:
            return
        self._looking = looking = asyncio.create_task(self._ledger.connection.execute(_SEEN, (sessions, self._idle)))
        try:
            await asyncio.wait({looking}, timeout=_SEEN_SECONDS)
        finally:
            await _ended(looking)
            self._looking = None
            if looking.cancelled() or (looking.exception() is not None and self._ledger.broken):
                await self._ledger.drop()

    async def _while_it_stands(self, batch: list[Asked]) -> Found:
        """A half-open connection is not waited for once it is known that the database moved."""
        while True:
            if self._turned:
                self._turned = False
                await self._ledger.drop()
            self._looking = looking = asyncio.create_task(self._asked_until_answered(batch))
            try:
                await asyncio.wait({looking})  # which a cancellation of our own ends at once
            finally:
                await _ended(looking)
                self._looking = None
            if not looking.cancelled():
                return looking.result()
            if not self._turned:
                raise Unavailable("the database does not answer", hint="ask again in a moment")

    async def _asked_until_answered(self, batch: list[Asked]) -> Found:
        """Asked again, wherever the database is by then, as long as a switch's gap may last.

        A gap is everybody's: who comes when it has lasted too long finds out at once.
        """
        pause = _AGAIN_SECONDS
        while True:
            try:
                found = await self._ledger.look_up(batch)
            except psycopg.OperationalError as error:
                if self._ledger.broken:
                    await self._ledger.drop()
                late = self._is_away(error) > _GAP_SECONDS
                if late or isinstance(error, psycopg.errors.QueryCanceled) or _is_cancelled():
                    raise
            else:
                self._away_since = None
                return found
            await self._clock.sleep(pause)
            pause = min(2 * pause, _AGAIN_AT_MOST_SECONDS)

    def _is_away(self, error: Exception) -> float:
        """For how many seconds nothing was answered; said once. Where nobody asked for long, it begins anew."""
        now = self._clock.monotonic()
        if self._away_since is None or now - self._failed_at > _ANEW_AFTER_SECONDS:
            self._away_since = now
            log.warning("the database does not answer", reason=type(error).__name__, detail=str(error))
        self._failed_at = now
        return now - self._away_since


def _without_twins(batch: list[_Waiting]) -> list[_Waiting]:
    """Two with the same proof: the statement refuses all of a batch in which one row is spent twice."""
    held: dict[UUID, _Waiting] = {}
    for each in batch:
        if held.setdefault(each.asked.proof.spent_id, each) is not each:
            _fail(each, BadProof(_REPLAYED, hint="make a new proof for each request"))
    return list(held.values())


def _is_cancelled() -> bool:
    """Whether somebody wants the task that runs to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _let_go(task: asyncio.Task[Any]) -> None:
    """psycopg asks the server to cancel, and waits ten seconds for one that hangs; told twice, it closes."""
    task.cancel()
    asyncio.get_running_loop().call_later(_LET_GO_SECONDS, task.cancel)


async def _ended(task: asyncio.Task[Any]) -> None:
    """When this returns, it has, well or not."""
    if not task.done():
        _let_go(task)
        await asyncio.wait({task})


def _answer(waiting: _Waiting, row: Row | None, *, new: bool) -> None:
    if waiting.answer.done():  # its request was given up
        return
    if waiting.asked.token is not None and row is None:
        waiting.answer.set_result(None)
    elif row is not None and not row["fits"]:
        _fail(waiting, BadProof("the session belongs to another device's key", hint="sign in on this device"))
    elif not new:
        _fail(waiting, BadProof(_REPLAYED, hint="make a new proof for each request"))
    else:
        waiting.answer.set_result(_session(row) if row is not None else None)


def _fail(waiting: _Waiting, error: ThreefoldError) -> None:
    if not waiting.answer.done():
        waiting.answer.set_exception(error)


def _fail_all(batch: list[_Waiting], error: ThreefoldError) -> None:
    for each in batch:
        _fail(each, error)


def _session(row: Row) -> Session:
    actor = Actor(Role(row["role"]), row["person"], row["device"], row["contact_id"], row["full_name"])
    return Session(row["session"], actor, row["email"], row["device_name"], row["bearer"], row["expires_at"])
