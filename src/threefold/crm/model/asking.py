"""What a list is asked for: filters, an order, a place to go on from. Read from a query string.

``?status=open&priority.le=2&account_id.in=a,b&email.empty=true&sort=-updated_at&limit=50&after=...&q=words``

A place is where a page before ended, or where the one after began (paging.py).

Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from threefold.crm.model.errors import Invalid
from threefold.crm.model.kinds import Field, Kind, Type
from threefold.crm.model.paging import Turn, turn
from threefold.crm.model.validating import from_text, nullable

MOST: Final = 200
LIMIT: Final = 50
_MOST_IN: Final = 200
_MOST_FILTERS: Final = 20

_TEXTS: Final = (Type.TEXT, Type.LONG, Type.EMAIL)
_ORDERED: Final = (Type.INTEGER, Type.CENTS, Type.TIME, Type.DATE, Type.TEXT, Type.EMAIL)
_OPS: Final = ("eq", "ne", "lt", "le", "gt", "ge", "contains", "starts", "in", "empty")
_OWN: Final = ("sort", "after", "before", "limit", "deleted", "q")


@dataclass(frozen=True, slots=True)
class Filter:
    """``value`` is of the field's own type; a tuple of them for ``in``, a boolean for ``empty``."""

    field: str
    op: str
    value: Any


@dataclass(frozen=True, slots=True)
class Asked:
    """``sort`` empty: as the kind is sorted. ``text``: words that the record has, as the search compares them."""

    filters: tuple[Filter, ...] = ()
    sort: str = ""
    after: str | None = None
    limit: int = LIMIT
    deleted: bool = False
    text: str = ""
    before: str | None = None

    def turn(self, sort: str) -> Turn:
        """``sort``: the kind's own, where nothing is said."""
        return turn(self.after, self.before, self.sort or sort)


def parse(kind: Kind, params: Sequence[tuple[str, str]]) -> Asked:
    """Invalid with what is wrong, by parameter."""
    wrong: dict[str, str] = {}
    own: dict[str, str] = {}
    filters: list[Filter] = []
    for name, text in params:
        if name in _OWN:
            if name in own:
                wrong[name] = "it is given twice"
            own[name] = text
            continue
        try:
            filters.append(_filter(kind, name, text))
        except ValueError as error:
            wrong[name[:60]] = str(error)
    if len(filters) > _MOST_FILTERS:
        wrong[filters[-1].field] = f"there are more than {_MOST_FILTERS} filters"
    sort = own.get("sort", "") or kind.sort
    if problem := unsortable(kind, sort):
        wrong["sort"] = problem
    limit = own.get("limit", str(LIMIT))
    if not (limit.isascii() and limit.isdigit() and len(limit) < 10 and 1 <= int(limit) <= MOST):
        wrong["limit"] = f"it has to be a whole number from 1 to {MOST}"
    if own.get("deleted", "false") not in ("true", "false"):
        wrong["deleted"] = "it has to be true or false"
    if len(own.get("q", "")) > 200:
        wrong["q"] = "it is longer than 200 characters"
    if own.get("q") and not kind.searched:
        wrong["q"] = f"{kind.name} are not searched by words"
    if wrong:
        raise Invalid("some parameters cannot be meant", wrong, hint="see the fields")
    after, before = own.get("after") or None, own.get("before") or None
    turn(after, before, sort)  # refuses what is no place
    text = own.get("q", "").strip()
    return Asked(tuple(filters), sort, after, int(limit), own.get("deleted") == "true", text, before)


def unsortable(kind: Kind, sort: str) -> str:
    """Why a list cannot be sorted so; empty if it can."""
    field = kind.field(sort.removeprefix("-"))
    if field is None:
        return "there is no such field"
    return "" if field.type in _ORDERED or field.type in (Type.CHOICE, Type.BOOLEAN, Type.ID) else "it has no order"


def _filter(kind: Kind, name: str, text: str) -> Filter:
    field_name, _, op = name.partition(".")
    op = op or "eq"
    field = kind.field(field_name)
    if field is None:
        raise ValueError("there is no such field")
    if op not in _OPS:
        raise ValueError(f"there is no such comparison; there are {', '.join(_OPS)}")
    if "\0" in text:
        raise ValueError("it has a character in it that is none")
    if op == "empty":
        if text not in ("true", "false"):
            raise ValueError("it has to be true or false")
        return Filter(field_name, op, text == "true")
    if op in ("contains", "starts") and field.type in _TEXTS:
        if len(text) > 200:
            raise ValueError("it is longer than 200 characters")
        return Filter(field_name, op, text)
    if not _fits(field, op):
        raise ValueError(f"{field_name} cannot be compared so")
    if op == "in":
        parts = text.split(",")
        if len(parts) > _MOST_IN:
            raise ValueError(f"it has more than {_MOST_IN} entries")
        return Filter(field_name, op, tuple(_value(field, part) for part in parts))
    return Filter(field_name, op, _value(field, text))


def _fits(field: Field, op: str) -> bool:
    if field.type is Type.IDS:
        return op == "contains"
    if op in ("eq", "ne", "in"):
        return field.type is not Type.LONG
    return op in ("lt", "le", "gt", "ge") and field.type in _ORDERED


def _value(field: Field, text: str) -> Any:
    """As the field's own type; for what a record cannot have there is no reason to refuse, only nothing to find."""
    if field.type is Type.IDS:
        return from_text(Field(field.name, Type.ID), text)
    if field.type in (Type.TEXT, Type.EMAIL):
        if len(text) > 400:
            raise ValueError("it is longer than 400 characters")
        return text.lower() if field.type is Type.EMAIL else text
    if field.type is Type.INTEGER:
        field = Field(field.name, Type.INTEGER, required=True, most=2**31 - 1, least=-(2**31))
    elif field.type is Type.CENTS:  # in cents here, as in JSON
        field = Field(field.name, Type.INTEGER, required=True, most=2**63 - 1, least=-(2**63))
    found = from_text(field, text)
    if found is None:
        raise ValueError("it has to be given" if not nullable(field) else f"ask with {field.name}.empty=true")
    return found
