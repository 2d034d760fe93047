"""One change to many records, taken back with one request where nobody has changed them since."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import Response
from pydantic import ConfigDict, Discriminator, RootModel, create_model
from pydantic import Field as Constraint

from threefold.crm.api import models, params, replies
from threefold.crm.api.models import CHANGE, Given, Sent
from threefold.crm.api.operations import Body, Call, Does, Gives, Operation, add
from threefold.crm.api.shapes import Id, Version
from threefold.crm.desk import Reply, Row, Tx
from threefold.crm.model import rules
from threefold.crm.model.kinds import KINDS, LINKED, Kind
from threefold.crm.records import batches


class One(Sent):
    """A record; with ``version``, only if it still is at that one."""

    id: Id
    version: Annotated[Version | None, Constraint(default=None)]


class Left(Given):
    kind: str
    id: UUID
    why: str


class Batch(Given):
    """``left_over``: what undoing could not reverse, and why."""

    id: UUID
    kind: str
    what: Literal["set", "tag", "untag", "delete"]
    changes: dict[str, Any]
    records: int
    at: datetime
    by: UUID | None
    undone_at: datetime | None
    undone_by: UUID | None
    left_over: list[Left] | None


class Listed(Batch):
    who: str | None
    undoable: bool


class Batches(Given):
    items: list[Listed]


ITEMS: Final = (list[One], Constraint(min_length=1, max_length=batches.MOST, description="Each record once."))


AT_LEAST_ONE: Final = ConfigDict(json_schema_extra={"minProperties": 1})


def _model(kind: Kind) -> Any:
    title = kind.one.capitalize()
    changes = type(f"{title}BatchChanges", (CHANGE[kind.name],), {"model_config": AT_LEAST_ONE})
    set_: dict[str, Any] = {"what": (Literal["set"], ...), "items": ITEMS, "changes": (changes, ...)}
    delete: dict[str, Any] = {"what": (Literal["delete"], ...), "items": ITEMS}
    one: Any = create_model(f"{title}BatchSet", __base__=Sent, **set_)
    one |= create_model(f"{title}BatchDelete", __base__=Sent, **delete)
    if kind.name in LINKED:
        tag: dict[str, Any] = {"what": (Literal["tag", "untag"], ...), "items": ITEMS, "tag_id": (Id, ...)}
        one |= create_model(f"{title}BatchTag", __base__=Sent, **tag)
    root: Any = Annotated[one, Discriminator("what")]
    fields: dict[str, Any] = {"root": (root, ...)}
    return create_model(f"{title}Batch", __base__=RootModel, **fields)


async def _apply(tx: Tx, kind: Kind, asked: Any) -> Row:
    items = [(item.id, item.version) for item in asked.items]
    if asked.what == "set":
        return await batches.apply(tx, kind, items, models.sent(asked.changes))
    if asked.what == "delete":
        return await batches.delete(tx, kind, items)
    return await batches.tag(tx, kind, items, asked.tag_id, remove=asked.what == "untag")


def _applying(kind: Kind) -> Does:
    async def applying(call: Call) -> Response:
        async def work(tx: Tx) -> Reply:
            return replies.value(await _apply(tx, kind, call.body.root), status=201)

        return replies.response(await call.desk.write(work))

    return applying


async def _listing(call: Call) -> Response:
    async with call.desk.read() as connection:
        rows = await batches.batches(connection, call.query.get("limit", 50))
    return replies.response(replies.value({"items": rows}))


async def _undoing(call: Call) -> Response:
    async def work(tx: Tx) -> Reply:
        return replies.value(await batches.undo(tx, call.id))

    return replies.response(await call.desk.write(work))


def describe() -> None:
    for kind in KINDS.values():
        title = kind.one.capitalize()
        add(
            Operation(
                "POST",
                f"/{kind.name}/batches",
                f"batch{title}",
                f"The same change to many {kind.name}, all or none",
                tag=kind.name,
                kind=kind.name,
                does=_applying(kind),
                needs=rules.Operation.BULK,
                takes=Body(_model(kind)),
                gives=(Gives(201, "Done, and saved; the batch can be undone.", Batch),),
                writes=True,
                fails=(412,),
            )
        )
    common: dict[str, Any] = {"tag": "batches", "needs": rules.Operation.BULK}
    listed = (Gives(200, "Batches.", Batches),)
    undone = (Gives(200, "Undone where nobody has changed it since; `left_over` says what is not.", Batch),)
    one = (params.LIMIT,)
    add(
        Operation(
            "GET", "/batches", "listBatches", "The newest first", does=_listing, params=one, gives=listed, **common
        )
    )
    add(
        Operation(
            "POST",
            "/batches/{id}/undo",
            "undoBatch",
            "Take a batch back",
            does=_undoing,
            gives=undone,
            writes=True,
            **common,
        )
    )
