"""Where an administrator begins: what there is to see to, with how it stands."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from threefold.crm.cases import oversight
from threefold.crm.clocks import policies
from threefold.crm.model.kinds import CASES, PRIORITIES
from threefold.crm.pages.rendering import render
from threefold.crm.pages.staff import AtDesk, only_administrators
from threefold.crm.records import settings

router = APIRouter(include_in_schema=False)


@router.get("/admin")
async def overview(request: Request, desk: AtDesk) -> Response:
    only_administrators(desk.actor)
    async with desk.read() as connection:
        context = {
            "figures": await oversight.figures(connection),
            "office": await policies.office_of(connection),
            "settings": await settings.read(connection),
            "levels": len(CASES) * len(PRIORITIES),
            "many": oversight.MANY,
        }
    return render(request, "admin/overview.html", context)
