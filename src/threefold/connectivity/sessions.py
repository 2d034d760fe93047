"""Sessions: a token of 256 bits of chance, bound to one device's key, that ends by itself.

A browser keeps the token in a cookie that no script reads and no other site sends; an API client sends it beside the
proof (RFC 9449). Either is worth nothing without the device's key. Only the token's hash is kept here.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from threefold.connectivity.admission import hashed
from threefold.crm.desk import Connection, Row, Tx
from threefold.kernel.errors import NotThere

COOKIE: Final = "__Host-threefold"


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """``idle``: without a request; ``whole``: in any case. A device without connection keeps its outbox meanwhile."""

    idle: timedelta = timedelta(days=3)
    whole: timedelta = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Opened:
    id: UUID
    token: str
    expires_at: datetime


async def begin(tx: Tx, user: UUID, device: UUID, *, how: str, bearer: bool, lifetimes: Lifetimes) -> Opened:
    """``how``: enrolment, passkey or password."""
    token = secrets.token_urlsafe(32)
    opened = Opened(tx.new_id(), token, tx.now + lifetimes.whole)
    await tx.connection.execute(
        """INSERT INTO edge.sessions (id, token_hash, user_id, device_id, how, bearer, idle_until, expires_at)
           VALUES (%s, %s, %s, %s, %s, %s, now() + %s, %s)""",
        (opened.id, hashed(token), user, device, how, bearer, lifetimes.idle, opened.expires_at),
    )
    return opened


async def of_user(connection: Connection, user: UUID) -> list[Row]:
    """Those that hold, newest first."""
    cursor = await connection.execute(
        """SELECT s.id, s.device_id, d.name AS device, s.how, s.created_at, s.seen_at, s.expires_at
           FROM edge.sessions s JOIN edge.devices d ON d.id = s.device_id
           WHERE s.user_id = %s AND s.ended_at IS NULL AND s.idle_until > now() AND s.expires_at > now()
             AND d.revoked_at IS NULL
           ORDER BY s.created_at DESC, s.id DESC""",
        (user,),
    )
    return await cursor.fetchall()


async def end(tx: Tx, user: UUID, session: UUID) -> None:
    cursor = await tx.connection.execute(
        "UPDATE edge.sessions SET ended_at = now() WHERE id = %s AND user_id = %s AND ended_at IS NULL", (session, user)
    )
    if not cursor.rowcount:
        raise NotThere("there is no such session", hint="it may have ended meanwhile")


async def end_all(tx: Tx, user: UUID, *, but: UUID | None = None) -> int:
    """How many were ended."""
    cursor = await tx.connection.execute(
        "UPDATE edge.sessions SET ended_at = now() WHERE user_id = %s AND ended_at IS NULL AND id IS DISTINCT FROM %s",
        (user, but),
    )
    return cursor.rowcount


def cookie(token: str, lifetime: timedelta) -> str:
    """The Set-Cookie header's value. ``__Host-`` makes the browser insist on Secure, Path=/ and no Domain."""
    return f"{COOKIE}={token}; Max-Age={int(lifetime.total_seconds())}; Path=/; Secure; HttpOnly; SameSite=Strict"


def no_cookie() -> str:
    return f"{COOKIE}=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=Strict"
