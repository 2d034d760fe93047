"""Saved views: lists that somebody wants to see again, with their filters, sorting and columns."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import Response
from pydantic import Field as Constraint

from threefold.crm.api import reading, replies
from threefold.crm.api.models import KIND, PATTERNS, Given, Sent
from threefold.crm.api.operations import Body, Call, Gives, Operation, Param, add
from threefold.crm.desk import Reply, Tx
from threefold.crm.model import rules
from threefold.crm.model.kinds import KINDS, Type
from threefold.crm.records import views

KindName = Annotated[str, Constraint(pattern=KIND, examples=["queries"])]
Name = Annotated[
    str,
    Constraint(min_length=1, max_length=views.NAME_MOST, pattern=PATTERNS[Type.TEXT, True], examples=["Urgent, mine"]),
]
Asked = Annotated[
    str,
    Constraint(
        max_length=2000,
        pattern=r"^[!-~]*$",
        description="The list's query string: filters and sorting, as the kind's list takes them.",
        examples=["priority.le=2&sort=-updated_at"],
    ),
]
Columns = Annotated[
    list[Annotated[str, Constraint(max_length=60, pattern="^[a-z_]+$")]],
    Constraint(max_length=30, description="Fields, in order. Empty: the kind's own."),
]
OF_KIND: Final = Param(
    "kind", "Of lists of this kind.", {"type": "string", "enum": list(KINDS)}, reading.one_of(*KINDS), required=True
)


class ViewSave(Sent):
    """A view of the same kind and name is replaced."""

    kind: KindName
    name: Name
    asked: Asked = ""
    columns: Columns = Constraint(default_factory=list)
    shared: Annotated[bool, Constraint(description="For everybody who works here.")] = False


class View(Given):
    id: UUID
    kind: str
    name: str
    asked: str
    columns: list[str]
    shared: bool
    mine: Annotated[bool, Constraint(description="May be changed by who asks.")]
    created_by: UUID | None
    created_at: datetime
    updated_at: datetime


class Views(Given):
    items: list[View]


async def _listing(call: Call) -> Response:
    async with call.desk.read() as connection:
        rows = await views.views(connection, call.desk.actor, KINDS[call.query["kind"]])
    return replies.response(replies.value({"items": rows}))


async def _saving(call: Call) -> Response:
    sent = call.body

    async def work(tx: Tx) -> Reply:
        row = await views.save(tx, KINDS[sent.kind], sent.name, sent.asked, sent.columns, shared=sent.shared)
        return replies.value(row)

    return replies.response(await call.desk.write(work))


async def _removing(call: Call) -> Response:
    async def work(tx: Tx) -> Reply:
        await views.remove(tx, call.id)
        return replies.NOTHING

    return replies.response(await call.desk.write(work))


def describe() -> None:
    common: dict[str, Any] = {"tag": "views", "needs": rules.Operation.VIEW}
    seen = (Gives(200, "Everybody's and one's own, by name.", Views),)
    saved = (Gives(200, "Saved.", View),)
    add(Operation("GET", "/views", "listViews", "Saved views", does=_listing, params=(OF_KIND,), gives=seen, **common))
    add(
        Operation(
            "POST",
            "/views",
            "saveView",
            "Save a view, or replace the one of that name",
            does=_saving,
            takes=Body(ViewSave),
            gives=saved,
            writes=True,
            **common,
        )
    )
    add(
        Operation(
            "DELETE",
            "/views/{id}",
            "removeView",
            "Remove a view",
            does=_removing,
            gives=(Gives(204, "Removed."),),
            writes=True,
            about="One's own; everybody's only by who made it, or an administrator.",
            **common,
        )
    )
