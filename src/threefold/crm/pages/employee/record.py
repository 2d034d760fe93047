"""The page of one record, of any kind: what it is, what was said, what belongs to it, what became of it; and as it was.

Its parts are blocks that htmx asks for one by one (rendering.py), so only what a part shows is read for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from fastapi import APIRouter, Request, Response

from threefold.crm.clocks import case_states, policies
from threefold.crm.datalog import timeline
from threefold.crm.desk import Connection, Desk, Row
from threefold.crm.model import rules
from threefold.crm.model.errors import Invalid
from threefold.crm.model.kinds import CASES, CHANNELS, KINDS, LINKED, MERGED, Kind
from threefold.crm.pages.clocks import now_of, of_reading
from threefold.crm.pages.rendering import render
from threefold.crm.pages.shown import readable, shown_fields
from threefold.crm.pages.staff import AtDesk, id_of, kind_of, only_staff
from threefold.crm.records import attachments, records, related
from threefold.kernel.errors import NotThere

router = APIRouter(include_in_schema=False)
ENTRIES: Final = 15
SAID: Final = {"queries": 200, "requests": 200, "contacts": 20}  # the last of it
# What each part of the page needs; the page itself needs all of it.
NEEDS: Final[Mapping[str, frozenset[str]]] = {
    "record-top": frozenset({"clocks"}),
    "record-facts": frozenset(),
    "record-talk": frozenset({"talk"}),
    "record-words": frozenset({"talk"}),
    "record-work": frozenset({"people"}),
    "record-around": frozenset({"around"}),
    "record-tags": frozenset({"tags"}),
    "record-files": frozenset({"files"}),
    "record-timeline": frozenset({"timeline"}),
}
EVERYTHING: Final = frozenset({"clocks", "talk", "people", "around", "tags", "files", "timeline"})


@router.get("/records/{kind}/{record}")
async def record_page(request: Request, desk: AtDesk, kind: str, record: str, at: str = "") -> Response:
    of, id_ = kind_of(kind), id_of(record)
    only_staff(desk.actor)
    rules.check(desk.actor, rules.Operation.READ, of.name)
    if at:
        return await _past(request, desk, of, id_, _moment(at))
    return await shown(request, desk, of, id_)


async def shown(
    request: Request, desk: Desk, kind: Kind, id_: UUID, *, part: str = "", status: int = 200, **more: Any
) -> Response:
    """The page, or the part of it that was asked for; also the answer to a change of that part."""
    part = part or (request.headers.get("hx-target", "") if request.headers.get("hx-request") == "true" else "")
    async with desk.read() as connection:
        row = await records.get(connection, desk.actor, kind, id_, deleted=True)
        context = await context_of(connection, desk, kind, row, NEEDS.get(part, EVERYTHING), request)
    if part not in NEEDS:
        desk.saw(kind.name, id_)
    block = part.replace("-", "_") if part in NEEDS else ""
    return render(request, "employee/record.html", context | more, status=status, block=block)


async def context_of(
    connection: Connection, desk: Desk, kind: Kind, row: Row, want: Iterable[str], request: Request
) -> dict[str, Any]:
    living = not row["deleted_at"] and not row.get("merged_into_id")  # what was merged away is changed where it went
    found: dict[str, Any] = {
        **_frame(kind, row),
        "past": None,
        "can_change": rules.allows(desk.actor, rules.Operation.CHANGE, kind.name) and living,
        "can_delete": rules.allows(desk.actor, rules.Operation.DELETE, kind.name) and not row["deleted_at"],
        "can_erase": kind.name == "contacts" and rules.allows(desk.actor, rules.Operation.ERASE),
    }
    id_, wanted = row["id"], related.referred(kind, [row])
    if "around" in want:
        groups = await related.around(connection, desk.actor, kind, id_)
        for group in groups:
            for name, ids in related.referred(group.kind, group.rows).items():
                wanted.setdefault(name, set()).update(ids)
        found |= {"groups": groups, "other_end": related.other_end(kind)}
    if "clocks" in want:
        found["clocks"] = await _clocks(connection, kind, row)
    if "talk" in want:
        talked = kind.name in CASES or kind.name == "contacts"
        found |= {
            "talk": await related.said(connection, kind, id_, SAID[kind.name]) if talked else None,
            "channels": CHANNELS,
        }
        if kind.name == "contacts":
            wanted.setdefault("contacts", set()).add(id_)
    if "people" in want and kind.name in CASES:
        found |= {"people": await related.staff(connection), "teams": await related.small(connection, KINDS["teams"])}
    if "tags" in want and kind.name in LINKED:
        tags, every = await related.tags_of(connection, id_)
        found |= {"tags": tags, "all_tags": every}
    if "files" in want and kind.name in LINKED:
        found |= {
            "files": await attachments.of(connection, desk.actor, kind, id_, deleted=True),
            "deleted_files": await attachments.deleted_of(connection, desk.actor, kind, id_),
        }
    if "timeline" in want:
        found |= await _timeline(connection, desk, kind, id_, request.query_params.get("before", ""))
    return found | {"titles": await related.titles(connection, wanted)}


def _frame(kind: Kind, row: Row) -> dict[str, Any]:
    case = kind.name in CASES
    next_states = case_states.FOLLOWS[kind.name].get(row["status"], ()) if case else ()
    return {
        "kind": kind,
        "row": row,
        "record_path": f"/records/{kind.name}/{row['id']}",
        "live": f"{kind.name}:{row['id']}",
        "fields": shown_fields(kind),
        "is_case": case,
        "linked": kind.name in LINKED,
        "mergeable": kind.name in MERGED,
        "next_states": next_states,
        "errors": {},
        "texts": {},
        "answered": False,
    }


async def _clocks(connection: Connection, kind: Kind, row: Row) -> list[Any]:
    if kind.name not in CASES:
        return []
    now = await now_of(connection)
    readings = await policies.clocks(connection, kind.name, row)
    names = {"first_response": "Answer", "resolution": "Resolution"}
    return [of_reading(names[name], reading, now) for name, reading in readings.items()]


async def _timeline(connection: Connection, desk: Desk, kind: Kind, id_: UUID, before: str) -> dict[str, Any]:
    """Entry by entry, with names for ids and labels for fields."""
    after = int(before) if before.isascii() and before.isdigit() and len(before) < 10 else None
    entries = await timeline.timeline(connection, desk.actor, kind, id_, after=after, limit=ENTRIES)
    wanted: dict[str, set[UUID]] = {}
    for entry in entries:
        for position in (0, 1):
            sides = {name: change[position] for name, change in (entry["changes"] or {}).items()}
            for name, ids in related.referred(kind, [{**sides, "record_kind": sides.get("record_kind")}]).items():
                wanted.setdefault(name, set()).update(UUID(str(one)) for one in ids)
    titles = await related.titles(connection, wanted)
    return {
        "entries": [told(kind, entry, titles) for entry in entries],
        "before": entries[-1]["version"] if entries and entries[-1]["version"] > 1 else None,
        "from_newest": after is None,
    }


def told(kind: Kind, entry: Row, titles: related.Titles) -> dict[str, Any]:
    changes = entry["changes"] or {}
    what = {"create": "created it", "delete": "deleted it for good"}.get(entry["op"], "changed it")
    deleted = changes.get("deleted_at")
    if deleted is not None:
        what = "put it into the recycle bin" if deleted[1] else "took it out of the recycle bin"
    if entry["erased"]:
        what += "; what it was has been erased"
    lines = []
    for name, (old, new) in changes.items():
        field = kind.field(name)
        if field is None or name in ("deleted_at", "paused_seconds"):
            continue
        is_time = field.type == "time"
        shown_old, shown_new = (readable(kind, name, value, titles) for value in (old, new))
        if is_time:
            shown_old, shown_new = (datetime.fromisoformat(value) if value else "" for value in (old, new))
        lines.append((field.title, shown_old, shown_new, is_time))
    return {
        **entry,
        "who": entry["actor_name"] or ("Somebody" if entry["actor"] else _nobody(entry)),
        "what": what,
        "lines": lines,
    }


def _nobody(entry: Row) -> str:
    """Who changed it, where it was no person at a device. What the CRM does by itself, it gives a reason for."""
    return "The CRM itself" if entry["reason"] else "Somebody at the database"


async def _past(request: Request, desk: Desk, kind: Kind, id_: UUID, moment: datetime) -> Response:
    """The record as it was then: to look at, and nothing to press."""
    rules.check(desk.actor, rules.Operation.HISTORY, kind.name)
    async with desk.read() as connection:
        now = await records.get(connection, desk.actor, kind, id_, deleted=True)
        missing = ""
        try:
            row = await records.as_of(connection, desk.actor, kind, id_, moment)
        except NotThere as error:
            row, missing = now, str(error)
        titles = await related.titles_in(connection, kind, [row])
    desk.saw(kind.name, id_)
    differs = [field.name for field in kind.fields if row[field.name] != now[field.name]]
    context = {
        **_frame(kind, row),
        "past": moment,
        "missing": missing,
        "now": now,
        "differs": differs,
        "titles": titles,
        "shown_kinds": [field for field in kind.fields if field.name != "watchers"],
    }
    return render(request, "employee/past.html", context)


def _moment(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise Invalid(
            "this is no time", {"at": "it is written like 2026-11-24T15:00:00Z"}, hint="pick a day and a time"
        )
    return found
