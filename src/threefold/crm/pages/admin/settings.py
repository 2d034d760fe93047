"""What holds for the whole CRM: how much customers may put here, and how long the audit is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from threefold.crm.desk import Desk, Reply, Tx
from threefold.crm.model.errors import Invalid, Stale
from threefold.crm.pages.rendering import answer, render
from threefold.crm.pages.staff import (
    AtDesk,
    form_of,
    only_administrators,
    saying,
    sentence,
    texts_in,
    version_of,
    whole,
)
from threefold.crm.records import settings

router = APIRouter(include_in_schema=False)
_NUMBERS: Final = ("files_per_customer", "mib_per_customer")


@router.get("/admin/settings")
async def overview(request: Request, desk: AtDesk) -> Response:
    only_administrators(desk.actor)
    return await _page(request, desk)


async def _page(
    request: Request, desk: Desk, error: Exception | None = None, texts: Mapping[str, str] | None = None
) -> Response:
    """After a refused change: what was typed stays, based on what is there now, so that saving again is meant."""
    async with desk.read() as connection:
        found = await settings.read(connection)
    fields = error.fields if isinstance(error, Invalid) else {}
    shown = {name: str(getattr(found, name)) for name in _NUMBERS} | {"audit_days": str(found.audit_days or "")}
    context: dict[str, Any] = {
        "texts": texts if texts is not None else shown,
        "version": found.version,
        "least": settings.DAYS_LEAST,
        "errors": {name: sentence(what) for name, what in fields.items()},
        "wrong": whole(error) if error is not None and not fields else None,
    }
    block = "settings_form" if request.method == "POST" else ""
    return render(request, "admin/settings.html", context, status=422 if error else 200, block=block)


@router.post("/admin/settings")
async def change(request: Request, desk: AtDesk) -> Response:
    only_administrators(desk.actor)
    texts = texts_in(await form_of(request))
    try:
        values = _values(texts)

        async def work(tx: Tx) -> Reply:
            await settings.change(tx, values, version_of(texts.get("version", "")))
            return Reply(204)

        reply = await desk.write(work)
    except (Invalid, Stale) as error:
        return await _page(request, desk, error, texts)
    return answer(reply) if reply.status >= 400 else saying(await _page(request, desk), "Saved.")


def _values(texts: Mapping[str, str]) -> dict[str, int | None]:
    values: dict[str, int | None] = {}
    wrong: dict[str, str] = {}
    for name in (*_NUMBERS, "audit_days"):
        text = texts.get(name, "").strip()
        if text.isascii() and text.isdigit() and len(text) < 10:
            values[name] = int(text)
        elif name == "audit_days" and not text:
            values[name] = None
        else:
            wrong[name] = "it has to be a whole number"
    if wrong:
        raise Invalid("these settings cannot be", wrong)
    return values
