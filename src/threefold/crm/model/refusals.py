"""What an error of PostgreSQL's means to whoever asked.

Before COMMIT is sent, an error means that nothing was written. From then on only an error that PostgreSQL itself
gave for the transaction says so; a lost connection says nothing at all (`NotSaved`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import psycopg
from psycopg import errors

from threefold.crm.model.errors import Conflict, Invalid, Lost, NotSaved
from threefold.kernel.errors import ThreefoldError, Unavailable

TAKEN: Final[Mapping[str, tuple[str, str]]] = {
    "users_email": ("email", "somebody has this mail address"),
    "products_sku": ("sku", "another product has this SKU"),
    "tags_name": ("name", "there is such a tag"),
    "prices_of_product": ("valid_from", "the product has a price in this currency from that day on"),
    "policies_of_case": ("priority", "there is a policy for this priority"),
    "taggings_record": ("tag_id", "the record has this tag"),
}
_TIMES: Final = (errors.QueryCanceled, errors.LockNotAvailable)
_TURNS: Final = (errors.DeadlockDetected, errors.SerializationFailure)


def refusal(error: psycopg.Error, *, committing: bool = False) -> ThreefoldError:
    """The house's error for it; what only a mistake of ours can cause is raised as it is."""
    if isinstance(error, errors.UniqueViolation):
        return _taken(error)
    if isinstance(error, errors.ForeignKeyViolation):
        column = (error.diag.constraint_name or "").removeprefix(f"{error.diag.table_name}_").removesuffix("_fkey")
        return Invalid("a record that is referred to is not there", {column: "there is no such record"})
    if isinstance(error, (errors.CheckViolation, errors.NotNullViolation)):
        name = error.diag.constraint_name or error.diag.column_name or ""
        column = name.removeprefix(f"{error.diag.table_name}_").removesuffix("_check")
        return Invalid("a value is not possible here", {column: "this value is not possible"})
    if isinstance(error, errors.DataError):
        return Invalid("a value cannot be kept", hint=(error.diag.message_primary or "").lower())
    if isinstance(error, _TURNS):
        return Unavailable("two changes met, and this one has to be made again", hint="ask again")
    if isinstance(error, errors.ReadOnlySqlTransaction):
        return Unavailable("the database takes no changes at the moment", hint="wait a little and ask again")
    if isinstance(error, errors.InFailedSqlTransaction):
        return NotSaved("something in the change had failed before; nothing of it was saved", hint="ask again")
    if committing:
        return NotSaved(
            "the connection was lost before the change was confirmed",
            hint="ask again with the same Idempotency-Key: the answer tells whether it is there",
        )
    if isinstance(error, _TIMES):
        return Unavailable("it took too long and was given up", hint="ask for less, or wait a little and ask again")
    if isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)):
        return Lost("the connection to the database was lost; nothing was changed", hint="ask again")
    raise error


def _taken(error: errors.UniqueViolation) -> ThreefoldError:
    name = error.diag.constraint_name or ""
    if name in TAKEN:
        _, message = TAKEN[name]
        return Conflict(message, hint="choose another, or change the one that is there")
    if name.endswith("_pkey"):
        return Conflict("there is (or was) a record with this id", hint="make another id")
    return Conflict("there is such a record already")
