"""Lists of every kind: searched, filtered, put in order, paged; and many records changed at once."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl
from uuid import UUID

from fastapi import APIRouter, Request, Response

from threefold.crm.desk import Connection, Desk, Reply, Row, Tx
from threefold.crm.model import asking, rules
from threefold.crm.model.errors import Conflict, Invalid, Stale
from threefold.crm.model.kinds import COMMON, KINDS, LINKED, Kind
from threefold.crm.pages import listing, record_forms
from threefold.crm.pages.employee.marking import tag_named
from threefold.crm.pages.rendering import answer, render
from threefold.crm.pages.staff import (
    AtDesk,
    choices,
    form_of,
    id_of,
    kind_of,
    only_staff,
    saying,
    sentence,
    texts_in,
    version_of,
    whole,
)
from threefold.crm.pages.words import plural
from threefold.crm.records import batches, records, related, views
from threefold.kernel.errors import BadInput

router = APIRouter(include_in_schema=False)


@router.get("/records/{kind}")
async def list_page(request: Request, desk: AtDesk, kind: str) -> Response:
    of = kind_of(kind)
    only_staff(desk.actor)
    rules.check(desk.actor, rules.Operation.READ, of.name)
    return await _page(request, desk, of)


async def _page(request: Request, desk: Desk, kind: Kind, wrong: Exception | None = None) -> Response:
    async with desk.read() as connection:
        context = await _context(connection, desk, kind, request)
    if wrong is not None:
        context["wrong"] = whole(wrong)
    return render(request, "employee/list.html", context)


async def _context(connection: Connection, desk: Desk, kind: Kind, request: Request) -> dict[str, Any]:
    given = request.query_params.multi_items()
    texts, path = dict(given), f"/records/{kind.name}"
    pairs = listing.pairs_of(given)
    saved = await views.views(connection, desk.actor, kind)
    view = next((row for row in saved if str(row["id"]) == texts.get("view")), None)
    wrong = None
    turned = [(name, texts[name]) for name in ("after", "before") if texts.get(name)]
    try:
        asked = asking.parse(kind, [*pairs, *turned])
        found = await records.page(connection, desk.actor, kind, asked)
    except BadInput as error:
        wrong = _of_filters(error)
        asked = asking.parse(kind, [])
        found = await records.page(connection, desk.actor, kind, asked)
    columns = _columns(kind, texts.get("columns", ""), view)
    kept = [*pairs, *([("view", str(view["id"]))] if view is not None else []), *_own_columns(texts)]
    wanted = related.referred(kind, found.rows)
    for one in asked.filters:
        field = kind.field(one.field)
        if field is not None and field.refers in KINDS and one.op in ("eq", "in"):
            values = one.value if isinstance(one.value, tuple) else (one.value,)
            wanted.setdefault(field.refers, set()).update(value for value in values if isinstance(value, UUID))
    titles = await related.titles(connection, wanted)
    return {
        "kind": kind,
        "fields": [field for field in map(kind.field, columns) if field is not None],
        "columns": columns,
        "rows": found.rows,
        "titles": titles,
        "choices": await choices(connection, kind, titles),
        "all_tags": await related.small(connection, KINDS["tags"]) if kind.name in LINKED else [],
        "asked_text": asked.text,
        "sort": asked.sort or kind.sort,
        "chips": listing.chips(kind, path, kept, titles),
        "pairs": pairs,
        "picked": dict(pairs),
        "sortable": [column for column in columns if listing.sortable(kind, column)],
        "settable": listing.settable(kind),
        "filterable": listing.filterable(kind),
        "filtered_names": {field.name for field in listing.filterable(kind)},
        "choice_pairs": lambda field: [(one, one.capitalize()) for one in field.choices],
        "comparable": listing.comparable(kind),
        "ops": listing.OPS,
        "all_fields": [*kind.fields, *(field for field in COMMON if field.name in ("created_at", "updated_at"))],
        "saved": [(row, listing.address(path, [*_asked(row), ("view", str(row["id"]))])) for row in saved],
        "view": view,
        "presets": [
            (name, listing.address(path, wanted_pairs), sorted(wanted_pairs) == sorted(pairs) and view is None)
            for name, wanted_pairs in listing.presets(kind, desk.actor.user)
        ],
        "address": listing.address(path, kept),
        "bulk_address": listing.address(f"{path}/bulk", [*kept, *turned]),
        "export_address": listing.address(
            f"/api/v1/exports/{kind.name}.csv", [*pairs, ("bom", "true"), *_own_columns(texts)]
        ),
        "clear": path,
        "sort_link": lambda by: listing.address(path, [pair for pair in kept if pair[0] != "sort"], sort=by),
        **listing.pager(path, kept, found.prev, found.next),
        "live_address": listing.address(path, [*kept, *turned]),
        "can_create": rules.allows(desk.actor, rules.Operation.CREATE, kind.name),
        "can_bulk": rules.allows(desk.actor, rules.Operation.BULK, kind.name),
        "can_export": rules.allows(desk.actor, rules.Operation.EXPORT, kind.name),
        "wrong": wrong,
    }


def _of_filters(error: BadInput) -> dict[str, str]:
    fields = error.fields if isinstance(error, Invalid) else {}
    why = "; ".join(f"{name}: {what}" for name, what in fields.items())
    return {"text": "This filter cannot be meant, so the whole list is shown.", "hint": sentence(why or str(error))}


def _columns(kind: Kind, text: str, view: Row | None) -> list[str]:
    chosen = [name for name in text.split(",") if kind.field(name)] or list(view["columns"] if view else ())
    return [kind.title, *(name for name in chosen if name != kind.title)] if chosen else list(kind.columns)


def _own_columns(texts: dict[str, str]) -> listing.Pairs:
    return [("columns", texts["columns"])] if texts.get("columns") else []


def _asked(row: Row) -> listing.Pairs:
    found = parse_qsl(row["asked"], keep_blank_values=True)
    return list(found)


@router.post("/records/{kind}/bulk")
async def bulk(request: Request, desk: AtDesk, kind: str) -> Response:
    """``do``: set:<field>, tag, untag or delete; ``item``: id:version, once for each record."""
    of = kind_of(kind)
    only_staff(desk.actor)
    rules.check(desk.actor, rules.Operation.BULK, of.name)
    form = await form_of(request)
    texts = texts_in(form)
    items = [_item(str(text)) for text in form.getlist("item")]
    does = texts.get("do", "")
    try:
        reply = await desk.write(_batch(of, does, items, texts))
    except (Invalid, Conflict, Stale) as error:
        return await _page(request, desk, of, error)
    if reply.status >= 400:
        return answer(reply)
    said = json.loads(reply.body)
    many = plural(said["records"], of.one, of.name)
    message = {"delete": f"{many} in the recycle bin.", "tag": f"{many} tagged.", "untag": f"Tag taken off {many}."}
    return saying(await _page(request, desk, of), message.get(does, f"{many} changed."), f"/batches/{said['id']}/undo")


def _batch(kind: Kind, does: str, items: list[tuple[UUID, int]], texts: dict[str, str]) -> Any:
    async def work(tx: Tx) -> Reply:
        if not items:
            raise Invalid("nothing is selected", hint="tick some records first")
        if does == "delete":
            row = await batches.delete(tx, kind, items)
        elif does in ("tag", "untag"):
            tag = await tag_named(tx, texts.get("tag", ""))
            row = await batches.tag(tx, kind, items, tag, remove=does == "untag")
        else:
            field = next((each for each in listing.settable(kind) if f"set:{each.name}" == does), None)
            if field is None:
                raise Invalid("nothing is said to be done with them", hint="choose what is to be done")
            value = record_forms.values_of([field], {field.name: texts.get(does, "")})
            row = await batches.apply(tx, kind, items, value)
        body = json.dumps({"id": str(row["id"]), "records": row["records"]}).encode()
        return Reply(200, body)

    return work


def _item(text: str) -> tuple[UUID, int]:
    record, _, version = text.partition(":")
    return id_of(record), version_of(version)


@router.post("/batches/{batch}/undo")
async def undo(request: Request, desk: AtDesk, batch: str) -> Response:
    only_staff(desk.actor)
    rules.check(desk.actor, rules.Operation.BULK)
    id_ = id_of(batch)
    await request.body()

    async def work(tx: Tx) -> Reply:
        row = await batches.undo(tx, id_)
        left = len(row["left_over"] or ())
        message = f"Undone, except {plural(left, 'record')} that somebody changed since." if left else "Undone."
        return Reply(200, json.dumps({"message": message}).encode())

    return answer(await desk.write(work))
