"""The shapes around records: pages of them, many changes at once, timelines. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import Discriminator, create_model
from pydantic import Field as Constraint

from threefold.crm.api.models import CHANGE, CREATE, ID_WRITTEN, INTEGER_MOST, LAX, LINE, READ, WHOLE, Given, Sent
from threefold.crm.model.kinds import KINDS, Kind

BULK_MOST: Final = 500
Id = Annotated[UUID, LAX, ID_WRITTEN]
Version = Annotated[
    int, Constraint(ge=1, le=INTEGER_MOST, description="The version that the change is based on."), WHOLE
]
Next = Annotated[str | None, Constraint(description="For `after`, to go on; null: that was all.")]
Prev = Annotated[str | None, Constraint(description="For `before`, to go back; null: this was the first page, or all.")]
Reason = Annotated[str, Constraint(max_length=200, pattern=LINE)]


def list_of(model: Any) -> Any:
    return list[model]


def page_of(kind: Kind) -> type[Given]:
    fields: dict[str, Any] = {"items": (list_of(READ[kind.name]), ...), "next": (Next, ...), "prev": (Prev, ...)}
    return create_model(f"{kind.one.capitalize()}Page", __base__=Given, **fields)


def bulk_of(kind: Kind) -> type[Sent]:
    """Create, change and delete, as many as fit, all or none."""
    name = kind.one.capitalize()
    new: dict[str, Any] = {"do": (Literal["create"], ...), "record": (CREATE[kind.name], ...)}
    change: dict[str, Any] = {
        "do": (Literal["change"], ...),
        "id": (Id, ...),
        "version": (Version, ...),
        "changes": (CHANGE[kind.name], ...),
    }
    gone: dict[str, Any] = {"do": (Literal["delete"], ...), "id": (Id, ...), "version": (Version, ...)}
    one: Any = (
        create_model(f"{name}BulkCreate", __base__=Sent, **new)
        | create_model(f"{name}BulkChange", __base__=Sent, **change)
        | create_model(f"{name}BulkDelete", __base__=Sent, **gone)
    )
    items = list_of(Annotated[one, Discriminator("do")])
    fields: dict[str, Any] = {"items": (items, Constraint(min_length=1, max_length=BULK_MOST))}
    return create_model(f"{name}Bulk", __base__=Sent, **fields)


class Done(Given):
    """What became of one item of a bulk request."""

    do: Literal["create", "change", "delete"]
    id: UUID
    version: int


class BulkDone(Given):
    items: list[Done]


PAGE: Final = {name: page_of(kind) for name, kind in KINDS.items()}
BULK: Final = {name: bulk_of(kind) for name, kind in KINDS.items()}


class Entry(Given):
    """One change in a record's timeline."""

    version: int
    op: Literal["create", "update", "delete"]
    at: datetime
    actor: UUID | None
    device: UUID | None
    actor_name: Annotated[str | None, Constraint(description="Who it was; null: somebody at the database itself.")]
    reason: str | None
    erased: bool
    changes: Annotated[
        dict[str, tuple[Any, Any]] | None,
        Constraint(description="Field: [before, after]. Null: erased, at the person's request."),
    ]


class Timeline(Given):
    items: list[Entry]
    next: Annotated[int | None, Constraint(description="For `after`, to go on; null: that was all.")]
