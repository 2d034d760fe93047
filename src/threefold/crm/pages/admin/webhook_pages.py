"""Webhooks: who is told of changes, what was sent, and sending again what did not arrive."""

from __future__ import annotations

import json
from typing import Any, Final
from uuid import UUID

from fastapi import APIRouter, Request, Response

from threefold.crm.cases import oversight
from threefold.crm.desk import Desk, Reply, Tx
from threefold.crm.exchange import webhooks
from threefold.crm.exchange.webhook_rules import ATTEMPTS
from threefold.crm.model.errors import Conflict, Invalid
from threefold.crm.model.kinds import KINDS
from threefold.crm.pages import listing
from threefold.crm.pages.rendering import answer, goes, render
from threefold.crm.pages.staff import AtDesk, form_of, id_of, only_administrators, saying, sentence, texts_in, whole
from threefold.crm.pages.words import plural
from threefold.crm.records import related

router = APIRouter(include_in_schema=False)
KIND_NAMES: Final = tuple(name for name in KINDS if name != "taggings")
# What a receiver does; a test runs it against what the courier sends.
VERIFY: Final = """\
import hashlib
import hmac
import time


def genuine(secret: str, header: str, body: bytes) -> bool:
    \"\"\"header: Webhook-Signature. body: the bytes as they came.\"\"\"
    parts = dict(part.split("=", 1) for part in header.split(","))
    if abs(time.time() - int(parts["t"])) > 300:
        return False
    signed = parts["t"].encode() + b"." + body
    wanted = hmac.new(secret.encode(), signed, hashlib.sha256)
    return hmac.compare_digest(wanted.hexdigest(), parts["v1"])
"""


def _private(request: Request) -> bool:
    """Whether receivers in one's own network are allowed; the settings say it."""
    return bool(getattr(request.app.state, "webhooks_private", False))


def _errors(error: Invalid | Conflict | None) -> dict[str, Any]:
    fields = error.fields if isinstance(error, Invalid) else {}
    return {
        "errors": {name: sentence(what) for name, what in fields.items()},
        "wrong": whole(error) if error is not None and not fields else None,
    }


@router.get("/admin/webhooks")
async def overview(request: Request, desk: AtDesk) -> Response:
    only_administrators(desk.actor)
    return await _overview(request, desk)


async def _overview(request: Request, desk: Desk, error: Invalid | Conflict | None = None, **more: Any) -> Response:
    async with desk.read() as connection:
        rows = await webhooks.subscriptions(connection)
        waiting = await oversight.waiting(connection)
    context = {
        "rows": rows,
        "waiting": waiting,
        "kinds": KIND_NAMES,
        "private": _private(request),
        "texts": {},
        "picked": (),
        "made": None,
        "verify": VERIFY,
        **_errors(error),
        **more,
    }
    block = "webhook_new" if request.method == "POST" else ""
    return render(request, "admin/webhooks.html", context, status=422 if error else 200, block=block)


@router.post("/admin/webhooks")
async def subscribe(request: Request, desk: AtDesk) -> Response:
    """The secret is in this answer and in no other."""
    only_administrators(desk.actor)
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
        return await _overview(request, desk, error, texts=texts, picked=kinds)
    if reply.status >= 400:
        return answer(reply)
    return await _overview(request, desk, made=json.loads(reply.body))


@router.get("/admin/webhooks/{record}")
async def one(request: Request, desk: AtDesk, record: str) -> Response:
    only_administrators(desk.actor)
    return await _one(request, desk, id_of(record))


