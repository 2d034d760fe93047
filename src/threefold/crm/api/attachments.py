"""Files at records. What comes down is always an attachment and never sniffed: a stranger may have sent it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final
from urllib.parse import quote
from uuid import UUID

from fastapi import Response
from pydantic import Field as Constraint

from threefold.crm.api import params, replies, uploads
from threefold.crm.api.models import Given
from threefold.crm.api.operations import Call, Does, Gives, Operation, Raw, add
from threefold.crm.api.shapes import Next, Prev
from threefold.crm.desk import Reply, Tx
from threefold.crm.model import rules
from threefold.crm.model.errors import Invalid
from threefold.crm.model.kinds import KINDS, LINKED, Kind
from threefold.crm.records import attachments

FILE: Final = Raw(
    {"application/octet-stream": uploads.AS_BYTES, uploads.FORM: uploads.AS_FORM},
    "The file, of at most 10 MiB: itself, or as the part `file` of a form.",
)


class Attachment(Given):
    id: UUID
    record_kind: str
    record_id: UUID
    name: str
    media_type: Annotated[str, Constraint(description="As the sender said; never trusted.")]
    size: int
    sha256: Annotated[str, Constraint(pattern="^[0-9a-f]{64}$")]
    version: int
    created_at: datetime
    created_by: UUID | None


class Attachments(Given):
    items: list[Attachment]


class Deleted(Attachment):
    """A file in the recycle bin: since when, and who put it there."""

    deleted_at: datetime
    deleted_by: UUID | None
    who: str | None


class DeletedPage(Given):
    items: list[Deleted]
    next: Next
    prev: Prev


async def _deleted(call: Call) -> Response:
    query = call.query
    async with call.desk.read() as connection:
        rows, before, following = await attachments.deleted(
            connection, call.desk.actor, query.get("after"), query.get("before"), query.get("limit", 50)
        )
    return replies.response(replies.value({"items": rows, "next": following, "prev": before}))


def _listing(kind: Kind) -> Does:
    async def listing(call: Call) -> Response:
        async with call.desk.read() as connection:
            rows = await attachments.of(connection, call.desk.actor, kind, call.id)
        return replies.response(replies.value({"items": rows}))

    return listing


def _putting(kind: Kind) -> Does:
    async def putting(call: Call) -> Response:
        sent = await uploads.read(call.request, attachments.SIZE_MOST)
        if not sent.data:
            raise Invalid("the file is empty", {"file": "is empty"}, hint="send one with something in it")
        name = call.query.get("name") or sent.name or "file"

        async def work(tx: Tx) -> Reply:
            row = await attachments.put(tx, kind, call.id, name, sent.media_type, sent.data)
            return replies.value(row, status=201, headers={"Location": f"{replies.PREFIX}/attachments/{row['id']}"})

        return replies.response(await call.desk.write(work))

    return putting


async def _getting(call: Call) -> Response:
    async with call.desk.read() as connection:
        row, data = await attachments.get(connection, call.desk.actor, call.id)
    call.desk.saw(row["record_kind"], row["record_id"])
    headers = {"ETag": f'"{row["sha256"]}"', "X-Content-Type-Options": "nosniff"}
    if call.request.headers.get("if-none-match", "").strip() == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    plain = "".join(each if " " <= each <= "~" and each not in '"\\' else "_" for each in row["name"])
    headers["Content-Disposition"] = f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(row['name'], safe='')}"
    headers["Content-Security-Policy"] = "sandbox; default-src 'none'"
    return Response(data, headers=headers, media_type=row["media_type"])


async def _deleting(call: Call) -> Response:
    async def work(tx: Tx) -> Reply:
        await attachments.delete(tx, call.id)
        return replies.NOTHING

    return replies.response(await call.desk.write(work))


async def _restoring(call: Call) -> Response:
    async def work(tx: Tx) -> Reply:
        await attachments.restore(tx, call.id)
        return replies.NOTHING

    return replies.response(await call.desk.write(work))


def _describe(kind: Kind) -> None:
    title = kind.one.capitalize()
    common: dict[str, Any] = {"tag": kind.name, "kind": kind.name, "needs": rules.Operation.ATTACH}
    add(
        Operation(
            "GET",
            f"/{kind.name}/{{id}}/attachments",
            f"filesOf{title}",
            f"The files at one {kind.one}, the oldest first",
            does=_listing(kind),
            gives=(Gives(200, "Files, without their bytes.", Attachments),),
            **common,
        )
    )
    add(
        Operation(
            "POST",
            f"/{kind.name}/{{id}}/attachments",
            f"attachTo{title}",
            f"Put a file to one {kind.one}",
            does=_putting(kind),
            takes=FILE,
            params=(params.NAME,),
            gives=(Gives(201, "Kept, and saved.", Attachment, headers=("Location",)),),
            writes=True,
            about="What one customer may have here is bounded, in number and in size (`/settings`): 422 beyond that.",
            **common,
        )
    )


def describe() -> None:
    for name in LINKED:
        _describe(KINDS[name])
    common: dict[str, Any] = {"tag": "attachments", "needs": rules.Operation.ATTACH}
    anything = {"type": "string", "format": "binary"}
    as_file = ("ETag", "Content-Disposition", "X-Content-Type-Options")
    add(
        Operation(
            "GET",
            "/attachments/{id}",
            "readFile",
            "One file's bytes",
            does=_getting,
            headers=("If-None-Match",),
            gives=(
                Gives(
                    200, "The bytes, as the sender said what they are.", media="*/*", schema=anything, headers=as_file
                ),
                Gives(304, "Still the one that you have.", headers=("ETag",)),
            ),
            **common,
        )
    )
    add(
        Operation(
            "GET",
            "/attachments/deleted",
            "listDeletedFiles",
            "The files in the recycle bin, the last one first",
            does=_deleted,
            needs=rules.Operation.HISTORY,
            tag="attachments",
            params=(params.LIMIT, params.AFTER, params.BEFORE),
            gives=(Gives(200, "Some of them, without their bytes.", DeletedPage),),
            about="Files that are there are listed at their records.",
        )
    )
    gone = (Gives(204, "Done."),)
    add(
        Operation(
            "DELETE",
            "/attachments/{id}",
            "deleteFile",
            "Put a file into the recycle bin",
            does=_deleting,
            gives=gone,
            writes=True,
            **common,
        )
    )
    add(
        Operation(
            "POST",
            "/attachments/{id}/restore",
            "restoreFile",
            "Take a file out of the recycle bin",
            does=_restoring,
            gives=gone,
            writes=True,
            **common,
        )
    )
