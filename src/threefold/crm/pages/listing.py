"""A list's address, read and written: filters, search, order, columns, saved view.

A form of filters sends empty fields, ticks of one field several times, and "nobody" for an empty one; `pairs_of` makes
of that what asking.py understands, and everything a list links to is written from those pairs.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode
from uuid import UUID

from threefold.crm.model.kinds import Field, Kind, Type
from threefold.crm.pages.shown import Titles, readable

Pairs = list[tuple[str, str]]
OURS: Final = ("view", "columns", "ff", "fo", "fv", "after", "before")
NOBODY: Final = "none"
# By what a long list can be put in order; 003-indexes.sql and 020-pages.sql have an index for each. Short kinds: all.
SORTED: Final[Mapping[str, tuple[str, ...]]] = {
    "accounts": ("name", "updated_at"),
    "contacts": ("full_name", "email", "updated_at"),
    "affiliations": ("updated_at",),
    "products": ("name", "updated_at"),
    "prices": ("valid_from",),
    "queries": ("resolution_due_at", "updated_at"),
    "requests": ("resolution_due_at", "updated_at"),
    "interactions": ("created_at",),
    "tasks": ("due_at", "updated_at"),
    "deals": ("value_cents", "close_on", "updated_at"),
    "taggings": ("updated_at",),
}
OPS: Final = {
    "contains": "contains",
    "starts": "begins with",
    "eq": "is",
    "ne": "is not",
    "ge": "is at least",
    "le": "is at most",
    "empty": "is empty",
}


ME: Final = "me"
# What everybody wants to see of a kind, beside all of it; `ME` stands for who looks.
PRESETS: Final[Mapping[str, tuple[tuple[str, Pairs], ...]]] = {
    "queries": (
        ("Open", [("status.in", "new,open,waiting")]),
        ("Mine", [("assignee_id", ME), ("status.in", "new,open,waiting")]),
    ),
    "requests": (
        ("Open", [("status.in", "new,assigned,in progress,waiting")]),
        ("Mine", [("assignee_id", ME), ("status.in", "new,assigned,in progress,waiting")]),
    ),
    "tasks": (
        ("To do", [("done_at.empty", "true"), ("sort", "due_at")]),
        ("Mine", [("assignee_id", ME), ("done_at.empty", "true"), ("sort", "due_at")]),
    ),
    "deals": (
        ("Open", [("stage.in", "lead,qualified,proposal,negotiation")]),
        ("Mine", [("owner_id", ME), ("stage.in", "lead,qualified,proposal,negotiation")]),
    ),
    "accounts": (("Mine", [("owner_id", ME)]),),
}


@dataclass(frozen=True, slots=True)
class Chip:
    """One filter in words, and the address without it."""

    text: str
    without: str


def pairs_of(given: Sequence[tuple[str, str]]) -> Pairs:
    """What asking.parse takes, in order; several ticks of one field become one ``in``."""
    texts = dict(given)
    found: dict[str, list[str]] = {}
    for name, text in given:
        if name in OURS or not text.strip():
            continue
        if text == NOBODY and name.endswith("_id"):
            found[f"{name}.empty"] = ["true"]
        else:
            found.setdefault(name, []).append(text.strip())
    field, op, value = texts.get("ff", ""), texts.get("fo", ""), texts.get("fv", "").strip()
    if field and op in OPS and (value or op == "empty"):
        found[f"{field}.{op}"] = ["true" if op == "empty" else value]
    pairs: Pairs = []
    for name, several in found.items():
        if name.endswith(".in"):
            pairs.append((name, ",".join(dict.fromkeys(part for text in several for part in text.split(",")))))
        else:
            pairs.append((name, several[-1]))
    return pairs


def presets(kind: Kind, me: UUID | None) -> list[tuple[str, Pairs]]:
    """By name; without the ones that are about somebody where nobody is."""
    return [
        (name, [(field, str(me) if text == ME else text) for field, text in pairs])
        for name, pairs in PRESETS.get(kind.name, ())
        if me is not None or all(text != ME for _, text in pairs)
    ]


def address(path: str, pairs: Pairs, **changes: str | None) -> str:
    """``changes``: parameters with other values; None takes one out."""
    left = [(name, text) for name, text in pairs if name not in changes]
    left += [(name, text) for name, text in changes.items() if text is not None]
    return f"{path}?{urlencode(left)}" if left else path


def pager(path: str, pairs: Pairs, prev: str | None, following: str | None) -> dict[str, str]:
    """What the pager of parts.html links to; empty where there is nothing to go to."""
    return {
        "first_page": address(path, pairs) if prev else "",
        "prev_page": address(path, pairs, before=prev) if prev else "",
        "next_page": address(path, pairs, after=following) if following else "",
    }


def chips(kind: Kind, path: str, pairs: Pairs, titles: Titles) -> list[Chip]:
    made = []
    for name, text in pairs:
        if name in ("sort", "limit", "q", "view", "columns"):
            continue
        field_name, _, op = name.partition(".")
        field = kind.field(field_name)
        if field is None:
            continue
        made.append(
            Chip(
                f"{field.title} {_words(kind, field, op or 'eq', text, titles)}",
                address(path, [p for p in pairs if p[0] != name]),
            )
        )
    return made


def _words(kind: Kind, field: Field, op: str, text: str, titles: Titles) -> str:
    if op == "empty":
        return "is empty" if text == "true" else "is there"
    values = [_value(kind, field, part, titles) for part in (text.split(",") if op == "in" else [text])]
    sign = {"in": "is", "eq": "is", "ge": "≥", "le": "≤", "gt": ">", "lt": "<"}.get(op, OPS.get(op, op))
    return f"{sign} {' or '.join(values)}"


def _value(kind: Kind, field: Field, text: str, titles: Titles) -> str:
    try:
        if field.type is Type.BOOLEAN:
            return "yes" if text == "true" else "no"
        return str(readable(kind, field.name, text, titles))
    except ValueError:
        return text


def sortable(kind: Kind, column: str) -> bool:
    return kind.name not in SORTED or column in SORTED[kind.name]


def settable(kind: Kind) -> list[Field]:
    """What a bulk edit can set: what is chosen, not what is typed."""
    return [
        field
        for field in kind.fields
        if not field.kept
        and (
            field.type in (Type.BOOLEAN, Type.DATE)
            or (field.type is Type.CHOICE and field.name != "record_kind")
            or field.name == "priority"
            or (field.type is Type.ID and field.refers in ("users", "teams"))
        )
    ]


def filterable(kind: Kind) -> list[Field]:
    """Fields with a plain control in the filter's form; the rest is reached by "another field"."""
    return [
        field
        for field in kind.fields
        if field.name != "record_kind"
        and (
            field.type in (Type.CHOICE, Type.BOOLEAN)
            or field.name == "priority"
            or (field.type is Type.ID and field.refers in ("users", "teams"))
        )
    ]


def comparable(kind: Kind) -> list[Field]:
    """What "another field" offers."""
    return [
        field
        for field in kind.fields
        if field.type in (Type.TEXT, Type.EMAIL, Type.INTEGER, Type.CENTS, Type.DATE) and field.name != "priority"
    ]
