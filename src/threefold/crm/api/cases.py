"""What is done with queries and requests: answered, moved on, assigned, watched, rated, merged; and the queue of them.

None of these asks for If-Match: each says what is to become, not what a whole record is, and two people answering
one case have both answered it. A status that cannot follow the present one is a conflict (409).
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import Response
from pydantic import ConfigDict, create_model
from pydantic import Field as Constraint

from threefold.crm.api import models, params, reading, replies
from threefold.crm.api.models import PATTERNS, READ, WHOLE, Given, Sent
from threefold.crm.api.operations import Body, Call, Does, Gives, Operation, Param, add
from threefold.crm.api.shapes import Id
from threefold.crm.cases import cases
from threefold.crm.desk import Reply, Tx
from threefold.crm.model import rules
from threefold.crm.model.kinds import CASES, CHANNELS, KINDS, QUERY_STATES, REQUEST_STATES, Kind, Type

STATES: Final = {"queries": QUERY_STATES, "requests": REQUEST_STATES}
Text = Annotated[
    str, Constraint(min_length=1, max_length=20_000, pattern=PATTERNS[Type.LONG, True], examples=["It is on its way."])
]


class CustomersAnswer(Sent):
    """What a customer writes to its own case."""

    body: Text


class Assign(Sent):
    """Null takes it away; what is left out stays. At least one."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    assignee_id: Annotated[Id | None, Constraint(default=None, description="An employee.")]
    team_id: Annotated[Id | None, Constraint(default=None, description="A team.")]


class Watch(Sent):
    watching: Annotated[bool, Constraint(default=True, description="False: no longer.")]


class Rating(Sent):
    satisfaction: Annotated[int, Constraint(ge=1, le=5, description="5: very content."), WHOLE]


class Absorb(Sent):
    other: Annotated[Id, Constraint(description="The case that goes into this one.")]


def _states(kind: Kind) -> Any:
    return Literal[STATES[kind.name]]


def _answer_model(kind: Kind) -> type[Sent]:
    fields: dict[str, Any] = {
        "body": (Text, ...),
        "channel": (Literal[CHANNELS], Constraint(default="mail")),
        "internal": (bool, Constraint(default=False, description="For employees only.")),
        "status": (_states(kind) | None, Constraint(default=None, description="What the case becomes with it.")),
    }
    return create_model(f"{kind.one.capitalize()}Answer", __base__=Sent, **fields)


def _status_model(kind: Kind) -> type[Sent]:
    fields: dict[str, Any] = {"status": (_states(kind), ...)}
    return create_model(f"{kind.one.capitalize()}Status", __base__=Sent, **fields)


def _answering(kind: Kind) -> Does:
    async def answering(call: Call) -> Response:
        said = models.sent(call.body)
        more: dict[str, Any] = {
            "channel": said.get("channel", "chat" if call.desk.actor.is_customer else "mail"),
            "internal": said.get("internal", False),
            "status": said.get("status"),
        }

        async def work(tx: Tx) -> Reply:
            row = await cases.answer(tx, kind, call.id, said["body"], **more)
            return replies.record(row, status=201, kind="interactions")

        return replies.response(await call.desk.write(work))

    return answering


def _moving(kind: Kind) -> Does:
    async def moving(call: Call) -> Response:
        async def work(tx: Tx) -> Reply:
            return replies.record(await cases.set_status(tx, kind, call.id, call.body.status))

        return replies.response(await call.desk.write(work))

    return moving


def _assigning(kind: Kind) -> Does:
    async def assigning(call: Call) -> Response:
        to = models.sent(call.body)

        async def work(tx: Tx) -> Reply:
            return replies.record(await cases.assign(tx, kind, call.id, **to))

        return replies.response(await call.desk.write(work))

    return assigning


def _watching(kind: Kind) -> Does:
    async def watching(call: Call) -> Response:
        async def work(tx: Tx) -> Reply:
            return replies.record(await cases.watch(tx, kind, call.id, watching=call.body.watching))

        return replies.response(await call.desk.write(work))

    return watching


def _rating(kind: Kind) -> Does:
    async def rating(call: Call) -> Response:
        async def work(tx: Tx) -> Reply:
            return replies.record(await cases.rate(tx, kind, call.id, call.body.satisfaction))

        return replies.response(await call.desk.write(work))

    return rating


