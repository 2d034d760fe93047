"""What is about no single kind: who am I, the search over everything, and what changed since a cursor."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import Response
from pydantic import Field as Constraint

from threefold.crm.api import params, reading, replies
from threefold.crm.api.models import ANY, KIND, Given
from threefold.crm.api.operations import Call, Gives, Operation, Param, add
from threefold.crm.datalog import feed
from threefold.crm.datalog.live import Live
from threefold.crm.desk import Row
from threefold.crm.model import rules
from threefold.crm.model.actor import Role
from threefold.crm.model.kinds import KINDS
from threefold.crm.records import records


class Me(Given):
    """Who asks, and what this person may do: by operation, the kinds it may do it with."""

    user: UUID | None
    name: str
    role: Role
    contact: UUID | None
    device: UUID | None
    may: dict[str, list[str]]


class Found(Given):
    kind: Annotated[str, Constraint(pattern=KIND)]
    id: UUID
    title: str
    detail: str


class Search(Given):
    items: list[Found]


class Changed(Given):
    """One change to one record, as the data log has it."""

    record_id: UUID
    version: int
    kind: str
    op: Literal["create", "update", "delete"]
    at: datetime
    actor: UUID | None
    device: UUID | None
    reason: str | None
    changes: Annotated[
        dict[str, tuple[Any, Any]] | None,
        Constraint(description="Field: [before, after]. Null for a new record, and for what was erased."),
    ]


class Changes(Given):
    items: list[Changed]
    next: Annotated[str, Constraint(description="For `after`, always: also when nothing has changed yet.")]


async def _me(call: Call) -> Response:
    actor = call.desk.actor
    may = {
        operation.value: [kind for kind in KINDS if rules.allows(actor, operation, kind)]
        for operation in rules.Operation
    }
    may |= {operation.value: ["*"] for operation in rules.AT_LARGE if rules.allows(actor, operation)}
    return replies.response(
        replies.value(
            {
                "user": actor.user,
                "name": actor.name,
                "role": actor.role.value,
                "contact": actor.contact,
                "device": actor.device,
                "may": {name: kinds for name, kinds in may.items() if kinds},
            }
        )
    )


async def _search(call: Call) -> Response:
    text = call.query["q"]
    async with call.desk.read() as connection:
        hits = (
            await records.search(connection, call.desk.actor, text, call.query.get("limit", 20)) if text.strip() else []
        )
    found = [{"kind": hit.kind, "id": hit.id, "title": hit.title, "detail": hit.detail} for hit in hits]
    return replies.response(replies.value({"items": found}))


async def _changes(call: Call) -> Response:
    """Waiting, it holds no connection to the database.

    It looks again whenever something was saved, and each second: an older transaction may hold back what is newer.
    """
    after = call.query.get("after")
    if after == "now":
        async with call.desk.read() as connection:
            after = await feed.latest(connection)
    rows, cursor = await _since(call, after)
    if rows or not call.query.get("wait"):
        return _told(rows, cursor)
    live: Live = call.request.app.state.live
    something = live.subscribe(call.desk.actor)
    try:
        for _ in range(call.query["wait"]):
            rows, cursor = await _since(call, after)
            if rows or await call.request.is_disconnected():
                break
            with suppress(TimeoutError):
                await asyncio.wait_for(anext(something), 1)
    finally:
        await something.aclose()
    return _told(rows, cursor)


async def _since(call: Call, after: str | None) -> tuple[list[Row], str]:
    async with call.desk.read() as connection:
        return await feed.changes(connection, call.desk.actor, after, call.query.get("limit", 100))


def _told(rows: list[Row], cursor: str) -> Response:
    return replies.response(replies.value({"items": rows, "next": cursor}))


Q: Final = Param(
    "q",
    "Words, or the beginnings of words.",
    {"type": "string", "maxLength": 200, "pattern": ANY},
    reading.words(200),
    required=True,
)


SINCE: Final = Param("after", "`next` of the answer before; `now` for the end.", params.CURSOR)
WAIT: Final = Param(
    "wait",
    "Seconds to wait for something to tell.",
    {"type": "integer", "minimum": 0, "maximum": 30, "default": 0},
    reading.whole(0, 30),
)
FEED_LIMIT: Final = Param(
    "limit",
    "How many at most.",
    {"type": "integer", "minimum": 1, "maximum": feed.MOST, "default": 100},
    reading.whole(1, feed.MOST),
)


def describe() -> None:
    add(
        Operation(
            "GET",
            "/me",
            "me",
            "Who am I, and what may I do",
            tag="about",
            does=_me,
            needs=rules.Operation.SELF,
            gives=(Gives(200, "You.", Me),),
        )
    )
    add(
        Operation(
            "GET",
            "/search",
            "search",
            "Find records of all kinds",
            tag="search",
            does=_search,
            needs=rules.Operation.SEARCH,
            params=(Q, params.LIMIT),
            gives=(Gives(200, "What was found, the best first.", Search),),
            about="Customers find what is their own, and products.",
        )
    )
    add(
        Operation(
            "GET",
            "/changes",
            "changes",
            "What changed since a cursor",
            tag="changes",
            does=_changes,
            needs=rules.Operation.FEED,
            params=(SINCE, WAIT, FEED_LIMIT),
            gives=(Gives(200, "Changes in the order in which they were saved, none left out.", Changes),),
            about="Begin without `after` for everything there ever was, or with `after=now` for what comes. Then go on "
            "from `next`, as often as you like: each change comes once, those of one record in order.",
        )
    )
