"""What is done with a case on its page: answered, moved on, given to somebody, watched, merged.

And what was said to a contact, kept there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request, Response

from threefold.crm.cases import cases
from threefold.crm.desk import Desk, Reply, Row, Tx
from threefold.crm.model import rules
from threefold.crm.model.kinds import CASES, KINDS, Kind
from threefold.crm.pages.employee.record import shown
from threefold.crm.pages.rendering import answer, goes
from threefold.crm.pages.staff import AtDesk, case_of, form_of, id_of, kind_of, only_staff, saying, texts_in
from threefold.crm.records import records, related
from threefold.kernel.errors import NotThere

router = APIRouter(include_in_schema=False)
Does = Callable[[Tx], Awaitable[Row]]


async def done(
    request: Request, desk: Desk, kind: Kind, id_: UUID, does: Does, part: str, message: str, *, focus: bool = False
) -> Response:
    """The change, and the part of the page that shows it."""

    async def work(tx: Tx) -> Reply:
        await does(tx)
        return Reply(204)

    reply = await desk.write(work)
    if reply.status >= 400:
        return answer(reply)
    response = saying(await shown(request, desk, kind, id_, part=part, answered=focus), message)
    response.headers["HX-Trigger-After-Settle"] = "threefold:changed"
    return response


@router.post("/records/{kind}/{record}/answer")
async def answer_it(request: Request, desk: AtDesk, kind: str, record: str) -> Response:
    """Sent by the outbox, so that it waits on the device while the CRM is away; a refusal is problem+json."""
    of, id_ = kind_of(kind), id_of(record)
    only_staff(desk.actor)  # customers say theirs on their own page
    texts = texts_in(await form_of(request))
    body = texts.get("body", "").replace("\r\n", "\n")
    if of.name in CASES:
        rules.check(desk.actor, rules.Operation.WORK, of.name)
        return await _answer(desk, of, id_, body, texts)
    rules.check(desk.actor, rules.Operation.CREATE, "interactions")
    return await _keep(desk, of, id_, body, texts)


async def _answer(desk: Desk, kind: Kind, id_: UUID, body: str, texts: dict[str, str]) -> Response:
    internal, status = texts.get("internal") == "true", texts.get("status") or None

    async def work(tx: Tx) -> Reply:
        channel = texts.get("channel") or "mail"
        await cases.answer(tx, kind, id_, body, channel=channel, internal=internal, status=status)
        return goes("", "Kept as an internal note." if internal else "Sent to the customer.")

    return answer(await desk.write(work))


async def _keep(desk: Desk, kind: Kind, id_: UUID, body: str, texts: dict[str, str]) -> Response:
    if kind.name != "contacts":
        raise NotThere("nothing is said to this", hint="keep it at the contact, or answer the case")
    how = {name: texts[name] for name in ("channel", "direction") if texts.get(name)}

    async def work(tx: Tx) -> Reply:
        await records.create(tx, KINDS["interactions"], {"body": body, "contact_id": id_, **how})
        return goes("", "Kept.")

    return answer(await desk.write(work))


@router.post("/records/{kind}/{record}/status")
async def status(request: Request, desk: AtDesk, kind: str, record: str) -> Response:
    case, id_ = case_of(kind), id_of(record)
    wanted = texts_in(await form_of(request)).get("status", "")

    async def does(tx: Tx) -> Row:
        return await cases.set_status(tx, case, id_, wanted)

    return await done(request, desk, case, id_, does, "record-work", f"It is {wanted} now.")


@router.post("/records/{kind}/{record}/assign")
async def assign(request: Request, desk: AtDesk, kind: str, record: str) -> Response:
    case, id_ = case_of(kind), id_of(record)
    texts = texts_in(await form_of(request))
    given: dict[str, Any] = {
        name: id_of(texts[name]) if texts[name] else None for name in ("assignee_id", "team_id") if name in texts
    }

    async def does(tx: Tx) -> Row:
        return await cases.assign(tx, case, id_, **given)

    return await done(
        request, desk, case, id_, does, "record-work", "Assigned." if any(given.values()) else "Taken away."
    )


@router.post("/records/{kind}/{record}/watch")
async def watch(request: Request, desk: AtDesk, kind: str, record: str) -> Response:
    case, id_ = case_of(kind), id_of(record)
    watching = texts_in(await form_of(request)).get("watching") == "true"

    async def does(tx: Tx) -> Row:
        return await cases.watch(tx, case, id_, watching=watching)

    message = "You watch this case." if watching else "You do not watch this case any more."
    return await done(request, desk, case, id_, does, "record-work", message)


@router.post("/records/{kind}/{record}/absorb")
async def absorb(request: Request, desk: AtDesk, kind: str, record: str) -> Response:
    """Another case goes into this one."""
    case, id_ = case_of(kind), id_of(record)
    rules.check(desk.actor, rules.Operation.WORK, case.name)
    other = id_of(texts_in(await form_of(request)).get("other", ""))

    async def work(tx: Tx) -> Reply:
        await cases.merge_cases(tx, case, id_, other)
        merge_id = await related.last_merge(tx.connection, id_, other)
        undo = f"/merges/{merge_id}/undo" if merge_id else ""
        return goes(f"/records/{case.name}/{id_}", f"The other {case.one} went into this one.", undo=undo)

    return answer(await desk.write(work))
