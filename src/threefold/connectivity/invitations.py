"""Invitations: how a device gets in. A link with a secret that opens the door once, for one person, for a while.

The secret stands in the link's fragment (``/join#...``), which browsers never send, so it is in no server's log; only
its hash is kept. Whoever holds the link may enrol as that person: it goes where one would send a password.

Who may invite whom: administrators everybody, employees customers, and everybody themselves (a further device). An
invitation is void when its person was deactivated or got another role since.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from threefold.connectivity import audit
from threefold.connectivity.admission import hashed
from threefold.connectivity.refusals import Gone
from threefold.crm.desk import Connection, Row, Tx
from threefold.crm.model.actor import SYSTEM, Actor, Role
from threefold.crm.model.errors import Forbidden
from threefold.crm.model.kinds import KINDS
from threefold.crm.records import records
from threefold.crm.sql.database import Database
from threefold.kernel.errors import NotThere, Refused

LIFETIME: Final = timedelta(hours=72)
OWN_LIFETIME: Final = timedelta(minutes=15)
_ASK_ANEW: Final = "ask who invited you for a new one"
_PERSON: Final = "SELECT id, full_name, email, role, contact_id FROM crm.users WHERE active AND deleted_at IS NULL AND "
_STATE: Final = """CASE WHEN i.used_at IS NOT NULL THEN 'used' WHEN i.withdrawn_at IS NOT NULL THEN 'withdrawn'
    WHEN i.expires_at <= now() OR NOT u.active OR u.deleted_at IS NOT NULL OR u.role <> i.role THEN 'expired'
    ELSE 'open' END"""
_READ: Final = f"""
    SELECT i.id, i.user_id, u.full_name, u.email, u.role, u.contact_id, i.made_by, i.made_at, i.expires_at,
           {_STATE} AS state
    FROM edge.invitations i JOIN crm.users u ON u.id = i.user_id """  # noqa: S608 - put together from constants


@dataclass(frozen=True, slots=True)
class Invited:
    """``token`` is shown once, in the link, and never again."""

    id: UUID
    token: str
    expires_at: datetime
    person: Row


async def invite(tx: Tx, user: UUID, lifetime: timedelta = LIFETIME) -> Invited:
    """A person that is known already. Raises Forbidden, NotThere."""
    cursor = await tx.connection.execute(_PERSON + "id = %s", (user,))
    person = await cursor.fetchone()
    if person is None or (tx.actor.is_customer and user != tx.actor.user):
        raise NotThere("there is no such person, or they are not active")
    own = user == tx.actor.user
    if not own and not tx.actor.is_administrator and person["role"] != Role.CUSTOMER:
        raise Forbidden("only administrators invite employees", hint="ask an administrator")
    invited = Invited(tx.new_id(), secrets.token_urlsafe(32), tx.now + lifetime, person)
    await tx.connection.execute(
        """INSERT INTO edge.invitations (id, token_hash, user_id, role, made_by, expires_at)
           VALUES (%s, %s, %s, %s, %s, %s)""",
        (invited.id, hashed(invited.token), user, person["role"], tx.actor.user, invited.expires_at),
    )
    await audit.add(tx.connection, audit.Note("invited", tx.actor, "users", user))
    return invited


async def invite_contact(tx: Tx, contact: UUID, lifetime: timedelta = LIFETIME) -> Invited:
    """A customer; their user is made where there is none yet."""
    if tx.actor.is_customer:
        raise NotThere("there is no such contact")
    cursor = await tx.connection.execute(_PERSON + "contact_id = %s ORDER BY id LIMIT 1 FOR UPDATE", (contact,))
    person = await cursor.fetchone()
    if person is None:
        found = await tx.connection.execute(
            "SELECT full_name, email FROM crm.contacts WHERE id = %s AND deleted_at IS NULL FOR UPDATE", (contact,)
        )
        row = await found.fetchone()
        if row is None:
            raise NotThere("there is no such contact")
        values = {"full_name": row["full_name"], "email": row["email"], "role": "customer", "contact_id": str(contact)}
        person = await _new_person(tx, values)
    return await invite(tx, person["id"], lifetime)


async def invite_new(tx: Tx, values: Mapping[str, Any], lifetime: timedelta = LIFETIME) -> Invited:
    """A new employee or administrator. Raises Forbidden, Invalid."""
    if not tx.actor.is_administrator:
        raise Forbidden("only administrators invite employees", hint="ask an administrator")
    return await invite(tx, (await _new_person(tx, values))["id"], lifetime)


async def _new_person(tx: Tx, values: Mapping[str, Any]) -> Row:
    """Employees may not make users, but may invite customers, which takes one: as the system, logged as theirs."""
    return await records.make(replace(tx, actor=SYSTEM), KINDS["users"], values)


async def look(connection: Connection, token: str) -> Row:
    """Whom it is for. Raises NotThere, Gone."""
    cursor = await connection.execute(
        _READ + "WHERE i.token_hash = %s",
        (hashed(token),),
    )
    row = await cursor.fetchone()
    if row is None:
        raise NotThere("there is no such invitation", hint="open the whole link, or " + _ASK_ANEW)
    if row["state"] != "open":
        raise Gone(_GONE[row["state"]], hint=_ASK_ANEW)
    return row


_GONE: Final = {
    "used": "the invitation was used already",
    "expired": "the invitation has expired",
    "withdrawn": "the invitation was withdrawn",
}


async def claim(tx: Tx, token: str, device: UUID) -> None:
    """Use it up for this device. Of several at once, one gets through. Raises NotThere, Gone."""
    cursor = await tx.connection.execute(
        """UPDATE edge.invitations SET used_at = now(), device_id = %s
           WHERE token_hash = %s AND used_at IS NULL AND withdrawn_at IS NULL AND expires_at > now()""",
        (device, hashed(token)),
    )
    if not cursor.rowcount:
        await look(tx.connection, token)
        raise Gone(_GONE["used"], hint=_ASK_ANEW)


async def listing(connection: Connection, actor: Actor, limit: int = 200) -> list[Row]:
    """All for administrators, their own for employees; newest first."""
    mine = None if actor.is_administrator else actor.user
    newest = " ORDER BY i.made_at DESC, i.id DESC LIMIT %(limit)s"
    cursor = await connection.execute(
        _READ + "WHERE (%(mine)s::uuid IS NULL OR i.made_by = %(mine)s)" + newest, {"mine": mine, "limit": limit}
    )
    return await cursor.fetchall()


async def withdraw(tx: Tx, invitation: UUID) -> Row:
    mine = None if tx.actor.is_administrator else tx.actor.user
    await tx.connection.execute(
        """UPDATE edge.invitations SET withdrawn_at = now() WHERE id = %(id)s AND used_at IS NULL
           AND withdrawn_at IS NULL AND (%(mine)s::uuid IS NULL OR made_by = %(mine)s)""",
        {"id": invitation, "mine": mine},
    )
    cursor = await tx.connection.execute(
        _READ + "WHERE i.id = %(id)s AND (%(mine)s::uuid IS NULL OR i.made_by = %(mine)s)",
        {"id": invitation, "mine": mine},
    )
    row = await cursor.fetchone()
    if row is None:
        raise NotThere("there is no such invitation")
    if row["state"] == "used":
        raise Gone(_GONE["used"], hint="revoke the device that was enrolled with it")
    await audit.add(tx.connection, audit.Note("invitation-withdrawn", tx.actor, "users", row["user_id"]))
    return row


async def first_administrator(
    database: Database, *, name: str, email: str, lifetime: timedelta = LIFETIME, again: bool = False
) -> str:
    """The token of the link that lets the first person in; whoever reaches the database may make one.

    Raises Refused when an administrator has a device already, unless ``again``: the way back in when all
    administrators lost theirs.
    """
    async with database.write(SYSTEM, "first administrator") as tx:
        await tx.connection.execute("SELECT pg_advisory_xact_lock(hashtext('threefold first administrator'))")
        cursor = await tx.connection.execute(
            """SELECT u.id, lower(u.email) = lower(%s) AS same, EXISTS (
                   SELECT FROM edge.devices d WHERE d.user_id = u.id AND d.revoked_at IS NULL) AS inside
               FROM crm.users u WHERE u.role = 'administrator' AND u.active AND u.deleted_at IS NULL""",
            (email,),
        )
        administrators = await cursor.fetchall()
        if not again and any(row["inside"] for row in administrators):
            raise Refused(
                "there is an administrator with a device already",
                hint="let them invite you, or say that all administrators lost their devices",
            )
        known = next((row["id"] for row in administrators if row["same"]), None)
        if known is None:
            known = (await _new_person(tx, {"full_name": name, "email": email, "role": "administrator"}))["id"]
        return (await invite(tx, known, lifetime)).token
