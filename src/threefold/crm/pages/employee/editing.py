"""Records made and changed in forms, put into the recycle bin, and persons erased.

Two people may have the same form open. Whoever saves second is shown what the first one changed, beside what they
typed themselves, and decides; nothing is overwritten unawares and nothing typed is lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request, Response

from threefold.crm.desk import Connection, Desk, Reply, Row, Tx
from threefold.crm.model import rules
from threefold.crm.model.errors import Conflict, Invalid, Stale
from threefold.crm.model.kinds import KINDS, Kind
from threefold.crm.pages import record_forms
from threefold.crm.pages.employee.record import shown
from threefold.crm.pages.rendering import answer, goes, render
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
)
from threefold.crm.records import records, related

router = APIRouter(include_in_schema=False)


@router.get("/records/{kind}/new")
async def new(request: Request, desk: AtDesk, kind: str) -> Response:
    """What is known already stands in the address: ``?account_id=...``."""
    of = kind_of(kind)
    only_staff(desk.actor)
    rules.check(desk.actor, rules.Operation.CREATE, of.name)
    fields = record_forms.editable(of, new=True)
    given = {name: text for name, text in request.query_params.items() if of.field(name) is not None}
    texts = record_forms.texts_of(fields, {each.name: each.default for each in fields}) | given
    return await _new_form(request, desk, of, texts)


@router.post("/records/{kind}")
async def create(request: Request, desk: AtDesk, kind: str) -> Response:
    """Sent by the outbox, with the id that the device has made for it; a refusal is problem+json."""
    of = kind_of(kind)
    only_staff(desk.actor)
    rules.check(desk.actor, rules.Operation.CREATE, of.name)
    texts = texts_in(await form_of(request))
    values = record_forms.values_of(record_forms.editable(of, new=True), texts, given=True)
    if texts.get("id"):
        values["id"] = texts["id"]

    async def work(tx: Tx) -> Reply:
        row = await records.create(tx, of, values)
        return goes(_after_making(of, row), f"The {of.one} is saved.")

    return answer(await desk.write(work))


def _after_making(kind: Kind, row: Row) -> str:
    """What only hangs on something else is shown there."""
    if kind.name == "prices":
        return f"/records/products/{row['product_id']}"
    if kind.name == "affiliations":
        return f"/records/contacts/{row['contact_id']}"
    if kind.name == "tasks" and row["record_id"]:
        return f"/records/{row['record_kind']}/{row['record_id']}"
    return f"/records/{kind.name}/{row['id']}"


async def _new_form(request: Request, desk: Desk, kind: Kind, texts: dict[str, str]) -> Response:
    fields = record_forms.editable(kind, new=True)
    async with desk.read() as connection:
        titles = await _titles_of(connection, kind, texts)
        chosen = await choices(connection, kind, {})
        about = await _about(connection, texts)
    context = {
        "kind": kind,
        "fields": fields,
        "texts": texts,
        "titles": titles,
        "choices": chosen,
        "errors": {},
        "about": about,
    }
    return render(request, "employee/new.html", context)


async def _about(connection: Connection, texts: Mapping[str, str]) -> str:
    """What a task is about."""
    kind = KINDS.get(texts.get("record_kind", ""))
    if kind is None or not texts.get("record_id"):
        return ""
    id_ = id_of(texts["record_id"])
    return (await related.titles(connection, {kind.name: [id_]})).get(id_, "")


@router.get("/records/{kind}/{record}/edit")
async def edit(request: Request, desk: AtDesk, kind: str, record: str) -> Response:
    of, id_ = kind_of(kind), id_of(record)
    only_staff(desk.actor)
    rules.check(desk.actor, rules.Operation.CHANGE, of.name)
    async with desk.read() as connection:
        row = await records.get(connection, desk.actor, of, id_)
    was = record_forms.texts_of(record_forms.editable(of), row)
    return await _edit_form(request, desk, of, row, was, was)


@router.get("/records/{kind}/{record}/facts")
async def facts(request: Request, desk: AtDesk, kind: str, record: str) -> Response:
    """Out of the form again, without a change."""
    of, id_ = kind_of(kind), id_of(record)
    only_staff(desk.actor)
    rules.check(desk.actor, rules.Operation.READ, of.name)
    return await shown(request, desk, of, id_, part="record-facts", answered=True)


@router.post("/records/{kind}/{record}")
async def change(request: Request, desk: AtDesk, kind: str, record: str) -> Response:
    of, id_ = kind_of(kind), id_of(record)
    only_staff(desk.actor)
    rules.check(desk.actor, rules.Operation.CHANGE, of.name)
    form = texts_in(await form_of(request))
    fields = record_forms.editable(of)
    was = record_forms.unpacked(form.get("was", ""))
    typed = {each.name: form.get(each.name, "") for each in fields}
    for each in fields:  # decided after another person was faster
        if form.get(f"take.{each.name}") == "theirs":
            typed[each.name] = was.get(each.name, "")
    version = version_of(form.get("version", ""))
    mine = record_forms.changed(fields, typed, was)
    try:
        values = record_forms.values_of(mine, typed)

        async def work(tx: Tx) -> Reply:
            row = await records.update(tx, of, id_, values, version)
            return Reply(200, str(row["version"]).encode(), "text/plain")

        reply = await desk.write(work)
    except Stale:
        return await _overtaken(request, desk, of, id_, typed, was)
    except (Invalid, Conflict) as error:
        async with desk.read() as connection:
            row = await records.get(connection, desk.actor, of, id_)
        return await _edit_form(request, desk, of, {**row, "version": version}, typed, was, error=error, status=422)
    if reply.status >= 400:
        return answer(reply)
    message = "Saved." if mine else "Nothing was changed."
    response = saying(await shown(request, desk, of, id_, part="record-facts", answered=True), message)
    response.headers["HX-Trigger-After-Settle"] = "threefold:changed"
    return response


async def _overtaken(
    request: Request, desk: Desk, kind: Kind, id_: UUID, typed: dict[str, str], was: dict[str, str]
) -> Response:
    """The form again, based on what is there now: theirs and mine side by side where both changed a field."""
    fields = record_forms.editable(kind)
    async with desk.read() as connection:
        row = await records.get(connection, desk.actor, kind, id_)
        titles = await related.titles_in(connection, kind, [row])
    now = record_forms.texts_of(fields, row)
    mine = {each.name for each in record_forms.changed(fields, typed, was)}
    theirs = {each.name for each in record_forms.changed(fields, now, was)}
    texts = {name: typed[name] if name in mine else text for name, text in now.items()}
    conflict = {
        "who": titles.get(row["updated_by"], "Somebody"),
        "at": row["updated_at"],
        "both": [each for each in fields if each.name in mine & theirs and now[each.name] != typed[each.name]],
        "only_theirs": [each for each in fields if each.name in theirs - mine],
        "now": now,
        "was": was,
    }
    return await _edit_form(request, desk, kind, row, texts, now, conflict=conflict, status=422)


async def _edit_form(
    request: Request,
    desk: Desk,
    kind: Kind,
    row: Row,
    texts: dict[str, str],
    was: dict[str, str],
    *,
    error: Invalid | Conflict | None = None,
    conflict: Mapping[str, Any] | None = None,
    status: int = 200,
) -> Response:
    async with desk.read() as connection:
        named = await related.titles_in(connection, kind, [row])
        titles = {str(id_): title for id_, title in named.items()} | await _titles_of(connection, kind, texts)
        chosen = await choices(connection, kind, {})
    context = {
        "kind": kind,
        "row": row,
        "record_path": f"/records/{kind.name}/{row['id']}",
        "fields": record_forms.editable(kind),
        "texts": texts,
        "was": record_forms.packed(was),
        "titles": titles,
        "choices": chosen,
        "errors": _errors(error),
        "conflict": conflict,
    }
    return render(request, "employee/edit.html", context, status=status)


async def _titles_of(connection: Connection, kind: Kind, texts: Mapping[str, str]) -> dict[str, str]:
    """Names for the ids that stand in a form's fields."""
    wanted: dict[str, set[UUID]] = {}
    for field in kind.fields:
        text = texts.get(field.name, "")
        if field.refers in KINDS and len(text) == 36:
            wanted.setdefault(field.refers, set()).add(id_of(text))
    found = await related.titles(connection, wanted)
    return {str(id_): title for id_, title in found.items()}


