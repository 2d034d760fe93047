"""Whose turn it is to lead: what somebody who waits concludes from what it sees. Pure: time is an argument.

It serves liveness only. Who takes over too early ends a good leader's epoch, which costs a second and loses nothing;
so a waiter may be quick, and has to be calm: two of them must not end each other's epochs in turn. Hence

- silence counts by the waiter's own clock, from the last *change* of the beacon on;
- a primary that takes writes and that nobody streams from, although it is reached from here, has a leader who is dead
  or cut off; unless that leader says that it begins an epoch just now, or somebody else has claimed one: then we
  start counting anew;
- who was fenced on its way waits twice as long the next time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from threefold.protect.beacon import LeaderStatus

# A waiter that was fenced again and again is as patient as this many times, and no more.
_PATIENCE_MOST: Final = 16


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds. ``cut_off``: how long nobody may stream from a primary that we reach; None: that is no reason."""

    silence: float
    cut_off: float | None = None

    def times(self, fenced: int) -> Patience:
        """After having been fenced so many times."""
        factor = min(2**fenced, _PATIENCE_MOST)
        return Patience(self.silence * factor, None if self.cut_off is None else self.cut_off * factor)


@dataclass(frozen=True, slots=True)
class Seen:
    """One look. ``leader``: the newest beacon that a store gave. ``claimed``: the highest epoch that a store lists."""

    leader: LeaderStatus | None
    gone: bool = False  # it ran on this machine, and its process has ended
    claimed: int = 0
    production: bool = False  # the primary takes writes, and was reached
    streams: bool = False  # somebody streams from it


class Turn:
    """``switch``: the number of the switch that made the site active that we would lead for."""

    def __init__(self, patience: Patience, switch: int, now: float) -> None:
        self._patience = patience
        self._switch = switch
        self._beat: tuple[int, int] | None = None
        self._changed = now  # when the beacon did last
        self._claimed = 0
        self._idle: float | None = None  # since when nobody streams

    def come(self, seen: Seen, now: float) -> str:
        """Why it is our turn; empty while it is not."""
        leader = seen.leader
        if leader is None:
            return "" if self._beat else "nobody has led yet"
        if (leader.epoch, leader.beat) != self._beat:
            self._beat, self._changed = (leader.epoch, leader.beat), now
        if leader.state == "stopped":
            return "the leader stopped in good order"
        if leader.switch < self._switch:
            return "the leader led for a site that was left"
        if seen.gone:
            return "the leader's process has ended"
        if now - self._changed >= self._patience.silence:
            return f"the leader has been silent for {self._patience.silence:g} s"
        if seen.claimed != self._claimed or leader.state == "between-epochs" or not seen.production or seen.streams:
            self._claimed, self._idle = seen.claimed, None
        elif self._idle is None:
            self._idle = now
        elif self._patience.cut_off is not None and now - self._idle >= self._patience.cut_off:
            return f"nobody has streamed from the primary for {self._patience.cut_off:g} s, and we reach it"
        return ""
