"""All pages in one router, and what the edge asks of them: the shell, and how a failure looks.

The router holds public routes (signing in, joining, static files) and those that need a Desk; which are which is the
edge's to know (connectivity/).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from fastapi import APIRouter, Request, Response

from threefold.crm.pages import admin, customer, employee, live, personal, public, running
from threefold.crm.pages.rendering import ENVIRONMENT, render
from threefold.crm.pages.site import Site

router = APIRouter(include_in_schema=False)
for part in (public, live, personal, customer, running, employee, admin):
    router.include_router(part.router)


@cache
def shell_page() -> bytes:
    """What a navigation without a proof gets: no data, only what starts the service worker and comes back."""
    return ENVIRONMENT.get_template("shell.html").render(site=Site()).encode()


_TITLES = {
    403: "This is not for you",
    404: "There is nothing here",
    429: "That was too often",
    503: "One moment, please",
}


def problem_page(request: Request, problem: Mapping[str, Any]) -> Response | None:
    """A failed navigation, as a page with a way on. Scripts get the problem itself (None)."""
    if request.headers.get("hx-request") or request.headers.get("x-outbox") or request.method not in {"GET", "HEAD"}:
        return None
    if "text/html" not in request.headers.get("accept", ""):
        return None
    status = int(problem.get("status", 500))
    context = {"problem": problem, "status": status, "heading": _TITLES.get(status, "That did not work")}
    return render(request, "problem.html", context, status=status)
