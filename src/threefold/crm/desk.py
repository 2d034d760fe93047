"""What one request works with: who asks, a way to read, and one way to write.

The CRM's routes know nothing of sessions, devices, proofs or idempotency keys. The edge (connectivity/) puts a `Desk`
on each request after it has seen to all that, and a change is one piece of work handed to `Desk.write`: the edge
runs it in a transaction together with what it keeps itself (the key and the reply stored under it), so that a
repeated request finds either all of it or nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

import psycopg
from fastapi import Request

from threefold.crm.model.actor import Actor

Row = dict[str, Any]
Connection = psycopg.AsyncConnection[Row]


@dataclass(frozen=True, slots=True)
class Change:
    """A record that a transaction changed; ``contact``: whose it is, so that a customer's page hears of its own."""

    kind: str
    id: UUID
    contact: UUID | None = None


@dataclass(slots=True)
class Tx:
    """One writing transaction. ``now`` is the database's own time of it, the same in every row it writes.

    ``bulky``: a large file went through its connection. libpq keeps the buffers it needed for that until it is closed,
    so it is, afterwards.
    """

    connection: Connection
    actor: Actor
    now: datetime
    new_id: Callable[[], UUID]
    changed: set[Change] = field(default_factory=set)
    bulky: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """What a change is answered with. Kept with its Idempotency-Key, so it holds bytes and no objects."""

    status: int = 200
    body: bytes = b""
    media_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


Work = Callable[[Tx], Awaitable[Reply]]


class Desk(Protocol):
    """One request's place at the CRM."""

    @property
    def actor(self) -> Actor: ...

    def read(self) -> AbstractAsyncContextManager[Connection]:
        """A read-only transaction with a time limit."""
        ...

    async def write(self, work: Work) -> Reply:
        """Do it once, in one transaction, and answer only when it is saved.

        Raises what ``work`` raises, NotSaved, Unavailable, and Conflict or Invalid for an Idempotency-Key that is in
        use or was used for something else.
        """
        ...

    def saw(self, kind: str, record: UUID) -> None:
        """Note in the audit that this record was shown to this person. Never fails, never waits."""
        ...

    def did(self, what: str, kind: str = "", record: UUID | None = None, **detail: str) -> None:
        """Note in the audit what is neither in the data log nor one record seen: ``exported``, ``erased``."""
        ...


async def desk_of(request: Request) -> Desk:
    """For ``Depends``, which would take a plain function into a thread."""
    desk: Desk = request.state.desk
    return desk
