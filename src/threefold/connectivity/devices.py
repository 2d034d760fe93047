"""Devices: keys that were enrolled by invitation, and can be revoked.

A device belongs to one person. Its key was made in it and cannot be taken out, so a device that is revoked is out for
good: to come back it makes a new key and needs a new invitation. Every request looks for the device anew
(admission.py), which is why revoking needs no more than one committed row.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from threefold.connectivity import audit
from threefold.connectivity.dpop import Proof
from threefold.connectivity.refusals import UnknownDevice
from threefold.crm.desk import Connection, Row, Tx
from threefold.crm.model.errors import Conflict, Invalid
from threefold.kernel.errors import NotThere

_NAME_MOST: Final = 80
_COLUMNS: Final = "id, user_id, name, enrolled_at, seen_at, revoked_at, revoked_by"


def plain_name(name: str) -> str:
    """One line that people recognise the device by. Raises Invalid."""
    text = " ".join(name.split())
    if not text or not text.isprintable():
        raise Invalid("the device needs a name", {"device": "a name that you will recognise it by"})
    if len(text) > _NAME_MOST:
        raise Invalid("the device's name is too long", {"device": f"at most {_NAME_MOST} characters"})
    return text


async def enrol(tx: Tx, device: UUID, user: UUID, name: str, proof: Proof) -> None:
    """Raises Conflict where the key is enrolled already, also where it was and is revoked."""
    try:
        await tx.connection.execute(
            "INSERT INTO edge.devices (id, user_id, name, thumbprint, jwk) VALUES (%s, %s, %s, %s, %s)",
            (device, user, name, proof.thumbprint, Jsonb(proof.jwk)),
        )
    except psycopg.errors.UniqueViolation:
        raise Conflict("this key is enrolled already", hint="make a new key for each enrolment") from None


async def of_key(connection: Connection, thumbprint: str) -> Row:
    """The device that has this key, with its person. Raises UnknownDevice."""
    cursor = await connection.execute(
        """SELECT d.id, d.name, d.user_id, u.email FROM edge.devices d JOIN crm.users u ON u.id = d.user_id
           WHERE d.thumbprint = %s AND d.revoked_at IS NULL AND u.active AND u.deleted_at IS NULL""",
        (thumbprint,),
    )
    found = await cursor.fetchone()
    if found is None:
        raise UnknownDevice(
            "this device is not enrolled, or was revoked",
            hint="open an invitation link on it: make one on another device of yours, or ask an administrator",
        )
    return found


async def of_user(connection: Connection, user: UUID) -> list[Row]:
    """Newest first, the revoked ones last."""
    cursor = await connection.execute(
        f"SELECT {_COLUMNS} FROM edge.devices WHERE user_id = %s"  # noqa: S608 - a constant
        " ORDER BY revoked_at IS NOT NULL, enrolled_at DESC, id DESC",
        (user,),
    )
    return await cursor.fetchall()


async def rename(tx: Tx, user: UUID, device: UUID, name: str) -> Row:
    statement = "UPDATE edge.devices SET name = %s WHERE id = %s AND user_id = %s"
    cursor = await tx.connection.execute(f"{statement} RETURNING {_COLUMNS}", (plain_name(name), device, user))
    return _one(await cursor.fetchone())


async def revoke(tx: Tx, user: UUID, device: UUID) -> Row:
    """With its sessions. Again is no error: it is out, which is what was wanted."""
    statement = """UPDATE edge.devices
        SET revoked_at = coalesce(revoked_at, now()), revoked_by = coalesce(revoked_by, %s)
        WHERE id = %s AND user_id = %s"""
    cursor = await tx.connection.execute(f"{statement} RETURNING {_COLUMNS}", (tx.actor.user, device, user))
    row = _one(await cursor.fetchone())
    await tx.connection.execute(
        "UPDATE edge.sessions SET ended_at = now() WHERE device_id = %s AND ended_at IS NULL", (device,)
    )
    await audit.add(tx.connection, audit.Note("device-revoked", tx.actor, "devices", device))
    return row


async def revoke_all(tx: Tx, user: UUID) -> tuple[int, int]:
    """All devices, sessions and open invitations of a person; how many devices and sessions."""
    devices = await tx.connection.execute(
        "UPDATE edge.devices SET revoked_at = now(), revoked_by = %s WHERE user_id = %s AND revoked_at IS NULL",
        (tx.actor.user, user),
    )
    sessions = await tx.connection.execute(
        "UPDATE edge.sessions SET ended_at = now() WHERE user_id = %s AND ended_at IS NULL", (user,)
    )
    await tx.connection.execute(
        """UPDATE edge.invitations SET withdrawn_at = now()
           WHERE user_id = %s AND used_at IS NULL AND withdrawn_at IS NULL""",
        (user,),
    )
    await audit.add(tx.connection, audit.Note("person-revoked", tx.actor, "users", user))
    return devices.rowcount, sessions.rowcount


def _one(row: Row | None) -> Row:
    if row is None:
        raise NotThere("there is no such device")
    return row
