"""Service levels: how soon a case of each priority is answered and resolved, and when somebody is there.

Each line is changed where it stands. One that nobody made a policy for shows the house's default.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import time
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from threefold.crm.clocks import policies
from threefold.crm.clocks.sla import Office
from threefold.crm.desk import Connection, Desk, Reply, Row, Tx
from threefold.crm.model.asking import Asked
from threefold.crm.model.errors import Conflict, Invalid, Stale
from threefold.crm.model.kinds import CASES, KINDS, PRIORITIES
from threefold.crm.pages.rendering import answer, render
from threefold.crm.pages.spans import minutes_of, span
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
from threefold.kernel.errors import NotThere

router = APIRouter(include_in_schema=False)
POLICIES: Final = KINDS["policies"]
DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_TIMES: Final = ("first_response_minutes", "resolution_minutes")


@router.get("/admin/policies")
async def service_levels(request: Request, desk: AtDesk) -> Response:
    only_administrators(desk.actor)
    return await _page(request, desk)


async def _page(
    request: Request, desk: Desk, error: Exception | None = None, typed: dict[str, Any] | None = None
) -> Response:
    """After a refused change: what was typed stays, based on what is there now, so that saving again is meant."""
    async with desk.read() as connection:
        made = await _made(connection, desk)
        hours = await policies.office_hours(connection)
        teams = await related.small(connection, KINDS["teams"])
    office = hours.office
    fields = error.fields if isinstance(error, Invalid) else {}
    shown: dict[str, Any] = {
        "zone": office.zone,
        "opens": f"{office.opens:%H:%M}",
        "closes": f"{office.closes:%H:%M}",
        "days": list(office.days),
    }
    context = {
        "tables": [(kind, [_line(kind, number, made) for number in PRIORITIES]) for kind in CASES],
        "teams": teams,
        "editing": False,
        "answered": False,
        "office": typed or shown,
        "office_version": hours.version,
        "office_wrong": whole(error) if error is not None and not fields else None,
        "days": list(enumerate(DAYS)),
        "errors": {name: sentence(what) for name, what in fields.items()},
    }
    block = "office_form" if request.method == "POST" else ""
    return render(request, "admin/policies.html", context, status=422 if error else 200, block=block)


async def _made(connection: Connection, desk: Desk) -> dict[tuple[str, int], Row]:
    found = await records.page(connection, desk.actor, POLICIES, Asked(sort="name", limit=200))
    return {(row["record_kind"], row["priority"]): row for row in found.rows}


def _line(kind: str, number: int, made: Mapping[tuple[str, int], Row]) -> dict[str, Any]:
    policy = made.get((kind, number))
    times = (policy[_TIMES[0]], policy[_TIMES[1]]) if policy else policies.DEFAULTS[number]
    return {
        "id": f"policy-{kind}-{number}",
        "path": f"/admin/policies/{kind}/{number}",
        "kind": kind,
        "number": number,
        "policy": policy,
        "texts": dict(zip(_TIMES, map(span, times), strict=True)),
        "office": bool(policy and policy["office_hours"]),
        "team": policy["escalate_to_id"] if policy else None,
    }


@router.get("/admin/policies/{kind}/{number}")
async def line(request: Request, desk: AtDesk, kind: str, number: str, edit: str = "") -> Response:
    """One line, to look at or to change."""
    only_administrators(desk.actor)
    return await _one(request, desk, *_which(kind, number), editing=bool(edit))


async def _one(
    request: Request,
    desk: Desk,
    kind: str,
    number: int,
    *,
    editing: bool = False,
    error: Exception | None = None,
    typed: Mapping[str, Any] | None = None,
) -> Response:
    async with desk.read() as connection:
        line = _line(kind, number, await _made(connection, desk)) | dict(typed or {})
        teams = await related.small(connection, KINDS["teams"])
    fields = error.fields if isinstance(error, Invalid) else {}
    context = {
        "line": line,
        "teams": teams,
        "editing": editing,
        "answered": not editing,
        "errors": {name: sentence(what) for name, what in fields.items()},
        "wrong": whole(error) if error is not None and not fields else None,
    }
    return render(request, "admin/policy.html", context, status=422 if error else 200)


@router.post("/admin/policies/{kind}/{number}")
async def change(request: Request, desk: AtDesk, kind: str, number: str) -> Response:
    only_administrators(desk.actor)
    kind, priority = _which(kind, number)
    texts = texts_in(await form_of(request))
    typed = {
        "texts": {name: texts.get(name, "") for name in _TIMES},
        "office": texts.get("office_hours") == "true",
        "team": id_of(texts["escalate_to_id"]) if texts.get("escalate_to_id") else None,
    }
    try:
        values = _values(typed)

        async def work(tx: Tx) -> Reply:
            if texts.get("policy"):
                based_on = version_of(texts.get("version", ""))
                await records.update(tx, POLICIES, id_of(texts["policy"]), values, based_on)
            else:
                name = f"{kind.capitalize()}, {PRIORITIES[priority]}"
                own = {"name": name, "record_kind": kind, "priority": priority}
                await records.create(tx, POLICIES, own | values)
            return Reply(204)

        reply = await desk.write(work)
    except (Invalid, Conflict, Stale, NotThere) as error:
        return await _one(request, desk, kind, priority, editing=True, error=error, typed=typed)
    if reply.status >= 400:
        return answer(reply)
    return saying(await _one(request, desk, kind, priority), "Saved. It holds for cases from now on.")


@router.post("/admin/policies/{kind}/{number}/default")
async def back_to_default(request: Request, desk: AtDesk, kind: str, number: str) -> Response:
    only_administrators(desk.actor)
    kind, priority = _which(kind, number)
    policy = id_of(texts_in(await form_of(request)).get("policy", ""))

    async def work(tx: Tx) -> Reply:
        await records.delete(tx, POLICIES, policy, None)
        return Reply(204)

    reply = await desk.write(work)
    if reply.status >= 400:
        return answer(reply)
    return saying(await _one(request, desk, kind, priority), "The default holds again.")


def _values(typed: Mapping[str, Any]) -> dict[str, Any]:
    """Raises Invalid for what is no length of time."""
    first, resolution = (minutes_of(typed["texts"][name]) for name in _TIMES)
    said = "this is no length of time, or more than a year"
    wrong = {name: said for name, found in zip(_TIMES, (first, resolution), strict=True) if found is None}
    if first is not None and resolution is not None and resolution < first:
        wrong["resolution_minutes"] = "nothing is resolved before it is answered"
    if wrong:
        raise Invalid("this is no service level", wrong)
    values = {"first_response_minutes": first, "resolution_minutes": resolution}
    return {**values, "office_hours": typed["office"], "escalate_to_id": typed["team"]}


def _which(kind: str, number: str) -> tuple[str, int]:
    if kind not in CASES or number not in {str(each) for each in PRIORITIES}:
        raise NotThere("there is no such service level", hint="queries and requests have one for each priority")
    return kind, int(number)


@router.post("/admin/office")
async def office(request: Request, desk: AtDesk) -> Response:
    only_administrators(desk.actor)
    form = await form_of(request)
    days = sorted({int(str(text)) for text in form.getlist("day") if str(text) in set("0123456")})
    typed = {name: str(form.get(name, "")) for name in ("zone", "opens", "closes")} | {"days": days}
    try:
        hours = Office(str(typed["zone"]).strip(), _time(typed, "opens"), _time(typed, "closes"), tuple(days))

        async def work(tx: Tx) -> Reply:
            await policies.set_office(tx, hours, version_of(str(form.get("version", ""))))
            return Reply(204)

        reply = await desk.write(work)
    except (Invalid, Stale) as error:
        return await _page(request, desk, error, typed)
    return answer(reply) if reply.status >= 400 else saying(await _page(request, desk), "The office hours are saved.")


def _time(typed: dict[str, Any], name: str) -> time:
    try:
        return time.fromisoformat(typed[name])
    except ValueError:
        raise Invalid("this is no time of day", {name: "it is written like 09:00"}) from None
