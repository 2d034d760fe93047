"""Lengths of time as people say them: ``4 h``, ``1 d 12 h``, ``90 min``; in minutes where they are kept.

Pure. A day is 24 hours here, also where a clock counts office hours alone: then ``8 h`` is a day's work.
"""

from __future__ import annotations

import re
from typing import Final

_MINUTES: Final = {"d": 1440, "h": 60, "min": 1}
_NAMES: Final = {"": "min", "m": "min", "min": "min", "minute": "min", "h": "h", "hour": "h", "d": "d", "day": "d"}
_PART: Final = re.compile(r"(\d{1,6})\s*([a-z]*)[\s,]*")
MOST: Final = 525_600  # a year: crm/model/kinds.py


def span(minutes: int) -> str:
    """``1 d 4 h 30 min`` with what is zero left out."""
    parts = []
    for name, size in _MINUTES.items():
        number, minutes = divmod(minutes, size)
        if number:
            parts.append(f"{number} {name}")
    return " ".join(parts) or "0 min"


def minutes_of(text: str) -> int | None:
    """What was meant; a number alone is minutes. None: it is no length of time."""
    left = text.strip().lower()
    total, at = 0, 0
    while at < len(left):
        found = _PART.match(left, at)
        unit = _NAMES.get(found[2].removesuffix("s") if len(found[2]) > 1 else found[2]) if found else None
        if found is None or unit is None:
            return None
        total += int(found[1]) * _MINUTES[unit]
        at = found.end()
    return total if 0 < total <= MOST else None
