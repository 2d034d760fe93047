"""Service levels: how soon a case of each priority is answered and resolved, and when somebody is there."""

from __future__ import annotations

from datetime import time
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from threefold.crm import policies, records, related
from threefold.crm.asking import Asked
from threefold.crm.desk import Desk, Reply, Tx
from threefold.crm.errors import Invalid
from threefold.crm.kinds import CASES, KINDS, PRIORITIES
from threefold.crm.pages.rendering import answer, render
from threefold.crm.pages.staff import AtDesk, form_of, only_administrators, saying, sentence
from threefold.crm.sla import Office

router = APIRouter(include_in_schema=False)
DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@router.get("/admin/policies")
async def service_levels(request: Request, desk: AtDesk) -> Response:
    only_administrators(desk.actor)
    return await _page(request, desk)


async def _page(request: Request, desk: Desk, error: Invalid | None = None, typed: dict[str, Any] | None = None) -> Response:
    async with desk.read() as connection:
        found = await records.page(connection, desk.actor, KINDS["policies"], Asked(sort="name", limit=200))
        office = await policies.office_of(connection)
        teams = dict(await related.small(connection, KINDS["teams"]))
    by = {(row["record_kind"], row["priority"]): row for row in found.rows}
    shown: dict[str, Any] = {
        "zone": office.zone,
        "opens": f"{office.opens:%H:%M}",
        "closes": f"{office.closes:%H:%M}",
        "days": list(office.days),
    }
    context = {
        "tables": [
            (KINDS[kind], [(number, name, by.get((kind, number)), policies.DEFAULTS[number]) for number, name in PRIORITIES.items()])
            for kind in CASES
        ],
        "teams": teams,
        "office": typed or shown,
        "days": list(enumerate(DAYS)),
        "errors": {name: sentence(what) for name, what in error.fields.items()} if error else {},
    }
    block = "office_form" if request.method == "POST" else ""
    return render(request, "admin/policies.html", context, status=422 if error else 200, block=block)


@router.post("/admin/office")
async def office(request: Request, desk: AtDesk) -> Response:
    only_administrators(desk.actor)
    form = await form_of(request)
    days = sorted({int(str(text)) for text in form.getlist("day") if str(text) in set("0123456")})
    typed = {name: str(form.get(name, "")) for name in ("zone", "opens", "closes")} | {"days": days}
    try:
        hours = Office(str(typed["zone"]).strip(), _time(typed, "opens"), _time(typed, "closes"), tuple(days))

        async def work(tx: Tx) -> Reply:
            await policies.set_office(tx, hours)
            return Reply(204)

        reply = await desk.write(work)
    except Invalid as error:
        return await _page(request, desk, error, typed)
    return answer(reply) if reply.status >= 400 else saying(await _page(request, desk), "The office hours are saved.")


def _time(typed: dict[str, Any], name: str) -> time:
    try:
        return time.fromisoformat(typed[name])
    except ValueError:
        raise Invalid("this is no time of day", {name: "it is written like 09:00"}) from None
