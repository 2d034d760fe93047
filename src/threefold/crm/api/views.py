"""Saved views: lists that somebody wants to see again, with their filters, sorting and columns."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import Response
from pydantic import Field as Constraint

from threefold.crm import rules, views
from threefold.crm.api import models, reading, replies
from threefold.crm.api.models import KIND, LINE, Given, Sent
from threefold.crm.api.operations import Body, Call, Gives, Operation, Param, add
from threefold.crm.desk import Reply, Tx
from threefold.crm.kinds import KINDS

KindName = Annotated[str, Constraint(pattern=KIND, examples=["queries"])]
Name = Annotated[str, Constraint(min_length=1, max_length=100, pattern=LINE, examples=["Urgent and mine"])]
Asked = Annotated[
    str,
    Constraint(
        max_length=2000,
        pattern=LINE,
        description="The list's query: filters and sorting, as for the kind's list.",
        examples=["priority.le=2&sort=-updated_at"],
    ),
]
Columns = Annotated[
    list[Annotated[str, Constraint(max_length=60, pattern=LINE)]],
    Constraint(max_length=30, description="Fields, in order. Empty: the kind's own."),
]


class ViewCreate(Sent):
    kind: KindName
    name: Name
    asked: Asked = ""
    columns: Columns = Constraint(default_factory=list)
    shared: Annotated[bool, Constraint(description="For everybody who works here.")] = False


class ViewChange(Sent):
    """What is left out stays as it is."""

    name: Name = ""
    asked: Asked = ""
    columns: Columns = Constraint(default_factory=list)


class View(Given):
    id: UUID
    kind: str
    name: str
    asked: str
    columns: list[str]
    shared: bool
    mine: bool


class Views(Given):
    items: list[View]
