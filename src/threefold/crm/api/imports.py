"""CSV imports: upload and try, then take in - all rows or none - and look how far it is.

Small files are taken in by the request that brings them. Large ones are uploaded with ``dry_run=true`` and then
started: the answer comes at once, and progress is read with GET.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import Response
from pydantic import Field as Constraint

from threefold.crm.api import models, params, reading, replies, uploads
from threefold.crm.api.models import Given, Sent
from threefold.crm.api.operations import Body, Call, Does, Gives, Operation, Param, Raw, add
from threefold.crm.desk import Reply, Row, Tx
from threefold.crm.exchange import csv_reading, import_rules, imports
from threefold.crm.model import rules
from threefold.crm.model.errors import Invalid
from threefold.crm.model.kinds import KINDS, Kind

MOST: Final = csv_reading.Limits().size
FAULTS_SAID: Final = 50  # in a refusal; a dry run says a thousand
TABS: Final = {"comma": ",", "semicolon": ";", "tab": "\t", "bar": "|"}


class Map(Sent):
    """How it is to be read; what is left out stays as it was guessed, or said before."""

    mapping: Annotated[
        dict[str, Annotated[str, Constraint(max_length=60)]] | None,
        Constraint(
            default=None,
            max_length=csv_reading.COLUMNS_MOST,
            description="Column: field. An empty field leaves the column out.",
        ),
    ]
    duplicates: Annotated[
        str | None,
        Constraint(
            default=None,
            pattern=f"^({'|'.join(import_rules.POLICIES)})$",
            description="What becomes of a row whose record is there already.",
        ),
    ]


class Fault(Given):
    """What is wrong with one row; the header is row 1. It never quotes the cell."""

    row: int
    column: str
    what: str
    hint: str


class Listed(Given):
    id: UUID
    kind: str
    filename: str
    status: Literal["uploaded", "checked", "running", "done", "refused", "failed", "cancelled"]
    encoding: str
    delimiter: str
    header: list[str]
    mapping: dict[str, str]
    duplicates: str
    rows: int
    done: Annotated[int, Constraint(description="Of the rows, so far.")]
    created: int
    updated: int
    skipped: int
    faulty: int
    created_at: datetime
    created_by: UUID | None
    finished_at: datetime | None


class Import(Listed):
    faults: Annotated[list[Fault], Constraint(description="The first thousand.")]


class Imports(Given):
    items: list[Listed]


def _refused(row: Row) -> Invalid:
    wrong: dict[str, str] = {}
    for fault in row["faults"][:FAULTS_SAID]:
        place = f"row {fault['row']}" + (f", {fault['column']}" if fault["column"] else "")
        wrong.setdefault(place, fault["what"])
    return Invalid(
        f"{row['faulty']} of {row['rows']} rows cannot be taken in, so none was",
        wrong,
        hint="mend them and send the file again; dry_run=true tells of all",
    )


def _uploading(kind: Kind) -> Does:
    async def uploading(call: Call) -> Response:
        sent, query = await uploads.read(call.request, MOST, also=("text/csv",)), call.query
        name = query.get("name") or sent.name or f"{kind.name}.csv"

        async def work(tx: Tx) -> Reply:
            row = await imports.upload(
                tx,
                kind,
                name,
                sent.data,
                encoding=query.get("encoding", ""),
                delimiter=TABS.get(query.get("delimiter", ""), ""),
            )
            if query.get("dry_run"):
                row = await imports.dry_run(tx, row["id"], duplicates=query.get("duplicates"))
            else:
                row = await imports.run(tx, row["id"], duplicates=query.get("duplicates"))
                if row["status"] == "refused":
                    raise _refused(row)
            return replies.value(row, status=201, headers={"Location": f"{replies.PREFIX}/imports/{row['id']}"})

        return replies.response(await call.desk.write(work))

    return uploading


async def _listing(call: Call) -> Response:
    async with call.desk.read() as connection:
        rows = await imports.imports(connection, call.desk.actor, call.query.get("limit", 50))
    return replies.response(replies.value({"items": rows}))


async def _reading(call: Call) -> Response:
    async with call.desk.read() as connection:
        row = await imports.get(connection, call.desk.actor, call.id)
    return replies.response(replies.value(row))


async def _trying(call: Call) -> Response:
    said = models.sent(call.body) if call.body is not None else {}

    async def work(tx: Tx) -> Reply:
        row = await imports.dry_run(tx, call.id, said.get("mapping"), said.get("duplicates"))
        return replies.value(row)

    return replies.response(await call.desk.write(work))


async def _starting(call: Call) -> Response:
    run: Any = call.request.app.state.run_import
    async with call.desk.read() as connection:
        row = await imports.get(connection, call.desk.actor, call.id)
    rules.check(call.desk.actor, rules.Operation.BULK, row["kind"])
    imports.start(run, call.desk.actor, call.id)
    return replies.response(replies.value(row, status=202))


async def _cancelling(call: Call) -> Response:
    async def work(tx: Tx) -> Reply:
        return replies.value(await imports.cancel(tx, call.id))

    return replies.response(await call.desk.write(work))


def _choice(name: str, about: str, *choices: str) -> Param:
    return Param(name, about, {"type": "string", "enum": list(choices)}, reading.one_of(*choices))


UPLOAD: Final = (
    Param("dry_run", "True: only say what would be.", {"type": "boolean", "default": False}, reading.yes_or_no),
    params.NAME,
    _choice("encoding", "Where the file does not say it itself.", *csv_reading.ENCODINGS),
    _choice("delimiter", "Where it cannot be told from the file.", *TABS),
)
CSV: Final = Raw(
    {
        "text/csv": {"type": "string", "minLength": 1},
        "application/octet-stream": uploads.AS_BYTES,
        uploads.FORM: uploads.AS_FORM,
    },
    f"The file, of at most {MOST // 2**20} MiB: itself, or as the part `file` of a form. Its first row names columns.",
)


def _describe(kind: Kind) -> None:
    # A SKU is one product's: a second record of it cannot be.
    policies = [each for each in import_rules.POLICIES if (kind.name, each) != ("products", "create")]
    duplicates = _choice("duplicates", "What becomes of a row whose record is there already.", *policies)
    add(
        Operation(
            "POST",
            f"/imports/{kind.name}",
            f"import{kind.one.capitalize()}",
            f"Take {kind.name} in from a CSV file, all rows or none",
            tag="imports",
            kind=kind.name,
            does=_uploading(kind),
            needs=rules.Operation.BULK,
            takes=CSV,
            params=(*UPLOAD, duplicates),
            gives=(Gives(201, "Taken in, and saved; or, of a dry run, what would be.", Import, headers=("Location",)),),
            writes=True,
            about="422 says what is wrong with which row. With `dry_run=true` the file is kept: change the mapping "
            "with POST /imports/{id}/check, then POST /imports/{id}/run.",
        )
    )


def describe() -> None:
    for name in import_rules.IMPORTED:
        _describe(KINDS[name])
    common: dict[str, Any] = {"tag": "imports", "needs": rules.Operation.BULK}
    one = (Gives(200, "The import.", Import),)
    listed = (Gives(200, "Imports, without their faults.", Imports),)
    limit = (params.LIMIT,)
    add(
        Operation(
            "GET", "/imports", "listImports", "The newest first", does=_listing, params=limit, gives=listed, **common
        )
    )
    add(Operation("GET", "/imports/{id}", "readImport", "How far it is", does=_reading, gives=one, **common))
    add(
        Operation(
            "POST",
            "/imports/{id}/check",
            "checkImport",
            "Try it again, read in another way",
            does=_trying,
            takes=Body(Map, optional=True),
            gives=one,
            writes=True,
            **common,
        )
    )
    add(
        Operation(
            "POST",
            "/imports/{id}/run",
            "runImport",
            "Take it in, as it was last tried",
            does=_starting,
            gives=(Gives(202, "Begun; see how far it is with GET.", Import),),
            **common,
        )
    )
    add(
        Operation(
            "POST",
            "/imports/{id}/cancel",
            "cancelImport",
            "Forget the file",
            does=_cancelling,
            gives=one,
            writes=True,
            **common,
        )
    )
