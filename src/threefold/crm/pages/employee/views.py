"""Saved views: a list as it is now, under a name, for oneself or for everybody."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

from fastapi import APIRouter, Request, Response

from threefold.crm.desk import Reply, Tx
from threefold.crm.model import rules
from threefold.crm.pages import listing
from threefold.crm.pages.rendering import answer, goes
from threefold.crm.pages.staff import AtDesk, form_of, id_of, kind_of, only_staff, texts_in
from threefold.crm.records import views

router = APIRouter(include_in_schema=False)


@router.post("/views/{kind}")
async def save(request: Request, desk: AtDesk, kind: str) -> Response:
    """``asked``: the list's address, whose query is what is kept."""
    of = kind_of(kind)
    only_staff(desk.actor)
    rules.check(desk.actor, rules.Operation.VIEW)
    form = await form_of(request)
    texts = texts_in(form)
    pairs = listing.pairs_of(parse_qsl(urlsplit(texts.get("asked", "")).query, keep_blank_values=True))
    columns = [str(name) for name in form.getlist("column")]
    asked = urlsplit(listing.address("/", pairs)).query

    async def work(tx: Tx) -> Reply:
        row = await views.save(tx, of, texts.get("name", ""), asked, columns, shared=texts.get("shared") == "true")
        to = listing.address(f"/records/{of.name}", [*pairs, ("view", str(row["id"]))])
        return goes(to, f"“{row['name']}” is saved.")

    return answer(await desk.write(work))


@router.post("/views/{kind}/{view}/remove")
async def remove(request: Request, desk: AtDesk, kind: str, view: str) -> Response:
    of, id_ = kind_of(kind), id_of(view)
    only_staff(desk.actor)
    rules.check(desk.actor, rules.Operation.VIEW)
    await request.body()

    async def work(tx: Tx) -> Reply:
        await views.remove(tx, id_)
        return goes(f"/records/{of.name}", "The view is removed.")

    return answer(await desk.write(work))
