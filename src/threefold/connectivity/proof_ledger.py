"""The sessions and spent proofs in the database, asked on one connection that commits asynchronously (admission.py).

One statement finds the sessions and spends the proofs. Where the server takes no writes, what it knows to be spent and
what this process remembers is refused. What was let in is remembered for as long as a proof is good, and spent anew on
every new connection before anything else is looked at: a switch may have lost the last of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import psycopg

from threefold.connectivity.dpop import Proof
from threefold.crm.desk import Connection, Row
from threefold.kernel.clock import Clock
from threefold.kernel.errors import Unavailable

_SEEN_EVERY: Final = timedelta(seconds=60)
_FORGET_EVERY_S: Final = 10.0
_SPENT_AT_ONCE: Final = 5000

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
    SELECT * FROM unnest(%s::text::uuid[], %s::text::timestamptz[]) AS remembered (id, forget_at) ORDER BY id
    ON CONFLICT DO NOTHING"""
_SPENT_BY_OTHERS: Final = """
    SELECT p.id FROM edge.proofs p JOIN unnest(%s::uuid[], %s::uuid[]) AS a (id, request) USING (id)
    WHERE p.request IS DISTINCT FROM a.request"""
STILL_VALID: Final = f"""
    SELECT s.id, u.role, u.contact_id
    FROM edge.sessions s JOIN edge.devices d ON d.id = s.device_id JOIN crm.users u ON u.id = s.user_id
    WHERE s.id = ANY(%s) AND {_VALID}"""  # noqa: S608 - put together from constants

_TAKES_WRITES: Final = "SELECT current_setting('transaction_read_only') = 'off' AS yes"


@dataclass(frozen=True, slots=True)
class Asked:
    """``token``: the session's, hashed; None: no session yet, only a proof to spend.

    ``request``: a new UUID: who spends the proof, however often it has to be asked.
    """

    token: bytes | None
    proof: Proof
    request: str


@dataclass(frozen=True, slots=True)
class Found:
    """``rows``: the sessions, by place in the batch; ``new``: the proofs that nobody else spent."""

    rows: Mapping[int, Row]
    new: frozenset[UUID]
    writable: bool


class ProofLedger:
    """``connect``: to the server that answers reads now."""

    def __init__(self, connect: Callable[[], Awaitable[Connection]], clock: Clock) -> None:
        self.connection: Connection | None = None
        self.owes = False  # what is remembered may not be in the database
        self._connect = connect
        self._clock = clock
        self._remembered: dict[UUID, datetime] = {}
        self._forgot_at = 0.0

    @property
    def broken(self) -> bool:
        return self.connection is None or self.connection.closed

    async def look_up(self, batch: Iterable[Asked]) -> Found:
        """No proof twice in one batch. Raises psycopg.Error, Unavailable; asked again, what was spent is one's own."""
        asked = list(enumerate(batch))
        connection = self.connection
        if connection is None or connection.closed:
            connection = self.connection = await self._connect()
            self.owes = True
        try:
            if self.owes and not await self._spend_remembered(connection):
                return await self._looked_only(connection, asked)
            try:
                cursor = await connection.execute(_SPEND, _values(asked))
            except psycopg.errors.ReadOnlySqlTransaction:
                return await self._looked_only(connection, asked)
        except psycopg.errors.UndefinedColumn:
            raise Unavailable(
                "the database's tables are of an earlier version", hint="start a CRM that may write there first"
            ) from None
        rows = await cursor.fetchall()
        found = {row["n"]: row for row in rows if row["n"] is not None}
        return Found(found, self._unknown(row["spent"] for row in rows if row["spent"] is not None), True)

    async def _looked_only(self, connection: Connection, asked: list[tuple[int, Asked]]) -> Found:
        self.owes = True
        found = {row["n"]: row for row in await (await connection.execute(_WHO, _values(asked))).fetchall()}
        mine = [each for n, each in asked if each.token is None or ((row := found.get(n)) is not None and row["fits"])]
        ids, requests = [each.proof.spent_id for each in mine], [each.request for each in mine]
        cursor = await connection.execute(_SPENT_BY_OTHERS, (ids, requests))
        spent = {row["id"] for row in await cursor.fetchall()}
        return Found(found, self._unknown(each for each in ids if each not in spent), False)

    def _unknown(self, ids: Iterable[UUID]) -> frozenset[UUID]:
        return frozenset(each for each in ids if each not in self._remembered)

    async def _spend_remembered(self, connection: Connection) -> bool:
        """False: the server takes no writes. In parts, so that none takes too long; what was spent stays so."""
        row = await (await connection.execute(_TAKES_WRITES)).fetchone()
        if row is None or not row["yes"]:
            return False
        self._forget()
        owed = sorted(self._remembered.items())
        for start in range(0, len(owed), _SPENT_AT_ONCE):
            part = owed[start : start + _SPENT_AT_ONCE]
            ids, times = _array([key for key, _ in part]), _array([f'"{until.isoformat()}"' for _, until in part])
            await connection.execute(_SPEND_ALL, (ids, times))
        self.owes = False
        return True

    def remember(self, proofs: Iterable[Proof]) -> None:
        """They were let in."""
        if self._clock.monotonic() - self._forgot_at > _FORGET_EVERY_S:
            self._forget()
        self._remembered.update((proof.spent_id, proof.forget_at) for proof in proofs)

    def _forget(self) -> None:
        self._forgot_at, now = self._clock.monotonic(), self._clock.now()
        self._remembered = {key: until for key, until in self._remembered.items() if until > now}

    async def drop(self) -> None:
        """The connection."""
        if self.connection is not None:
            connection, self.connection = self.connection, None
            with contextlib.suppress(psycopg.Error, OSError):
                await connection.close()


def _values(asked: list[tuple[int, Asked]]) -> dict[str, Any]:
    with_session = [(n, each) for n, each in asked if each.token is not None]
    alone = [each for _, each in asked if each.token is None]
    return {
        "n": _array([n for n, _ in with_session]),
        "token": _array([f'"\\\\x{each.token.hex()}"' for _, each in with_session if each.token is not None]),
        "thumbprint": _array([f'"{each.proof.thumbprint}"' for _, each in with_session]),
        "proof": _array([each.proof.spent_id for _, each in with_session]),
        "forget": _array([f'"{each.proof.forget_at.isoformat()}"' for _, each in with_session]),
        "request": _array([each.request for _, each in with_session]),
        "lone": _array([each.proof.spent_id for each in alone]),
        "lone_forget": _array([f'"{each.proof.forget_at.isoformat()}"' for each in alone]),
        "lone_request": _array([each.request for each in alone]),
        "seen_every": _SEEN_EVERY,
    }


def _array(elements: list[Any]) -> str:
    """As PostgreSQL reads an array; of what is ours or was decoded, so there is nothing to be escaped in it."""
    return f"{{{','.join(map(str, elements))}}}"
