"""Many records of a kind in one request: all of it, or none of it.

Each item runs in a savepoint of its own, so that one that fails does not hide what is wrong with the others; if any
failed, the whole transaction goes, and the answer says of each what it was.
"""

from __future__ import annotations

from typing import Any, Final

import psycopg
from fastapi import Response

from threefold.crm.api import models, replies, shapes
from threefold.crm.api.operations import Body, Call, Does, Gives, Operation, add
from threefold.crm.desk import Reply, Tx
from threefold.crm.model import rules
from threefold.crm.model.errors import Conflict, Forbidden, Invalid, Stale
from threefold.crm.model.kinds import KINDS, Kind
from threefold.crm.model.refusals import refusal
from threefold.crm.records import records
from threefold.crm.records.recycling import with_all_below
from threefold.crm.sql import locks
from threefold.kernel.errors import BadInput, NotThere

OF_AN_ITEM: Final = (BadInput, Forbidden, Conflict, Stale, NotThere)


async def _one(tx: Tx, kind: Kind, item: Any) -> dict[str, Any]:
    if item.do == "create":
        row = await records.create(tx, kind, models.sent(item.record))
        return {"do": "create", "id": row["id"], "version": row["version"]}
    if item.do == "change":
        row = await records.update(tx, kind, item.id, models.sent(item.changes), item.version)
        return {"do": "change", "id": row["id"], "version": row["version"]}
    await records.delete(tx, kind, item.id, item.version, held=True)
    return {"do": "delete", "id": item.id, "version": item.version + 1}


async def _hold(tx: Tx, kind: Kind, items: list[Any]) -> None:
    """All that the items touch, in the order that everybody locks in, whatever the order of the items."""
    deleted = [item.id for item in items if item.do == "delete"]
    wanted = await with_all_below(tx, kind, deleted) if deleted else []
    shared: list[locks.One] = []
    for item in items:
        if item.do == "change":
            wanted.append((kind.name, item.id))
        if item.do != "delete":
            values = models.sent(item.record if item.do == "create" else item.changes)
            shared += locks.referred(kind.name, values)
            wanted += locks.moved(kind.name, values) if item.do == "create" else []
    await locks.take(tx, wanted, shared=shared)


def _tell(error: Exception, number: int, wrong: dict[str, str]) -> None:
    where = f"items.{number}"
    if isinstance(error, Invalid) and error.fields:
        wrong.update({f"{where}.{name}": why for name, why in error.fields.items()})
    else:
        wrong[where] = str(error)


async def all_or_nothing(tx: Tx, kind: Kind, items: list[Any]) -> list[dict[str, Any]]:
    """Raises Stale, Conflict or Invalid, with what is wrong with each item; then nothing may be committed."""
    await _hold(tx, kind, items)
    done: list[dict[str, Any]] = []
    wrong: dict[str, str] = {}
    kinds: set[type[Exception]] = set()
    for number, item in enumerate(items):
        try:
            async with tx.connection.transaction():
                done.append(await _one(tx, kind, item))
        except psycopg.Error as error:
            refused = refusal(error)
            if not isinstance(refused, OF_AN_ITEM):
                raise refused from error
            kinds.add(type(refused))
            _tell(refused, number, wrong)
        except OF_AN_ITEM as error:
            kinds.add(type(error))
            _tell(error, number, wrong)
    if not wrong:
        return done
    message = f"{len(items) - len(done)} of {len(items)} items cannot be done, so nothing was done"
    if Stale in kinds:
        raise Stale(message, wrong, hint="read the stale ones again, and decide")
    if kinds <= {Conflict, NotThere}:
        raise Conflict(message, wrong, hint="see the fields; leave out those items")
    raise Invalid(message, wrong, hint="see the fields; mend or leave out those items")


def _bulk(kind: Kind) -> Does:
    async def bulk(call: Call) -> Response:
        async def work(tx: Tx) -> Reply:
            return replies.value({"items": await all_or_nothing(tx, kind, call.body.items)})

        return replies.response(await call.desk.write(work))

    return bulk


def describe() -> None:
    for kind in KINDS.values():
        add(
            Operation(
                "POST",
                f"/{kind.name}/bulk",
                f"bulk{kind.one.capitalize()}",
                f"Create, change and delete many {kind.name}, all or none",
                tag=kind.name,
                kind=kind.name,
                does=_bulk(kind),
                needs=rules.Operation.BULK,
                takes=Body(shapes.BULK[kind.name]),
                gives=(Gives(200, "All done, and saved.", shapes.BulkDone),),
                writes=True,
                fails=(412,),
                about=f"Up to {shapes.BULK_MOST} items in one transaction. If one cannot be done, nothing is done, and "
                "`fields` says what is wrong with which item (`items.3.email`).",
            )
        )
