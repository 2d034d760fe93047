"""Two records that are one: found, merged, and parted again."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Response
from pydantic import Field as Constraint
from pydantic import create_model

from threefold.crm.api import models, params, replies
from threefold.crm.api.models import READ, Given, Sent
from threefold.crm.api.operations import Body, Call, Does, Gives, Operation, add
from threefold.crm.api.shapes import Id, list_of
from threefold.crm.desk import Reply, Tx
from threefold.crm.model import rules
from threefold.crm.model.kinds import CASES, KINDS, MERGED, Kind
from threefold.crm.records import merge

Side = Literal["keep", "drop"]


class Merge(Given):
    """What was merged into what. ``undoable``: nobody undid it, and nobody in it was erased."""

    id: UUID
    kind: str
    kept_id: UUID
    dropped_id: UUID
    kept: str | None
    dropped: str | None
    at: datetime
    by: UUID | None
    who: str | None
    undone_at: datetime | None
    undone_by: UUID | None
    undoable: bool


class Merges(Given):
    items: list[Merge]


class Merged(Given):
    id: Annotated[UUID, Constraint(description="Of the merge, for undoing it.")]
    kept_id: UUID
    dropped_id: UUID


def _merge_model(kind: Kind) -> type[Sent]:
    sides: dict[str, Any] = {
        field.name: (Side, Constraint(default="keep", description=field.title))
        for field in kind.fields
        if not field.kept
    }
    choices = create_model(f"{kind.one.capitalize()}Choices", __base__=Sent, **sides)
    about = "Whose value stays, field by field. Where nothing is said: the kept one's, unless it is empty."
    fields: dict[str, Any] = {
        "keep": (Id, Constraint(description="The record that stays.")),
        "drop": (Id, Constraint(description="The record that goes into it.")),
        "choices": (choices, Constraint(default=None, json_schema_extra=models.no_default, description=about)),
    }
    return create_model(f"{kind.one.capitalize()}Merge", __base__=Sent, **fields)


def _duplicates_model(kind: Kind) -> type[Given]:
    title = kind.one.capitalize()
    rows = list_of(READ[kind.name])
    group: dict[str, Any] = {"why": (str, ...), "rows": (rows, Constraint(description="The oldest first."))}
    fields: dict[str, Any] = {"items": (list_of(create_model(f"{title}Duplicates", __base__=Given, **group)), ...)}
    return create_model(f"{title}DuplicatesPage", __base__=Given, **fields)


def _finding(kind: Kind) -> Does:
    async def finding(call: Call) -> Response:
        async with call.desk.read() as connection:
            groups = await merge.duplicates(connection, kind, call.query.get("limit", 50))
        items = [{"why": group.why, "rows": group.rows} for group in groups]
        return replies.response(replies.value({"items": items}))

    return finding


def _merging(kind: Kind) -> Does:
    async def merging(call: Call) -> Response:
        sent = call.body
        choices = models.sent(sent.choices) if sent.choices is not None else {}

        async def work(tx: Tx) -> Reply:
            made = await merge.merge(tx, kind, sent.keep, sent.drop, choices)
            return replies.value({"id": made, "kept_id": sent.keep, "dropped_id": sent.drop}, status=201)

        return replies.response(await call.desk.write(work))

    return merging


def _listing(kind: Kind) -> Does:
    async def listing(call: Call) -> Response:
        async with call.desk.read() as connection:
            rows = await merge.merges(connection, kind, call.query.get("limit", 50))
        return replies.response(replies.value({"items": rows}))

    return listing


async def _undoing(call: Call) -> Response:
    async def work(tx: Tx) -> Reply:
        row = await merge.undo(tx, call.id)
        return replies.value({name: row[name] for name in ("id", "kept_id", "dropped_id")})

    return replies.response(await call.desk.write(work))


def describe() -> None:
    for name in (*MERGED, *CASES):
        kind = KINDS[name]
        title = kind.one.capitalize()
        common: dict[str, Any] = {"tag": name, "kind": name}
        add(
            Operation(
                "GET",
                f"/{name}/merges",
                f"mergesOf{title}",
                f"Which {name} were merged, the newest first",
                does=_listing(kind),
                needs=rules.Operation.HISTORY,
                params=(params.LIMIT,),
                gives=(Gives(200, "Merges.", Merges),),
                **common,
            )
        )
        if name in CASES:  # they are merged as cases are: POST {id}/merge
            continue
        common["needs"] = rules.Operation.MERGE
        add(
            Operation(
                "GET",
                f"/{name}/duplicates",
                f"duplicatesOf{title}",
                f"{name.capitalize()} that are probably the same",
                does=_finding(kind),
                params=(params.LIMIT,),
                gives=(Gives(200, "Groups of them, and why.", _duplicates_model(kind)),),
                **common,
            )
        )
        add(
            Operation(
                "POST",
                f"/{name}/merge",
                f"merge{title}",
                f"Make one {kind.one} of two",
                does=_merging(kind),
                takes=Body(_merge_model(kind)),
                gives=(Gives(201, "Merged, and saved.", Merged),),
                writes=True,
                **common,
            )
        )
    add(
        Operation(
            "POST",
            "/merges/{id}/undo",
            "undoMerge",
            "Part again what was merged",
            tag="merges",
            does=_undoing,
            needs=rules.Operation.MERGE,
            gives=(Gives(200, "Parted, and saved.", Merged),),
            writes=True,
            about="409, with what stands against it, where somebody changed since what the merge had changed.",
        )
    )
