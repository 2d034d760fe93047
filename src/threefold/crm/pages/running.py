"""How the CRM runs: what was deferred while the database was away, and read-only on purpose.

Who keeps both is the edge (``app.state.intake``, ``app.state.read_only``); here they are shown and asked for.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request, Response

from threefold.crm.desk import Desk, Reply, Tx
from threefold.crm.model.errors import Invalid
from threefold.crm.pages.rendering import answer, render
from threefold.crm.pages.staff import (
    AtDesk,
    form_of,
    id_of,
    only_administrators,
    only_staff,
    saying,
    texts_in,
    whole,
)

router = APIRouter(include_in_schema=False)
_UNNAMED = {"id", "about"}  # of a form, and nothing that somebody said


@router.get("/intake")
async def intake(request: Request, desk: AtDesk) -> Response:
    only_staff(desk.actor)
    return await _intake(request, desk)


async def _intake(request: Request, desk: Desk) -> Response:
    items = await request.app.state.intake.listed(desk.actor, mine=False)
    rejected = [{**each, "said": _said(each["sent"])} for each in items if each["state"] == "rejected"]
    waiting = [each for each in items if each["state"] == "waiting"]
    return render(request, "employee/intake.html", {"waiting": waiting, "rejected": rejected})


@router.post("/intake/{record}/handled")
async def handled(request: Request, desk: AtDesk, record: str) -> Response:
    only_staff(desk.actor)
    id_ = id_of(record)

    async def work(tx: Tx) -> Reply:
        await request.app.state.intake.handle(tx, id_)
        return Reply(204)

    reply = await desk.write(work)
    return answer(reply) if reply.status >= 400 else saying(await _intake(request, desk), "It is off the list.")


def _said(sent: dict[str, Any] | None) -> list[tuple[str, str]]:
    """What somebody wrote, by field."""
    if not sent:
        return []
    try:
        if str(sent["type"]).startswith("application/json"):
            found = json.loads(sent["body"])
            pairs = list(found.items()) if isinstance(found, dict) else []
        else:
            pairs = parse_qsl(sent["body"], max_num_fields=200)
    except ValueError:
        pairs = [("body", sent["body"])]
    return [(str(name), str(value)) for name, value in pairs if value and name not in _UNNAMED]


@router.get("/admin/read-only")
async def read_only(request: Request, desk: AtDesk) -> Response:
    only_administrators(desk.actor)
    return await _mode(request)


async def _mode(request: Request, error: Exception | None = None, typed: dict[str, str] | None = None) -> Response:
    mode = await request.app.state.read_only.get()
    typed = typed or {"reason": mode["reason"] or "Maintenance", "until": ""}
    context = {"mode": mode, "typed": typed, "wrong": whole(error) if error else None}
    return render(request, "admin/read_only.html", {**context, "errors": getattr(error, "fields", {})})


@router.post("/admin/read-only")
async def set_read_only(request: Request, desk: AtDesk) -> Response:
    only_administrators(desk.actor)
    texts = texts_in(await form_of(request))
    on = texts.get("read_only") == "true"
    typed = {"reason": texts.get("reason", ""), "until": texts.get("until", "")}
    mode = request.app.state.read_only
    try:
        until = _moment(typed["until"]) if on else None

        async def work(tx: Tx) -> Reply:
            await mode.set(tx, on=on, reason=typed["reason"], until=until)
            return Reply(204)

        reply = await desk.write(work)
    except Invalid as error:
        return await _mode(request, error, typed)
    await mode.heard()
    said = "Nobody changes anything now." if on else "Changes are taken again."
    return answer(reply) if reply.status >= 400 else saying(await _mode(request), said)


def _moment(text: str) -> datetime | None:
    """As a browser's field for date and time gives it; in UTC, as the label says."""
    if not text:
        return None
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        raise Invalid("this is no time", {"until": "it is written like 2026-11-24T22:00"}) from None
