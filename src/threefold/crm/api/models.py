"""The shapes of records in the API, made from kinds.py: what is taken for a new one, for a change, and what is given.

Strict, because a value that was bent into shape is a value nobody sent: no unknown fields, no numbers in quotes, no
booleans as numbers, no time without an offset, no NUL (PostgreSQL has none) and nothing beyond `Field.most`.
The services check again, since pages and imports come past here; a body that passes here is refused there only for
what the database knows (a reference to nothing, a duplicate).

Pure.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Strict,
    StringConstraints,
    TypeAdapter,
    WithJsonSchema,
    create_model,
)
from pydantic import Field as Constraint
from pydantic.config import JsonDict

from threefold.crm.model import rules
from threefold.crm.model.kinds import COMMON, KINDS, Field, Kind, Type

_NONE: Final = r"\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f"  # characters that are none
TEXTS: Final = rf"^[^{_NONE}]*$"
ANY: Final = r"^[^\u0000]*$"
LINE: Final = r"^[^\u0000-\u001f\u007f]*$"
PATTERNS: Final = {  # by whether it has to be given, too
    (Type.TEXT, False): LINE,
    (Type.TEXT, True): r"^[^\u0000-\u001f\u007f]*[^\u0000-\u001f\u007f\s\u0085][^\u0000-\u001f\u007f]*$",
    (Type.LONG, False): TEXTS,
    (Type.LONG, True): rf"^[^{_NONE}]*[^{_NONE}\s\u0085][^{_NONE}]*$",
    (Type.EMAIL, True): r"^[^\s\u0085@<>\",;:\u0000-\u001f\u007f]+@[^\s\u0085@<>\",;:\u0000-\u001f\u007f]+"
    r"\.[^\s\u0085@<>\",;:.\u0000-\u001f\u007f]+$",
}
NAMED_PATTERNS: Final = {"country": r"^([A-Z]{2})?$", "currency": r"^[A-Z]{3}$"}
DATE: Final = r"^(19|[2-8][0-9])[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$"
TIME: Final = (
    DATE[:-1] + r"T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"
)
KIND: Final = f"^({'|'.join(KINDS)})$"  # the name of any kind
INTEGER_MOST: Final = 2**31 - 1  # of PostgreSQL's integer


class Sent(BaseModel):
    """A body that somebody sends."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Given(BaseModel):
    """A record as it is given out."""

    model_config = ConfigDict(extra="forbid")


def _written(pattern: str, meaning: str) -> BeforeValidator:
    """Checks the spelling, and text it has to be; pydantic, which would take seconds since 1970 too, reads the rest."""
    expected = re.compile(pattern, re.ASCII)

    def check(value: Any) -> Any:
        if not (isinstance(value, str) and expected.fullmatch(value)):
            raise ValueError(meaning)
        return value

    return BeforeValidator(check)


LAX: Final[Any] = Strict(strict=False)  # beside a spelling that was checked
TIME_WRITTEN: Final = _written(TIME, "a time is written like 2026-11-24T15:18:08Z, with its offset, from 1900 on")
DATE_WRITTEN: Final = _written(DATE, "a date is written like 2026-11-24, from 1900 on")
TIME_SHOWN: Final[Any] = WithJsonSchema({"type": "string", "format": "date-time", "pattern": TIME})
DATE_SHOWN: Final[Any] = WithJsonSchema({"type": "string", "format": "date", "pattern": DATE})
ID_WRITTEN: Final = _written(
    r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", "an id is a UUID, written with hyphens"
)


