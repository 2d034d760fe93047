"""The recycle bin: what was deleted, by whom, and back again with all that went with it."""

from __future__ import annotations

import json
from typing import Final
from uuid import UUID

from fastapi import APIRouter, Request, Response

from threefold.crm.desk import Desk, Reply, Tx
from threefold.crm.model import rules
from threefold.crm.model.asking import Asked
from threefold.crm.model.kinds import KINDS, LINKED, Kind
from threefold.crm.pages import listing
from threefold.crm.pages.rendering import answer, goes, render
from threefold.crm.pages.staff import AtDesk, id_of, kind_of, only_staff
from threefold.crm.records import attachments, records, related

router = APIRouter(include_in_schema=False)
SHOWN: Final = (
    "contacts",
    "accounts",
    "queries",
    "requests",
    "deals",
    "tasks",
    "products",
    "interactions",
    "affiliations",
)
FOR_ADMINISTRATORS: Final = ("users", "teams", "policies")


@router.get("/bin")
async def recycle_bin(
    request: Request, desk: AtDesk, kind: str = "contacts", after: str = "", before: str = ""
) -> Response:
    of = kind_of(kind)
    only_staff(desk.actor)
    rules.check(desk.actor, rules.Operation.HISTORY, of.name)
    async with desk.read() as connection:
        asked = Asked(sort="-deleted_at", after=after or None, before=before or None, deleted=True)
        found = await records.page(connection, desk.actor, of, asked)
        titles = await related.titles_in(connection, of, found.rows)
    context = {
        "kind": of,
        "kinds": _kinds(desk),
        "rows": found.rows,
        "titles": titles,
        "can_restore": rules.allows(desk.actor, rules.Operation.DELETE, of.name),
        **listing.pager("/bin", [("kind", of.name)], found.prev, found.next),
    }
    return render(request, "employee/bin.html", context)


@router.get("/bin/files")
async def deleted_files(request: Request, desk: AtDesk, after: str = "", before: str = "") -> Response:
    """Files that were taken away; each with the record that it belongs to, which may be in the bin itself."""
    only_staff(desk.actor)
    async with desk.read() as connection:
        rows, prev, following = await attachments.deleted(connection, desk.actor, after or None, before or None)
        wanted: dict[str, set[UUID]] = {}
        for row in rows:
            wanted.setdefault(row["record_kind"], set()).add(row["record_id"])
        titles = await related.titles(connection, wanted)
    context = {
        "kind": None,
        "kinds": _kinds(desk),
        "rows": rows,
        "titles": titles,
        "can_restore": {name: rules.allows(desk.actor, rules.Operation.ATTACH, name) for name in LINKED},
        **listing.pager("/bin/files", [], prev, following),
    }
    return render(request, "employee/bin_files.html", context)


def _kinds(desk: Desk) -> list[Kind]:
    return [KINDS[name] for name in SHOWN + (FOR_ADMINISTRATORS if desk.actor.is_administrator else ())]


@router.post("/bin/{kind}/{record}/restore")
async def restore(request: Request, desk: AtDesk, kind: str, record: str, goto: str = "") -> Response:
    of, id_ = kind_of(kind), id_of(record)
    only_staff(desk.actor)
    rules.check(desk.actor, rules.Operation.DELETE, of.name)
    await request.body()
    to = f"/records/{of.name}/{id_}"

    async def work(tx: Tx) -> Reply:
        await records.restore(tx, of, id_)
        message = f"The {of.one} is back, with all that went with it."
        return (
            goes(to, message) if goto == "record" else Reply(200, json.dumps({"message": message, "goto": to}).encode())
        )

    reply = await desk.write(work)
    if goto == "list" and reply.status < 400:
        return answer(goes(f"/bin?kind={of.name}", json.loads(reply.body)["message"]))
    return answer(reply)
