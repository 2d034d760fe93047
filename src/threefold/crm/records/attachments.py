"""Files at records: bytes of at most 10 MiB, in the database, so that a recovery brings them back with the rest.

Whoever serves one says ``Content-Disposition: attachment`` and ``nosniff``: it holds what a stranger sent. The name
and the media type are what the sender said, without what could end a header or climb out of a folder, and never one
that a page of ours could be made to run: a file of ours is from our own origin.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, Final
from uuid import UUID

from threefold.crm.desk import Connection, Row, Tx
from threefold.crm.model import rules
from threefold.crm.model.actor import Actor
from threefold.crm.model.errors import Invalid
from threefold.crm.model.kinds import CASES, KINDS, LINKED, Kind
from threefold.crm.model.paging import Place, cut, turn
from threefold.crm.records import records, settings
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
# Before deleted_by was there, nothing but the deletion itself, and perhaps a merge, came after it.
_DELETED: Final = (
    "a.id, a.record_kind, a.record_id, a.name, a.media_type, a.size, encode(a.sha256, 'hex') AS sha256, a.version,"
    " a.created_at, a.created_by, a.deleted_at, coalesce(a.deleted_by, a.updated_by) AS deleted_by, u.full_name AS who"
    " FROM crm.attachments a LEFT JOIN crm.users u ON u.id = coalesce(a.deleted_by, a.updated_by)"
)
_BY_DELETION: Final = "-deleted_at"


async def put(tx: Tx, kind: Kind, id_: UUID, name: str, media_type: str, data: bytes) -> Row:
    """A customer may add one to its own case; employees to whatever may carry files."""
    record = await _check(tx.connection, tx.actor, kind, id_)
    if not 0 < len(data) <= SIZE_MOST:
        what = f"has more than {SIZE_MOST // 2**20} MiB" if data else "is empty"
        raise Invalid(f"the file {what}", {"file": what}, hint="send a smaller one, or a link to it")
    if tx.actor.is_customer:
        await _check_room(tx, len(data))
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


async def of(connection: Connection, actor: Actor, kind: Kind, id_: UUID, *, deleted: bool = False) -> list[Row]:
    """The files of one record, the oldest first, without their bytes. ``deleted``: also if it is in the bin itself."""
    await _check(connection, actor, kind, id_, deleted=deleted)
    cursor = await connection.execute(
        f"SELECT {_SHOWN} FROM crm.attachments WHERE record_id = %s AND deleted_at IS NULL"  # noqa: S608 - ours
        " ORDER BY created_at, id LIMIT 500",
        [id_],
    )
    return await cursor.fetchall()


async def deleted_of(connection: Connection, actor: Actor, kind: Kind, id_: UUID) -> list[Row]:
    """The files of one record that are in the recycle bin, the last one first: when they went, and by whom."""
    _only_staff(actor)
    await records.get(connection, actor, kind, id_, deleted=True)
    cursor = await connection.execute(
        f"SELECT {_DELETED} WHERE a.record_id = %s AND a.deleted_at IS NOT NULL"
        " ORDER BY a.deleted_at DESC, a.id DESC LIMIT 500",
        [id_],
    )
    return await cursor.fetchall()


async def deleted(
    connection: Connection, actor: Actor, after: str | None = None, before: str | None = None, limit: int = 50
) -> tuple[list[Row], str | None, str | None]:
    """All files in the recycle bin, the last one first; and what the pages before and after are asked for with."""
    _only_staff(actor)
    turned = turn(after, before, _BY_DELETION)
    way, sign = turned.walk(_BY_DELETION)
    cursor = await connection.execute(
        f"SELECT {_DELETED} WHERE a.deleted_at IS NOT NULL"
        f" AND (%(at)s::timestamptz IS NULL OR (a.deleted_at, a.id) {sign} (%(at)s::timestamptz, %(id)s))"
        f" ORDER BY a.deleted_at {way}, a.id {way} LIMIT %(limit)s",
        {
            "at": turned.place.value if turned.place else None,
            "id": turned.place.id if turned.place else None,
            "limit": limit + 1,
        },
    )
    rows = await cursor.fetchall()
    return cut(rows, limit, turned, lambda row: Place(_BY_DELETION, row["deleted_at"].isoformat(), row["id"]))


async def get(connection: Connection, actor: Actor, attachment: UUID) -> tuple[Row, bytes]:
    """What it is, and its bytes. NotThere alike for what is not there and what is not theirs.

    Of a record in the recycle bin, for those who see that.
    """
    cursor = await connection.execute(
        f"SELECT {_SHOWN} FROM crm.attachments WHERE id = %s AND deleted_at IS NULL",  # noqa: S608 - ours
        [attachment],
    )
    row = await cursor.fetchone()
    if row is None:
        raise NotThere("there is no such file")
    await _check(connection, actor, KINDS[row["record_kind"]], row["record_id"], deleted=True)
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


async def _check_room(tx: Tx, size: int) -> None:
    """What one customer may have here is bounded (settings.py). One upload after the other, so that none slips by."""
    await tx.connection.execute("SELECT FROM crm.users WHERE id = %s FOR NO KEY UPDATE", [tx.actor.user])
    cursor = await tx.connection.execute(
        "SELECT count(*) AS files, coalesce(sum(size), 0)::bigint AS bytes FROM crm.attachments"
        " WHERE created_by = %s AND deleted_at IS NULL",
        [tx.actor.user],
    )
    there = (await cursor.fetchall())[0]
    bounds = await settings.read(tx.connection)
    hint = "put it where it can be fetched and write where that is, or ask us to take away what is no longer needed"
    if there["files"] >= bounds.files_per_customer:
        what = f"is one too many: you may have {bounds.files_per_customer} here"
    elif there["bytes"] + size > bounds.mib_per_customer * 2**20:
        left = max(bounds.mib_per_customer * 2**20 - there["bytes"], 0)
        what = f"is too large: you may have {bounds.mib_per_customer} MiB here, and {left // 2**10} KiB are left"
    else:
        return
    raise Invalid(f"the file {what}", {"file": what}, hint=hint)


def _only_staff(actor: Actor) -> None:
    if actor.is_customer:
        raise NotThere("there is no such thing here")
    rules.check(actor, rules.Operation.ATTACH)


async def _check(connection: Connection, actor: Actor, kind: Kind, id_: UUID, *, deleted: bool = False) -> Row:
    if actor.is_customer and kind.name not in CASES:
        raise NotThere("there is no such thing here")
    if not actor.is_customer:
        rules.check(actor, rules.Operation.READ, kind.name)
    if kind.name not in LINKED:
        raise Invalid(f"{kind.name} carry no files", {"kind": f"has to be one of {', '.join(LINKED)}"})
    return await records.get(connection, actor, kind, id_, deleted=deleted)


async def _mark(tx: Tx, attachment: UUID, *, deleted: bool) -> None:
    if tx.actor.is_customer:
        raise NotThere("there is no such file")
    rules.check(tx.actor, rules.Operation.ATTACH)
    cursor = await tx.connection.execute(
        "UPDATE crm.attachments SET deleted_at = CASE WHEN %(gone)s THEN now() END,"
        " deleted_by = CASE WHEN %(gone)s THEN crm.acting('user') END"
        " WHERE id = %(id)s AND (deleted_at IS NULL) = %(gone)s RETURNING record_kind, record_id, deleted_at",
        {"gone": deleted, "id": attachment},
    )
    row: dict[str, Any] | None = await cursor.fetchone()
    if row is None:
        raise NotThere("there is no such file" if deleted else "there is no such file in the recycle bin")
    kind = KINDS[row["record_kind"]]
    rules.check(tx.actor, rules.Operation.ATTACH, kind.name)
    repository.note(tx, kind, await repository.one(tx.connection, tx.actor, kind, row["record_id"], deleted=True))
