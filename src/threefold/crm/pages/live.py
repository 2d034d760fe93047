"""The live stream: says which records changed, never what they hold.

A page that hears of one asks for the part of itself that shows it, through the same route and the same rights as
ever. The hub leaves out what the reader may not know of; here it is only put on the wire, with a heartbeat that says
the site as well, so that a reader sees within seconds that it has become a standby's page.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import StreamingResponse

from threefold.crm.datalog.live import EVERYTHING
from threefold.crm.desk import Desk, desk_of
from threefold.crm.pages.rendering import site_of

router = APIRouter()

HEARTBEAT_SECONDS = 15.0
LOOK_SECONDS = 1.0  # at the site: that the database is away is told at once
_RETRY = b"retry: 3000\n\n"


@router.get("/live")
async def live(request: Request, desk: Annotated[Desk, Depends(desk_of)]) -> StreamingResponse:
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_events(request, desk), media_type="text/event-stream", headers=headers)


async def _events(request: Request, desk: Desk) -> AsyncIterator[bytes]:
    """Changes as they come, a heartbeat in between. One waiting task at a time, taken away with the reader."""
    said = _site(request, desk)
    yield _RETRY + _event(said)
    quiet = 0.0
    changes = request.app.state.live.subscribe(desk.actor)
    waiting: asyncio.Task[Any] | None = None
    try:
        while True:
            waiting = waiting or asyncio.ensure_future(anext(changes))
            done, _ = await asyncio.wait([waiting], timeout=LOOK_SECONDS)
            if not done:
                quiet += LOOK_SECONDS
                now = _site(request, desk)
                if quiet >= HEARTBEAT_SECONDS or _state(now) != _state(said):
                    quiet, said = 0.0, now
                    yield _event(now)
                continue
            try:
                kind, record = waiting.result()
            except StopAsyncIteration:
                return
            waiting = None
            if kind == EVERYTHING[0]:
                yield b"event: all\ndata: {}\n\n"
                continue
            yield b"data: " + json.dumps({"kind": kind, "id": str(record)}).encode() + b"\n\n"
    finally:
        if waiting is not None:
            waiting.cancel()
            with suppress(asyncio.CancelledError, StopAsyncIteration):
                await waiting
        await changes.aclose()


def _site(request: Request, desk: Desk) -> dict[str, Any]:
    return site_of(request).told(customer=desk.actor.is_customer)


def _event(said: dict[str, Any]) -> bytes:
    return b"event: site\ndata: " + json.dumps(said).encode() + b"\n\n"


def _state(said: dict[str, Any]) -> tuple[Any, ...]:
    """What is told at once when it changes; that a page grows older is not."""
    return said["state"], said["writes"], said.get("lacking")
