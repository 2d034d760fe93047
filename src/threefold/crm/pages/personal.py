"""Everybody's own pages: devices and signing in, and the outbox of this device.

What they show comes from /connect and from the device itself, by script; here is only the frame, and for a customer
what is kept of them.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from threefold.crm.desk import Desk, desk_of
from threefold.crm.model.kinds import KINDS
from threefold.crm.pages.rendering import render
from threefold.crm.records import records

router = APIRouter()
AtDesk = Annotated[Desk, Depends(desk_of)]


@router.get("/me")
async def me(request: Request, desk: AtDesk) -> Response:
    contact: dict[str, Any] | None = None
    if desk.actor.contact is not None:
        async with desk.read() as connection:
            contact = await records.get(connection, desk.actor, KINDS["contacts"], desk.actor.contact)
        desk.saw("contacts", desk.actor.contact)
    return render(request, "me.html", {"contact": contact})


@router.get("/outbox")
async def outbox(request: Request, desk: AtDesk) -> Response:  # noqa: ARG001 - the desk: for those who are signed in
    return render(request, "outbox.html")