async def _one(request: Request, desk: Desk, id_: UUID, *, status: int = 200, **more: Any) -> Response:
    query = request.query_params
    state = query.get("status") if query.get("status") in ("waiting", "delivered", "dead") else None
    async with desk.read() as connection:
        row = await webhooks.subscription(connection, id_)
        rows, before, following = await webhooks.deliveries(
            connection, id_, status=state, after=query.get("after") or None, before=query.get("before") or None
        )
        waiting = (await oversight.waiting(connection)).get(id_)
        wanted: dict[str, set[UUID]] = {}
        for each in rows:
            wanted.setdefault(each["kind"], set()).add(each["record_id"])
        titles = await related.titles(connection, wanted)
    path = f"/admin/webhooks/{id_}"
    pairs = [("status", state)] if state else []
    context = {
        "row": row,
        "deliveries": rows,
        "titles": titles,
        "counts": {"waiting": waiting["waiting"], "dead": waiting["dead"]} if waiting else {"waiting": 0, "dead": 0},
        "attempts_most": ATTEMPTS,
        "state": state or "",
        "secret": "",
        "verify": VERIFY,
        "kinds": KIND_NAMES,
        "private": _private(request),
        "texts": {"url": row["url"], "description": row["description"]},
        "picked": row["kinds"],
        "webhook_path": path,
        "here_path": listing.address(path, pairs),
        **listing.pager(path, pairs, before, following),
        **_errors(None),
        **more,
    }
    block = "webhook_state" if request.method == "POST" else ""
    return render(request, "admin/webhook.html", context, status=status, block=block)


@router.post("/admin/webhooks/{record}")
async def change(request: Request, desk: AtDesk, record: str) -> Response:
    only_administrators(desk.actor)
    id_ = id_of(record)
    form = await form_of(request)
    texts = {name: text.strip() for name, text in texts_in(form).items()}
    kinds = [str(name) for name in form.getlist("kinds")]
    changes = {"url": texts.get("url", ""), "description": texts.get("description", ""), "kinds": kinds}
    try:

        async def work(tx: Tx) -> Reply:
            await webhooks.change(tx, id_, changes, private=_private(request))
            return goes(f"/admin/webhooks/{id_}", "Saved.")

        return answer(await desk.write(work))
    except (Invalid, Conflict) as error:
        context = {"texts": texts, "picked": kinds, "kinds": KIND_NAMES, "private": _private(request)}
        context |= {"webhook_path": f"/admin/webhooks/{id_}"} | _errors(error)
        return render(request, "admin/webhook_edit.html", context, status=422)


@router.post("/admin/webhooks/{record}/active")
async def switch(request: Request, desk: AtDesk, record: str) -> Response:
    only_administrators(desk.actor)
    id_ = id_of(record)
    active = texts_in(await form_of(request)).get("active") == "true"

    async def work(tx: Tx) -> Reply:
        await webhooks.change(tx, id_, {"active": active}, private=_private(request))
        return Reply(204)

    reply = await desk.write(work)
    if reply.status >= 400:
        return answer(reply)
    said = "It is told of changes again." if active else "Paused: it is told nothing, and what waits stays."
    return saying(await _one(request, desk, id_), said)


@router.post("/admin/webhooks/{record}/secret")
async def new_secret(request: Request, desk: AtDesk, record: str) -> Response:
    only_administrators(desk.actor)
    id_ = id_of(record)
    await form_of(request)

    async def work(tx: Tx) -> Reply:
        row = await webhooks.new_secret(tx, id_)
        return Reply(200, row["secret"].encode(), "text/plain")

    reply = await desk.write(work)
    return answer(reply) if reply.status >= 400 else await _one(request, desk, id_, secret=reply.body.decode())


@router.post("/admin/webhooks/{record}/remove")
async def remove(request: Request, desk: AtDesk, record: str) -> Response:
    only_administrators(desk.actor)
    id_ = id_of(record)
    await form_of(request)

    async def work(tx: Tx) -> Reply:
        await webhooks.unsubscribe(tx, id_)
        return goes("/admin/webhooks", "The webhook is removed.")

    return answer(await desk.write(work))


@router.post("/admin/webhooks/{record}/resend")
async def resend(request: Request, desk: AtDesk, record: str) -> Response:
    """``delivery``: one; without it every dead letter of this receiver."""
    only_administrators(desk.actor)
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
