"""Erasing a person for good, at their demand."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import Response
from pydantic import Field as Constraint

from threefold.crm.api import replies
from threefold.crm.api.models import LINE, Given, Sent
from threefold.crm.api.operations import Body, Call, Gives, Operation, add
from threefold.crm.desk import Reply, Tx
from threefold.crm.model import rules


class Erase(Sent):
    reason: Annotated[
        str,
        Constraint(
            max_length=200,
            pattern=LINE,
            description="Names the demand, never the person: it is kept.",
            examples=["letter of 24 November"],
        ),
    ] = ""


class Erasure(Given):
    contact_id: UUID
    at: datetime
    by: UUID | None
    reason: str
    records: Annotated[int, Constraint(description="How many records lost something by it.")]


async def _erasing(call: Call) -> Response:
    erase: Any = call.request.app.state.erase
    reason = call.body.reason if call.body is not None else ""

    async def work(tx: Tx) -> Reply:
        return replies.value(await erase(tx, call.id, reason))

    reply = await call.desk.write(work)
    call.desk.did("erased", "contacts", call.id)
    return replies.response(reply)


def describe() -> None:
    add(
        Operation(
            "POST",
            "/contacts/{id}/erasure",
            "eraseContact",
            "Erase a person for good",
            tag="contacts",
            kind="contacts",
            does=_erasing,
            needs=rules.Operation.ERASE,
            takes=Body(Erase, optional=True),
            gives=(Gives(200, "Erased, written into the erasure ledger, and saved.", Erasure),),
            writes=True,
            about="Their records stay without what says who they were; the log's chains still prove themselves, and no "
            "recovery brings them back. There is no way to undo it.",
        )
    )
