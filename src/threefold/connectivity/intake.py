"""While the database takes no writes: what may be deferred is taken in, and kept on two of three stores.

A request comes here with its work (desks.py), after the gate has let it in by what the standby knows. The work is
rehearsed there first: everything it looks up and refuses is refused now, and it comes to its first write and no
further. Then its envelope is put into the stores, under a name that is made from author and key, and only when two of
them hold it is it answered: 202, with a place to ask what became of it. filing.py does the rest.

Bounds: one is small; a device, a person and all together have a number that may wait. They are counted in memory, by
what this edge took and by what a listing told it of others', so that a flood costs the stores no more than that.

Who may see one: its author; of those who work here, all. To everybody else there is none.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol
from uuid import UUID

import psycopg
from psycopg import sql

from threefold.connectivity import deferrable, idempotency
from threefold.connectivity.deferrable import Envelope
from threefold.connectivity.refusals import TooLarge, TooMany
from threefold.crm.desk import Connection, Row, Tx, Work
from threefold.crm.model.actor import Actor
from threefold.crm.model.errors import Invalid, NotSaved
from threefold.crm.model.uuid7 import uuid7
from threefold.crm.sql.database import Database
from threefold.kernel.clock import Clock
from threefold.kernel.errors import Damaged, NotThere, Unavailable

WAITING: Final = "waiting"
MESSAGE: Final = "Taken: it will be filed as soon as the system is back."
_LOCKS: Final = re.compile(r"\s+FOR (?:NO KEY UPDATE|KEY SHARE|UPDATE|SHARE)(?: SKIP LOCKED| NOWAIT)?", re.IGNORECASE)
_SHOWN: Final = "id, user_id, state, title, link, taken_at, applied_at, problem, sent, handled_at"
_AGAIN_AFTER_S: Final = 10


class Intake(Protocol):
    """Three stores, as far as the edge knows of them (threefold.quorum.intake)."""

    async def put(self, name: str, body: bytes, same: Callable[[bytes], bool]) -> bytes:
        """What stands on two of three under that name. Raises Unavailable."""
        ...

    async def names(self) -> set[str]:
        """Of all that stand. Raises Unavailable where fewer than two stores tell."""
        ...

    async def read(self, name: str) -> list[bytes]: ...

    async def remove(self, name: str) -> None: ...


class Deferred(Exception):
    """Not an error: the request is answered with 202, wherever in the CRM it was."""

    def __init__(self, envelope: Envelope) -> None:
        super().__init__()
        self.envelope = envelope


@dataclass(frozen=True, slots=True)
class Asked:
    """One request that may be deferred. ``body``: all of it."""

    actor: Actor
    method: str
    target: str
    media_type: str
    body: bytes
    key: str
    proof: UUID
    forget_at: datetime


class Deferral:
    """``stores``: None where this host knows none: then nothing is deferred."""

    def __init__(self, database: Database, clock: Clock, stores: Intake | None) -> None:
        self.stores = stores
        self.waiting: dict[UUID, Envelope] = {}  # without their bodies
        self.current = stores is None  # what waits has been listed since the database took writes
        self.changed = asyncio.Event()  # something may be filed
        self._database = database
        self._clock = clock
        self._under_way: dict[UUID, Envelope] = {}
        self._listed: set[UUID] = set()

    # --- taking in ---

    async def take(self, asked: Asked, work: Work) -> Envelope:
        """It stands on two stores. Raises Unavailable, TooLarge, TooMany, and whatever refuses the work itself."""
        stores, mine = self.stores, self._envelope(asked)
        if stores is None:
            raise Unavailable("the database takes no changes at the moment", hint="ask again in a moment")
        held = self.waiting.get(mine.id)
        if held is not None:
            return await self._held(stores, mine, held)
        self._bounds(mine)
        self._under_way[mine.id] = mine.light()
        try:
            await self._rehearse(asked, mine, work)
            stands = Envelope.decode(await stores.put(str(mine.id), mine.encode(), mine.same))
        except Unavailable as error:
            raise self._not_known(asked, error) from error
        finally:
            self._under_way.pop(mine.id, None)
        deferrable.check_same(mine, stands)
        self.waiting[mine.id] = stands.light()
        self.changed.set()
        return stands

    @staticmethod
    def _not_known(asked: Asked, error: Unavailable) -> Unavailable:
        hint = "ask again with the same Idempotency-Key" if asked.key else "look for it before you send it again"
        return NotSaved(f"nobody knows whether it is kept: {error.message}", hint=hint)

    async def _held(self, stores: Intake, mine: Envelope, held: Envelope) -> Envelope:
        """Asked again: the same intake, if it is the same request."""
        for body in await stores.read(str(mine.id)):
            deferrable.check_same(mine, Envelope.decode(body))
        return held

    def _envelope(self, asked: Asked) -> Envelope:
        actor = asked.actor
        if actor.user is None:
            raise Unavailable("the database takes no changes at the moment")
        of_author = [each.taken for each in self._known() if each.user == actor.user]
        return Envelope(
            deferrable.name_of(actor.user, asked.key, asked.proof),
            actor.user,
            actor.device,
            actor.is_customer,
            asked.method,
            asked.target,
            asked.media_type,
            asked.body,
            asked.key,
            asked.proof,
            asked.forget_at,
            deferrable.taken_after(self._clock.now(), of_author),
            deferrable.title_of(asked.media_type, asked.body),
            len(asked.body),
        )

    def _known(self) -> Iterable[Envelope]:
        return [*self.waiting.values(), *self._under_way.values()]

    def _bounds(self, mine: Envelope) -> None:
        if mine.size > deferrable.MOST_BYTES:
            raise TooLarge(
                f"more than {deferrable.MOST_BYTES} bytes cannot be kept while the database is away",
                hint="send it again later, or less of it",
            )
        known = list(self._known())
        theirs = [each for each in known if each.user == mine.user]
        most = deferrable.MOST_OF_A_PERSON if mine.customer else deferrable.MOST_OF_STAFF
        device = sum(each.device == mine.device for each in theirs)
        if len(theirs) >= most or (mine.customer and device >= deferrable.MOST_OF_A_DEVICE):
            raise TooMany("too much of yours waits already", _AGAIN_AFTER_S, hint="send the rest when that is filed")
        if len(known) >= deferrable.MOST or sum(each.size for each in known) > deferrable.MOST_BYTES_OF_ALL:
            raise TooMany("too much waits already", _AGAIN_AFTER_S, hint="keep it, and send it again later")

    async def _rehearse(self, asked: Asked, mine: Envelope, work: Work) -> None:
        """The work against what the standby knows, up to its first write. Raises what it refuses."""
        now = self._clock.now()
        milliseconds = int(now.timestamp() * 1000)
        async with self._database.read() as connection:
            if asked.key:
                await self._check_key(connection, mine)
            rehearsal: Any = _Rehearsal(connection)
            tx = Tx(rehearsal, asked.actor, now, lambda: uuid7(milliseconds, int(self._clock.new_id(), 16)))
            try:
                reply = await work(tx)
            except psycopg.errors.ReadOnlySqlTransaction:
                return
        if reply.status >= 400:
            raise Invalid("it cannot be done", hint="see what was sent")

    @staticmethod
    async def _check_key(connection: Connection, mine: Envelope) -> None:
        cursor = await connection.execute(
            "SELECT fingerprint FROM edge.replies WHERE user_id = %s AND key = %s", (mine.user, mine.key)
        )
        row = await cursor.fetchone()
        asked = idempotency.fingerprint(mine.method, mine.target, mine.digest)
        if row is not None and bytes(row["fingerprint"]) != asked:
            raise Invalid(
                "this Idempotency-Key was used for another request",
                {"Idempotency-Key": "used before, with another address or body"},
                hint="make a new key for each change",
            )

    # --- what waits ---

    async def refresh(self) -> None:
        """What other edges took, and what they filed. Raises Unavailable."""
        if self.stores is None:
            return
        names = set()
        for text in await self.stores.names():
            try:
                names.add(UUID(text))
            except ValueError:
                continue
        for name in names - self.waiting.keys():
            try:
                self.waiting[name] = deferrable.chosen(await self.stores.read(str(name)))[0].light()
            except Damaged:
                continue  # gone meanwhile, or no copy of it opens now
        for name in (self._listed & self.waiting.keys()) - names:
            del self.waiting[name]
        self._listed = names

    def dropped(self, name: UUID) -> None:
        self.waiting.pop(name, None)

    async def settled(self, actor: Actor, patience: float) -> bool:
        """Whether nothing of this author's waits any more, so that what comes now comes after it."""
        deadline = self._clock.monotonic() + patience
        while True:
            theirs = any(each.user == actor.user for each in self.waiting.values())
            if self.current and not theirs:
                return True
            if self._clock.monotonic() > deadline:
                return not theirs
            self.changed.set()
            await self._clock.sleep(0.05)

    # --- asking what became of it (crm/api/intake.py) ---

    async def one(self, actor: Actor, id_: UUID) -> dict[str, Any]:
        """Raises NotThere, for what is another's as well."""
        async with self._database.read() as connection:
            cursor = await connection.execute(_ROWS.format(sql.SQL("id = %s")), (id_,))
            row = await cursor.fetchone()
        if row is not None and _may_see(actor, row["user_id"]):
            return _of_row(row)
        if id_ not in self.waiting and row is None and self.stores is not None:
            await self.refresh()
        held = self.waiting.get(id_)
        if row is None and held is not None and _may_see(actor, held.user):
            return told(held)
        raise NotThere("there is no such intake", hint="its author is told; or it was filed long ago")

    async def listed(self, actor: Actor, *, mine: bool) -> list[dict[str, Any]]:
        """What waits, and what was rejected; of one's own also what was filed lately. Newest first."""
        own = mine or actor.is_customer
        async with self._database.read() as connection:
            if own:
                which = sql.SQL("user_id = %s AND taken_at > now() - interval '14 days'")
                cursor = await connection.execute(_ROWS.format(which), (actor.user,))
            else:
                which = sql.SQL("state = 'rejected' AND handled_at IS NULL")
                cursor = await connection.execute(_ROWS.format(which))
            rows = await cursor.fetchall()
        filed = {row["id"] for row in rows}
        held = [each for each in self.waiting.values() if each.id not in filed and (not own or each.user == actor.user)]
        newest = sorted(held, key=lambda each: each.taken, reverse=True)[:200]
        return [*map(told, newest), *map(_of_row, rows)]

    @staticmethod
    async def handle(tx: Tx, id_: UUID) -> dict[str, Any]:
        """A rejected one was seen to."""
        cursor = await tx.connection.execute(_HANDLE, (tx.actor.user, id_))
        row = await cursor.fetchone()
        if row is None:
            raise NotThere("there is no such rejected intake")
        return _of_row(row)


