"""What the endpoints of /connect are sent. Unknown fields are refused: a misspelt one would quietly mean nothing."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

Line = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
Secret = Annotated[str, Field(max_length=1024)]
Token = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_-]+$")]


class Sent(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class Nothing(Sent):
    """``{}``."""


class OfToken(Sent):
    token: Token


class Enrolment(OfToken):
    device: Line
    registration: dict[str, Any] | None = None
    password: Secret | None = None
    bearer: bool = False


class Signin(Sent):
    assertion: dict[str, Any] | None = None
    email: Annotated[str, Field(max_length=320)] | None = None
    password: Secret | None = None
    bearer: bool = False


class Named(Sent):
    name: Line


class NewPasskey(Named):
    registration: dict[str, Any]


class NewPassword(Sent):
    current: Secret | None = None
    new: Secret


class NewInvitation(Sent):
    """One of ``contact_id``, ``user_id``, or a new employee's name, address and role."""

    contact_id: UUID | None = None
    user_id: UUID | None = None
    full_name: Line | None = None
    email: Line | None = None
    role: Literal["employee", "administrator"] | None = None
    team_id: UUID | None = None
    hours: Annotated[int, Field(ge=1, le=168)] = 72
