"""Whether values can be meant, field by field, from the table of kinds: JSON's values and plain text's alike.

All fields are looked at before anything is refused, so that a person mends a form once. What is returned is what is
stored: text without blanks around it, mail addresses in lower case, UUIDs and times as such.

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any, Final
from uuid import UUID

from threefold.crm.model.errors import Invalid
from threefold.crm.model.kinds import Field, Kind, Type

_EMAIL: Final = re.compile(r"[^\s@<>\",;:]+@[^\s@<>\",;:]+\.[^\s@<>\",;:.]+")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_NUMBER: Final = re.compile(r"[+-]?\d{1,19}")
_MONEY: Final = re.compile(r"\d{1,15}([.,]\d{1,2})?")
_CODES: Final = ("currency", "country")  # in capitals
_YES: Final = ("true", "yes", "y", "1", "on")
_NO: Final = ("false", "no", "n", "0", "off", "")


class Wrong(ValueError):
    """What is wrong with one value, in words for a person."""


def new_values(kind: Kind, values: Mapping[str, Any]) -> dict[str, Any]:
    """Of a record to be made: every field has a value afterwards; ``id`` may be the caller's own."""
    clean, wrong = _checked(kind, values, {"id"})
    for field in kind.fields:
        if field.name in clean or field.name in wrong or field.kept:
            continue
        if field.required:
            wrong[field.name] = "it has to be given"
        else:
            clean[field.name] = list(field.default) if isinstance(field.default, tuple) else field.default
    return _sound(kind, clean, clean, wrong)


