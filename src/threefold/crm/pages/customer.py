"""A customer's pages: what it asked and what became of it, asking, products.

Everything is the customer's own or public to all customers (products); an id that is not theirs is a page that is not
there. An employee who comes here is shown its own start page.
"""

from __future__ import annotations

from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import RedirectResponse

from threefold.crm.cases import cases, own_cases
from threefold.crm.clocks import case_states
from threefold.crm.desk import Connection, Desk, Reply, Row, Tx, desk_of
from threefold.crm.model.asking import Asked, Filter
from threefold.crm.model.errors import Invalid
from threefold.crm.model.kinds import CASES, KINDS, REQUEST_KINDS, Kind
from threefold.crm.pages import forms
from threefold.crm.pages.clocks import now_of
from threefold.crm.pages.next_steps import ENDED, next_step
from threefold.crm.pages.rendering import answer, goes, page_reply, render
from threefold.crm.records import records
from threefold.kernel.errors import NotThere

router = APIRouter()
AtDesk = Annotated[Desk, Depends(desk_of)]

_PRODUCTS: Final = KINDS["products"]
_MOST_PRODUCTS: Final = 1000  # in the form's list of choices
_STAFF_HOME: Final = "/queue"
_WORDS: Final = {
    "repair": "Something needs repair",
    "delivery": "About a delivery",
    "return": "Send something back",
    "change": "Change an order or a contract",
    "complaint": "A complaint",
}


@router.get("/")
async def home(request: Request, desk: AtDesk) -> Response:
    if not desk.actor.is_customer:
        return RedirectResponse(_STAFF_HOME, 303)
    query = request.query_params
    async with desk.read() as connection:
        found = await own_cases.page(
            connection, desk.actor, after=query.get("after") or None, before=query.get("before") or None
        )
        now = await now_of(connection)
    rows = [{**row, "step": next_step(row, now)} for row in found.rows]
    context = {
        "living": [row for row in rows if row["status"] not in ENDED],
        "ended": [row for row in rows if row["status"] in ENDED],
        "following": found.next,
        "preceding": found.prev,
    }
    return render(request, "customer/home.html", context)


@router.get("/report")
async def report_form(request: Request, desk: AtDesk) -> Response:
    async with desk.read() as connection:
        products = await _product_choices(connection, desk)
    chosen = request.query_params.get("product", "")
    return render(request, "customer/report.html", {"products": products, "chosen": chosen})


@router.post("/report")
async def report(request: Request, desk: AtDesk) -> Response:
    """A question becomes a query, everything else a request of that kind."""
    _customers_only(desk)
    sent = await forms.fields(request)
    about = sent.get("about", "")
    if about not in ("question", *REQUEST_KINDS):
        raise Invalid("something is missing", {"about": "say what it is"}, hint="choose one of the kinds")
    forms.required(
        sent, {"subject": "say in a few words what it is about", "body": "describe it, so that we can help at once"}
    )
    kind = KINDS["queries" if about == "question" else "requests"]
    values = forms.given(sent, "id", "subject", "body", "product_id")
    if kind.name == "requests":
        values["kind"] = about

    async def work(tx: Tx) -> Reply:
        row = await cases.open_case(tx, kind, values)
        return goes(f"/cases/{kind.name}/{row['id']}", "Sent. You see here what becomes of it.")

    return answer(await desk.write(work))


@router.get("/cases/{kind_name}/{case_id}")
async def case(request: Request, kind_name: str, case_id: str, desk: AtDesk) -> Response:
    kind, id_ = _case_of(kind_name, case_id)
    _customers_only(desk)
    async with desk.read() as connection:
        context = await _case_context(connection, desk, kind, id_)
    desk.saw(kind.name, id_)
    return render(request, "customer/case.html", context)


@router.post("/cases/{kind_name}/{case_id}/answer")
async def answer_case(request: Request, kind_name: str, case_id: str, desk: AtDesk) -> Response:
    kind, id_ = _case_of(kind_name, case_id)
    _customers_only(desk)
    sent = await forms.fields(request)
    forms.required(sent, {"body": "there is nothing in it yet"})

    async def work(tx: Tx) -> Reply:
        await cases.answer(tx, kind, id_, sent["body"].strip(), channel="chat", internal=False)
        return goes("", "Sent")

    return answer(await desk.write(work))


