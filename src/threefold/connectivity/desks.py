"""The Desk that the CRM's routes work at: reads, and writes that happen once and are told only when they are safe."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

from threefold.connectivity import idempotency
from threefold.connectivity.admission import Session
from threefold.connectivity.audit import Audit, Note
from threefold.connectivity.body import Body
from threefold.connectivity.dpop import Proof
from threefold.connectivity.intake import Asked, Deferral, Deferred
from threefold.connectivity.turns import Turns
from threefold.crm.desk import Connection, Reply, Work
from threefold.crm.model.actor import Actor
from threefold.crm.model.errors import NotSaved
from threefold.crm.sql.database import Database
from threefold.kernel.errors import Unavailable

_PATIENCE_S = 5.0  # for what one sent before to be filed first


@dataclass(frozen=True, slots=True)
class Request:
    """What of a request matters here. ``key``: its Idempotency-Key, checked; empty: it has none.

    ``deferrable``: it may be taken in while the database is away.
    """

    method: str
    target: str  # path and query
    address: str  # of who asks
    key: str
    body: Body
    proof: Proof
    media_type: str = ""
    deferrable: bool = False


class _Refused(Exception):  # never leaves this file
    """Work answered with a failure instead of raising it: whatever it wrote is taken back."""

    def __init__(self, reply: Reply) -> None:
        super().__init__()
        self.reply = reply


class EdgeDesk:
    """One request's. Implements crm.desk.Desk."""

    def __init__(
        self,
        database: Database,
        audit: Audit,
        turns: Turns,
        deferral: Deferral,
        session: Session,
        request: Request,
    ) -> None:
        self._database = database
        self._deferral = deferral
        self._audit = audit
        self._turns = turns
        self._request = request
        self.session = session

    @property
    def actor(self) -> Actor:
        return self.session.actor

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Connection]:
        async with self._turns.turn(self.actor), self._database.read() as connection:
            yield connection

    async def write(self, work: Work) -> Reply:
        """The key's lock, the work, the kept answer: one transaction. Nothing is answered before its commit is.

        Raises Deferred where it was taken in instead, because nothing can be written now.
        """
        if not self._request.deferrable or self._deferral.stores is None:
            return await self._write(work)
        watch = self._database.watch
        if watch.writable and await self._deferral.settled(self.actor, _PATIENCE_S):
            try:
                return await self._write(work)
            except Unavailable as error:
                # Whether it is there nobody knows: under the same key it would be found, without one be made twice.
                if isinstance(error, NotSaved) and not self._request.key:
                    raise
                if (await watch.look()).writer is not None:
                    raise
        raise Deferred(await self._deferral.take(await self._asked(), work))

    async def _asked(self) -> Asked:
        request = self._request
        body = await request.body.held()
        if body is None:
            raise Unavailable("this cannot be taken while the database is away", hint="ask again later")
        return Asked(
            self.actor,
            request.method,
            request.target,
            request.media_type,
            body,
            request.key,
            request.proof.spent_id,
            request.proof.forget_at,
        )

    async def _write(self, work: Work) -> Reply:
        user, key = self.actor.user, self._request.key
        if user is None or not key:
            return await self._once(work, None)
        asked = idempotency.fingerprint(self._request.method, self._request.target, await self._request.body.digest())
        return await self._once(work, (user, key, asked))

    async def _once(self, work: Work, keyed: tuple[UUID, str, bytes] | None) -> Reply:
        try:
            async with self._turns.turn(self.actor), self._database.write(self.actor) as tx:
                if keyed is not None:
                    kept = await idempotency.replayed(tx, *keyed)
                    if kept is not None:
                        return kept
                reply = await work(tx)
                if reply.status >= 400:
                    raise _Refused(reply)
                if keyed is not None:
                    await idempotency.keep(tx, *keyed, reply)
        except _Refused as refused:
            return refused.reply
        return reply

    def saw(self, kind: str, record: UUID) -> None:
        self._audit.note(Note("saw", self.actor, kind, record))

    def did(self, what: str, kind: str = "", record: UUID | None = None, **detail: str) -> None:
        self._audit.note(Note(what, self.actor, kind, record, self._request.address, detail))