def changed_values(kind: Kind, changes: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """Of a change to ``row``."""
    clean, wrong = _checked(kind, changes, set())
    return _sound(kind, clean, {**row, **clean}, wrong)


def _checked(kind: Kind, values: Mapping[str, Any], also: set[str]) -> tuple[dict[str, Any], dict[str, str]]:
    clean: dict[str, Any] = {}
    wrong: dict[str, str] = {}
    for name, value in values.items():
        field = kind.field(name)
        if field is None:
            wrong[name[:60]] = "there is no such field"
        elif field.kept and name not in also:
            wrong[name] = "the CRM keeps this itself"
        else:
            try:
                clean[name] = value_of(field, value)
            except ValueError as error:
                wrong[name] = str(error)
    return clean, wrong


def _sound(kind: Kind, clean: dict[str, Any], whole: Mapping[str, Any], wrong: dict[str, str]) -> dict[str, Any]:
    """Fields that only make sense together."""
    if kind.name == "users" and not wrong and (whole["role"] == "customer") != (whole.get("contact_id") is not None):
        wrong["contact_id"] = "customers, and only they, have a contact of their own"
    if kind.name == "interactions" and whole.get("query_id") and whole.get("request_id"):
        wrong["request_id"] = "an interaction is about a query or a request, not both"
    if kind.name == "tasks" and (whole.get("record_kind") is None) != (whole.get("record_id") is None):
        wrong["record_id"] = "it takes the kind and the id of the record, or neither"
    if len(whole.get("country") or "") == 1 and "country" in kind_fields(kind):
        wrong.setdefault("country", "it has to be a code of two letters")
    if wrong:
        raise Invalid("some fields cannot be meant", wrong, hint="see the fields")
    return clean


def kind_fields(kind: Kind) -> frozenset[str]:
    return frozenset(field.name for field in kind.fields)


def nullable(field: Field) -> bool:
    """Whether a record may have no value there; the tables say NOT NULL of the others."""
    if field.kept:
        return field.name not in ("id", "version", "created_at", "updated_at", "paused_seconds")
    return not field.required and field.default is None


def value_of(field: Field, value: object) -> Any:
    """What is stored for it; Wrong if it cannot be meant."""
    if value is None or (value == "" and field.type not in (Type.TEXT, Type.LONG)):
        if not nullable(field):
            raise Wrong("it has to be given" if field.required else "it cannot be empty")
        return None
    return _READ[field.type](field, value)


def from_text(field: Field, text: str) -> Any:
    """The same for what a form, a CSV file or a query string has: text. Empty text is no value."""
    text = text.strip() if field.type is not Type.LONG else text
    if field.type is Type.BOOLEAN:
        if text.lower() in (*_YES, *_NO):
            return text.lower() in _YES
        raise Wrong("it has to be yes or no")
    if field.type is Type.INTEGER and _NUMBER.fullmatch(text):
        return value_of(field, int(text))
    if field.type is Type.CENTS and text:
        if not _MONEY.fullmatch(text):
            raise Wrong("it has to be an amount like 12.50")
        whole, _, cents = text.replace(",", ".").partition(".")
        return value_of(field, int(whole) * 100 + int(cents.ljust(2, "0")))
    if field.type is Type.IDS:
        return value_of(field, [part for part in re.split(r"[,;\s]+", text) if part])
    return value_of(field, text)


def _a_text(field: Field, value: object) -> str:
    if not isinstance(value, str):
        raise Wrong("it has to be text")
    if field.type is not Type.LONG:
        value = value.strip()
        if "\n" in value or "\r" in value:
            raise Wrong("it has to be one line")
    if _CONTROL.search(value):
        raise Wrong("it has a character in it that is none")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Wrong("it has a character in it that is none") from None
    if field.required and not value.strip():
        raise Wrong("it has to be given")
    if len(value) > field.most:
        raise Wrong(f"it is longer than {field.most} characters")
    if value and len(value) < field.least:
        raise Wrong(f"it has to have {field.least} characters")
    if field.name == "currency" and not value:
        raise Wrong("it has to be given")
    return value.upper() if field.name in _CODES else value


def _an_email(field: Field, value: object) -> str:
    text = _a_text(field, value).lower()
    if not _EMAIL.fullmatch(text):
        raise Wrong("it has to be a mail address")
    return text


def _a_number(field: Field, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise Wrong("it has to be a whole number")
    if not field.least <= value <= _most(field):
        raise Wrong(f"it has to be from {field.least} to {_most(field)}")
    return value


def _most(field: Field) -> int:
    """`most` of a number that nobody may send says nothing: it is text's."""
    return 2**31 - 1 if field.kept else field.most


def _a_boolean(_: Field, value: object) -> bool:
    if not isinstance(value, bool):
        raise Wrong("it has to be true or false")
    return value


def _an_id(_: Field, value: object) -> UUID:
    if isinstance(value, UUID):
        return value
    if isinstance(value, str) and len(value) == 36 and value.count("-") == 4:
        try:
            return UUID(value)
        except ValueError:
            pass
    raise Wrong("it has to be an id, like 0199a3c2-7d10-7f3a-9c55-2f6f0d8a4b11")


def _ids(field: Field, value: object) -> list[UUID]:
    if not isinstance(value, (list, tuple)):
        raise Wrong("it has to be a list of ids")
    if len(value) > field.most:
        raise Wrong(f"it has more than {field.most} entries")
    return list(dict.fromkeys(_an_id(field, each) for each in value))


def _a_choice(field: Field, value: object) -> str:
    if value not in field.choices:
        raise Wrong(f"it has to be one of {', '.join(field.choices)}")
    return str(value)


def _a_time(_: Field, value: object) -> datetime:
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        found = None
    if not isinstance(found, datetime) or found.tzinfo is None or not 1900 <= found.year <= 9000:
        raise Wrong("it has to be a time with its zone, like 2026-11-24T15:00:00Z")
    return found.astimezone(UTC)


def _a_date(_: Field, value: object) -> date:
    try:
        found = date.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        found = None
    if not isinstance(found, date) or isinstance(found, datetime) or not 1900 <= found.year <= 9000:
        raise Wrong("it has to be a date, like 2026-11-24")
    return found


_READ: Final = {
    Type.TEXT: _a_text,
    Type.LONG: _a_text,
    Type.EMAIL: _an_email,
    Type.INTEGER: _a_number,
    Type.CENTS: _a_number,
    Type.BOOLEAN: _a_boolean,
    Type.ID: _an_id,
    Type.IDS: _ids,
    Type.CHOICE: _a_choice,
    Type.TIME: _a_time,
    Type.DATE: _a_date,
}
