"""Where what is shown comes from: the site, its epoch, how old it is, and whether changes are taken.

Whoever serves the CRM puts a function on ``app.state.site`` that tells; without one it is this machine, live.

Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Site:
    """``age_seconds``: 0 where the database itself answers, how far behind it is where a standby does.

    ``writable``: changes are taken now. ``deferring``: they cannot be written yet, but new issues and answers are kept
    safe and filed later. ``read_only``: why nothing is taken, on purpose. ``reachable``: something answers at all.
    ``lacking``: what protection lacks, in words; for those who work here.
    """

    name: str = "this machine"
    epoch: int | None = None
    age_seconds: int = 0
    writable: bool = True
    deferring: bool = False
    timeline: int | None = None
    read_only: str = ""
    reachable: bool = True
    lacking: str = ""

    @property
    def writes(self) -> str:
        """One word for what happens to a change: ``taken``, ``deferred``, ``refused``."""
        return "taken" if self.writable else "deferred" if self.deferring else "refused"

    @property
    def state(self) -> str:
        """Of the chip's dot."""
        if self.read_only and self.age_seconds == 0:
            return "read-only"
        if not self.writable:
            return "away"
        return "stale" if self.age_seconds > 0 else "live"

    @property
    def words(self) -> str:
        """Short, for the chip: ``north · epoch 7 · live``."""
        which = [f"epoch {self.epoch}"] if self.epoch is not None else []
        if not which and self.timeline is not None:
            which = [f"timeline {self.timeline}"]
        return " · ".join([self.name, *which, self._age()])

    def _age(self) -> str:
        if not self.reachable:
            return "not reachable"
        if self.state == "read-only":
            return "read-only"
        if self.state == "live":
            return "live"
        return f"as of {span(self.age_seconds)} ago" if self.age_seconds else "reading only"

    @property
    def line(self) -> str:
        """A sentence, for the banner; empty where all is well."""
        if self.state == "live":
            return ""
        if not self.reachable:
            return "The database cannot be reached now. What you write is kept on your device and sent when it can be."
        if self.state == "read-only":
            return f"Read-only: {self.read_only}. You can read; what you write waits on your device."
        shown = f"You see what was known {span(self.age_seconds)} ago" if self.age_seconds else "You can read"
        if self.writable:
            return f"{shown}, from {self.name}."
        kept = "new issues and answers are kept safe and filed as soon as it can be; other changes wait"
        return f"{shown}, from {self.name}; {kept if self.deferring else 'changes wait'}."

    def told(self, *, customer: bool = True) -> dict[str, Any]:
        """For the live stream."""
        said = {"state": self.state, "words": self.words, "line": self.line, "writes": self.writes}
        return said if customer else {**said, "lacking": self.lacking}


def span(seconds: int) -> str:
    """``40 s``, ``3 min``, ``2 h``, ``5 days``."""
    if seconds < 90:
        return f"{seconds} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    if seconds < 36 * 3600:
        return f"{round(seconds / 3600)} h"
    return f"{round(seconds / 86400)} days"
