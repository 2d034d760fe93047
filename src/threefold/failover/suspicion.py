"""How strange is it by now that nothing has come? For anything that comes again and again: answers, reports, beacons.

Intuition: somebody waits at a bus stop. The bus comes every ten minutes, give or take two, and about one in twenty is
cancelled. After eleven minutes nobody worries. After twenty-two a bus was probably cancelled: strange, one chance in
twenty. After thirty-two, two in a row: one in four hundred. How strange a wait is depends on two habits of the line,
how regular its buses are and how often one is missing, and both are learned by waiting there.

So from the last `WINDOW` intervals are taken

- the *usual* interval: the median, which one long stall, or ten, cannot move;
- the *spread* around it: the median deviation, scaled as for a normal distribution, and at least a quarter of the
  period: a source that ticks like a clock on a quiet day must not be called silent for one tick that is 50 ms late;
- the *share that is missing*, p: of all beats that were due, those that did not come.

A wait is on time up to ``usual + 2 spread``. Beyond that each further period has to be another beat that is missing,
which happens with p every time: the chance of a wait of k periods more is p to the k, and

    phi = -log10(p ** k) = k * -log10(p)

is the suspicion, on the scale of "phi-accrual" (Hayashibara et al., 2004): 1 is one chance in ten, 4 is one in ten
thousand. That detector takes intervals for normally distributed; the tail of a normal distribution is so thin that a
second lost packet is "one in 10**17", and so it has to be blunted by margins again. Losses are not normal: they come
one at a time with a chance of p, which is what is calculated here.

What must not lead it astray:

- *A burst* (reports read late, several at once). Beats less than half a period apart are one beat: they move the time
  of the last one, not the habits; otherwise a burst would teach it a period of milliseconds and a hair trigger.
- *One long stall* counts as ``MISSES_AT_MOST`` missing beats and no more, so that it does not blunt the senses for the
  next real failure; and p is never more than `P_MAX`, so that suspicion always grows.
- *Bad habits.* However irregular a source has always been, a wait of `LATE_PERIODS` is late, and one of
  `SILENT_PERIODS` is silence: those who rely on it need an answer some time.
- *Nothing learned yet.* Some beats at the period that was agreed, one in twenty of them missing, are assumed
  beforehand and outweighed by what is seen.

Times are attended ones (attention.py). The history is bounded; every call is a few microseconds.
"""

from __future__ import annotations

from collections import deque
from math import log10
from statistics import median
from typing import Final

WINDOW: Final = 48
LATE: Final = 1.0
SILENT: Final = 4.0
P_MAX: Final = 0.4
MISSES_AT_MOST: Final = 3
LATE_PERIODS: Final = 4.0
SILENT_PERIODS: Final = 12.0
_PRIOR_DUE: Final = 20.0
_PRIOR_MISSING: Final = 1.0
_MAD_TO_DEVIATION: Final = 1.4826


class Suspicion:
    """Of one source that is expected every ``period_s``; ``at`` is when we began to listen."""

    def __init__(self, period_s: float, at: float = 0.0) -> None:
        self._period = period_s
        self._last = at
        self._beaten = False
        self._intervals: deque[float] = deque(maxlen=WINDOW)
        self._habits: tuple[float, float, float] | None = None

    @property
    def last(self) -> float | None:
        """When it was heard last; None: never."""
        return self._last if self._beaten else None

    def beat(self, at: float) -> None:
        interval = at - self._last
        if not self._beaten:
            self._beaten, self._last = True, max(at, self._last)
            return
        if interval <= 0:
            return
        self._last = at
        if interval < self._period / 2:
            return
        self._intervals.append(interval)
        self._habits = None

    def phi(self, at: float) -> float:
        """The suspicion, 0 while it is on time; never falls while nothing comes."""
        waited = at - self._last
        if waited <= self._period:
            return 0.0
        if self._habits is None:  # learned only when it matters
            self._habits = self._learn()
        usual, spread, missing = self._habits
        phi = max(0.0, waited - usual - 2 * spread) / usual * -log10(missing)
        least = SILENT if waited >= SILENT_PERIODS * self._period else LATE
        return max(phi, least) if waited >= LATE_PERIODS * self._period else phi

    def late(self, at: float) -> bool:
        return self.phi(at) >= LATE

    def silent(self, at: float) -> bool:
        return self.phi(at) >= SILENT

    def _learn(self) -> tuple[float, float, float]:
        """(usual interval, spread, share that is missing)."""
        floor = self._period / 4
        if not self._intervals:
            return self._period, floor, _PRIOR_MISSING / _PRIOR_DUE
        # A source that is slower than was agreed is slow by habit, up to a point: then it is suspect by itself.
        usual = min(max(median(self._intervals), self._period), 4 * self._period)
        # Early is on time, and no sign of an irregular source.
        off = (abs(max(each, self._period) - usual) for each in self._intervals)
        spread = max(_MAD_TO_DEVIATION * median(off), floor)
        spread = min(spread, usual)
        due, missing = _PRIOR_DUE, _PRIOR_MISSING
        for interval in self._intervals:
            missed = min(round(max(0.0, interval - usual - spread) / usual), MISSES_AT_MOST)
            due += 1 + missed
            missing += missed
        return usual, spread, min(missing / due, P_MAX)
