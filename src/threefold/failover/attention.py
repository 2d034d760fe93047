"""Time as far as we were awake for it: our own late wake-ups are not the primary's silence.

Imagine a guard who dozes off for twenty seconds. When he wakes, nobody has walked past "for twenty seconds" - but
that says something of the guard, not of the street. So he counts only the time in which he was looking.

Whoever judges silence calls `at` on every round, several times a second. A step of the clock that is longer than
``STEP_S`` is counted as ``STEP_S``: a stop-the-world pause, a suspended machine, a loop that was starved of processor
time, or a clock that leapt forward, costs half a second of silence at the most. A clock that went back counts as
standing still. Attended time therefore never runs faster than the clock, which errs on the side of patience: on a
machine that wakes us only every two seconds, everything takes four times as long to be given up.
"""

from __future__ import annotations

from typing import Final

STEP_S: Final = 0.5


class Attention:
    """Turns a monotonic clock's seconds into attended ones, which begin at 0."""

    def __init__(self, step_s: float = STEP_S) -> None:
        self._step = step_s
        self._last: float | None = None
        self._attended = 0.0
        self.missed = 0.0  # seconds in all that we were not looking

    def at(self, now: float) -> float:
        """The attended time; never less than it was."""
        if self._last is None:
            self._last = now
        passed = now - self._last
        if passed > 0:
            counted = min(passed, self._step)
            self._attended += counted
            self.missed += passed - counted
        self._last = now
        return self._attended
