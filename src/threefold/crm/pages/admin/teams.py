"""Teams and who is in them."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from threefold.crm.model.asking import Asked
from threefold.crm.model.kinds import KINDS
from threefold.crm.pages.rendering import render
from threefold.crm.pages.staff import AtDesk, only_administrators
from threefold.crm.records import records, related

router = APIRouter(include_in_schema=False)


@router.get("/admin/teams")
async def teams(request: Request, desk: AtDesk) -> Response:
    only_administrators(desk.actor)
    async with desk.read() as connection:
        found = await records.page(connection, desk.actor, KINDS["teams"], Asked(sort="name", limit=200))
        staff = await related.staff(connection)
    members = {row["id"]: [one for one in staff if one["team_id"] == row["id"]] for row in found.rows}
    nowhere = [one for one in staff if one["team_id"] not in members]
    context = {"teams": found.rows, "members": members, "nowhere": nowhere}
    return render(request, "admin/teams.html", context)
