"""CSV exports: a list as it is filtered and sorted, whole, streamed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from fastapi import Response
from starlette.responses import StreamingResponse

from threefold.crm.api import params, reading
from threefold.crm.api.operations import Call, Does, Gives, Operation, Param, add
from threefold.crm.exchange import exports
from threefold.crm.model import asking, rules
from threefold.crm.model.asking import Asked
from threefold.crm.model.errors import Invalid
from threefold.crm.model.kinds import COMMON, KINDS, Kind

MEDIA: Final = "text/csv; charset=utf-8"
_OF_PAGES: Final = ("after", "before", "limit")


async def _rows(call: Call, kind: Kind, asked: Asked, columns: Sequence[str], *, bom: bool) -> AsyncIterator[bytes]:
    async with call.desk.read() as connection:
        async for piece in exports.export(connection, call.desk.actor, kind, asked, columns, bom=bom):
            yield piece


def _exporting(kind: Kind) -> Does:
    own = (_columns(kind), BOM)
    names = {param.name for param in own}

    async def exporting(call: Call) -> Response:
        if beyond := [name for name, _ in call.pairs if name in _OF_PAGES]:
            raise Invalid("an export is whole", dict.fromkeys(beyond, "is for pages; filter instead"))
        query = reading.query([pair for pair in call.pairs if pair[0] in names], own)
        asked = asking.parse(kind, [pair for pair in call.pairs if pair[0] not in names])
        if asked.deleted:
            rules.check(call.desk.actor, rules.Operation.HISTORY, kind.name)
        columns = exports.columns_of(kind, query.get("columns", ()))
        rows = _rows(call, kind, asked, columns, bom=query.get("bom", False))
        head = await anext(rows)  # what can be refused is refused before the answer begins

        async def whole() -> AsyncIterator[bytes]:
            yield head
            async for piece in rows:
                yield piece

        call.desk.did("exported", kind.name, query="&".join(f"{name}={value}" for name, value in call.pairs)[:500])
        headers = {
            "Content-Disposition": f'attachment; filename="{kind.name}.csv"',
            "X-Content-Type-Options": "nosniff",
        }
        return StreamingResponse(whole(), headers=headers, media_type=MEDIA)

    return exporting


def _columns(kind: Kind) -> Param:
    names = [field.name for field in (*COMMON, *kind.fields)]
    about = "Fields, in order. Without any: the id, and all that can be imported again."
    schema = {"type": "array", "items": {"type": "string", "enum": names}, "uniqueItems": True, "minItems": 1}
    return Param("columns", about, schema, lambda text: text.split(","), listed=True)


BOM: Final = Param(
    "bom",
    "True: begin with a byte order mark, for spreadsheets that know UTF-8 by it alone.",
    {"type": "boolean", "default": False},
    reading.yes_or_no,
)


def describe() -> None:
    for kind in KINDS.values():
        of_list = tuple(param for param in params.of_list(kind) if param.name not in _OF_PAGES)
        given: dict[str, Any] = {"media": MEDIA, "schema": {"type": "string"}}
        add(
            Operation(
                "GET",
                f"/exports/{kind.name}.csv",
                f"export{kind.one.capitalize()}",
                f"All {kind.name}, or those that are asked for, as CSV",
                tag="exports",
                kind=kind.name,
                does=_exporting(kind),
                needs=rules.Operation.EXPORT,
                params=(*of_list, _columns(kind), BOM),
                own_query=True,
                gives=(Gives(200, "The file.", headers=("Content-Disposition", "X-Content-Type-Options"), **given),),
                about="Cells that a spreadsheet would take for formulas get an apostrophe in front.",
            )
        )