def _errors(error: Invalid | Conflict | None) -> dict[str, str]:
    """By field; under "" what is about none of them."""
    if error is None:
        return {}
    fields = error.fields if isinstance(error, Invalid) else {}
    if fields:
        return {name: sentence(what) for name, what in fields.items()}
    return {"": " ".join(filter(None, (sentence(str(error)), sentence(error.hint))))}


@router.post("/records/{kind}/{record}/delete")
async def delete(request: Request, desk: AtDesk, kind: str, record: str) -> Response:
    of, id_ = kind_of(kind), id_of(record)
    only_staff(desk.actor)
    rules.check(desk.actor, rules.Operation.DELETE, of.name)
    version = version_of(texts_in(await form_of(request)).get("version", ""))

    async def work(tx: Tx) -> Reply:
        await records.delete(tx, of, id_, version)
        undo = f"/bin/{of.name}/{id_}/restore"
        return goes(f"/records/{of.name}", f"The {of.one} is in the recycle bin.", undo=undo)

    return answer(await desk.write(work))


@router.post("/records/contacts/{record}/erase")
async def erase(request: Request, desk: AtDesk, record: str) -> Response:
    id_ = id_of(record)
    rules.check(desk.actor, rules.Operation.ERASE)
    texts = texts_in(await form_of(request))
    kind = KINDS["contacts"]
    async with desk.read() as connection:
        row = await records.get(connection, desk.actor, kind, id_, deleted=True)
    if texts.get("name", "").strip() != row["full_name"]:
        raise Invalid(
            "the name that was typed is another one",
            {"name": "type it as it stands there"},
            hint="type the name as it stands on the page",
        )

    async def work(tx: Tx) -> Reply:
        await request.app.state.erase(tx, id_, texts.get("reason", "").strip()[:200])
        return goes("/records/contacts", "The person is erased.")

    reply = await desk.write(work)
    if reply.status < 400:
        desk.did("erased", "contacts", id_)
    return answer(reply)
