"""Files at a record: put there, fetched, taken away."""

from __future__ import annotations

from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from starlette.datastructures import UploadFile

from threefold.crm.desk import Reply, Row, Tx
from threefold.crm.model import rules
from threefold.crm.model.errors import Invalid
from threefold.crm.pages.employee.answering import done
from threefold.crm.pages.employee.record import shown
from threefold.crm.pages.rendering import answer, goes
from threefold.crm.pages.staff import AtDesk, form_of, id_of, kind_of, only_staff, sentence, texts_in
from threefold.crm.records import attachments

router = APIRouter(include_in_schema=False)


@router.post("/records/{kind}/{record}/files")
async def put(request: Request, desk: AtDesk, kind: str, record: str) -> Response:
    of, id_ = kind_of(kind), id_of(record)
    only_staff(desk.actor)
    rules.check(desk.actor, rules.Operation.ATTACH, of.name)
    file = (await form_of(request)).get("file")
    if not isinstance(file, UploadFile):
        raise Invalid("there is no file", {"file": "choose one"}, hint="choose a file first")
    data = await file.read(attachments.SIZE_MOST + 1)

    async def does(tx: Tx) -> Row:
        return await attachments.put(tx, of, id_, file.filename or "file", file.content_type or "", data)

    try:
        return await done(request, desk, of, id_, does, "record-files", "The file is kept.")
    except Invalid as error:
        errors = {"file": sentence(error.fields.get("file", "") or str(error))}
        return await shown(request, desk, of, id_, part="record-files", status=422, errors=errors)


@router.get("/files/{attachment}")
async def fetch(desk: AtDesk, attachment: str) -> Response:
    """Always as a download: it is what a stranger sent."""
    id_ = id_of(attachment)
    async with desk.read() as connection:
        row, data = await attachments.get(connection, desk.actor, id_)
    desk.saw(row["record_kind"], row["record_id"])
    headers = {
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(row['name'], safe='')}",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
    }
    return Response(data, media_type=row["media_type"], headers=headers)


@router.post("/files/{attachment}/remove")
async def remove(request: Request, desk: AtDesk, attachment: str) -> Response:
    only_staff(desk.actor)
    texts = texts_in(await form_of(request))
    of, id_ = kind_of(texts.get("kind", "")), id_of(texts.get("record", ""))
    rules.check(desk.actor, rules.Operation.ATTACH, of.name)
    file = id_of(attachment)

    async def does(tx: Tx) -> Row:
        await attachments.delete(tx, file)
        return {}

    return await done(request, desk, of, id_, does, "record-files", "The file is in the recycle bin.")


@router.post("/files/{attachment}/restore")
async def restore(request: Request, desk: AtDesk, attachment: str) -> Response:
    """From its record's page, which shows it again; or from the recycle bin (`goto=bin`), which is shown anew."""
    only_staff(desk.actor)
    texts = texts_in(await form_of(request))
    file = id_of(attachment)

    async def does(tx: Tx) -> Row:
        await attachments.restore(tx, file)
        return {}

    if texts.get("goto") == "bin":

        async def work(tx: Tx) -> Reply:
            await does(tx)
            return goes("/bin/files", "The file is back at its record.")

        return answer(await desk.write(work))
    of, id_ = kind_of(texts.get("kind", "")), id_of(texts.get("record", ""))
    return await done(request, desk, of, id_, does, "record-files", "The file is back.")
