"""Boards: deals by stage, cases by status. A card is dragged, or moved by its menu or keys; each way is one change."""

from __future__ import annotations

import json
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from threefold.crm.cases import cases
from threefold.crm.clocks import case_states, policies
from threefold.crm.desk import Connection, Desk, Reply, Tx
from threefold.crm.model import rules
from threefold.crm.model.kinds import CASES, KINDS, QUERY_STATES, REQUEST_STATES, STAGES, Kind
from threefold.crm.pages.clocks import next_clock, now_of
from threefold.crm.pages.rendering import answer, render
from threefold.crm.pages.staff import AtDesk, form_of, id_of, only_staff, saying, texts_in, version_of
from threefold.crm.records import records, related
from threefold.kernel.errors import NotThere

router = APIRouter(include_in_schema=False)
LANES: Final = {"deals": STAGES, "queries": QUERY_STATES, "requests": REQUEST_STATES}


@router.get("/board")
async def board(request: Request, desk: AtDesk, kind: str = "deals") -> Response:
    return await _page(request, desk, _of(kind))


@router.post("/board/{kind}/{record}/move")
async def move(request: Request, desk: AtDesk, kind: str, record: str) -> Response:
    """``to``: the column; ``version``: of the card that was moved, so that a deal changed meanwhile is not."""
    of, id_ = _of(kind), id_of(record)
    only_staff(desk.actor)
    texts = texts_in(await form_of(request))
    to = texts.get("to", "")

    async def work(tx: Tx) -> Reply:
        if of.name in CASES:
            row = await cases.set_status(tx, of, id_, to)
        else:
            row = await records.update(tx, of, id_, {"stage": to}, version_of(texts.get("version", "")))
        return Reply(200, json.dumps({"title": row[of.title]}).encode())

    reply = await desk.write(work)
    if reply.status >= 400:
        return answer(reply)
    return saying(await _page(request, desk, of), f"“{json.loads(reply.body)['title']}” is in {to} now.")


def _of(name: str) -> Kind:
    if name not in LANES:
        raise NotThere("there is no such board", hint="there are boards of deals, queries and requests")
    return KINDS[name]


async def _page(request: Request, desk: Desk, kind: Kind) -> Response:
    only_staff(desk.actor)
    rules.check(desk.actor, rules.Operation.READ, kind.name)
    mine = request.query_params.get("mine") == "true"
    async with desk.read() as connection:
        context = await _context(connection, desk, kind, mine=mine)
    return render(request, "employee/board.html", context)


async def _context(connection: Connection, desk: Desk, kind: Kind, *, mine: bool) -> dict[str, Any]:
    lanes = [await related.lane(connection, desk.actor, kind, value, mine=mine) for value in LANES[kind.name]]
    rows = [row for lane in lanes for row in lane.rows]
    now, offices = await now_of(connection), await policies.offices(connection)
    return {
        "kind": kind,
        "boards": [(name, KINDS[name].name.capitalize()) for name in LANES],
        "lanes": lanes,
        "mine": mine,
        "titles": await related.titles_in(connection, kind, rows),
        "clocks": {row["id"]: next_clock(kind.name, row, now, offices) for row in rows if not row["resolved_at"]}
        if kind.name in CASES
        else {},
        "moves": {value: _moves(kind, value) for value in LANES[kind.name]},
        "query": "?kind=" + kind.name + ("&mine=true" if mine else ""),
        "counted_most": related.COUNTED_MOST,
    }


def _moves(kind: Kind, value: str) -> list[str]:
    """Where a card of that column may go."""
    if kind.name in CASES:
        return list(case_states.FOLLOWS[kind.name].get(value, ()))
    return [stage for stage in STAGES if stage != value]
