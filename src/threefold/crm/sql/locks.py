"""Locks of several records, always in one order: by kind (`ORDER`), then by id. So no two changes wait for each other.

A change of one record locks it as it is written. Whatever touches several (a merge, a batch, a bulk request, a deletion
with what hangs on a record, and taking these back) finds out first which those are, without locking, and takes all of
them here before it writes anything. What is referred to comes before what refers to it: a change that points a record
at an account holds the account, shared, before the record; merging the account holds it before what points at it.

Rows that the CRM keeps about such changes (crm.merges, crm.batches, crm.deletions) come after all records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final
from uuid import UUID

from psycopg import sql

from threefold.crm.desk import Tx
from threefold.crm.model.kinds import CASES, KINDS, MERGED, Kind

# What is referred to before what refers to it.
ORDER: Final = (
    "accounts",
    "contacts",
    "products",
    "teams",
    "tags",
    "policies",
    "queries",
    "requests",
    "interactions",
    "affiliations",
    "deals",
    "users",
    "tasks",
    "attachments",
    "prices",
    "taggings",
)
RANK: Final[Mapping[str, int]] = {name: number for number, name in enumerate(ORDER)}
_ABOUT: Final = {"query_id": "queries", "request_id": "requests"}  # of an interaction, which moves its case on
One = tuple[str, UUID]


async def take(tx: Tx, wanted: Iterable[One], shared: Iterable[One] = ()) -> None:
    """Until the transaction ends. ``shared``: to stay what they are; what is gone for good is passed over.

    A kind that is both is taken as what is to be changed: two passes over one kind would not be one order.
    """
    changed, kept = _by_kind(wanted), _by_kind(shared)
    for name in ORDER:
        ids = changed.get(name, set()) | kept.get(name, set())
        if not ids:
            continue
        how = "KEY SHARE" if name not in changed else "UPDATE" if name in CASES else "NO KEY UPDATE"
        statement = sql.SQL("SELECT id FROM {} WHERE id = ANY(%s) ORDER BY id FOR {}").format(
            sql.Identifier("crm", name), sql.SQL(how)
        )
        await tx.connection.execute(statement, [sorted(ids)])


def referred(kind: str, values: Mapping[str, Any]) -> list[One]:
    """The records among ``values`` that a merge could take away meanwhile; for `shared`."""
    of: Kind | None = KINDS.get(kind)
    found: list[One] = []
    for field in of.fields if of is not None else ():
        id_ = id_of(values.get(field.name))
        if field.refers in MERGED and id_ is not None:
            found.append((field.refers, id_))
    about, record = values.get("record_kind"), id_of(values.get("record_id"))
    if about in MERGED and record is not None:
        found.append((about, record))
    return found


def moved(kind: str, values: Mapping[str, Any]) -> list[One]:
    """The case that a new record of that kind moves on; for `wanted`."""
    if kind != "interactions":
        return []
    return [(name, id_) for column, name in _ABOUT.items() if (id_ := id_of(values.get(column))) is not None]


def id_of(value: Any) -> UUID | None:
    """What is none refers to nothing; whoever checks the values says so."""
    if isinstance(value, UUID):
        return value
    try:
        return UUID(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _by_kind(records: Iterable[One]) -> dict[str, set[UUID]]:
    found: dict[str, set[UUID]] = {}
    for name, id_ in records:
        found.setdefault(name, set()).add(id_)
    return found
