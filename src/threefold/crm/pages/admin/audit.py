"""Who saw and changed what, and who was erased.

What was seen and done is the edge's and comes by script; what was changed is in the data log, which proves itself; and
who was erased is in the ledger of erasures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Request, Response

from threefold.crm.cases import oversight
from threefold.crm.clocks import policies
from threefold.crm.desk import Connection, Row
from threefold.crm.model.kinds import COMMON, KINDS
from threefold.crm.pages import listing
from threefold.crm.pages.rendering import render
from threefold.crm.pages.staff import AtDesk, only_administrators
from threefold.crm.records import related, settings

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
    "trimmed": "Deleted old entries of the audit",
}
DID: Final = {
    "create": "Made",
    "update": "Changed",
    "binned": "Put into the recycle bin",
    "restored": "Restored",
    "delete": "Deleted for good",
}
OTHERS: Final = {"attachments": "file", "office": "office hours", "settings": "settings"}  # records without a page
KINDS_LOGGED: Final = (*(name for name in KINDS if name != "taggings"), *OTHERS)
NAMES_MOST: Final = 200


@router.get("/admin/audit")
async def audit(
    request: Request,
    desk: AtDesk,
    user: str = "",
    what: str = "",
    record: str = "",
    since: str = "",
    until: str = "",
) -> Response:
    """The filters stand in the address, so that other pages can lead to what one person did, or became of a record."""
    only_administrators(desk.actor)
    async with desk.read() as connection:
        people, whom = await _people(connection, user)
        days = (await settings.read(connection)).audit_days
    first, last = _day(since), _day(until)
    context = {
        "what": WHAT,
        "audit_days": days,
        "people": people,
        "kinds": json.dumps({name: kind.one.capitalize() for name, kind in KINDS.items()}),
        "picked": {
            "user": str(whom or ""),
            "what": what if what in WHAT else "",
            "record": record.strip()[:300],
            "since": str(first or ""),
            "until": str(last or ""),
        },
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
async def changes(
    request: Request,
    desk: AtDesk,
    user: str = "",
    kind: str = "",
    did: str = "",
    since: str = "",
    until: str = "",
    before: str = "",
) -> Response:
    """``since`` and ``until``: days, the last one included, in the time zone of the office."""
    only_administrators(desk.actor)
    asked = {"kind": kind if kind in KINDS_LOGGED else "", "did": did if did in DID else ""}
    first, last = _day(since), _day(until)
    async with desk.read() as connection:
        people, whom = await _people(connection, user)
        zone = (await policies.office_of(connection)).zone
        rows, following = await oversight.changes(
            connection,
            kind=asked["kind"],
            did=asked["did"],
            user=whom,
            since=_midnight(first, zone),
            until=_midnight(last and last + timedelta(days=1), zone),
            before=before or None,
        )
        wanted: dict[str, set[UUID]] = {}
        for row in rows:
            wanted.setdefault(row["kind"], set()).add(row["record_id"])
        files = await oversight.files(connection, wanted.pop("attachments", set()))
        titles = await related.titles(connection, {name: ids for name, ids in wanted.items() if name in KINDS})
    path = "/admin/audit/changes"
    picked = {"user": str(whom or ""), **asked, "since": str(first or ""), "until": str(last or "")}
    pairs = [(name, text) for name, text in picked.items() if text]
    context: dict[str, Any] = {
        "rows": [_told(row, files) for row in rows],
        "titles": titles,
        "people": people,
        "kinds": [("", "All kinds"), *((name, name.capitalize()) for name in KINDS_LOGGED)],
        "did": [("", "Everything"), *DID.items()],
        "zone": zone,
        "picked": picked,
        "next_page": listing.address(path, pairs, before=following) if following else "",
        "first_page": listing.address(path, pairs) if before else "",
    }
    return render(request, "admin/changes.html", context)


async def _people(connection: Connection, user: str) -> tuple[list[tuple[UUID, str]], UUID | None]:
    """Whom to choose from, and who is chosen: somebody who does not work here any more is among them then."""
    people = [(row["id"], row["full_name"]) for row in await related.users(connection)]
    whom = _id(user)
    if whom is not None and whom not in dict(people):
        people += (await related.titles(connection, {"users": [whom]})).items()
    return people, whom


def _day(text: str) -> date | None:
    """From a filter: what is no day filters nothing."""
    try:
        found = date.fromisoformat(text) if len(text) == 10 else None
    except ValueError:
        return None
    return found if found and 1970 <= found.year <= 9000 else None


def _midnight(day: date | None, zone: str) -> datetime | None:
    return datetime.combine(day, time(), ZoneInfo(zone)) if day else None


def _told(row: Row, files: Mapping[UUID, Row]) -> Row:
    """With the fields' names as people know them. What the service keeps by itself is left out."""
    kind = KINDS.get(row["kind"])
    kept = {each.name for each in COMMON} - {"deleted_at"}
    fields = [name for name in row["changes"] or () if name not in kept] if row["did"] == "update" else []
    labels = [found.title if kind and (found := kind.field(name)) else name.replace("_", " ") for name in fields]
    one = kind.one if kind else OTHERS.get(row["kind"], row["kind"])
    path = f"/records/{row['kind']}/{row['record_id']}" if kind is not None else ""
    name = ""
    if file := files.get(row["record_id"]):  # has no page of its own, but its record has
        path, name = f"/records/{file['record_kind']}/{file['record_id']}", file["name"]
    return {**row, "what": DID[row["did"]], "fields": labels, "one": one, "path": path, "name": name}


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
