"""The endpoints of /connect: devices, sessions, passkeys, password; invitations; people and the audit.

docs/reference/connect.md is their reference for whoever writes a client. Those that begin something, without a session,
are in begin_routes.py; those about other people in people_routes.py. They write past `Desk.write` on purpose: its kept
answers would hold the secrets of invitations.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response
from webauthn import base64url_to_bytes

from threefold.connectivity import answers, bodies, devices, invitations, passkeys, passwords, sessions
from threefold.connectivity.admission import Session
from threefold.connectivity.audit import Note, add
from threefold.connectivity.begin_routes import AnEdge
from threefold.connectivity.desks import EdgeDesk
from threefold.connectivity.edge import Edge
from threefold.crm.desk import Row, Tx
from threefold.crm.model.errors import Invalid
from threefold.kernel.errors import NotThere

router = APIRouter()


async def session_of(request: Request) -> Session:
    desk: EdgeDesk = request.state.desk
    return desk.session


ASession = Annotated[Session, Depends(session_of)]


@router.get("/me")
async def me(session: ASession) -> Response:
    return answers.answer(answers.who(session))


@router.post("/signout")
async def signout(session: ASession, edge: AnEdge) -> Response:
    async with edge.database.write(session.actor) as tx:
        await sessions.end(tx, user_of(session), session.id)
        await add(tx.connection, Note("signout", session.actor, "users", session.actor.user))
    await edge.streams.look()
    response = answers.nothing()
    response.headers.append("set-cookie", sessions.no_cookie())
    return response


@router.get("/devices")
async def my_devices(session: ASession, edge: AnEdge) -> Response:
    async with edge.database.read() as connection:
        rows = await devices.of_user(connection, user_of(session))
    return answers.answer(answers.devices(rows, session.actor.device))


@router.post("/devices/invitation")
async def invite_my_device(sent: bodies.Nothing, session: ASession, edge: AnEdge) -> Response:
    del sent
    async with edge.database.write(session.actor) as tx:
        invited = await invitations.invite(tx, user_of(session), invitations.OWN_LIFETIME)
    return invited_answer(edge, invited)


@router.post("/devices/{device}/name")
async def name_device(device: UUID, sent: bodies.Named, session: ASession, edge: AnEdge) -> Response:
    async with edge.database.write(session.actor) as tx:
        row = await devices.rename(tx, user_of(session), device, sent.name)
    return answers.answer(answers.device(row, session.actor.device))


@router.post("/devices/{device}/revoke")
async def revoke_device(device: UUID, session: ASession, edge: AnEdge) -> Response:
    async with edge.database.write(session.actor) as tx:
        row = await devices.revoke(tx, user_of(session), device)
    await edge.streams.look()
    return answers.answer(answers.device(row, session.actor.device))


@router.get("/sessions")
async def my_sessions(session: ASession, edge: AnEdge) -> Response:
    async with edge.database.read() as connection:
        rows = await sessions.of_user(connection, user_of(session))
    return answers.answer({"sessions": [{**row, "this": row["id"] == session.id} for row in rows]})


@router.post("/sessions/{ended}/end")
async def end_session(ended: UUID, session: ASession, edge: AnEdge) -> Response:
    async with edge.database.write(session.actor) as tx:
        await sessions.end(tx, user_of(session), ended)
        await add(tx.connection, Note("signout", session.actor, "users", session.actor.user))
    await edge.streams.look()
    return answers.nothing()


@router.get("/passkeys")
async def my_passkeys(session: ASession, edge: AnEdge) -> Response:
    async with edge.database.read() as connection:
        rows = await passkeys.of_user(connection, user_of(session))
    return answers.answer({"passkeys": [_passkey(row) for row in rows]})


@router.post("/passkeys/options")
async def passkey_options(sent: bodies.Nothing, request: Request, session: ASession, edge: AnEdge) -> Response:
    del sent
    key = await _thumbprint(request, session, edge)
    options = await edge.passkeys.creation_options(user_of(session), session.actor.name, session.email, key)
    return answers.answer(options)


@router.post("/passkeys")
async def add_passkey(sent: bodies.NewPasskey, request: Request, session: ASession, edge: AnEdge) -> Response:
    user = user_of(session)
    made = await edge.passkeys.made(sent.registration, user, await _thumbprint(request, session, edge))
    async with edge.database.write(session.actor) as tx:
        await passkeys.keep(tx, user, made, sent.name)
        await _note(tx, "passkey-added", sent.name)
        rows = await passkeys.of_user(tx.connection, user)
    return answers.answer(next(_passkey(row) for row in rows if row["id"] == made.id), 201)


@router.post("/passkeys/{passkey}/remove")
async def remove_passkey(passkey: str, session: ASession, edge: AnEdge) -> Response:
    try:
        known = base64url_to_bytes(passkey)
    except ValueError:
        raise NotThere("there is no such passkey") from None
    async with edge.database.write(session.actor) as tx:
        await passkeys.remove(tx, user_of(session), known)
        await _note(tx, "passkey-removed", "")
    return answers.nothing()


@router.get("/password")
async def my_password(session: ASession, edge: AnEdge) -> Response:
    async with edge.database.read() as connection:
        row = await passwords.of_user(connection, user_of(session))
    return answers.answer({"set": row is not None, "changed_at": row["changed_at"] if row else None})


@router.post("/password")
async def change_password(sent: bodies.NewPassword, session: ASession, edge: AnEdge) -> Response:
    """The current one is asked for: a device that was left open is not enough to lock its person out."""
    user = user_of(session)
    async with edge.database.read() as connection:
        row = await passwords.of_user(connection, user)
    passwords.acceptable(sent.new)
    if row is not None:
        if sent.current is None:
            raise Invalid("the current password is missing", {"current": "your current password"})
        await passwords.check(edge.database, session.email, sent.current, user)
    digest = await passwords.hashed(sent.new)
    async with edge.database.write(session.actor) as tx:
        await passwords.keep(tx, user, digest)
        await sessions.end_all(tx, user, but=session.id)
        await _note(tx, "password-changed", "")
    await edge.streams.look()
    return answers.nothing()


def user_of(session: Session) -> UUID:
    """Who has a session is a person."""
    assert session.actor.user is not None  # noqa: S101 - admission joins them
    return session.actor.user


def invited_answer(edge: Edge, invited: invitations.Invited) -> Response:
    said = {"id": invited.id, "url": link(edge, invited.token), "expires_at": invited.expires_at}
    return answers.answer({**said, "user": answers.person(invited.person)}, 201)


def link(edge: Edge, token: str) -> str:
    return f"{edge.origin.url}/join#{token}"


async def _thumbprint(request: Request, session: Session, edge: Edge) -> str:
    """Of the key that proved this request, which is the session's device's."""
    del request
    async with edge.database.read() as connection:
        cursor = await connection.execute("SELECT thumbprint FROM edge.devices WHERE id = %s", (session.actor.device,))
        row = await cursor.fetchone()
    return row["thumbprint"] if row else ""


async def _note(tx: Tx, what: str, name: str) -> None:
    await add(tx.connection, Note(what, tx.actor, "users", tx.actor.user, detail={"name": name} if name else {}))


def _passkey(row: Row) -> dict[str, object]:
    return {**row, "id": urlsafe_b64encode(row["id"]).rstrip(b"=").decode()}
