"""Parameters of queries that several operations have, and the filters of lists, which follow from the kinds."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from threefold.crm.api import models, reading
from threefold.crm.api.operations import Param
from threefold.crm.model.kinds import COMMON, Field, Kind, Type


def _time(text: str) -> datetime:
    # In a query "+" is a space: an offset of +01:00 has to be sent as %2B01:00, and Z is easier.
    try:
        found: datetime = models.INSTANT.validate_python(text)
    except ValueError:
        raise ValueError("it has to be a time like 2026-11-24T15:18:08Z, with its offset") from None
    return found.astimezone(UTC)


LIMIT: Final = Param(
    "limit",
    "How many at most.",
    {"type": "integer", "minimum": 1, "maximum": 200, "default": 50},
    reading.whole(1, 200),
)
CURSOR: Final[dict[str, Any]] = {"type": "string", "maxLength": 1000, "pattern": r"^[A-Za-z0-9_=.~-]*$"}
AFTER: Final = Param("after", "`next` of the page before.", CURSOR)
BEFORE: Final = Param("before", "`prev` of the page after; instead of `after`.", CURSOR)
AFTER_VERSION: Final = Param(
    "after",
    "`next` of the page before.",
    {"type": "integer", "minimum": 1, "maximum": models.INTEGER_MOST},
    reading.whole(1, models.INTEGER_MOST),
)
NAME: Final = Param(
    "name",
    "The file's name; a form says it itself.",
    {"type": "string", "maxLength": 200, "pattern": models.PATTERNS[Type.TEXT, True]},
    reading.text(200),
)
AS_OF: Final = Param(
    "as_of",
    "The record as it was at this time.",
    {"type": "string", "format": "date-time", "pattern": models.TIME},
    _time,
)
DELETED: Final = Param(
    "deleted", "From the recycle bin, too.", {"type": "boolean", "default": False}, reading.yes_or_no
)
Q: Final[dict[str, Any]] = {"type": "string", "maxLength": 200, "pattern": models.ANY}

_SAME: Final = ("", ".ne", ".in")
_ORDER: Final = (".lt", ".le", ".gt", ".ge")
_TEXTS: Final = (".contains", ".starts")
# What a field can be compared by, beside `.empty`, which all have. As asking.py has it; a test holds them together.
COMPARED: Final[dict[Type, tuple[str, ...]]] = {
    Type.TEXT: (*_SAME, *_ORDER, *_TEXTS),
    Type.EMAIL: (*_SAME, *_ORDER, *_TEXTS),
    Type.LONG: _TEXTS,
    Type.INTEGER: (*_SAME, *_ORDER),
    Type.CENTS: (*_SAME, *_ORDER),
    Type.TIME: (*_SAME, *_ORDER),
    Type.DATE: (*_SAME, *_ORDER),
    Type.BOOLEAN: _SAME,
    Type.ID: _SAME,
    Type.CHOICE: _SAME,
    Type.IDS: (".contains",),
}
FILTERS_MOST: Final = 20
_UUID: Final = r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"


_DAY: Final = (
    r"(19|[2-8][0-9])[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])"  # in a list, none may be the 30th of February
)


def _compared(field: Field, by: str) -> dict[str, Any]:
    """The schema of a filter's value."""
    if by == ".empty":
        return {"type": "boolean"}
    if by == ".in":
        return {**_several(field), "description": "Several, separated by commas."}
    match field.type:
        case Type.INTEGER:
            return {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1}
        case Type.CENTS:
            return {"type": "integer", "minimum": -(2**53), "maximum": 2**53}
        case Type.BOOLEAN:
            return {"type": "boolean"}
        case Type.ID | Type.IDS:
            return {"type": "string", "format": "uuid", "pattern": f"^{_UUID}$"}
        case Type.CHOICE:
            return {"type": "string", "enum": list(field.choices)}
        case Type.TIME:
            return {"type": "string", "format": "date-time", "pattern": models.TIME}
        case Type.DATE:
            return {"type": "string", "format": "date", "pattern": models.DATE}
        case _:
            return {"type": "string", "maxLength": 200, "pattern": models.ANY}


def _several(field: Field) -> dict[str, Any]:
    one = {
        Type.INTEGER: "(0|[1-9][0-9]{0,8})",
        Type.CENTS: "(0|[1-9][0-9]{0,14})",
        Type.BOOLEAN: "(true|false)",
        Type.ID: _UUID,
        Type.CHOICE: f"({'|'.join(field.choices)})",
        Type.TIME: _DAY + r"T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]Z",
        Type.DATE: _DAY,
    }.get(field.type)
    if one is None:
        return {"type": "string", "maxLength": 200, "pattern": models.ANY}
    return {"type": "string", "pattern": f"^{one}(,{one}){{0,199}}$"}


def filters(kind: Kind) -> dict[str, Any]:
    """As one object, whose properties are parameters of their own: `style: form`, `explode: true`."""
    return {
        "type": "object",
        "additionalProperties": False,
        "maxProperties": FILTERS_MOST,
        "properties": {
            f"{field.name}{by}": _compared(field, by)
            for field in (*kind.fields, *COMMON)
            for by in (*COMPARED[field.type], ".empty")
        },
    }


def of_list(kind: Kind) -> tuple[Param, ...]:
    sortable = [field.name for field in (*kind.fields, *COMMON) if field.type not in (Type.LONG, Type.IDS)]
    order = {"type": "string", "enum": [f"{way}{name}" for name in sortable for way in ("", "-")], "default": kind.sort}
    words = (Param("q", "Words that it has, as the search compares them.", Q),) if kind.searched else ()
    return (
        Param(
            "filter",
            "Each property is a parameter of its own: `status=open&priority.le=2&email.empty=true`. All have to hold.",
            filters(kind),
            exploded=True,
        ),
        Param("sort", "A field, `-` before it for descending; ties by id.", order),
        *words,
        LIMIT,
        AFTER,
        BEFORE,
        Param("deleted", "True: the recycle bin, instead.", {"type": "boolean", "default": False}),
    )
