"""Templates become answers here, whole or in part.

A page and its parts share one context: a route makes it once and calls `render`. htmx asks for a part by its target's
id; where the template has a block of that name (dashes as underscores), only the block is rendered. So a live region is

    {% block conversation %}<section id="conversation" hx-get="{{ path }}" ...>...</section>{% endblock %}

Autoescape is on everywhere, and no template marks anything safe: what people typed stays text. Static files are asked
for by their content's digest, so that they may be kept for ever and a new release is never half old.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from fastapi import Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
from jinja2.runtime import Context

from threefold.crm.desk import Desk, Reply
from threefold.crm.model import rules
from threefold.crm.model.actor import Actor, Role
from threefold.crm.model.kinds import KINDS
from threefold.crm.pages.places import groups_of
from threefold.crm.pages.site import Site
from threefold.crm.pages.words import FILTERS

HERE: Final = Path(__file__).parent
STATIC: Final = HERE / "static"

# htmx without what our content security policy forbids, and without keeping pages in the browser's storage.
HTMX: Final = json.dumps(
    {
        "allowEval": False,
        "allowScriptTags": False,
        "includeIndicatorStyles": False,
        "selfRequestsOnly": True,
        "historyCacheSize": 0,
        "refreshOnHistoryMiss": True,
        "defaultSettleDelay": 0,
        "attributesToSettle": [
            "class"
        ],  # not style, which the policy forbids: a text area that was drawn larger has one
        "timeout": 30_000,
        "responseHandling": [
            {"code": "204", "swap": False},
            {"code": "[23]..", "swap": True},
            {"code": "422", "swap": True},
            {"code": "...", "swap": False, "error": True},
        ],
    }
)
_NOBODY: Final = Actor(Role.CUSTOMER, name="")


@cache
def static(name: str) -> str:
    """The address of one of our static files, with its content's digest."""
    digest = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]
    return f"/static/{name}?v={digest}"


@pass_context
def here(context: Context, **changes: Any) -> str:
    """The page's own address with some of its query changed; None takes a parameter out."""
    request: Request = context["request"]
    pairs = [(key, value) for key, value in request.query_params.multi_items() if key not in changes]
    pairs += [(key, str(value)) for key, value in changes.items() if value is not None]
    return f"{request.url.path}?{urlencode(pairs)}" if pairs else request.url.path


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters.update(FILTERS)
    made.globals.update(static=static, here=here, htmx_config=HTMX, KINDS=KINDS, rules=rules, plain_title=False)
    return made


ENVIRONMENT: Final = _environment()


def site_of(request: Request) -> Site:
    tell = getattr(request.app.state, "site", None)
    found = tell() if tell is not None else None
    return found if isinstance(found, Site) else Site()


def render(
    request: Request,
    template: str,
    context: Mapping[str, Any] | None = None,
    *,
    status: int = 200,
    block: str = "",
    headers: Mapping[str, str] | None = None,
) -> HTMLResponse:
    """A page, or the block of it that htmx asked for. Never kept by any cache: it is somebody's."""
    text = text_of(request, template, context, block=block)
    kept = {"Cache-Control": "no-store", "Vary": "HX-Request, HX-Target", **(headers or {})}
    return HTMLResponse(text, status, kept)


def text_of(request: Request, template: str, context: Mapping[str, Any] | None = None, *, block: str = "") -> str:
    """What `render` sends. Inside `Desk.write` it becomes a Reply's body: `page_reply`."""
    found = ENVIRONMENT.get_template(template)
    desk: Desk | None = getattr(request.state, "desk", None)
    actor = desk.actor if desk is not None else _NOBODY
    groups = groups_of(actor, request.url.path)
    whole = {
        "request": request,
        "path": request.url.path,
        "actor": actor,
        "site": site_of(request),
        "place_groups": groups,
        "places": groups[0][1],
        **(context or {}),
    }
    wanted = block or _asked_block(request)
    if wanted in found.blocks:
        within = found.new_context(whole)
        next(found.root_render_func(within), "")  # as far as its first words: its imports and sets, which blocks use
        return "".join(found.blocks[wanted](within))
    return found.render(whole)


def page_reply(
    request: Request, template: str, context: Mapping[str, Any], *, status: int = 200, block: str = ""
) -> Reply:
    """A rendered answer to a change: kept with its Idempotency-Key like any other."""
    text = text_of(request, template, context, block=block)
    return Reply(status, text.encode(), "text/html; charset=utf-8", {"Cache-Control": "no-store"})


def goes(to: str, message: str = "", **more: Any) -> Reply:
    """The answer to a change after which another page is shown. outbox.js reads the body, htmx the header."""
    body = json.dumps({"goto": to, "message": message, **more}).encode()
    return Reply(200, body, "application/json", {"HX-Redirect": to, "Cache-Control": "no-store"})


def answer(reply: Reply) -> Response:
    """What `Desk.write` gave, as a response."""
    return Response(reply.body, reply.status, dict(reply.headers), reply.media_type)


def _asked_block(request: Request) -> str:
    if request.headers.get("hx-request") != "true" or request.headers.get("hx-boosted"):
        return ""
    return request.headers.get("hx-target", "").replace("-", "_")
