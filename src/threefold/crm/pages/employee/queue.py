"""The queue: what somebody here owes an answer or a solution, the most urgent first. The employees' home."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from fastapi import APIRouter, Request, Response

from threefold.crm.cases import cases
from threefold.crm.clocks import policies
from threefold.crm.desk import Connection, Desk, Reply, Tx
from threefold.crm.model import rules
from threefold.crm.model.errors import Conflict
from threefold.crm.model.kinds import KINDS
from threefold.crm.pages.clocks import next_clock, now_of
from threefold.crm.pages.rendering import answer, render
from threefold.crm.pages.staff import AtDesk, case_of, form_of, id_of, saying, whole
from threefold.crm.records import related

router = APIRouter(include_in_schema=False)
SHOWS: Final = {"mine": "Mine", "team": "My team", "unassigned": "Unassigned", "all": "Everyone"}
MOST: Final = 100


@router.get("/queue")
async def queue(request: Request, desk: AtDesk) -> Response:
    return await _page(request, desk)


@router.post("/queue/{kind}/{record}/take")
async def take(request: Request, desk: AtDesk, kind: str, record: str) -> Response:
    """To me. What somebody else took a moment ago is not taken from them unawares: the page shows who has it."""
    case, id_ = case_of(kind), id_of(record)
    rules.check(desk.actor, rules.Operation.WORK, case.name)
    await form_of(request)

    async def work(tx: Tx) -> Reply:
        row = await cases.take(tx, case, id_)
        return Reply(200, row["subject"].encode(), "text/plain")

    try:
        reply = await desk.write(work)
    except Conflict as error:
        return saying(await _page(request, desk), " ".join(whole(error).values()))
    if reply.status >= 400:
        return answer(reply)
    return saying(await _page(request, desk), f"“{reply.body.decode()}” is yours.")


async def _page(request: Request, desk: Desk) -> Response:
    rules.check(desk.actor, rules.Operation.WORK, "queries")
    async with desk.read() as connection:
        context = await _context(connection, desk, request.query_params.get("show", ""))
    return render(request, "employee/queue.html", context)


async def _context(connection: Connection, desk: Desk, show: str) -> dict[str, Any]:
    team = await _team(connection, desk.actor.user)
    if show not in SHOWS or (show == "team" and team is None):
        show = "all"
    rows = await cases.queue(
        connection,
        desk.actor,
        mine=show == "mine",
        team=team if show == "team" else None,
        unassigned=show == "unassigned",
        limit=MOST,
    )
    now, offices = await now_of(connection), await policies.offices(connection)
    return {
        "shows": [(key, text) for key, text in SHOWS.items() if key != "team" or team is not None],
        "show": show,
        "rows": [(row, KINDS[row["kind"]], next_clock(row["kind"], row, now, offices)) for row in rows],
        "full": len(rows) == MOST,
    }


async def _team(connection: Connection, user: UUID | None) -> UUID | None:
    people = await related.staff(connection)
    return next((row["team_id"] for row in people if row["id"] == user), None)
