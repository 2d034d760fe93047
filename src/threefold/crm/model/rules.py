"""Who may do what, in one table, for the API and the pages alike.

Invariant: a customer is never told "forbidden" about something it may not even know of. What is not named for
customers does not exist for them (NotThere, 404), so a guessed id answers nothing. Employees know what there is, so
they are told when a thing is for administrators (Forbidden, 403).

This table says which operations; which *rows* a customer sees is the repository's (records.py scopes by `Kind.owner`).

Pure.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from threefold.crm.model.actor import Actor, Role
from threefold.crm.model.errors import Forbidden
from threefold.crm.model.kinds import CASES, CUSTOMERS_READ, KINDS
from threefold.kernel.errors import NotThere


class Operation(StrEnum):
    """What can be asked for. One word covers all that is allowed or refused together."""

    READ = "read"  # one record, or a list
    HISTORY = "history"  # the timeline, "as of", the recycle bin
    CREATE = "create"
    CHANGE = "change"
    DELETE = "delete"  # and restore
    ANSWER = "answer"  # a case
    RATE = "rate"  # a case: the customer's satisfaction
    WORK = "work"  # on cases: status, assignee, watchers, the queue, merging two of them
    BULK = "bulk"  # many at once: bulk requests, batches, import
    EXPORT = "export"
    MERGE = "merge"  # two records that are the same one
    ATTACH = "attach"  # files, to look at and to add; only employees take them away
    SEARCH = "search"
    FEED = "feed"  # changes since a cursor
    VIEW = "view"  # saved views
    SELF = "self"  # who am I
    ERASE = "erase"  # a person, for good
    ADMINISTER = "administer"  # webhooks, and what else steers the whole CRM


class Verdict(StrEnum):
    ALLOWED = "allowed"
    FORBIDDEN = "forbidden"  # 403: it is there, and not for you
    HIDDEN = "hidden"  # 404: as far as you are concerned it is not there


# Changing records of a kind that is for administrators alone.
WRITING: Final = frozenset(
    {Operation.CREATE, Operation.CHANGE, Operation.DELETE, Operation.BULK, Operation.MERGE, Operation.ATTACH}
)
FOR_ADMINISTRATORS: Final = frozenset({Operation.ERASE, Operation.ADMINISTER})

OWNED: Final = tuple(kind.name for kind in KINDS.values() if kind.owner)
CUSTOMERS: Final[dict[Operation, frozenset[str]]] = {
    Operation.READ: frozenset({*OWNED, *CUSTOMERS_READ}),
    Operation.CREATE: frozenset({*CASES, "interactions"}),
    Operation.ANSWER: frozenset(CASES),
    Operation.RATE: frozenset(CASES),
    Operation.ATTACH: frozenset(CASES),
}
# The fields that a customer may give when it reports something; the contact is always its own.
REPORTED: Final[dict[str, frozenset[str]]] = {
    **{
        name: frozenset(field.name for field in KINDS[name].fields if field.customers_write) - {"satisfaction"}
        for name in CASES
    },
    "interactions": frozenset({"query_id", "request_id", "body"}),
}
# What is about no single kind.
AT_LARGE: Final = frozenset(
    {
        Operation.SELF,
        Operation.SEARCH,
        Operation.ATTACH,  # one file, by its own id
        Operation.FEED,
        Operation.VIEW,
        Operation.MERGE,
        Operation.BULK,
        Operation.ERASE,
        Operation.ADMINISTER,
    }
)
CUSTOMERS_AT_LARGE: Final = frozenset({Operation.SELF, Operation.SEARCH, Operation.ATTACH})


def verdict(role: Role, operation: Operation, kind: str = "") -> Verdict:
    """``kind``: empty for what is about no single kind."""
    if role is Role.ADMINISTRATOR:
        return Verdict.ALLOWED
    if role is Role.EMPLOYEE:
        barred = operation in FOR_ADMINISTRATORS or (
            operation in WRITING and kind != "" and KINDS[kind].administrators_only
        )
        return Verdict.FORBIDDEN if barred else Verdict.ALLOWED
    allowed = kind in CUSTOMERS.get(operation, ()) if kind else operation in CUSTOMERS_AT_LARGE
    return Verdict.ALLOWED if allowed else Verdict.HIDDEN


def allows(actor: Actor, operation: Operation, kind: str = "") -> bool:
    """For pages: whether to show the button."""
    return verdict(actor.role, operation, kind) is Verdict.ALLOWED


def check(actor: Actor, operation: Operation, kind: str = "") -> None:
    """Raises NotThere or Forbidden."""
    found = verdict(actor.role, operation, kind)
    if found is Verdict.HIDDEN:
        raise NotThere("there is no such thing here", hint="see what is yours under queries and requests")
    if found is Verdict.FORBIDDEN:
        raise Forbidden("this is for administrators", hint="ask one of your administrators to do it")
