"""Where what is shown comes from: the site, its epoch, and how old it is.

Whoever serves the CRM puts a function on ``app.state.site`` that tells; without one it is this machine, live.

Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Site:
    """``age_seconds``: 0 where the database itself answers, how far behind it is where a standby does.

    ``writable``: changes are taken now. ``deferring``: they cannot be written yet, but are kept safe and will be.
    """

    name: str = "this machine"
    epoch: int | None = None
    age_seconds: int = 0
    writable: bool = True
    deferring: bool = False

    @property
    def state(self) -> str:
        if not self.writable:
            return "away"
        return "stale" if self.age_seconds > 0 else "live"

    @property
    def words(self) -> str:
        """Short, for the chip: ``north · epoch 7 · live``."""
        epoch = [] if self.epoch is None else [f"epoch {self.epoch}"]
        age = (
            "live"
            if self.state == "live"
            else (f"as of {span(self.age_seconds)} ago" if self.age_seconds else "paused")
        )
        return " · ".join([self.name, *epoch, age])

    @property
    def line(self) -> str:
        """A sentence, for the banner; empty where all is well."""
        if self.state == "live":
            return ""
        shown = f"You see what was known {span(self.age_seconds)} ago" if self.age_seconds else "You can read"
        if self.writable:
            return f"{shown}, from {self.name}."
        kept = "what you write is kept safe and entered as soon as it can be" if self.deferring else "changes wait"
        return f"{shown}, from {self.name}; {kept}."

    def told(self) -> dict[str, Any]:
        """For the live stream."""
        return {"state": self.state, "words": self.words, "line": self.line}


def span(seconds: int) -> str:
    """``40 s``, ``3 min``, ``2 h``, ``5 days``."""
    if seconds < 90:
        return f"{seconds} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    if seconds < 36 * 3600:
        return f"{round(seconds / 3600)} h"
    return f"{round(seconds / 86400)} days"
