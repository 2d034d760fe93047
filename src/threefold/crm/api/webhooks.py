"""Webhooks: who is told of changes, what was sent, and sending again what did not arrive."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import Response
from pydantic import Field as Constraint
from pydantic import StringConstraints, WithJsonSchema

from threefold.crm.api import models, params, reading, replies
from threefold.crm.api.models import KIND, LINE, Given, Sent
from threefold.crm.api.operations import Body, Call, Gives, Operation, Param, add
from threefold.crm.api.shapes import Next, Prev
from threefold.crm.desk import Reply, Tx
from threefold.crm.exchange import webhooks
from threefold.crm.exchange.webhook_rules import URL_MOST
from threefold.crm.model import rules
from threefold.crm.model.kinds import KINDS

KindName = Annotated[str, Constraint(pattern=KIND, examples=["queries"])]
_REST: Final = (
    r"[A-Za-z0-9]([A-Za-z0-9.-]{0,200}[A-Za-z0-9])?(:([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}))?([/?][!-~]*)?$"
)
Url = Annotated[
    str,
    StringConstraints(max_length=URL_MOST, pattern=f"^https?://{_REST}"),
    WithJsonSchema(
        {
            "type": "string",
            "maxLength": URL_MOST,
            "pattern": f"^https://{_REST}",
            "description": "Plain http only where the settings allow receivers in one's own network.",
            "examples": ["https://example.com/hook"],
        }
    ),
]
Kinds = Annotated[list[KindName], Constraint(max_length=len(KINDS), description="Empty: all kinds.")]
About = Annotated[str, Constraint(max_length=200, pattern=LINE)]


class WebhookCreate(Sent):
    url: Url
    description: About = ""
    kinds: Kinds = Constraint(default_factory=list)


class WebhookChange(Sent):
    """What is left out stays as it is."""

    url: Url = ""
    description: About = ""
    kinds: Kinds = Constraint(default_factory=list)
    active: bool = True


class Webhook(Given):
    id: UUID
    url: str
    description: str
    kinds: list[str]
    active: bool
    version: int
    created_at: datetime
    created_by: UUID | None
    updated_at: datetime
    updated_by: UUID | None


class WebhookMade(Webhook):
    """With the secret, which is shown this once."""

    secret: str


class Webhooks(Given):
    items: list[Webhook]


class Delivery(Given):
    """One change on its way to one receiver. ``dead``: given up, and waiting for somebody to send it again."""

    id: UUID
    webhook_id: UUID
    kind: str
    record_id: UUID
    record_version: int
    status: Literal["waiting", "delivered", "dead"]
    attempts: int
    due_at: datetime
    answered: int | None
    error: str
    created_at: datetime
    settled_at: datetime | None


class Resent(Given):
    resent: int


class Deliveries(Given):
    items: list[Delivery]
    next: Next
    prev: Prev


def _private(call: Call) -> bool:
    """Whether webhooks may go to addresses within one's own network: a setting, off unless it was switched on."""
    return bool(getattr(call.request.app.state, "webhooks_private", False))


async def _listing(call: Call) -> Response:
    async with call.desk.read() as connection:
        rows = await webhooks.subscriptions(connection)
    return replies.response(replies.value({"items": rows}))


async def _creating(call: Call) -> Response:
    sent, private = call.body, _private(call)

    async def work(tx: Tx) -> Reply:
        row = await webhooks.subscribe(tx, sent.url, sent.kinds, sent.description, private=private)
        return replies.record(row, status=201, kind="webhooks")

    return replies.response(await call.desk.write(work))


async def _reading(call: Call) -> Response:
    async with call.desk.read() as connection:
        row = await webhooks.subscription(connection, call.id)
    return replies.response(replies.record(row))


async def _changing(call: Call) -> Response:
    version = reading.expected_version(call.request)
    changes, private = models.sent(call.body), _private(call)

    async def work(tx: Tx) -> Reply:
        return replies.record(await webhooks.change(tx, call.id, changes, version, private=private))

    return replies.response(await call.desk.write(work))


async def _ending(call: Call) -> Response:
    version = reading.expected_version(call.request)

    async def work(tx: Tx) -> Reply:
        await webhooks.unsubscribe(tx, call.id, version)
        return replies.NOTHING

    return replies.response(await call.desk.write(work))


