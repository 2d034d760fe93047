"""Forms of records, both ways: a record as the texts that stand in a form's fields, and texts as values again.

A form that changes a record carries what stood in it when it was made (`was`). So only what somebody really changed is
sent on, and when another person was faster, the page can say of each field who wants what.

Pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from threefold.crm.model.errors import Invalid
from threefold.crm.model.kinds import CASES, Field, Kind, Type
from threefold.crm.model.validating import from_text
from threefold.crm.pages.words import amount, cents, instant

Texts = dict[str, str]
_MOST_WAS: Final = 100_000  # characters of `was`: more is not one of our forms
# What has buttons of its own on the page of a case, because more than the field changes with it.
_BY_BUTTON: Final = frozenset({"status", "assignee_id", "team_id", "watchers", "satisfaction"})
_NOT_AT_FIRST: Final = frozenset({"status", "watchers", "satisfaction"})


def editable(kind: Kind, *, new: bool = False) -> list[Field]:
    """The fields of a kind's form, in order."""
    barred = _NOT_AT_FIRST if new else _BY_BUTTON
    return [field for field in kind.fields if not field.kept and not (kind.name in CASES and field.name in barred)]


def text_of(field: Field, value: Any) -> str:
    if value is None:
        return ""
    if field.type is Type.CENTS:
        return amount(value)
    if field.type is Type.TIME:
        return instant(value)
    if field.type is Type.BOOLEAN:
        return "true" if value else ""
    if field.type is Type.IDS:
        return ",".join(str(one) for one in value)
    return str(value)


def texts_of(fields: Iterable[Field], row: Mapping[str, Any]) -> Texts:
    return {field.name: text_of(field, row.get(field.name)) for field in fields}


def value_of(field: Field, text: str) -> Any:
    """ValueError, in the house's words, where it cannot be meant."""
    if field.type is Type.BOOLEAN:
        return text == "true"
    if field.type is Type.CENTS and text.strip():
        typed = cents(text)
        if not isinstance(typed, int) or typed < 0:
            raise ValueError("it has to be an amount like 12.50")
        return from_text(field, f"{typed // 100}.{typed % 100:02d}")
    return from_text(field, text.replace("\r\n", "\n"))


def values_of(fields: Iterable[Field], texts: Mapping[str, str], *, given: bool = False) -> dict[str, Any]:
    """``given``: leave out what is empty, so that a new record gets its defaults. Invalid, by field."""
    values: dict[str, Any] = {}
    wrong: dict[str, str] = {}
    for field in fields:
        text = texts.get(field.name, "")
        if given and not text.strip() and not field.required:
            continue
        try:
            values[field.name] = value_of(field, text)
        except ValueError as error:
            wrong[field.name] = str(error)
    if wrong:
        raise Invalid("some fields cannot be meant", wrong, hint="see the fields")
    return values


def packed(texts: Texts) -> str:
    return json.dumps(texts, ensure_ascii=False, separators=(",", ":"))


def unpacked(text: str) -> Texts:
    """What a form says stood in it; whatever else somebody sent there counts as nothing."""
    try:
        found = json.loads(text[:_MOST_WAS])
    except ValueError:
        return {}
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}


def changed(fields: Iterable[Field], typed: Mapping[str, str], was: Mapping[str, str]) -> list[Field]:
    """What somebody really changed. Line ends are the browser's, and no change."""
    return [field for field in fields if _same(typed.get(field.name, "")) != _same(was.get(field.name, ""))]


def _same(text: str) -> str:
    return text.replace("\r\n", "\n").strip()
