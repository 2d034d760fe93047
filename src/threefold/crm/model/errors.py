"""What the CRM refuses, beside the kernel's kinds.

Each is one HTTP status, because each asks something else of the caller: mend the fields, stop, choose, read again,
ask again.
"""

from __future__ import annotations

from collections.abc import Mapping

from threefold.kernel.errors import BadInput, ThreefoldError, Unavailable


class Invalid(BadInput):
    """Fields that cannot be meant; ``fields`` says of each what is wrong. 422."""

    def __init__(self, message: str, fields: Mapping[str, str] | None = None, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.fields = dict(fields or {})


class Forbidden(ThreefoldError):
    """Not for this person, and asking again does not help. 403."""


class Conflict(ThreefoldError):
    """It contradicts what is there: a duplicate, or the same request still under way. 409.

    ``fields``: of a change to many, what stands against which.
    """

    def __init__(self, message: str, fields: Mapping[str, str] | None = None, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.fields = dict(fields or {})


class Stale(ThreefoldError):
    """Somebody changed the record since it was read: read it again, and decide. 412.

    ``fields``: of a change to many, what stands against which.
    """

    def __init__(self, message: str, fields: Mapping[str, str] | None = None, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.fields = dict(fields or {})


class NotSaved(Unavailable):
    """Nobody knows whether the change is safe, so it is never told as saved. 503.

    Asking again with the same Idempotency-Key finds out.
    """


class Lost(Unavailable):
    """The connection broke before anything was written. 503; a read is made once more before anybody hears of it."""
