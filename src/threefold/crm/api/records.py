"""The operations that every kind of record has: list, create, read, change, delete, restore, timeline, bulk.

Handlers stay thin: lists are made as JSON by PostgreSQL and only put between braces here.
"""

from __future__ import annotations

from typing import Any

from fastapi import Response

from threefold.crm.api import models, params, reading, replies, shapes
from threefold.crm.api.operations import Body, Call, Does, Gives, Operation, add
from threefold.crm.desk import Reply, Tx
from threefold.crm.model import asking, rules
from threefold.crm.model.kinds import KINDS, Kind
from threefold.crm.records import records


def _listing(kind: Kind) -> Does:
    async def listing(call: Call) -> Response:
        asked = asking.parse(kind, call.pairs)
        if asked.deleted:
            rules.check(call.desk.actor, rules.Operation.HISTORY, kind.name)
        async with call.desk.read() as connection:
            items, before, following = await records.page_json(connection, call.desk.actor, kind, asked)
        ends = (b',"next":', replies.encoded(following), b',"prev":', replies.encoded(before), b"}")
        body = b"".join((b'{"items":', items, *ends))
        return Response(body, media_type="application/json")

    return listing


def _creating(kind: Kind) -> Does:
    async def creating(call: Call) -> Response:
        values = models.sent(call.body)

        async def work(tx: Tx) -> Reply:
            row = await records.create(tx, kind, values)
            return replies.record(row, status=201, kind=kind.name)

        return replies.response(await call.desk.write(work))

    return creating


def _reading(kind: Kind) -> Does:
    async def reading_(call: Call) -> Response:
        desk, query = call.desk, call.query
        if query.get("deleted") or "as_of" in query:
            rules.check(desk.actor, rules.Operation.HISTORY, kind.name)
        async with desk.read() as connection:
            if "as_of" in query:
                row = await records.as_of(connection, desk.actor, kind, call.id, query["as_of"])
            else:
                row = await records.get(connection, desk.actor, kind, call.id, deleted=query.get("deleted", False))
        desk.saw(kind.name, call.id)
        if "as_of" in query:
            return replies.response(replies.value(row))  # of the past: nothing to base a change on
        etag = replies.tag(row["version"])
        if call.request.headers.get("if-none-match", "").strip() == etag:
            return Response(status_code=304, headers={"ETag": etag})
        return replies.response(replies.record(row))

    return reading_


def _changing(kind: Kind) -> Does:
    async def changing(call: Call) -> Response:
        version = reading.expected_version(call.request)
        changes = models.sent(call.body)

        async def work(tx: Tx) -> Reply:
            return replies.record(await records.update(tx, kind, call.id, changes, version))

        return replies.response(await call.desk.write(work))

    return changing


def _deleting(kind: Kind) -> Does:
    async def deleting(call: Call) -> Response:
        version = reading.expected_version(call.request)

        async def work(tx: Tx) -> Reply:
            await records.delete(tx, kind, call.id, version)
            return replies.NOTHING

        return replies.response(await call.desk.write(work))

    return deleting


def _restoring(kind: Kind) -> Does:
    async def restoring(call: Call) -> Response:
        async def work(tx: Tx) -> Reply:
            return replies.record(await records.restore(tx, kind, call.id))

        return replies.response(await call.desk.write(work))

    return restoring


def _telling(kind: Kind) -> Does:
    async def telling(call: Call) -> Response:
        limit, after = call.query.get("limit", 50), call.query.get("after")
        async with call.desk.read() as connection:
            entries = await records.timeline(connection, call.desk.actor, kind, call.id, after=after, limit=limit)
        following = entries[-1]["version"] if len(entries) == limit and entries[-1]["version"] > 1 else None
        return replies.response(replies.value({"items": entries, "next": following}))

    return telling


def _describe(kind: Kind) -> None:
    name, one = kind.name, kind.one
    title = one.capitalize()
    given = models.READ[name]
    about = "Customers see what is their own." if kind.owner else ""
    common: dict[str, Any] = {"tag": name, "kind": name}
    links = tuple(f"{what}{title}" for what in ("read", "change", "delete", "timelineOf"))
    add(
        Operation(
            "GET",
            f"/{name}",
            f"list{title}",
            f"A page of {name}",
            does=_listing(kind),
            needs=rules.Operation.READ,
            gives=(Gives(200, f"Some {name}, and where to go on.", shapes.PAGE[name]),),
            params=params.of_list(kind),
            own_query=True,
            about=about,
            **common,
        )
    )
    add(
        Operation(
            "POST",
            f"/{name}",
            f"create{title}",
            f"A new {one}",
            does=_creating(kind),
            needs=rules.Operation.CREATE,
            takes=Body(models.CREATE[name], models.REPORT.get(name)),
            gives=(Gives(201, "Made, and saved.", given, headers=("ETag", "Location"), links=links),),
            writes=True,
            **common,
        )
    )
    add(
        Operation(
            "GET",
            f"/{name}/{{id}}",
            f"read{title}",
            f"One {one}, now or as it was",
            does=_reading(kind),
            needs=rules.Operation.READ,
            params=(params.AS_OF, params.DELETED),
            headers=("If-None-Match",),
            gives=(
                Gives(200, f"The {one}.", given, headers=("ETag",)),
                Gives(304, "Still the version that you have.", headers=("ETag",)),
            ),
            **common,
        )
    )
    add(
        Operation(
            "PATCH",
            f"/{name}/{{id}}",
            f"change{title}",
            f"Change fields of one {one}",
            does=_changing(kind),
            needs=rules.Operation.CHANGE,
            takes=Body(models.CHANGE[name]),
            gives=(Gives(200, "As it is now, saved.", given, headers=("ETag",)),),
            headers=("If-Match",),
            writes=True,
            **common,
        )
    )
    add(
        Operation(
            "DELETE",
            f"/{name}/{{id}}",
            f"delete{title}",
            f"Put one {one} into the recycle bin",
            does=_deleting(kind),
            needs=rules.Operation.DELETE,
            gives=(Gives(204, "In the recycle bin."),),
            headers=("If-Match",),
            writes=True,
            **common,
        )
    )
    add(
        Operation(
            "POST",
            f"/{name}/{{id}}/restore",
            f"restore{title}",
            f"Take one {one} out of the recycle bin, with all that went in with it",
            does=_restoring(kind),
            needs=rules.Operation.DELETE,
            gives=(Gives(200, "As it is now, saved.", given, headers=("ETag",)),),
            writes=True,
            **common,
        )
    )
    add(
        Operation(
            "GET",
            f"/{name}/{{id}}/timeline",
            f"timelineOf{title}",
            "Every change of it, the newest first",
            does=_telling(kind),
            needs=rules.Operation.HISTORY,
            params=(params.LIMIT, params.AFTER_VERSION),
            gives=(Gives(200, "Who changed what, when.", shapes.Timeline),),
            **common,
        )
    )


def describe() -> None:
    for kind in KINDS.values():
        _describe(kind)
