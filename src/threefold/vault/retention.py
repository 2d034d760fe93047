"""Which snapshots are kept. Pure.

Kept are: all within the window of point-in-time recovery; the newest one at or before the window's begin, without which
its first moments could not be recovered; the last of each of the newest days, weeks and months that have any; and
always the newest two, whatever the policy says.

The newest is the one with the highest stop LSN. Days and the window go by ``stopped``, the primary's clock, as a
recovery to a time does; and the window ends at the newest snapshot, or now, whichever is *earlier*. So a clock of ours
that is ahead lets nothing go, and neither do snapshots that stopped being taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from threefold.vault.manifest import Summary

_ALWAYS: Final = 2


@dataclass(frozen=True, slots=True)
class Policy:
    """As in the settings' [retention]."""

    pitr: timedelta
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    grace: timedelta = timedelta(hours=24)


def window_begin(usable: Sequence[Summary], policy: Policy, now: datetime) -> datetime:
    """The first moment that point-in-time recovery is promised for. ``usable`` is not empty."""
    return min(now, max(usable, key=_age).stopped) - policy.pitr


def kept(usable: Sequence[Summary], policy: Policy, now: datetime) -> dict[str, str]:
    """Snapshot → why it is kept. ``usable`` are those that can be recovered from; what is not, covers for nothing."""
    if not usable:
        return {}
    newest_first = sorted(usable, key=_age, reverse=True)
    begin = window_begin(usable, policy, now)
    why: dict[str, str] = {}
    for snapshot in newest_first[:_ALWAYS]:
        why.setdefault(snapshot.id, "one of the newest two")
    for snapshot in newest_first:
        if snapshot.stopped > begin:
            why.setdefault(snapshot.id, "within the window")
    base = next((each for each in newest_first if each.stopped <= begin), None)
    if base is not None:
        why.setdefault(base.id, "the window begins with it")
    for name, count, period in (
        ("day", policy.daily, _day),
        ("week", policy.weekly, _week),
        ("month", policy.monthly, _month),
    ):
        for snapshot in _last_of_each(newest_first, period, count):
            why.setdefault(snapshot.id, f"the last of its {name}")
    return why


def _last_of_each(newest_first: Sequence[Summary], period: Callable[[datetime], object], count: int) -> list[Summary]:
    found: dict[object, Summary] = {}
    for snapshot in sorted(newest_first, key=lambda each: (each.stopped, _age(each)), reverse=True):
        found.setdefault(period(snapshot.stopped.astimezone(UTC)), snapshot)
    return list(found.values())[:count]


def _age(snapshot: Summary) -> tuple[int, datetime, str]:
    return int(snapshot.stop), snapshot.stopped, snapshot.id


def _day(at: datetime) -> object:
    return at.date()


def _week(at: datetime) -> object:
    return tuple(at.isocalendar())[:2]


def _month(at: datetime) -> object:
    return at.year, at.month
