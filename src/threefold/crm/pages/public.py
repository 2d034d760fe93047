"""What needs nobody: signing in, joining, the page for being away, the service worker.

Nothing here shows data, so nothing here asks who is there. The service worker's script begins with the list of what
it keeps (the shell): addresses by digest, so that a changed file is a changed script, and browsers fetch both.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Final

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse, RedirectResponse

from threefold.crm.pages.rendering import ENVIRONMENT, STATIC, static
from threefold.crm.pages.site import Site

router = APIRouter()

_ASK_AGAIN: Final = "no-cache"
_WORKER: Final = ("store.js", "device.js", "outbox.js")  # what the service worker is made of, besides itself
_SHELL: Final = (
    "app.css",
    "parts.css",
    "theme.js",
    "app.js",
    "times.js",
    "sse.js",
    "outbox-forms.js",
    "pending.js",
    "shell.js",
    "join.js",
    "signin.js",
    "passkeys.js",
    "offline.js",
    "vendor/htmx.min.js",
    "icons/mark.svg",
)


@router.get("/sw.js")
async def service_worker() -> Response:
    return Response(_worker(), media_type="text/javascript", headers={"Cache-Control": _ASK_AGAIN})


@cache
def _worker() -> str:
    parts = [static(name) for name in _WORKER]
    shell = [*parts, *(static(name) for name in _SHELL)]
    lists = f"const PARTS = {json.dumps(parts)};\nconst SHELL = {json.dumps(shell)};\n"
    return lists + (STATIC / "sw.js").read_text()


@router.get("/manifest.webmanifest")
async def manifest() -> Response:
    headers = {"Cache-Control": _ASK_AGAIN}
    return FileResponse(STATIC / "manifest.webmanifest", media_type="application/manifest+json", headers=headers)


@router.get("/favicon.ico")
async def favicon() -> Response:
    return RedirectResponse(static("icons/192.png"), 308)


@router.get("/join")
async def join() -> Response:
    return _page("join.html")


@router.get("/signin")
async def signin() -> Response:
    return _page("signin.html")


@router.get("/offline")
async def offline() -> Response:
    return _page("offline.html")


@cache
def _page(template: str) -> Response:
    body = ENVIRONMENT.get_template(template).render(site=Site())
    return Response(body, media_type="text/html; charset=utf-8", headers={"Cache-Control": _ASK_AGAIN})