def _absorbing(kind: Kind) -> Does:
    async def absorbing(call: Call) -> Response:
        async def work(tx: Tx) -> Reply:
            return replies.record(await cases.merge_cases(tx, kind, call.id, call.body.other))

        return replies.response(await call.desk.write(work))

    return absorbing


async def _queue(call: Call) -> Response:
    query = call.query
    async with call.desk.read() as connection:
        rows = await cases.queue(
            connection,
            call.desk.actor,
            mine=query.get("mine", False),
            team=query.get("team"),
            limit=query.get("limit", 50),
        )
    return replies.response(replies.value({"items": rows}))


class Queued(Given):
    """A case in the queue, with what its clocks say."""

    id: UUID
    kind: Literal["queries", "requests"]
    version: int
    subject: str
    status: str
    priority: int
    contact_id: UUID | None
    contact: str | None
    account_id: UUID | None
    account: str | None
    assignee_id: UUID | None
    assignee: str | None
    team_id: UUID | None
    due_at: datetime | None
    first_response_due_at: datetime | None
    first_responded_at: datetime | None
    resolution_due_at: datetime | None
    resolved_at: datetime | None
    paused_at: datetime | None
    paused_seconds: int
    escalated_at: datetime | None
    created_at: datetime
    updated_at: datetime
    is_waiting: Annotated[bool, Constraint(description="For the customer: nobody here owes it anything.")]


class Queue(Given):
    items: list[Queued]


def _describe(kind: Kind) -> None:
    name, title, one = kind.name, kind.one.capitalize(), kind.one
    case = (Gives(200, "The case as it is now, saved.", READ[name], headers=("ETag",)),)
    interaction = (Gives(201, "The answer, saved.", READ["interactions"], headers=("ETag", "Location")),)
    at = f"/{name}/{{id}}"
    common: dict[str, Any] = {"tag": name, "kind": name, "writes": True}
    work: dict[str, Any] = {"needs": rules.Operation.WORK, "gives": case, **common}
    add(
        Operation(
            "POST",
            f"{at}/answers",
            f"answer{title}",
            f"Answer a {one}, or write a note on it",
            does=_answering(kind),
            needs=rules.Operation.ANSWER,
            takes=Body(_answer_model(kind), CustomersAnswer),
            gives=interaction,
            about="An employee's answer that is not internal stops the clock of the first response. "
            "A customer's opens the case again.",
            **common,
        )
    )
    status = Body(_status_model(kind))
    add(Operation("POST", f"{at}/status", f"move{title}", f"Move a {one} on", does=_moving(kind), takes=status, **work))
    add(
        Operation(
            "POST",
            f"{at}/assign",
            f"assign{title}",
            f"Give a {one} to an employee or a team",
            does=_assigning(kind),
            takes=Body(Assign),
            **work,
        )
    )
    add(
        Operation(
            "POST",
            f"{at}/watch",
            f"watch{title}",
            f"Watch a {one}, or no longer",
            does=_watching(kind),
            takes=Body(Watch),
            **work,
        )
    )
    add(
        Operation(
            "POST",
            f"{at}/merge",
            f"absorb{title}",
            f"Merge another {one} into this one",
            does=_absorbing(kind),
            takes=Body(Absorb),
            **work,
        )
    )
    add(
        Operation(
            "POST",
            f"{at}/rating",
            f"rate{title}",
            f"Say how content one is with a {one} that is resolved",
            does=_rating(kind),
            needs=rules.Operation.RATE,
            takes=Body(Rating),
            gives=case,
            **common,
        )
    )


def describe() -> None:
    for name in CASES:
        _describe(KINDS[name])
    add(
        Operation(
            "GET",
            "/queue",
            "queue",
            "Cases that somebody owes something, the most urgent first",
            tag="cases",
            does=_queue,
            needs=rules.Operation.WORK,
            params=(
                Param("mine", "Only what is assigned to me.", {"type": "boolean"}, reading.yes_or_no),
                Param("team", "Only this team's.", {"type": "string", "format": "uuid"}, reading.identifier),
                params.LIMIT,
            ),
            gives=(Gives(200, "The queue.", Queue),),
        )
    )
