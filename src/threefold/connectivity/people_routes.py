"""The endpoints of /connect about other people: invitations (employees too), devices, revocation, the audit."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import AwareDatetime
from starlette.responses import Response

from threefold.connectivity import answers, audit, bodies, devices, invitations
from threefold.connectivity.admission import Session
from threefold.connectivity.begin_routes import AnEdge
from threefold.connectivity.routes import ASession, invited_answer
from threefold.crm.desk import Row
from threefold.crm.model.errors import Forbidden, Invalid
from threefold.kernel.errors import NotThere

router = APIRouter()


@router.post("/invitations")
async def make_invitation(sent: bodies.NewInvitation, session: ASession, edge: AnEdge) -> Response:
    _staff(session)
    lifetime = timedelta(hours=sent.hours)
    new = {name: value for name in ("full_name", "email", "role") if (value := getattr(sent, name)) is not None}
    if (sent.contact_id is not None) + (sent.user_id is not None) + bool(new) != 1:
        raise Invalid("say whom to invite", {"user_id": "this, or contact_id, or a name, an e-mail address and a role"})
    if new and len(new) < 3:
        missing = {name: "is needed for a new person" for name in ("full_name", "email", "role") if name not in new}
        raise Invalid("the new person is not described", missing)
    if sent.team_id is not None:
        new["team_id"] = str(sent.team_id)
    async with edge.database.write(session.actor) as tx:
        if sent.contact_id is not None:
            invited = await invitations.invite_contact(tx, sent.contact_id, lifetime)
        elif sent.user_id is not None:
            invited = await invitations.invite(tx, sent.user_id, lifetime)
        else:
            invited = await invitations.invite_new(tx, new, lifetime)
    return invited_answer(edge, invited)


@router.get("/invitations")
async def list_invitations(session: ASession, edge: AnEdge) -> Response:
    _staff(session)
    async with edge.database.read() as connection:
        rows = await invitations.listing(connection, session.actor)
    return answers.answer({"invitations": [_invitation(row) for row in rows]})


@router.post("/invitations/{invitation}/withdraw")
async def withdraw_invitation(invitation: UUID, session: ASession, edge: AnEdge) -> Response:
    _staff(session)
    async with edge.database.write(session.actor) as tx:
        row = await invitations.withdraw(tx, invitation)
    return answers.answer(_invitation(row))


@router.get("/people")
async def list_people(session: ASession, edge: AnEdge) -> Response:
    _administrator(session)
    async with edge.database.read() as connection:
        cursor = await connection.execute(
            """SELECT u.id, u.full_name AS name, u.email, u.role, u.active, count(d.id) AS devices,
                      max(d.seen_at) AS seen_at
               FROM crm.users u LEFT JOIN edge.devices d ON d.user_id = u.id AND d.revoked_at IS NULL
               WHERE u.deleted_at IS NULL GROUP BY u.id
               ORDER BY u.role = 'customer', u.role, u.full_name, u.id LIMIT 1000"""
        )
        rows = await cursor.fetchall()
    return answers.answer({"people": rows})


@router.get("/people/{user}/devices")
async def devices_of(user: UUID, session: ASession, edge: AnEdge) -> Response:
    _administrator(session)
    async with edge.database.read() as connection:
        rows = await devices.of_user(connection, user)
    return answers.answer(answers.devices(rows, session.actor.device))


@router.post("/people/{user}/devices/{device}/revoke")
async def revoke_device_of(user: UUID, device: UUID, session: ASession, edge: AnEdge) -> Response:
    _administrator(session)
    async with edge.database.write(session.actor) as tx:
        row = await devices.revoke(tx, user, device)
    await edge.streams.look()
    return answers.answer(answers.device(row, session.actor.device))


@router.post("/people/{user}/revoke")
async def revoke_person(user: UUID, session: ASession, edge: AnEdge) -> Response:
    """Everything a lost or leaving person could get in with. Deactivating the user keeps them out for good."""
    _administrator(session)
    async with edge.database.write(session.actor) as tx:
        cursor = await tx.connection.execute("SELECT FROM crm.users WHERE id = %s", (user,))
        if not cursor.rowcount:
            raise NotThere("there is no such person")
        revoked, ended = await devices.revoke_all(tx, user)
    await edge.streams.look()
    return answers.answer({"devices": revoked, "sessions": ended})


@router.get("/audit")
async def read_audit(
    session: ASession,
    edge: AnEdge,
    after: Annotated[int | None, Query(ge=1, le=2**62)] = None,
    user: UUID | None = None,
    what: Annotated[str, Query(max_length=60, pattern=r"^[a-z-]*$")] = "",
    record: UUID | None = None,
    since: AwareDatetime | None = None,
    until: AwareDatetime | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 100,
) -> Response:
    _administrator(session)
    when = {"since": since, "until": until}
    async with edge.database.read() as connection:
        rows = await audit.entries(connection, before=after, user=user, what=what, record=record, **when, limit=limit)
    following = rows[-1]["id"] if len(rows) == limit else None
    return answers.answer({"entries": rows, "next": following})


def _staff(session: Session) -> None:
    if session.actor.is_customer:
        raise NotThere("there is nothing at this address")


def _administrator(session: Session) -> None:
    _staff(session)
    if not session.actor.is_administrator:
        raise Forbidden("that is for administrators", hint="ask one of them")


def _invitation(row: Row) -> dict[str, object]:
    said = answers.some(row, "id", "user_id", "email", "role", "made_by", "made_at", "expires_at", "state")
    return {**said, "name": row["full_name"]}
