"""One table of all operations: what is asked, who may, what is taken, what is given, and the function that does it.

The dispatch (dispatch.py) and the OpenAPI document (document.py) both follow from this table, so neither can promise
what the other does not do. A route that is not in it does not exist; a route that is in it has had its rule checked,
its query read and its body read and validated before its function runs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from fastapi import Request, Response
from pydantic import BaseModel

from threefold.crm.desk import Desk
from threefold.crm.model import rules

MEBIBYTE: Final = 2**20
Pairs = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter of the query. ``read`` raises ValueError with what is wrong."""

    name: str
    about: str
    schema: Mapping[str, Any]
    read: Callable[[str], Any] = str
    required: bool = False
    exploded: bool = False  # an object whose properties are parameters
    listed: bool = False  # several values, separated by commas


@dataclass(frozen=True, slots=True)
class Body:
    """A JSON body. ``customers``: another shape for customers, where they may give less."""

    model: type[BaseModel]
    customers: type[BaseModel] | None = None
    most: int = MEBIBYTE
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Raw:
    """A body that the function reads itself; ``media``: the schema of each media type it takes."""

    media: Mapping[str, Mapping[str, Any]]
    about: str


@dataclass(frozen=True, slots=True)
class Gives:
    """What an operation answers when it went well."""

    status: int
    about: str
    model: type[BaseModel] | None = None
    media: str = "application/json"
    schema: Mapping[str, Any] | None = None
    headers: tuple[str, ...] = ()
    links: tuple[str, ...] = ()  # operations that the answer's id is for


@dataclass(slots=True)
class Call:
    """One request, after all that is common to requests has been seen to."""

    request: Request
    desk: Desk
    ids: tuple[UUID, ...]
    query: dict[str, Any]
    pairs: Pairs
    body: Any = None

    @property
    def id(self) -> UUID:
        return self.ids[0]


Does = Callable[[Call], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Operation:
    """``path``: below /api/v1, with {id} for record ids. ``fails``: statuses beside those that every operation has."""

    method: str
    path: str
    name: str
    summary: str
    tag: str
    does: Does
    needs: rules.Operation | None
    gives: tuple[Gives, ...]
    kind: str = ""
    about: str = ""
    takes: Body | Raw | None = None
    params: tuple[Param, ...] = ()
    own_query: bool = False  # the function reads the query itself (Call.pairs)
    headers: tuple[str, ...] = ()
    fails: tuple[int, ...] = ()
    writes: bool = False


OPERATIONS: Final[list[Operation]] = []


def add(operation: Operation) -> None:
    OPERATIONS.append(operation)
