"""One aspect of what is watched (a host, a process, SQL, a write): the last definite answer, or silence. Pure.

Silence is not a time-out that some request ran into, but the age of the last definite answer, in attended time
(attention.py): requests overlap, and a process that was asleep finds time-outs and answers side by side when it wakes,
in an order that nobody promised.
"""

from __future__ import annotations

from threefold.failover.reports import Seen


class Aspect:
    """``patience_s``: how old an answer may be before its absence is silence. ``no_s``: how long a no stands."""

    def __init__(self, patience_s: float, no_s: float | None = None) -> None:
        self._patience = patience_s
        self._no = patience_s if no_s is None else no_s
        self._asked: float | None = None
        self._word: Seen | None = None
        self._started = 0.0
        self._at = 0.0
        self._ok_at: float | None = None

    def ask(self, at: float) -> None:
        """A request leaves."""
        if self._asked is None:
            self._asked = at

    def answer(self, word: Seen, *, started: float, at: float) -> None:
        """The answer to a request that left at ``started``. One that was overtaken by a later request's is no news."""
        if self._word is not None and started < self._started:
            return
        self._word, self._started, self._at = word, started, at
        if word is Seen.OK:
            self._ok_at = at

    def word(self, at: float) -> Seen:
        if self._asked is None:
            return Seen.UNKNOWN
        stands = self._patience if self._word is Seen.OK else self._no
        if self._word is not None and at - self._at <= stands:
            return self._word
        waited = self._at if self._word is not None else self._asked
        return Seen.SILENT if at - waited > self._patience else Seen.UNKNOWN

    def ok_age(self, at: float) -> float | None:
        """Since the last ok; None: never."""
        return at - self._ok_at if self._ok_at is not None else None
