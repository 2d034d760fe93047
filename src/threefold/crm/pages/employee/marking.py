"""Small marks on a record: its tags, and whether a task is done."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter, Request, Response

from threefold.crm.desk import Row, Tx
from threefold.crm.model import rules
from threefold.crm.model.asking import Asked, Filter
from threefold.crm.model.errors import Conflict, Invalid
from threefold.crm.model.kinds import KINDS
from threefold.crm.pages.employee.answering import done
from threefold.crm.pages.employee.record import shown
from threefold.crm.pages.staff import AtDesk, form_of, id_of, kind_of, only_staff, sentence, texts_in
from threefold.crm.records import records, related

router = APIRouter(include_in_schema=False)


async def tag_named(tx: Tx, name: str) -> UUID:
    """The tag of that name; made if there is none yet."""
    wanted = " ".join(name.split())
    if not wanted:
        raise Invalid("the tag has no name", {"name": "it has to be given"}, hint="type one, or choose one")
    tags = KINDS["tags"]
    found = await related.tag_called(tx.connection, wanted)
    if found is not None:
        return found
    made: UUID = (await records.create(tx, tags, {"name": wanted}))["id"]
    return made


@router.post("/records/{kind}/{record}/tag")
async def tag(request: Request, desk: AtDesk, kind: str, record: str) -> Response:
    of, id_ = kind_of(kind), id_of(record)
    only_staff(desk.actor)
    rules.check(desk.actor, rules.Operation.CHANGE, of.name)
    name = texts_in(await form_of(request)).get("name", "")

    async def does(tx: Tx) -> Row:
        tag_id = await tag_named(tx, name)
        return await records.create(tx, KINDS["taggings"], {"tag_id": tag_id, "record_kind": of.name, "record_id": id_})

    try:
        return await done(request, desk, of, id_, does, "record-tags", "Tagged.")
    except (Invalid, Conflict) as error:
        fields = error.fields if isinstance(error, Invalid) else {}
        errors = {"name": sentence(fields.get("name", "") or str(error))}
        return await shown(request, desk, of, id_, part="record-tags", status=422, errors=errors)


@router.post("/records/{kind}/{record}/untag")
async def untag(request: Request, desk: AtDesk, kind: str, record: str) -> Response:
    of, id_ = kind_of(kind), id_of(record)
    only_staff(desk.actor)
    rules.check(desk.actor, rules.Operation.CHANGE, of.name)
    tagging = id_of(texts_in(await form_of(request)).get("tagging", ""))

    async def does(tx: Tx) -> Row:
        mine = Asked((Filter("record_id", "eq", id_), Filter("id", "eq", tagging)))
        rows = (await records.page(tx.connection, tx.actor, KINDS["taggings"], mine)).rows
        if rows:  # somebody else may have been faster
            await records.delete(tx, KINDS["taggings"], tagging, None)
        return {}

    return await done(request, desk, of, id_, does, "record-tags", "Tag taken off.")


@router.post("/records/tasks/{record}/done")
async def task_done(request: Request, desk: AtDesk, record: str) -> Response:
    tasks, id_ = KINDS["tasks"], id_of(record)
    only_staff(desk.actor)
    rules.check(desk.actor, rules.Operation.CHANGE, tasks.name)
    is_done = texts_in(await form_of(request)).get("done") == "true"

    async def does(tx: Tx) -> Row:
        return await records.update(tx, tasks, id_, {"done_at": tx.now if is_done else None}, None)

    return await done(request, desk, tasks, id_, does, "record-facts", "Done." if is_done else "To do again.")