def _whole(value: Any) -> Any:
    """62.0 is a whole number in JSON, and what some languages write for 62."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE: Final = BeforeValidator(_whole)


def _instant(value: datetime) -> datetime:
    """In UTC, where it still is a year that has four digits."""
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("the time lies outside of the years 1 to 9999") from error


INSTANT: Final[TypeAdapter[datetime]] = TypeAdapter(
    Annotated[AwareDatetime, LAX, TIME_WRITTEN, TIME_SHOWN, AfterValidator(_instant)]
)


def _example(field: Field) -> Any:
    by_type: dict[Type, Any] = {
        Type.EMAIL: "ada@example.com",
        Type.INTEGER: max(field.least, 1),
        Type.CENTS: 129_900,
        Type.BOOLEAN: False,
        Type.ID: "0199a3c2-7d10-7f3a-9c55-2f6f0d8a4b11",
        Type.IDS: ["0199a3c2-7d10-7f3a-9c55-2f6f0d8a4b11"],
        Type.TIME: "2026-11-24T15:18:08Z",
        Type.DATE: "2026-11-24",
        Type.LONG: "The display stays dark after the update.",
    }
    if field.choices:
        return field.choices[0]
    named = {"currency": "EUR", "country": "DE", "language": "en", "phone": "+49 30 1234567", "colour": "#7a5cff"}
    return by_type.get(field.type, named.get(field.name, field.title))


def _described(field: Field) -> str:
    words = [field.title]
    if field.refers:
        words.append(f"an id of {field.refers}")
    if field.type is Type.CENTS:
        words.append("in hundredths of the currency")
    if field.customers_write:
        words.append("customers may give it")
    return ", ".join(words) + "."


def _type(field: Field, *, sent: bool) -> Any:
    """The type of its values, without null."""
    match field.type:
        case Type.TEXT | Type.LONG | Type.EMAIL:
            pattern = NAMED_PATTERNS.get(field.name, PATTERNS.get((field.type, field.required), LINE))
            least = max(field.least, 1) if field.required else field.least
            if not sent:
                return str
            return Annotated[str, StringConstraints(min_length=least, max_length=field.most, pattern=pattern)]
        case Type.INTEGER:
            most = INTEGER_MOST if field.most == Field("").most else field.most
            return Annotated[int, Constraint(ge=field.least, le=most), WHOLE]
        case Type.CENTS:
            return Annotated[int, Constraint(ge=0, le=field.most), WHOLE]
        case Type.BOOLEAN:
            return bool
        case Type.ID:
            return Annotated[UUID, LAX, ID_WRITTEN] if sent else UUID
        case Type.IDS:
            return Annotated[list[Annotated[UUID, LAX, ID_WRITTEN]], Constraint(max_length=field.most)]
        case Type.CHOICE:
            return Literal[field.choices]
        case Type.TIME:
            return (
                Annotated[AwareDatetime, LAX, TIME_WRITTEN, TIME_SHOWN, AfterValidator(_instant)]
                if sent
                else AwareDatetime
            )
        case Type.DATE:
            return Annotated[date, LAX, DATE_WRITTEN, DATE_SHOWN] if sent else date


def nullable(field: Field) -> bool:
    return not field.required and field.default is None and field.type is not Type.IDS


def no_default(schema: JsonDict) -> None:
    """Null is not what a field is when it was left out: the service knows."""
    schema.pop("default", None)


def _field(field: Field, *, sent: bool, optional: bool) -> tuple[Any, Any]:
    shape = _type(field, sent=sent)
    if nullable(field):
        shape = shape | None
    about: dict[str, Any] = {"description": _described(field), "examples": [_example(field)]}
    if not optional:
        return shape, Constraint(**about)
    return shape, Constraint(default=None, json_schema_extra=no_default, **about)


def _name(kind: Kind) -> str:
    return kind.one.capitalize()


# Without a default, pydantic asks for it; with one it may be left out, and what was left out is not in the change.
ID: Final[Any] = (
    UUID,
    Constraint(
        default=None,
        json_schema_extra=no_default,
        description="Made by the sender, best a UUIDv7; else by the server.",
    ),
)
OWN: Final[Any] = (
    UUID,
    Constraint(default=None, json_schema_extra=no_default, description="Your own contact's id; may be left out."),
)
ALWAYS_THERE: Final = ("id", "version", "created_at", "updated_at", "paused_seconds")


def _create(kind: Kind) -> type[Sent]:
    fields: dict[str, Any] = {
        field.name: _field(field, sent=True, optional=not field.required) for field in kind.fields if not field.kept
    }
    return create_model(f"{_name(kind)}Create", __base__=Sent, id=ID, **fields)


def _report(kind: Kind) -> type[Sent]:
    fields: dict[str, Any] = {
        field.name: _field(field, sent=True, optional=not field.required)
        for field in kind.fields
        if field.name in rules.REPORTED[kind.name]
    }
    return create_model(f"{_name(kind)}Report", __base__=Sent, id=ID, contact_id=OWN, **fields)


def _change(kind: Kind) -> type[Sent]:
    fields: dict[str, Any] = {
        field.name: _field(field, sent=True, optional=True) for field in kind.fields if not field.kept
    }
    return create_model(f"{_name(kind)}Change", __base__=Sent, **fields)


def _read(kind: Kind) -> type[Given]:
    fields: dict[str, Any] = {}
    for field in (*COMMON, *kind.fields):
        shape = _type(field, sent=False)
        if nullable(field) and field.name not in ALWAYS_THERE:
            shape = shape | None
        fields[field.name] = (shape, Constraint(description=_described(field), examples=[_example(field)]))
    return create_model(_name(kind), __base__=Given, **fields)


CREATE: Final = {name: _create(kind) for name, kind in KINDS.items()}
REPORT: Final = {name: _report(KINDS[name]) for name in rules.REPORTED}
CHANGE: Final = {name: _change(kind) for name, kind in KINDS.items()}
READ: Final = {name: _read(kind) for name, kind in KINDS.items()}


def sent(body: Sent) -> dict[str, Any]:
    """What was in the body, and nothing that was not."""
    return {name: getattr(body, name) for name in body.model_fields_set}
