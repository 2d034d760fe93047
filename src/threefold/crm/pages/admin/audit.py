"""Who saw and changed what, and who was erased.

What was seen and done is the edge's and comes by script; what was changed is in the data log, which proves itself; and
who was erased is in the ledger of erasures.
"""

from __future__ import annotations

import json
from typing import Any, Final
from uuid import UUID

from fastapi import APIRouter, Request, Response

from threefold.crm.cases import oversight
from threefold.crm.desk import Row
from threefold.crm.model.kinds import COMMON, KINDS
from threefold.crm.pages import listing
from threefold.crm.pages.rendering import render
from threefold.crm.pages.staff import AtDesk, only_administrators
from threefold.crm.records import related

router = APIRouter(include_in_schema=False)
WHAT: Final = {
    "saw": "Saw a record",
    "exported": "Exported a list",
    "erased": "Erased a person",
    "signin": "Signed in",
    "signin-failed": "Failed to sign in",
    "signout": "Signed out",
    "enrolled": "Brought a device in",
    "device-revoked": "Revoked a device",
    "person-revoked": "Revoked a person",
    "invited": "Invited somebody",
    "invitation-withdrawn": "Withdrew an invitation",
    "passkey-added": "Added a passkey",
    "passkey-removed": "Removed a passkey",
    "password-changed": "Changed the password",
}
OPS: Final = {"create": "made", "update": "changed", "delete": "deleted for good"}
NAMES_MOST: Final = 200


@router.get("/admin/audit")
async def audit(request: Request, desk: AtDesk, user: str = "", what: str = "", record: str = "") -> Response:
    """The filters stand in the address, so that other pages can lead to what one person did, or became of a record."""
    only_administrators(desk.actor)
    async with desk.read() as connection:
        people = [(row["id"], row["full_name"]) for row in await related.users(connection)]
        whom = _id(user)
        if whom is not None and whom not in dict(people):
            people += (await related.titles(connection, {"users": [whom]})).items()
    context = {
        "what": WHAT,
        "people": people,
        "kinds": json.dumps({name: kind.one.capitalize() for name, kind in KINDS.items()}),
        "picked": {"user": str(whom or ""), "what": what if what in WHAT else "", "record": record.strip()[:300]},
    }
    return render(request, "admin/audit.html", context)


@router.get("/admin/audit/names")
async def names(request: Request, desk: AtDesk) -> Response:
    """How the records are called that the audit tells of: ``?id=contacts:<uuid>``, many times."""
    only_administrators(desk.actor)
    wanted: dict[str, set[UUID]] = {}
    for text in request.query_params.getlist("id")[:NAMES_MOST]:
        kind, _, id_ = text.partition(":")
        if kind in KINDS and (found := _id(id_)) is not None:
            wanted.setdefault(kind, set()).add(found)
    async with desk.read() as connection:
        titles = await related.titles(connection, wanted)
    body = json.dumps({str(id_): title for id_, title in titles.items()})
    return Response(body, media_type="application/json", headers={"Cache-Control": "no-store"})


@router.get("/admin/audit/changes")
async def changes(request: Request, desk: AtDesk, user: str = "", kind: str = "", before: str = "") -> Response:
    only_administrators(desk.actor)
    whom, of = _id(user), kind if kind in KINDS else ""
    async with desk.read() as connection:
        people = [(row["id"], row["full_name"]) for row in await related.users(connection)]
        if whom is not None and whom not in dict(people):
            people += (await related.titles(connection, {"users": [whom]})).items()
        rows, following = await oversight.changes(connection, kind=of, user=whom, before=before or None)
        wanted: dict[str, set[UUID]] = {}
        for row in rows:
            wanted.setdefault(row["kind"], set()).add(row["record_id"])
        titles = await related.titles(connection, wanted)
    path = "/admin/audit/changes"
    pairs = [(name, text) for name, text in (("user", str(whom or "")), ("kind", of)) if text]
    context: dict[str, Any] = {
        "rows": [_told(row) for row in rows],
        "titles": titles,
        "people": people,
        "kinds": [("", "All kinds"), *((name, name.capitalize()) for name in KINDS if name != "taggings")],
        "picked": {"user": str(whom or ""), "kind": of},
        "next_page": listing.address(path, pairs, before=following) if following else "",
        "first_page": listing.address(path, pairs) if before else "",
    }
    return render(request, "admin/changes.html", context)


def _told(row: Row) -> Row:
    """With the fields' names as people know them. What the service keeps by itself is left out."""
    kind = KINDS.get(row["kind"])
    kept = {each.name for each in COMMON} - {"deleted_at"}
    fields = [name for name in row["changes"] or () if name not in kept]
    if row["op"] == "create" or kind is None:
        fields = []
    labels = [found.title if kind and (found := kind.field(name)) else name for name in fields]
    return {**row, "what": OPS.get(row["op"], row["op"]), "fields": labels, "one": kind.one if kind else row["kind"]}


@router.get("/admin/audit/erasures")
async def erasures(request: Request, desk: AtDesk, after: str = "", before: str = "") -> Response:
    only_administrators(desk.actor)
    async with desk.read() as connection:
        found = await oversight.erasures(connection, after or None, before=before or None)
    context = {"rows": found.rows, **listing.pager("/admin/audit/erasures", [], found.prev, found.next)}
    return render(request, "admin/erasures.html", context)


def _id(text: str) -> UUID | None:
    """From a filter: what is no id filters nothing."""
    try:
        return UUID(text) if len(text) == 36 else None
    except ValueError:
        return None
