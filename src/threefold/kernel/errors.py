"""The kinds of error. A new kind only where the caller would act differently.

A message is a lower-case sentence without a full stop; the hint says what to do. Neither ever holds a secret.
Exit codes (docs/reference/cli.md): 0 done, 1 failed, 2 usage, 3 refused for safety, 4 fenced.
"""

from __future__ import annotations

from typing import ClassVar


class ThreefoldError(Exception):
    """Anything the user is told about: what happened, and what to do."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class BadInput(ThreefoldError):
    """What was asked for cannot be meant: the caller corrects it and asks again."""

    exit_code: ClassVar[int] = 2


class Refused(ThreefoldError):
    """Going on could lose or mix data: a person has to decide."""

    exit_code: ClassVar[int] = 3


class Fenced(ThreefoldError):
    """A higher epoch owns the log: this writer stops for good and acknowledges nothing more."""

    exit_code: ClassVar[int] = 4


class Unavailable(ThreefoldError):
    """Unknown: too few stores (or no primary) answered. Asking again later may help."""


class Damaged(ThreefoldError):
    """Bytes that are not what was written, or a key that does not open them."""


class OtherKey(Damaged):
    """Bytes that say which key sealed them, and it is none of ours. One copy alone may lie: two of them do not."""

    def __init__(self, key_id: str) -> None:
        super().__init__(f"the object was sealed with another master key, {key_id}")
        self.key_id = key_id


class NotThere(ThreefoldError):
    """Definitely absent where it had to be."""
