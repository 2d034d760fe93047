"""Holds the answers to failed authentication back, so that guessing is slow and costs us little.

Only failures wait: the owner is never locked out, not even behind the same address as an attacker (a lock-out by
address would be a way to stop the log from reaching this store). The hold doubles with each failure of an address
and is forgotten with time; how many answers are held at once is bounded.
"""

from __future__ import annotations

from collections import OrderedDict

FREE_FAILURES = 5
HOLD_FIRST_S = 0.1
HOLD_MAX_S = 3.0
FORGET_AFTER_S = 60.0
ADDRESSES_MAX = 10_000
HELD_MAX = 256


class Throttle:
    """Failures by address."""

    def __init__(self) -> None:
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def failed(self, address: str, now: float) -> float:
        """Seconds to hold the answer back; ``now`` from a monotonic clock."""
        count, last = self._failures.pop(address, (0, now))
        count = 1 if now - last > FORGET_AFTER_S else count + 1
        self._failures[address] = (count, now)
        if len(self._failures) > ADDRESSES_MAX:
            self._failures.popitem(last=False)
        over = count - FREE_FAILURES
        return 0.0 if over <= 0 else min(HOLD_MAX_S, HOLD_FIRST_S * 2.0 ** min(over - 1, 10))
