"""People: who works here and which customers may come in, what they may do, and the devices they do it on."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request, Response

from threefold.crm.cases import oversight
from threefold.crm.desk import Desk, Reply, Tx
from threefold.crm.model.errors import Conflict, Invalid, Stale
from threefold.crm.model.kinds import KINDS
from threefold.crm.pages import listing
from threefold.crm.pages.rendering import answer, render
from threefold.crm.pages.staff import (
    AtDesk,
    form_of,
    id_of,
    only_administrators,
    saying,
    sentence,
    texts_in,
    version_of,
    whole,
)
from threefold.crm.records import records, related

router = APIRouter(include_in_schema=False)
USERS = KINDS["users"]


@router.get("/admin/people")
async def people(request: Request, desk: AtDesk) -> Response:
    only_administrators(desk.actor)
    async with desk.read() as connection:
        context = {
            "people": await related.users(connection),
            "teams": await related.small(connection, KINDS["teams"]),
        }
    return render(request, "admin/people.html", context)


@router.get("/admin/customers")
async def customers(request: Request, desk: AtDesk, q: str = "", after: str = "", before: str = "") -> Response:
    only_administrators(desk.actor)
    text = q.strip()[:200]
    async with desk.read() as connection:
        found = await oversight.customers(connection, text, after or None, before=before or None)
    pairs = [("q", text)] if text else []
    context = {
        "people": found.rows,
        "text": text,
        **listing.pager("/admin/customers", pairs, found.prev, found.next),
    }
    return render(request, "admin/customers.html", context)


@router.get("/admin/people/{record}")
async def person(request: Request, desk: AtDesk, record: str) -> Response:
    only_administrators(desk.actor)
    id_ = id_of(record)
    desk.saw("users", id_)
    return await _person(request, desk, id_)


async def _person(
    request: Request, desk: Desk, id_: UUID, *, error: Exception | None = None, texts: dict[str, str] | None = None
) -> Response:
    """After a refused change: what was typed stays, based on what is there now, so that saving again is meant."""
    async with desk.read() as connection:
        row = await records.get(connection, desk.actor, USERS, id_, deleted=True)
        titles = await related.titles_in(connection, USERS, [row])
        teams = await related.small(connection, KINDS["teams"])
    fields = error.fields if isinstance(error, Invalid) else {}
    context: dict[str, Any] = {
        "row": row,
        "titles": titles,
        "teams": teams,
        "texts": texts or {},
        "may_sign_in": texts.get("active") == "true" if texts is not None else row["active"],
        "errors": {name: sentence(what) for name, what in fields.items()},
        "wrong": whole(error) if error is not None and not fields else None,
        "myself": row["id"] == desk.actor.user,
    }
    block = "person_form" if request.method == "POST" else ""
    return render(request, "admin/person.html", context, status=422 if error else 200, block=block)


@router.post("/admin/people/{record}")
async def change(request: Request, desk: AtDesk, record: str) -> Response:
    """Nobody takes their own rights or their own way in: somebody else has to be left who can undo it."""
    only_administrators(desk.actor)
    id_ = id_of(record)
    texts = texts_in(await form_of(request))
    try:
        async with desk.read() as connection:
            row = await records.get(connection, desk.actor, USERS, id_)
        changes: dict[str, Any] = {name: texts.get(name, "").strip() for name in ("full_name", "email")}
        changes["active"] = texts.get("active") == "true"
        if row["role"] != "customer":
            team = texts.get("team_id")
            changes |= {"role": texts.get("role", row["role"]), "team_id": id_of(team) if team else None}
        if id_ == desk.actor.user and (changes.get("role") != "administrator" or not changes["active"]):
            raise Conflict("you cannot take your own rights", hint="another administrator can")

        async def work(tx: Tx) -> Reply:
            await records.update(tx, USERS, id_, changes, version_of(texts.get("version", "")))
            return Reply(204)

        reply = await desk.write(work)
    except (Invalid, Conflict, Stale) as error:
        return await _person(request, desk, id_, error=error, texts=texts)
    if reply.status >= 400:
        return answer(reply)
    return saying(await _person(request, desk, id_), "Saved.")
