"""People: who works here, what they may do, and the devices they do it on."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request, Response

from threefold.crm import records, related
from threefold.crm.desk import Desk, Reply, Tx
from threefold.crm.errors import Conflict, Invalid, Stale
from threefold.crm.kinds import KINDS
from threefold.crm.pages.rendering import answer, render
from threefold.crm.pages.staff import AtDesk, form_of, id_of, only_administrators, saying, sentence, texts_in

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


@router.get("/admin/people/{record}")
async def person(request: Request, desk: AtDesk, record: str) -> Response:
    only_administrators(desk.actor)
    return await _person(request, desk, id_of(record))


async def _person(
    request: Request, desk: Desk, id_: UUID, *, error: Exception | None = None, texts: dict[str, str] | None = None
) -> Response:
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
        "errors": {name: sentence(what) for name, what in fields.items()},
        "wrong": "" if error is None or fields else sentence(str(error)) + " " + sentence(getattr(error, "hint", "")),
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
    changes: dict[str, Any] = {name: texts.get(name, "") for name in ("full_name", "email")}
    try:
        async with desk.read() as connection:
            row = await records.get(connection, desk.actor, USERS, id_)
        if row["role"] != "customer":
            changes |= {
                "role": texts.get("role", row["role"]),
                "team_id": id_of(texts["team_id"]) if texts.get("team_id") else None,
            }
        changes["active"] = texts.get("active") == "true"
        if id_ == desk.actor.user and (changes.get("role") != "administrator" or not changes["active"]):
            raise Conflict("you cannot take your own rights", hint="another administrator can")
        version = texts.get("version", "")

        async def work(tx: Tx) -> Reply:
            await records.update(tx, USERS, id_, changes, int(version) if version.isdigit() else None)
            return Reply(204)

        reply = await desk.write(work)
    except (Invalid, Conflict, Stale) as error:
        return await _person(request, desk, id_, error=error, texts=texts)
    if reply.status >= 400:
        return answer(reply)
    return saying(await _person(request, desk, id_), "Saved.")