class _Rehearsal:
    """A connection to a standby: it takes no locks there, and whatever would write is refused by the server."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def execute(self, query: Any, *args: Any, **more: Any) -> Any:
        text = query.as_string(None) if isinstance(query, sql.Composable) else query
        text = text.decode() if isinstance(text, bytes) else text
        return await self._connection.execute(_LOCKS.sub("", text).encode(), *args, **more)


_ROWS: Final = sql.SQL(f"SELECT {_SHOWN} FROM edge.intake WHERE {{}} ORDER BY taken_at DESC LIMIT 200")  # noqa: S608

_HANDLE: Final = sql.SQL(
    "UPDATE edge.intake SET handled_at = coalesce(handled_at, now()), handled_by = coalesce(handled_by, %s)"
    " WHERE id = %s AND state = 'rejected' RETURNING {}"
).format(sql.SQL(_SHOWN))


def _may_see(actor: Actor, author: UUID) -> bool:
    return not actor.is_customer or actor.user == author


def told(held: Envelope) -> dict[str, Any]:
    return {
        "id": held.id,
        "state": WAITING,
        "title": held.title,
        "taken_at": held.taken,
        "applied_at": None,
        "link": None,
        "problem": None,
        "sent": None,
        "handled_at": None,
        "author": held.user,
    }


def _of_row(row: Row) -> dict[str, Any]:
    said = {name: row[name] for name in ("id", "state", "title", "taken_at", "applied_at", "problem", "sent")}
    return {**said, "link": row["link"] or None, "handled_at": row["handled_at"], "author": row["user_id"]}
