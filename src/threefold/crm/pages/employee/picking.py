"""Finding: the search over everything, with suggestions while one types, and choosing one record of very many."""

from __future__ import annotations

from itertools import groupby
from typing import Final

from fastapi import APIRouter, Request, Response

from threefold.crm.model import rules
from threefold.crm.model.asking import Asked
from threefold.crm.model.kinds import KINDS
from threefold.crm.pages.rendering import render
from threefold.crm.pages.staff import AtDesk, kind_of, only_staff
from threefold.crm.records import records, related

router = APIRouter(include_in_schema=False)
SUGGESTED: Final = 8
FOUND: Final = 60
TEXT_MOST: Final = 200


@router.get("/search")
async def search(request: Request, desk: AtDesk, q: str = "") -> Response:
    only_staff(desk.actor)
    text = q.strip()[:TEXT_MOST]
    suggests = request.headers.get("hx-target") == "search-found"
    hits = []
    if text:
        async with desk.read() as connection:
            hits = await records.search(connection, desk.actor, text, SUGGESTED if suggests else FOUND)
    order = list(KINDS)
    hits_by_kind = sorted(hits, key=lambda hit: order.index(hit.kind))
    groups = [(KINDS[name], list(found)) for name, found in groupby(hits_by_kind, key=lambda hit: hit.kind)]
    context = {"asked": text, "hits": hits, "groups": groups, "full": len(hits) == FOUND}
    return render(request, "employee/search.html", context)


@router.get("/pick/{kind}")
async def pick(request: Request, desk: AtDesk, kind: str, q: str = "") -> Response:
    """Options for the combobox: what matches, or what was changed last while nothing is typed."""
    of = kind_of(kind)
    only_staff(desk.actor)
    rules.check(desk.actor, rules.Operation.READ, of.name)
    text = q.strip()[:TEXT_MOST] if of.searched else ""
    async with desk.read() as connection:
        found = await records.page(connection, desk.actor, of, Asked(limit=SUGGESTED, text=text))
        titles = await related.titles_in(connection, of, found.rows)
    return render(request, "employee/pick.html", {"kind": of, "rows": found.rows, "titles": titles, "text": text})