async def _deliveries(call: Call) -> Response:
    query = call.query
    asked = {name: query.get(name) for name in ("status", "after", "before")}
    async with call.desk.read() as connection:
        rows, before, following = await webhooks.deliveries(connection, call.id, **asked, limit=query.get("limit", 50))
    return replies.response(replies.value({"items": rows, "next": following, "prev": before}))


async def _resending(call: Call) -> Response:
    hook, delivery = call.ids

    async def work(tx: Tx) -> Reply:
        return replies.value(await webhooks.resend(tx, hook, delivery), status=202)

    return replies.response(await call.desk.write(work))


async def _new_secret(call: Call) -> Response:
    async def work(tx: Tx) -> Reply:
        return replies.record(await webhooks.new_secret(tx, call.id))

    return replies.response(await call.desk.write(work))


async def _resending_dead(call: Call) -> Response:
    async def work(tx: Tx) -> Reply:
        return replies.value({"resent": await webhooks.resend_dead(tx, call.id)}, status=202)

    return replies.response(await call.desk.write(work))


LINKS: Final = ("readWebhook", "changeWebhook", "deleteWebhook", "listDeliveries")
STATUS: Final = Param(
    "status",
    "Only these.",
    {"type": "string", "enum": ["waiting", "delivered", "dead"]},
    reading.one_of("waiting", "delivered", "dead"),
)


def describe() -> None:
    common: dict[str, Any] = {"tag": "webhooks", "needs": rules.Operation.ADMINISTER}
    one = Gives(200, "The webhook.", Webhook, headers=("ETag",))
    add(
        Operation(
            "GET",
            "/webhooks",
            "listWebhooks",
            "Who is told of changes",
            does=_listing,
            gives=(Gives(200, "All webhooks, without their secrets.", Webhooks),),
            **common,
        )
    )
    add(
        Operation(
            "POST",
            "/webhooks",
            "createWebhook",
            "Tell one more of changes",
            does=_creating,
            takes=Body(WebhookCreate),
            gives=(
                Gives(
                    201, "Made; the secret is shown this once.", WebhookMade, headers=("ETag", "Location"), links=LINKS
                ),
            ),
            writes=True,
            about="Deliveries are signed with the secret: `Webhook-Signature: t=...,v1=...` is HMAC-SHA256 of "
            "`t.body`. Addresses within one's own network are refused unless the settings allow them.",
            **common,
        )
    )
    add(Operation("GET", "/webhooks/{id}", "readWebhook", "One webhook", does=_reading, gives=(one,), **common))
    add(
        Operation(
            "PATCH",
            "/webhooks/{id}",
            "changeWebhook",
            "Change one webhook",
            does=_changing,
            takes=Body(WebhookChange),
            gives=(one,),
            headers=("If-Match",),
            writes=True,
            **common,
        )
    )
    add(
        Operation(
            "DELETE",
            "/webhooks/{id}",
            "deleteWebhook",
            "Tell this one no more, and forget its deliveries",
            does=_ending,
            gives=(Gives(204, "Gone."),),
            headers=("If-Match",),
            writes=True,
            **common,
        )
    )
    add(
        Operation(
            "GET",
            "/webhooks/{id}/deliveries",
            "listDeliveries",
            "What was sent to one webhook, the newest first",
            does=_deliveries,
            params=(STATUS, params.LIMIT, params.AFTER, params.BEFORE),
            gives=(Gives(200, "Some deliveries.", Deliveries),),
            **common,
        )
    )
    add(
        Operation(
            "POST",
            "/webhooks/{id}/deliveries/{delivery}/resend",
            "resendDelivery",
            "Send one delivery again",
            does=_resending,
            gives=(Gives(202, "It will be sent again at once.", Delivery),),
            writes=True,
            **common,
        )
    )
    add(
        Operation(
            "POST",
            "/webhooks/{id}/resend",
            "resendDead",
            "Send again all that was given up",
            does=_resending_dead,
            gives=(Gives(202, "They will be sent again at once.", Resent),),
            writes=True,
            **common,
        )
    )
    add(
        Operation(
            "POST",
            "/webhooks/{id}/secret",
            "newSecret",
            "Make a new secret",
            does=_new_secret,
            gives=(Gives(200, "Everything sent from now on is signed with it.", WebhookMade, headers=("ETag",)),),
            writes=True,
            **common,
        )
    )
