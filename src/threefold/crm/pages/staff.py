"""What the employees' and administrators' pages have in common: kinds and ids in addresses, forms, what is said after.

A change is made first, and the page is read again afterwards: so nothing is rendered inside of a transaction, and a
repeated request shows how things stand now.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Final
from urllib.parse import quote
from uuid import UUID

from fastapi import Depends, Request, Response
from starlette.datastructures import FormData, UploadFile

from threefold.crm.desk import Connection, Desk, desk_of
from threefold.crm.model.actor import Actor
from threefold.crm.model.errors import Forbidden, Invalid
from threefold.crm.model.kinds import CASES, KINDS, Kind
from threefold.crm.records import related
from threefold.kernel.errors import NotThere

AtDesk = Annotated[Desk, Depends(desk_of)]
SMALL: Final = ("teams", "tags")  # few enough for a plain list of choices


@dataclass(frozen=True, slots=True)
class Choices:
    """What fields that refer to others can be chosen from, and how ids are called."""

    staff: list[tuple[UUID, str]] = field(default_factory=list)
    teams: list[tuple[UUID, str]] = field(default_factory=list)
    tags: list[tuple[UUID, str]] = field(default_factory=list)
    titles: related.Titles = field(default_factory=dict)

    def of(self, refers: str) -> list[tuple[UUID, str]] | None:
        """None: too many, so one searches for it (picker.js)."""
        return {"users": self.staff, "teams": self.teams, "tags": self.tags}.get(refers)


async def choices(connection: Connection, kind: Kind, titles: related.Titles) -> Choices:
    refers = {each.refers for each in kind.fields}
    people = [(row["id"], row["full_name"]) for row in await related.staff(connection)] if "users" in refers else []
    lists = {name: await related.small(connection, KINDS[name]) for name in SMALL if name in refers}
    return Choices(people, lists.get("teams", []), lists.get("tags", []), titles)


def kind_of(name: str) -> Kind:
    kind = KINDS.get(name)
    if kind is None:
        raise NotThere("there is no such kind of record", hint="the side bar names them")
    return kind


def case_of(name: str) -> Kind:
    if name not in CASES:
        raise NotThere("this is nothing that cases have", hint="queries and requests are cases")
    return KINDS[name]


def id_of(text: str) -> UUID:
    """What cannot be an id names nothing."""
    try:
        return UUID(text) if len(text) == 36 else _nothing()
    except ValueError:
        return _nothing()


def _nothing() -> UUID:
    raise NotThere("there is no such record", hint="it may have been deleted for good, or the address is cut short")


def version_of(text: str) -> int:
    """What a form is based on. Without it, what somebody changed meanwhile would be written over unawares."""
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise Invalid("the form does not say what it is based on", hint="open the record again")
    return int(text)


async def form_of(request: Request) -> FormData:
    return await request.form(max_files=4, max_fields=1000)


def texts_in(form: FormData) -> dict[str, str]:
    """The last of each name; files are left out."""
    return {name: value for name, value in form.multi_items() if not isinstance(value, UploadFile)}


def only_staff(actor: Actor) -> None:
    """For pages that are about no kind and no operation of rules.py: customers do not know of them."""
    if actor.is_customer:
        raise NotThere("there is no such thing here", hint="see what is yours under queries and requests")


def only_administrators(actor: Actor) -> None:
    only_staff(actor)
    if not actor.is_administrator:
        raise Forbidden("this is for administrators", hint="ask one of your administrators to do it")


def saying(response: Response, text: str, undo: str = "") -> Response:
    """A short message over the page; ``undo``: the address that takes it back (employee.js)."""
    response.headers["Threefold-Message"] = quote(text)
    if undo:
        response.headers["Threefold-Undo"] = undo
    return response


def whole(error: Exception) -> dict[str, Any]:
    """For the alert above a form: what is wrong, and what to do."""
    return {"text": sentence(str(error)), "hint": sentence(getattr(error, "hint", ""))}


def sentence(text: str) -> str:
    """The house's errors are lower-case and without a full stop; people read sentences."""
    return text[:1].upper() + text[1:] + "." if text and text[-1] not in ".!?" else text[:1].upper() + text[1:]
