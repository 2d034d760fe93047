"""CSV imports, step by step: a file, what its columns mean, a try without writing, and all of it or nothing."""

from __future__ import annotations

import asyncio
from typing import Final
from uuid import UUID

from fastapi import APIRouter, Request, Response
from starlette.datastructures import UploadFile

from threefold.crm.desk import Desk, Reply, Row, Tx
from threefold.crm.exchange import csv_reading, import_rules, imports
from threefold.crm.model import rules
from threefold.crm.model.errors import Conflict, Invalid
from threefold.crm.model.kinds import KINDS
from threefold.crm.pages.rendering import answer, goes, render
from threefold.crm.pages.staff import AtDesk, form_of, id_of, kind_of, only_staff, texts_in, whole
from threefold.crm.records import related
from threefold.kernel.errors import ThreefoldError

router = APIRouter(include_in_schema=False)
FAULTS_SHOWN: Final = 200
POLICIES: Final = {
    "skip": ("Leave it as it is", "The row is passed over."),
    "update": ("Bring it up to date", "What the row says replaces what is there."),
    "refuse": ("Count it as a fault", "Nothing is imported until it is out of the file."),
    "create": ("Make a second one", "Duplicates can be found and merged later."),
}
_SETTLED: Final = ("done", "refused", "failed", "cancelled")


@router.get("/import")
async def start(request: Request, desk: AtDesk, kind: str = "contacts") -> Response:
    return await _start(request, desk, kind)


async def _start(request: Request, desk: Desk, kind: str, error: ThreefoldError | None = None) -> Response:
    only_staff(desk.actor)
    rules.check(desk.actor, rules.Operation.BULK)
    async with desk.read() as connection:
        lately = await imports.imports(connection, desk.actor, 20)
        people = await related.titles(connection, {"users": {row["created_by"] for row in lately if row["created_by"]}})
    context = {
        "kinds": [KINDS[name] for name in import_rules.IMPORTED],
        "chosen": kind,
        "lately": lately,
        "people": people,
        "encodings": csv_reading.ENCODINGS,
        "megabytes": csv_reading.Limits().size // 2**20,
        "wrong": whole(error) if error else None,
    }
    return render(request, "employee/import_start.html", context, status=422 if error else 200)


@router.post("/import")
async def upload(request: Request, desk: AtDesk) -> Response:
    only_staff(desk.actor)
    form = await form_of(request)
    texts, file = texts_in(form), form.get("file")
    kind = kind_of(texts.get("kind", ""))
    rules.check(desk.actor, rules.Operation.BULK, kind.name)
    try:
        if not isinstance(file, UploadFile) or not file.filename:
            raise Invalid("there is no file yet", hint="choose a CSV file first")
        data = await file.read(csv_reading.Limits().size + 1)
        name = file.filename

        async def work(tx: Tx) -> Reply:
            row = await imports.upload(tx, kind, name, data, encoding=texts.get("encoding", ""))
            return goes(f"/import/{row['id']}")

        return answer(await desk.write(work))
    except Invalid as error:
        return await _start(request, desk, kind.name, error)


@router.get("/import/{record}")
async def look(request: Request, desk: AtDesk, record: str, started: int = 0) -> Response:
    only_staff(desk.actor)
    return await _look(request, desk, id_of(record), started=started)


async def _look(
    request: Request, desk: Desk, id_: UUID, *, started: int = 0, error: ThreefoldError | None = None
) -> Response:
    async with desk.read() as connection:
        row = await imports.get(connection, desk.actor, id_)
        over = row["status"] in ("done", "cancelled")
        sample = [] if over else await imports.preview(connection, desk.actor, id_, 4)
    kind = KINDS[row["kind"]]
    running = row["status"] == "running" or (started > 0 and row["status"] not in _SETTLED)
    context = {
        "row": row,
        "kind": kind,
        "columns": [
            (at, name, [cells[at] if at < len(cells) else "" for cells in sample])
            for at, name in enumerate(row["header"])
        ],
        "targets": [(name, field.title) for name, field in import_rules.targets(kind).items()],
        "required": [
            field.title for field in import_rules.targets(kind).values() if field.name in import_rules.required(kind)
        ],
        "policies": POLICIES,
        "running": running,
        "started": started + 1,
        "faults": row["faults"][:FAULTS_SHOWN],
        "step": 4
        if row["status"] == "done" or running
        else 3
        if row["status"] in ("checked", "refused", "failed")
        else 2,
        "wrong": whole(error) if error else None,
    }
    return render(
        request,
        "employee/import.html",
        context,
        status=422 if error else 200,
        block="import_body" if request.method == "POST" else "",
    )


@router.post("/import/{record}/check")
async def check(request: Request, desk: AtDesk, record: str) -> Response:
    """``map.<number>``: the field that a column is for; nothing leaves the column out."""
    id_ = id_of(record)
    only_staff(desk.actor)
    texts = texts_in(await form_of(request))
    async with desk.read() as connection:
        row = await imports.get(connection, desk.actor, id_)
    mapping = {name: texts.get(f"map.{at}", "") for at, name in enumerate(row["header"])}

    async def work(tx: Tx) -> Reply:
        await imports.dry_run(tx, id_, mapping, texts.get("duplicates") or None)
        return Reply(204)

    try:
        reply = await desk.write(work)
    except (Invalid, Conflict) as error:
        return await _look(request, desk, id_, error=error)
    return answer(reply) if reply.status >= 400 else await _look(request, desk, id_)


@router.post("/import/{record}/run")
async def run(request: Request, desk: AtDesk, record: str) -> Response:
    id_ = id_of(record)
    only_staff(desk.actor)
    await form_of(request)
    async with desk.read() as connection:
        row: Row = await imports.get(connection, desk.actor, id_)
    rules.check(desk.actor, rules.Operation.BULK, row["kind"])
    if row["status"] not in ("done", "running"):
        task = imports.start(request.app.state.run_import, desk.actor, id_)
        await asyncio.wait({task}, timeout=1.5)  # a small file is done with this answer
    return await _look(request, desk, id_, started=1)


@router.post("/import/{record}/cancel")
async def cancel(request: Request, desk: AtDesk, record: str) -> Response:
    id_ = id_of(record)
    only_staff(desk.actor)
    await form_of(request)

    async def work(tx: Tx) -> Reply:
        await imports.cancel(tx, id_)
        return goes("/import", "The file is forgotten.")

    return answer(await desk.write(work))
