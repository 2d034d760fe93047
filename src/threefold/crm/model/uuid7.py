"""UUID version 7 (RFC 9562, 5.7): 48 bits of milliseconds, then chance.

Keys that grow with time keep new rows together on the last pages of an index. Pure: the caller brings both.
"""

from __future__ import annotations

from uuid import UUID


def uuid7(milliseconds: int, chance: int) -> UUID:
    """``milliseconds`` since 1970; ``chance``: 74 bits or more, of which the lowest are used."""
    value = (milliseconds & (1 << 48) - 1) << 80
    value |= 0x7 << 76 | (chance >> 62 & 0xFFF) << 64
    value |= 0b10 << 62 | (chance & (1 << 62) - 1)
    return UUID(int=value)
