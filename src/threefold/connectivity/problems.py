"""Every failure as problem+json (RFC 9457): what happened, what to do, and nothing that the caller may not know.

What nobody foresaw is answered with an incident's id; the log has the rest under the same id. An outage of the
database is foreseen: 503 with Retry-After, never a success and never "not saved" where nobody knows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

import psycopg
import psycopg_pool
import structlog
from fastapi.exceptions import RequestValidationError
from psycopg import errors as pg
from starlette.exceptions import HTTPException
from starlette.responses import Response

from threefold.connectivity import refusals
from threefold.crm.model import errors
from threefold.kernel import errors as kernel
from threefold.kernel.clock import Clock
from threefold.kernel.errors import ThreefoldError

MEDIA_TYPE: Final = "application/problem+json"
_CHALLENGE: Final = 'DPoP algs="ES256"'

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Problem:
    status: int
    code: str
    detail: str
    hint: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    more: Mapping[str, str] = field(default_factory=dict)

    def content(self) -> dict[str, Any]:
        said: dict[str, Any] = {
            "type": f"urn:threefold:problem:{self.code}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
        }
        return said | {k: v for k, v in (("hint", self.hint), ("fields", dict(self.fields))) if v} | dict(self.more)

    def response(self) -> Response:
        return Response(json.dumps(self.content()).encode(), self.status, dict(self.headers), MEDIA_TYPE)


# The first that fits; subclasses before their kinds.
_KINDS: Final[tuple[tuple[type[ThreefoldError], int, str], ...]] = (
    (errors.Invalid, 422, "invalid"),
    (errors.Forbidden, 403, "forbidden"),
    (errors.Conflict, 409, "conflict"),
    (errors.Stale, 412, "stale"),
    (errors.NotSaved, 503, "not-saved"),
    (refusals.Unauthenticated, 401, "unauthenticated"),
    (refusals.BadProof, 401, "proof"),
    (refusals.BadCredentials, 401, "credentials"),
    (refusals.UnknownDevice, 403, "unknown-device"),
    (refusals.Gone, 410, "gone"),
    (refusals.TooLarge, 413, "too-large"),
    (refusals.Misdirected, 421, "misdirected"),
    (refusals.TooMany, 429, "too-many"),
    (kernel.NotThere, 404, "not-found"),
    (kernel.BadInput, 400, "bad-input"),
    (refusals.ReadOnly, 503, "read-only"),
    (kernel.Unavailable, 503, "unavailable"),
    (kernel.Refused, 409, "refused"),
)
_LATER: Final = {"Retry-After": "2"}
_CODES: Final = {
    404: "not-found",
    405: "method",
    400: "bad-input",
    403: "forbidden",
    413: "too-large",
    415: "media-type",
}
_DETAILS: Final = {404: "there is nothing at this address", 405: "this address does not know that method"}


def problem_of(error: Exception, clock: Clock) -> Problem:
    """What to answer. Logs what nobody foresaw."""
    if isinstance(error, ThreefoldError):
        for kind, status, code in _KINDS:
            if isinstance(error, kind):
                return _known(error, status, code, clock)
    if isinstance(error, RequestValidationError):
        return Problem(422, "invalid", "the request is not of the form that is asked for", fields=_fields(error))
    if isinstance(error, HTTPException):
        code = _CODES.get(error.status_code, "refused" if error.status_code < 500 else "unavailable")
        detail = _DETAILS.get(error.status_code, str(error.detail))
        return Problem(error.status_code, code, detail, headers=error.headers or {})
    if isinstance(error, psycopg.Error | psycopg_pool.PoolTimeout | psycopg_pool.TooManyRequests):
        found = _of_database(error)
        if found is not None:
            return found
    incident = clock.new_id()[:12]
    log.error("a request failed", incident=incident, exc_info=error)
    return Problem(
        500,
        "internal",
        "something went wrong that should not",
        "tell your administrator the incident's id; asking again may help",
        more={"incident": incident},
    )


def _known(error: ThreefoldError, status: int, code: str, clock: Clock) -> Problem:
    headers: dict[str, str] = {}
    more: dict[str, str] = {}
    if status == 503:
        headers |= _LATER
    if isinstance(error, refusals.TooMany | refusals.ReadOnly):
        headers["Retry-After"] = str(math.ceil(error.wait))
    if status == 401:
        headers["WWW-Authenticate"] = _CHALLENGE
    if isinstance(error, refusals.BadProof):
        headers["WWW-Authenticate"] = f'{_CHALLENGE}, error="invalid_dpop_proof"'
        more["now"] = clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")
    fields = getattr(error, "fields", {})  # Invalid's, and whatever else says what is wrong with which field
    return Problem(status, code, error.message, error.hint, fields, headers, more)


def _fields(error: RequestValidationError) -> dict[str, str]:
    """By field, in words; never the value that was sent."""
    found: dict[str, str] = {}
    for each in error.errors():
        place = [str(part) for part in each["loc"] if part not in {"body", "query", "path", "header"}]
        message = str(each["msg"]).removeprefix("Value error, ")
        found.setdefault(".".join(place) or str(each["loc"][0] if each["loc"] else "body"), message)
    return found


def _of_database(error: Exception) -> Problem | None:
    """What the CRM let through: mostly that the database went away while it worked."""
    if isinstance(error, pg.ReadOnlySqlTransaction):
        return Problem(503, "read-only", "the CRM takes no changes at the moment", "ask again later", headers=_LATER)
    if isinstance(error, pg.QueryCanceled):
        return Problem(503, "unavailable", "it took too long and was given up", "ask for less at once", headers=_LATER)
    if isinstance(error, pg.SerializationFailure | pg.DeadlockDetected | pg.LockNotAvailable):
        return Problem(503, "unavailable", "another change was in the way", "ask again", headers=_LATER)
    if isinstance(error, pg.UniqueViolation | pg.ExclusionViolation):
        return Problem(409, "conflict", "there is such a record already", "look for it, or change what must differ")
    if isinstance(error, pg.IntegrityError):
        return Problem(409, "conflict", "it contradicts another record", "read what it refers to again")
    if isinstance(error, psycopg.DataError):
        return Problem(422, "invalid", "a value cannot be kept", "take out control characters; mind the largest values")
    if isinstance(error, psycopg.OperationalError | psycopg_pool.PoolTimeout | psycopg_pool.TooManyRequests):
        return Problem(503, "unavailable", "the database does not answer", "ask again in a moment", headers=_LATER)
    return None
