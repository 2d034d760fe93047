"""While the database is away: what became of what was deferred, and read-only on purpose.

Who does both is not known here: the edge puts them on ``app.state`` (`intake`, `read_only`).
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import Response
from pydantic import AwareDatetime
from pydantic import Field as Constraint

from threefold.crm.api import reading, replies
from threefold.crm.api.models import LAX, LINE, TIME_SHOWN, TIME_WRITTEN, Given, Sent
from threefold.crm.api.operations import OPERATIONS, Body, Call, Gives, Operation, Param, add
from threefold.crm.desk import Reply, Tx
from threefold.crm.model import rules

DEFERRED: Final = frozenset(
    {"/queries", "/requests", "/interactions", "/queries/{id}/answers", "/requests/{id}/answers"}
)


class Intake(Given):
    """Something that was sent while nothing could be written."""

    id: UUID
    state: Annotated[
        Literal["waiting", "applied", "rejected"], Constraint(description="applied: it is filed; `link` says where.")
    ]
    title: Annotated[str, Constraint(description="Its subject, or how it begins.")]
    author: UUID
    taken_at: datetime
    applied_at: Annotated[datetime | None, Constraint(description="When it was filed or rejected.")]
    link: str | None
    problem: Annotated[dict[str, Any] | None, Constraint(description="Why it was rejected: a problem.")]
    sent: Annotated[dict[str, Any] | None, Constraint(description="Of a rejected one: what was sent.")]
    handled_at: Annotated[datetime | None, Constraint(description="When somebody here saw to a rejected one.")]


class Taken(Intake):
    """The answer 202."""

    message: str
    goto: Annotated[str, Constraint(description="Empty: there is no page of it yet.")]


class Intakes(Given):
    items: list[Intake]


class ReadOnly(Sent):
    """``until``: what people are told; nothing happens by itself then."""

    read_only: bool
    reason: Annotated[str, Constraint(max_length=200, pattern=LINE, examples=["maintenance"])] = ""
    until: Annotated[AwareDatetime, LAX, TIME_WRITTEN, TIME_SHOWN] | None = None


class Mode(Given):
    read_only: bool
    reason: str | None
    until: datetime | None
    by_flag: Annotated[bool, Constraint(description="By `threefold crm serve --read-only`, for that process alone.")]


async def _one(call: Call) -> Response:
    found = await call.request.app.state.intake.one(call.desk.actor, call.id)
    return replies.response(replies.value(found))


async def _all(call: Call) -> Response:
    mine = call.query.get("mine", False)
    items = await call.request.app.state.intake.listed(call.desk.actor, mine=mine)
    return replies.response(replies.value({"items": items}))


async def _handled(call: Call) -> Response:
    async def work(tx: Tx) -> Reply:
        return replies.value(await call.request.app.state.intake.handle(tx, call.id))

    return replies.response(await call.desk.write(work))


async def _mode(call: Call) -> Response:
    return replies.response(replies.value(await call.request.app.state.read_only.get()))


async def _set_mode(call: Call) -> Response:
    mode, said = call.request.app.state.read_only, call.body

    async def work(tx: Tx) -> Reply:
        return replies.value(await mode.set(tx, on=said.read_only, reason=said.reason, until=said.until))

    reply = await call.desk.write(work)
    await mode.heard()
    return replies.response(reply)


def _tell_of_202() -> None:
    """On those that may be deferred."""
    gives = Gives(202, "Taken in while the database is away; it will be filed.", Taken, headers=("Location",))
    for place, operation in enumerate(OPERATIONS):
        if operation.method == "POST" and operation.path in DEFERRED:
            OPERATIONS[place] = replace(operation, gives=(*operation.gives, gives))


def describe() -> None:
    """After the operations that may be deferred."""
    _tell_of_202()
    one = (Gives(200, "What became of it.", Intake),)
    add(
        Operation(
            "GET",
            "/intake",
            "listIntake",
            "What was deferred and waits, or was rejected; of one's own also what was filed in the last two weeks",
            tag="intake",
            does=_all,
            needs=rules.Operation.SELF,
            params=(Param("mine", "Only what I sent.", {"type": "boolean"}, reading.yes_or_no),),
            gives=(Gives(200, "The newest first.", Intakes),),
        )
    )
    add(
        Operation(
            "GET",
            "/intake/{id}",
            "getIntake",
            "What became of something that was deferred",
            tag="intake",
            does=_one,
            needs=rules.Operation.SELF,
            gives=one,
        )
    )
    add(
        Operation(
            "POST",
            "/intake/{id}/handled",
            "handleIntake",
            "Say that a rejected one was seen to",
            tag="intake",
            does=_handled,
            needs=rules.Operation.WORK,
            gives=one,
            writes=True,
        )
    )
    mode = (Gives(200, "Whether changes are taken.", Mode),)
    add(
        Operation(
            "GET",
            "/read-only",
            "getReadOnly",
            "Whether the CRM is read-only on purpose",
            tag="intake",
            does=_mode,
            needs=rules.Operation.SELF,
            gives=mode,
        )
    )
    add(
        Operation(
            "PUT",
            "/read-only",
            "setReadOnly",
            "Make the CRM read-only, or let it take changes again",
            tag="intake",
            does=_set_mode,
            needs=rules.Operation.ADMINISTER,
            takes=Body(ReadOnly),
            gives=mode,
            writes=True,
            about="Every edge holds to it within seconds. Changes are then refused with 503 and the reason.",
        )
    )
