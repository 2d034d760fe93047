"""Files at records: bytes of at most 10 MiB, in the database, so that a recovery brings them back with the rest.

Whoever serves one says ``Content-Disposition: attachment`` and ``nosniff``: it holds what a stranger sent. The name
and the media type are what the sender said, without what could end a header or climb out of a folder, and never one
that a page of ours could be made to run: a file of ours is from our own origin.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final
from uuid import UUID

from threefold.crm.desk import Connection, Row, Tx
from threefold.crm.model import rules
from threefold.crm.model.actor import Actor
from threefold.crm.model.errors import Invalid
from threefold.crm.model.kinds import CASES, KINDS, LINKED, Kind
from threefold.crm.records import records
from threefold.crm.sql import repository
from threefold.kernel.errors import NotThere

SIZE_MOST: Final = 10 * 2**20
_TYPE: Final = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,60}/[a-z0-9][a-z0-9!#$&^_.+-]{0,100}")
_RUN: Final = re.compile(r"script|css")  # JavaScript goes by a dozen names
_ODD: Final = re.compile(r'[\x00-\x1f\x7f"\\/:*?<>|\u200e\u200f\u202a-\u202e\u2066-\u2069]+')
_SHOWN: Final = (
    "id, record_kind, record_id, name, media_type, size, encode(sha256, 'hex') AS sha256,"
    " version, created_at, created_by"
)


async def put(tx: Tx, kind: Kind, id_: UUID, name: str, media_type: str, data: bytes) -> Row:
    """A customer may add one to its own case; employees to whatever may carry files."""
    record = await _check(tx.connection, tx.actor, kind, id_)
    if not 0 < len(data) <= SIZE_MOST:
        what = f"has more than {SIZE_MOST // 2**20} MiB" if data else "is empty"
        raise Invalid(f"the file {what}", {"file": what}, hint="send a smaller one, or a link to it")
    sha256 = hashlib.sha256(data).digest()
    await tx.connection.execute(
        "INSERT INTO crm.blobs (sha256, size, bytes) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
        [sha256, len(data), data],
    )
    cursor = await tx.connection.execute(
        f"INSERT INTO crm.attachments (id, record_kind, record_id, name, media_type, size, sha256)"  # noqa: S608 - ours
        f" VALUES (%s, %s, %s, %s, %s, %s, %s) RETURNING {_SHOWN}",
        [tx.new_id(), kind.name, id_, safe_name(name), safe_type(media_type), len(data), sha256],
    )
    repository.note(tx, kind, record)
    return (await cursor.fetchall())[0]


async def of(connection: Connection, actor: Actor, kind: Kind, id_: UUID) -> list[Row]:
    """The files of one record, the oldest first, without their bytes."""
    await _check(connection, actor, kind, id_)
    cursor = await connection.execute(
        f"SELECT {_SHOWN} FROM crm.attachments WHERE record_id = %s AND deleted_at IS NULL"  # noqa: S608 - ours
        " ORDER BY created_at, id LIMIT 500",
        [id_],
    )
    return await cursor.fetchall()


async def get(connection: Connection, actor: Actor, attachment: UUID) -> tuple[Row, bytes]:
    """What it is, and its bytes. NotThere alike for what is not there and what is not theirs."""
    cursor = await connection.execute(
        f"SELECT {_SHOWN} FROM crm.attachments WHERE id = %s AND deleted_at IS NULL",  # noqa: S608 - ours
        [attachment],
    )
    row = await cursor.fetchone()
    if row is None:
        raise NotThere("there is no such file")
    await _check(connection, actor, KINDS[row["record_kind"]], row["record_id"])
    cursor = await connection.execute(
        "SELECT bytes FROM crm.blobs WHERE sha256 = decode(%s, 'hex')", [row["sha256"]], binary=True
    )
    blob = await cursor.fetchone()
    if blob is None:
        raise NotThere("the bytes of this file are gone")
    return row, bytes(blob["bytes"])


async def delete(tx: Tx, attachment: UUID) -> None:
    """To the recycle bin, as it were: `restore` brings it back. Only an erasure takes the bytes."""
    await _mark(tx, attachment, deleted=True)


async def restore(tx: Tx, attachment: UUID) -> None:
    await _mark(tx, attachment, deleted=False)


def safe_name(name: str) -> str:
    """A file's name for any system: no folders, no control characters, no reversed text, at most 200 characters."""
    bare = _ODD.sub("_", name.replace("\\", "/").rpartition("/")[2]).strip(" ._")
    stem, dot, ending = bare.rpartition(".")
    if len(bare) > 200 and dot and len(ending) <= 20:
        return f"{stem[: 199 - len(ending)]}.{ending}"
    return bare[:200] or "file"


def safe_type(media_type: str) -> str:
    bare = media_type.partition(";")[0].strip().lower()
    return bare if _TYPE.fullmatch(bare) and not _RUN.search(bare) else "application/octet-stream"


async def _check(connection: Connection, actor: Actor, kind: Kind, id_: UUID) -> Row:
    if actor.is_customer and kind.name not in CASES:
        raise NotThere("there is no such thing here")
    if not actor.is_customer:
        rules.check(actor, rules.Operation.READ, kind.name)
    if kind.name not in LINKED:
        raise Invalid(f"{kind.name} carry no files", {"kind": f"has to be one of {', '.join(LINKED)}"})
    return await records.get(connection, actor, kind, id_)


async def _mark(tx: Tx, attachment: UUID, *, deleted: bool) -> None:
    if tx.actor.is_customer:
        raise NotThere("there is no such file")
    rules.check(tx.actor, rules.Operation.ATTACH)
    cursor = await tx.connection.execute(
        "UPDATE crm.attachments SET deleted_at = CASE WHEN %s THEN now() END"
        " WHERE id = %s AND (deleted_at IS NULL) = %s RETURNING id",
        [deleted, attachment, deleted],
    )
    if await cursor.fetchone() is None:
        raise NotThere("there is no such file")
