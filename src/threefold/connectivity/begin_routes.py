"""The endpoints that need no session: an invitation becomes a device, a device's person becomes a session.

Each of them (but the look at an invitation) wants the proof of the device's key, spent before anything is looked at.
"""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from threefold.connectivity import answers, bodies, devices, invitations, passkeys, passwords, sessions
from threefold.connectivity.admission import Session
from threefold.connectivity.audit import Note, add
from threefold.connectivity.edge import Edge
from threefold.connectivity.refusals import BadCredentials, TooMany
from threefold.crm.desk import Connection, Row
from threefold.crm.model.actor import Actor, Role
from threefold.crm.model.errors import Invalid

router = APIRouter()


async def edge_of(request: Request) -> Edge:
    edge: Edge = request.app.state.edge
    return edge


AnEdge = Annotated[Edge, Depends(edge_of)]


@router.post("/invitation")
async def look_at_invitation(sent: bodies.OfToken, edge: AnEdge) -> Response:
    async with edge.database.read() as connection:
        row = await invitations.look(connection, sent.token)
        methods = await _methods(connection, row["user_id"])
    said = answers.some(row, "email", "role", "expires_at")
    return answers.answer({"name": row["full_name"], **said, "methods": methods, "title": edge.title})


@router.post("/enrol/options")
async def enrol_options(request: Request, sent: bodies.OfToken, edge: AnEdge) -> Response:
    proof = await edge.proven(request)
    async with edge.database.read() as connection:
        row = await invitations.look(connection, sent.token)
    return answers.answer(
        await edge.passkeys.creation_options(row["user_id"], row["full_name"], row["email"], proof.thumbprint)
    )


@router.post("/enrol")
async def enrol(request: Request, sent: bodies.Enrolment, edge: AnEdge) -> Response:
    """Everything that can be refused is looked at first, what is slow is done next; then one transaction."""
    proof = await edge.proven(request)
    name = devices.plain_name(sent.device)
    async with edge.database.read() as connection:
        row = await invitations.look(connection, sent.token)
        methods = await _methods(connection, row["user_id"])
    user: UUID = row["user_id"]
    if sent.registration is None and sent.password is None and not methods:
        raise Invalid("there is no way to sign in yet", {"registration": "make a passkey, or give a password"})
    made = await edge.passkeys.made(sent.registration, user, proof.thumbprint) if sent.registration else None
    digest = None if sent.password is None else await passwords.hashed(sent.password)
    actor = _actor(row, user, None)
    async with edge.database.write(actor) as tx:
        device = tx.new_id()
        await devices.enrol(tx, device, user, name, proof)
        await invitations.claim(tx, sent.token, device)
        if made is not None:
            await passkeys.keep(tx, user, made, name)
        if digest is not None:
            await passwords.keep(tx, user, digest)
        opened = await sessions.begin(tx, user, device, how="enrolment", bearer=sent.bearer, lifetimes=edge.lifetimes)
        actor = _actor(row, user, device)
        way = "passkey" if made else "password" if digest else "none"
        note = Note("enrolled", actor, "devices", device, edge.caller(request), {"name": name, "with": way})
        await add(tx.connection, note)
    return _opened(edge, Session(opened.id, actor, row["email"], name, sent.bearer, opened.expires_at), opened, 201)


@router.post("/signin/options")
async def signin_options(request: Request, sent: bodies.Nothing, edge: AnEdge) -> Response:
    del sent
    proof = await edge.proven(request)
    async with edge.database.read() as connection:
        await devices.of_key(connection, proof.thumbprint)
    return answers.answer(await edge.passkeys.request_options(proof.thumbprint))


@router.post("/signin")
async def signin(request: Request, sent: bodies.Signin, edge: AnEdge) -> Response:
    """The device first: who has none of ours learns nothing about people and passwords."""
    proof = await edge.proven(request)
    async with edge.database.read() as connection:
        device = await devices.of_key(connection, proof.thumbprint)
    owner: UUID = device["user_id"]
    try:
        if sent.assertion is not None:
            how = "passkey"
            if await edge.passkeys.user_of(sent.assertion, proof.thumbprint) != owner:
                raise BadCredentials("the passkey belongs to somebody else", hint="use one of this device's person")
        elif sent.email is not None and sent.password is not None:
            how = "password"
            await passwords.check(edge.database, sent.email, sent.password, owner)
        else:
            raise Invalid("neither a passkey nor a password was sent", {"assertion": "or e-mail address and password"})
    except (BadCredentials, TooMany) as error:
        tried = Actor(Role.CUSTOMER, owner, device["id"])  # the role is not noted
        detail = {"why": error.message}
        edge.audit.note(Note("signin-failed", tried, "users", owner, edge.caller(request), detail))
        raise
    async with edge.database.write(Actor(Role.CUSTOMER, owner, device["id"])) as tx:
        again = await devices.of_key(tx.connection, proof.thumbprint)  # it may have been revoked meanwhile
        cursor = await tx.connection.execute("SELECT * FROM crm.users WHERE id = %s", (again["user_id"],))
        row = await cursor.fetchone()
        if row is None:
            raise BadCredentials("there is no such person any more")
        opened = await sessions.begin(tx, owner, again["id"], how=how, bearer=sent.bearer, lifetimes=edge.lifetimes)
        actor = _actor(row, owner, again["id"])
        await add(tx.connection, Note("signin", actor, "users", owner, edge.caller(request), {"with": how}))
    session = Session(opened.id, actor, row["email"], again["name"], sent.bearer, opened.expires_at)
    return _opened(edge, session, opened, 200)


def _opened(edge: Edge, session: Session, opened: sessions.Opened, status: int) -> Response:
    """A browser gets the token where no script sees it; an API client in the answer."""
    if session.bearer:
        return answers.answer({**answers.who(session), "token": opened.token}, status)
    response = answers.answer(answers.who(session), status)
    response.headers.append("set-cookie", sessions.cookie(opened.token, edge.lifetimes.whole))
    return response


def _actor(row: Row, user: UUID, device: UUID | None) -> Actor:
    return Actor(Role(row["role"]), user, device, row["contact_id"], row["full_name"])


async def _methods(connection: Connection, user: UUID) -> list[str]:
    """How this person can sign in already."""
    held = ["passkey"] if await passkeys.of_user(connection, user) else []
    return held + (["password"] if await passwords.of_user(connection, user) else [])
