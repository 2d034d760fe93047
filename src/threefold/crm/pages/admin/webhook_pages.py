"""Webhooks: who is told of changes, what was sent, and sending again what did not arrive."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request, Response

from threefold.crm import rules, webhooks
from threefold.crm.desk import Desk, Reply, Tx
from threefold.crm.errors import Conflict, Invalid
from threefold.crm.kinds import KINDS
from threefold.crm.pages import listing
from threefold.crm.pages.rendering import answer, goes, render
from threefold.crm.pages.staff import AtDesk, form_of, id_of, only_staff, saying, sentence, texts_in, whole
from threefold.crm.pages.words import plural
from threefold.kernel.errors import ThreefoldError

router = APIRouter(include_in_schema=False)
KIND_NAMES = tuple(name for name in KINDS if name != "taggings")


def _check(desk: Desk) -> None:
    only_staff(desk.actor)
    rules.check(desk.actor, rules.Operation.ADMINISTER)


def _private(request: Request) -> bool:
    """Whether receivers in one's own network are allowed; the settings say it."""
    return bool(getattr(request.app.state, "webhooks_private", False))


@router.get("/admin/webhooks")
async def overview(request: Request, desk: AtDesk) -> Response:
    _check(desk)
    return await _overview(request, desk)


async def _overview(request: Request, desk: Desk, error: ThreefoldError | None = None, **more: Any) -> Response:
    async with desk.read() as connection:
        rows = await webhooks.subscriptions(connection)
    fields = error.fields if isinstance(error, Invalid) else {}
    context = {
        "rows": rows,
        "kinds": KIND_NAMES,
        "errors": {name: sentence(what) for name, what in fields.items()},
        "wrong": whole(error) if error and not fields else None,
        "texts": {},
        "made": None,
        **more,
    }
    block = "webhook_new" if request.method == "POST" else ""
    return render(request, "admin/webhooks.html", context, status=422 if error else 200, block=block)


@router.post("/admin/webhooks")
async def subscribe(request: Request, desk: AtDesk) -> Response:
    """The secret is in this answer and in no other."""
    _check(desk)
    form = await form_of(request)
    texts = texts_in(form)
    kinds = [str(name) for name in form.getlist("kinds")]
    try:

        async def work(tx: Tx) -> Reply:
            row = await webhooks.subscribe(
                tx, texts.get("url", "").strip(), kinds, texts.get("description", "").strip(), private=_private(request)
            )
            made = {"id": str(row["id"]), "url": row["url"], "secret": row["secret"]}
            return Reply(200, json.dumps(made).encode())

        reply = await desk.write(work)
    except (Invalid, Conflict) as error:
        return await _overview(request, desk, error, texts=texts | {"kinds": kinds})
    if reply.status >= 400:
        return answer(reply)
    return await _overview(request, desk, made=json.loads(reply.body))


@router.get("/admin/webhooks/{record}")
async def one(request: Request, desk: AtDesk, record: str) -> Response:
    _check(desk)
    return await _one(request, desk, id_of(record))


async def _one(request: Request, desk: Desk, id_: UUID, **more: Any) -> Response:
    query = request.query_params
    status = query.get("status") if query.get("status") in ("waiting", "delivered", "dead") else None
    async with desk.read() as connection:
        row = await webhooks.subscription(connection, id_)
        rows, following = await webhooks.deliveries(connection, id_, status=status, after=query.get("after") or None)
    path = f"/admin/webhooks/{id_}"
    pairs = [("status", status)] if status else []
    context = {
        "row": row,
        "deliveries": rows,
        "status": status or "",
        "secret": "",
        "webhook_path": path,
        "next_page": listing.address(path, pairs, after=following) if following else "",
        "first_page": listing.address(path, pairs) if query.get("after") else "",
        **more,
    }
    block = "webhook_state" if request.method == "POST" else ""
    return render(request, "admin/webhook.html", context, block=block)


@router.post("/admin/webhooks/{record}/active")
async def switch(request: Request, desk: AtDesk, record: str) -> Response:
    _check(desk)
    id_ = id_of(record)
    active = texts_in(await form_of(request)).get("active") == "true"

    async def work(tx: Tx) -> Reply:
        await webhooks.change(tx, id_, {"active": active}, private=_private(request))
        return Reply(204)

    reply = await desk.write(work)
    if reply.status >= 400:
        return answer(reply)
    return saying(
        await _one(request, desk, id_), "It is told of changes again." if active else "It is told nothing now."
    )


@router.post("/admin/webhooks/{record}/secret")
async def new_secret(request: Request, desk: AtDesk, record: str) -> Response:
    _check(desk)
    id_ = id_of(record)
    await form_of(request)

    async def work(tx: Tx) -> Reply:
        row = await webhooks.new_secret(tx, id_)
        return Reply(200, row["secret"].encode(), "text/plain")

    reply = await desk.write(work)
    return answer(reply) if reply.status >= 400 else await _one(request, desk, id_, secret=reply.body.decode())


@router.post("/admin/webhooks/{record}/remove")
async def remove(request: Request, desk: AtDesk, record: str) -> Response:
    _check(desk)
    id_ = id_of(record)
    await form_of(request)

    async def work(tx: Tx) -> Reply:
        await webhooks.unsubscribe(tx, id_)
        return goes("/admin/webhooks", "The webhook is removed.")

    return answer(await desk.write(work))


@router.post("/admin/webhooks/{record}/resend")
async def resend(request: Request, desk: AtDesk, record: str) -> Response:
    """``delivery``: one; without it every dead letter of this receiver."""
    _check(desk)
    id_ = id_of(record)
    delivery = texts_in(await form_of(request)).get("delivery", "")

    async def work(tx: Tx) -> Reply:
        if delivery:
            await webhooks.resend(tx, id_, id_of(delivery))
            return Reply(200, b"1", "text/plain")
        return Reply(200, str(await webhooks.resend_dead(tx, id_)).encode(), "text/plain")

    reply = await desk.write(work)
    if reply.status >= 400:
        return answer(reply)
    return saying(await _one(request, desk, id_), f"{plural(int(reply.body), 'delivery', 'deliveries')} sent again.")
