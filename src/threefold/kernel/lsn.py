"""PostgreSQL's log sequence number: a byte position in the write-ahead log.

Written as two hexadecimal halves, ``16/B374D848`` (PostgreSQL documentation, "pg_lsn type").
"""

from __future__ import annotations

import re

from threefold.kernel.errors import BadInput

_FORM = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


class Lsn(int):
    """A byte position in the write-ahead log, 0 ≤ lsn < 2**64; arithmetic gives plain integers."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Lsn:
        """Read ``X/Y``. Raises BadInput."""
        match = _FORM.fullmatch(text.strip())
        if match is None:
            raise BadInput(f"not an LSN: {text!r}", hint="an LSN reads like 16/B374D848")
        return cls((int(match[1], 16) << 32) | int(match[2], 16))

    def __str__(self) -> str:
        return f"{self >> 32:X}/{self & 0xFFFFFFFF:X}"

    def __repr__(self) -> str:
        return f"Lsn({self})"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec) if not spec or spec[-1] in "s<>^0123456789" else format(int(self), spec)