@router.post("/cases/{kind_name}/{case_id}/rate")
async def rate(request: Request, kind_name: str, case_id: str, desk: AtDesk) -> Response:
    kind, id_ = _case_of(kind_name, case_id)
    _customers_only(desk)
    stars = (await forms.fields(request)).get("satisfaction", "")
    if stars not in {"1", "2", "3", "4", "5"}:
        raise Invalid(
            "this is no rating", {"satisfaction": "choose one to five stars"}, hint="choose one to five stars"
        )

    async def work(tx: Tx) -> Reply:
        await cases.rate(tx, kind, id_, int(stars))
        context = await _case_context(tx.connection, desk, kind, id_)
        return page_reply(request, "customer/case.html", context, block="rating")

    return answer(await desk.write(work))


@router.get("/products")
async def products(request: Request, desk: AtDesk) -> Response:
    if not desk.actor.is_customer:
        return RedirectResponse("/records/products", 303)
    words = request.query_params.get("q", "").strip()[:200]
    after, before = (request.query_params.get(name) or None for name in ("after", "before"))
    asked = Asked(sort="name", after=after, before=before, limit=48, text=words)
    async with desk.read() as connection:
        found = await records.page(connection, desk.actor, _PRODUCTS, asked)
    context = {"products": found.rows, "following": found.next, "preceding": found.prev, "words": words}
    return render(request, "customer/products.html", context)


@router.get("/products/{product_id}")
async def product(request: Request, product_id: str, desk: AtDesk) -> Response:
    id_ = forms.id_in_path(product_id)
    if not desk.actor.is_customer:
        return RedirectResponse(f"/records/products/{id_}", 303)
    async with desk.read() as connection:
        row = await records.get(connection, desk.actor, _PRODUCTS, id_)
        asked = Asked((Filter("product_id", "eq", id_),), sort="-valid_from", limit=100)
        prices = await records.page(connection, desk.actor, KINDS["prices"], asked)
        today = (await now_of(connection)).date()
    return render(request, "customer/product.html", {"product": row, "prices": _current(prices.rows, today)})


def _current(prices: list[Row], today: Any) -> list[Row]:
    """The price in force of each currency, and those to come. ``prices``: newest first."""
    kept: list[Row] = []
    in_force: set[str] = set()
    for price in prices:
        if price["valid_from"] > today:
            kept.append({**price, "coming": True})
        elif price["currency"] not in in_force:
            in_force.add(price["currency"])
            kept.append({**price, "coming": False})
    return sorted(kept, key=lambda price: (price["currency"], price["valid_from"]))


async def _case_context(connection: Connection, desk: Desk, kind: Kind, id_: UUID) -> dict[str, Any]:
    row = await records.get(connection, desk.actor, kind, id_)
    said = await own_cases.said(connection, desk.actor, kind, id_)
    named = None
    if row["product_id"] is not None:
        named = await records.get(connection, desk.actor, _PRODUCTS, row["product_id"], deleted=True)
    return {
        "kind": kind,
        "case": row,
        "said": said,
        "product": named,
        "about": _WORDS.get(row.get("kind", ""), "A question"),
        "step": next_step(row, await now_of(connection)),
        "may_rate": row["status"] in case_states.RESOLVED[kind.name],
        "ended": row["status"] in ENDED,
    }


async def _product_choices(connection: Connection, desk: Desk) -> list[tuple[str, str]]:
    choices: list[tuple[str, str]] = []
    after: str | None = None
    while len(choices) < _MOST_PRODUCTS:
        found = await records.page(connection, desk.actor, _PRODUCTS, Asked(sort="name", after=after, limit=200))
        choices += [(str(row["id"]), f"{row['name']} ({row['sku']})") for row in found.rows]
        after = found.next
        if after is None:
            break
    return choices


def _case_of(kind_name: str, case_id: str) -> tuple[Kind, UUID]:
    if kind_name not in CASES:
        raise NotThere("there is no such page", hint="look for it from the start page")
    return KINDS[kind_name], forms.id_in_path(case_id)


def _customers_only(desk: Desk) -> None:
    if not desk.actor.is_customer:
        raise NotThere("this page is a customer's", hint="you find the case under Queries or Requests")
