"""Records that are probably one: found, compared side by side, merged field by field, and parted again."""

from __future__ import annotations

import json
from typing import Final

from fastapi import APIRouter, Request, Response

from threefold.crm.desk import Reply, Tx
from threefold.crm.model import rules
from threefold.crm.model.errors import Invalid
from threefold.crm.model.kinds import KINDS, MERGED, Kind
from threefold.crm.pages.rendering import answer, goes, render
from threefold.crm.pages.staff import AtDesk, form_of, id_of, kind_of, only_staff, texts_in
from threefold.crm.records import merge, records, related
from threefold.kernel.errors import NotThere

router = APIRouter(include_in_schema=False)
GROUPS: Final = 50


@router.get("/duplicates")
async def duplicates(request: Request, desk: AtDesk, kind: str = "contacts") -> Response:
    of = _of(kind)
    only_staff(desk.actor)
    rules.check(desk.actor, rules.Operation.MERGE, of.name)
    async with desk.read() as connection:
        groups = await merge.duplicates(connection, of, GROUPS)
        done = await merge.merges(connection, of, 20)
        titles = await related.titles_in(connection, of, [row for group in groups for row in group.rows])
    context = {
        "kind": of,
        "kinds": [KINDS[name] for name in MERGED],
        "groups": groups,
        "merges": done,
        "titles": titles,
        "full": len(groups) == GROUPS,
    }
    return render(request, "employee/duplicates.html", context)


@router.get("/duplicates/{kind}/compare")
async def compare(request: Request, desk: AtDesk, kind: str, a: str = "", b: str = "") -> Response:
    of = _of(kind)
    only_staff(desk.actor)
    rules.check(desk.actor, rules.Operation.MERGE, of.name)
    if not a or not b or a == b:
        raise Invalid(
            f"two different {of.name} are compared", {"b": f"choose another {of.one}"}, hint="choose the other one"
        )
    async with desk.read() as connection:
        rows = [await records.get(connection, desk.actor, of, id_of(text)) for text in (a, b)]
        titles = await related.titles_in(connection, of, rows)
    for row in rows:
        desk.saw(of.name, row["id"])
    fields = [field for field in of.fields if not field.kept]
    context = {
        "kind": of,
        "rows": rows,
        "titles": titles,
        "same": [field for field in fields if rows[0][field.name] == rows[1][field.name]],
        "differing": [field for field in fields if rows[0][field.name] != rows[1][field.name]],
    }
    return render(request, "employee/compare.html", context)


@router.post("/duplicates/{kind}/merge")
async def merge_two(request: Request, desk: AtDesk, kind: str) -> Response:
    """``a``, ``b``; ``keep``: which of the two stays; ``use.<field>``: whose value."""
    of = _of(kind)
    only_staff(desk.actor)
    rules.check(desk.actor, rules.Operation.MERGE, of.name)
    texts = texts_in(await form_of(request))
    kept = "b" if texts.get("keep") == "b" else "a"
    keep, drop = id_of(texts.get(kept, "")), id_of(texts.get("a" if kept == "b" else "b", ""))
    choices = {
        name.removeprefix("use."): "keep" if text == kept else "drop"
        for name, text in texts.items()
        if name.startswith("use.") and text in ("a", "b")
    }

    async def work(tx: Tx) -> Reply:
        merge_id = await merge.merge(tx, of, keep, drop, choices)
        return goes(f"/records/{of.name}/{keep}", f"The two {of.name} are one now.", undo=f"/merges/{merge_id}/undo")

    return answer(await desk.write(work))


@router.post("/merges/{merge_id}/undo")
async def undo(request: Request, desk: AtDesk, merge_id: str, goto: str = "") -> Response:
    only_staff(desk.actor)
    rules.check(desk.actor, rules.Operation.WORK, "queries")
    id_ = id_of(merge_id)
    await request.body()

    async def work(tx: Tx) -> Reply:
        row = await merge.undo(tx, id_)
        message = "They are two again, as they were."
        if goto == "list":
            return goes(f"/duplicates?kind={row['kind']}", message)
        return Reply(200, json.dumps({"message": message}).encode())

    return answer(await desk.write(work))


def _of(name: str) -> Kind:
    kind = kind_of(name)
    if name not in MERGED:
        raise NotThere(f"{name} have no duplicates to merge", hint=f"there are duplicates of {' and '.join(MERGED)}")
    return kind
