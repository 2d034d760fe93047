"""How long commits wait for each other, so that one slot of the log takes several along. Pure.

What a slot costs, in processor time and in paid requests, is the same for one commit and for twenty. So commits that
come while a slot is under way wait (as for PostgreSQL's commit_delay), and how long depends on how far the stores are:

- *near*, they answer within `GATHER_S`: until the slot under way is settled. It is the whole wait, because the next
  slot is under way at once.
- *far*: a small part of the time that a slot takes, and no longer, because slots pipeline: who waited for the one under
  way would wait for two journeys instead of one.

How far they are is the least that a slot took lately, not the usual: a busy machine makes a near store slow, and there
every slot more makes it slower.
"""

from __future__ import annotations

from typing import Final

# Seconds that a commit waits for others at the most.
GATHER_S: Final = 0.005
# When several come between two slots, those that one slot releases come back together soon: half of the time that the
# slot took is waited for them, so long at the most. Without it they would split into two halves, each waiting for
# the other one's slot.
TOGETHER_S: Final = 0.002
# Far: of the time that a slot takes, and no less than that between two slots.
_PART: Final = 1 / 8
_LEAST_S: Final = 0.001
# How quickly what a slot took long ago is forgotten: a journey that got longer is believed after some hundred slots.
_WEIGHT: Final = 1 / 256


class Gathering:
    """Hears what slots took; says how long to wait."""

    def __init__(self) -> None:
        self._took = 0.0  # seconds, of the change that was settled last
        self._least = 0.0  # seconds, lately

    def settled(self, took: float) -> None:
        """A change was settled ``took`` seconds after it came."""
        self._took = took
        if self._least == 0.0 or took < self._least:
            self._least = took
        else:
            self._least += (took - self._least) * _WEIGHT

    @property
    def _far(self) -> bool:
        return self._least > GATHER_S

    @property
    def apart(self) -> float:
        """Seconds between two slots while one is under way."""
        return min(max(self._least * _PART, _LEAST_S), GATHER_S) if self._far else GATHER_S

    def together(self, commits: int) -> float:
        """Seconds to let more come, once something has, after a slot that took so many."""
        return min(self._took / 2, TOGETHER_S) if commits > 1 and not self._far else 0.0
