"""What the page of a record shows of it, and how a value is said where no template knows its field.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from threefold.crm.model.kinds import CASES, PRIORITIES, Field, Kind, Type

Titles = Mapping[UUID, str]


def shown_fields(kind: Kind) -> list[Field]:
    """What the page of a record shows of it: not its own bookkeeping, nor the clocks, which have a place."""
    hidden = {"first_response_due_at", "first_responded_at", "resolution_due_at", "resolved_at", "paused_at"}
    hidden |= {"paused_seconds", "body", "subject", "status", "priority", "record_kind", kind.title}
    if kind.name in CASES:  # beside it stands who works on it
        hidden |= {"assignee_id", "team_id", "watchers", "satisfaction", "merged_into_id"}
    return [
        each for each in kind.fields if each.name not in hidden or (each.name == "body" and kind.name == "products")
    ]


def readable(kind: Kind, name: str, value: Any, titles: Titles) -> Any:
    """A value for people, where a template does not know the field: in timelines and comparisons."""
    at = kind.field(name)
    if value in (None, "", [], ()):
        return ""
    if at is None:
        return str(value)
    if at.type in (Type.ID, Type.IDS):
        several = value if isinstance(value, list | tuple) else [value]
        return ", ".join(
            titles.get(_uuid(one), "somebody" if at.refers == "users" else str(one)[:8]) for one in several
        )
    if at.type is Type.BOOLEAN:
        return "yes" if value else "no"
    if at.type is Type.CENTS:
        return f"{int(value) // 100:,}.{int(value) % 100:02d}"
    if at.name == "priority":
        return PRIORITIES.get(int(value), value)
    return value


def _uuid(value: Any) -> UUID:
    return value if isinstance(value, UUID) else UUID(str(value))
