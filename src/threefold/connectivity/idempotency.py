"""Asked again: the first answer comes back, and nothing is done a second time.

A client gives a change a key of its own making (``Idempotency-Key``) and repeats it until it is answered. The key, what
was asked (a fingerprint of method, address and body) and the answer are kept in the very transaction that makes the
change, so that a repeated request finds all of it or nothing.

- Under way: the second comer does not get the lock that lasts as long as the first's transaction. 409.
- Known, and the same was asked: the kept answer.
- Known, and something else was asked: 422.
- Only successes are kept. What was refused changed nothing, so that asking again is safe by itself, and may succeed.

A kept answer is only as safe as the commit that brought it: were that commit's wait for the stores cut short, the row
would be visible here and yet on no second store. So a replay writes too (it counts itself), and its own commit waits:
what lies before it in the WAL is then safe as well.

Pruned after `KEPT`: past that, a key is new again.
"""

from __future__ import annotations

import hashlib
import re
from datetime import timedelta
from typing import Final
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from threefold.crm.desk import Reply, Tx
from threefold.crm.model.errors import Conflict, Invalid

KEPT: Final = timedelta(days=14)
REPLAYED: Final = "Idempotency-Replayed"
_KEY: Final = re.compile(r"[!-~]{1,255}")
_UNDER_WAY: Final = "the same request is still under way"


def usable(key: str) -> str:
    """Raises Invalid."""
    if not _KEY.fullmatch(key):
        raise Invalid(
            "the Idempotency-Key cannot be used",
            {"Idempotency-Key": "1 to 255 visible ASCII characters"},
            hint="a UUID of your own making does well",
        )
    return key


def fingerprint(method: str, target: str, body: bytes) -> bytes:
    """``target``: path and query; ``body``: the SHA-256 of the request's."""
    return hashlib.sha256(b"\0".join((method.encode(), target.encode(), body))).digest()


async def replayed(tx: Tx, user: UUID, key: str, asked: bytes) -> Reply | None:
    """The kept answer; None: nobody asked before, and the key is ours until this transaction ends.

    Raises Conflict while another transaction holds it, Invalid when it was used for something else.
    """
    lock = int.from_bytes(hashlib.sha256(user.bytes + key.encode()).digest()[:8], signed=True)
    cursor = await tx.connection.execute("SELECT pg_try_advisory_xact_lock(%s) AS ours", (lock,))
    row = await cursor.fetchone()
    if row is None or not row["ours"]:
        raise Conflict(_UNDER_WAY, hint="ask again in a moment, with the same Idempotency-Key")
    # Only now, in a statement of its own: its snapshot is taken after the lock, and sees what the last holder left.
    cursor = await tx.connection.execute(
        "SELECT fingerprint, status, media_type, headers, body FROM edge.replies WHERE user_id = %s AND key = %s",
        (user, key),
    )
    kept = await cursor.fetchone()
    if kept is None:
        return None
    if bytes(kept["fingerprint"]) != asked:
        raise Invalid(
            "this Idempotency-Key was used for another request",
            {"Idempotency-Key": "used before, with another address or body"},
            hint="make a new key for each change",
        )
    await tx.connection.execute(
        "UPDATE edge.replies SET replays = replays + 1 WHERE user_id = %s AND key = %s", (user, key)
    )
    return Reply(kept["status"], bytes(kept["body"]), kept["media_type"], {**kept["headers"], REPLAYED: "true"})


async def keep(tx: Tx, user: UUID, key: str, asked: bytes, reply: Reply) -> None:
    try:
        await tx.connection.execute(
            """INSERT INTO edge.replies (user_id, key, fingerprint, status, media_type, headers, body, about)
               VALUES (%s, %s, %s, %s, %s, %s, %s, %s)""",
            (user, key, asked, reply.status, reply.media_type, Jsonb(dict(reply.headers)), reply.body, _about(tx)),
        )
    except psycopg.errors.UniqueViolation:
        raise Conflict(_UNDER_WAY, hint="ask again in a moment, with the same Idempotency-Key") from None


def _about(tx: Tx) -> list[UUID]:
    """Whose and which records the answer tells of, whatever it says: an erasure finds it by them."""
    return list({each.id for each in tx.changed} | {each.contact for each in tx.changed if each.contact})
