"""Service clocks: when an answer is due, how much is left, and what a pause does to it.

A clock counts seconds: all of them, or only those of office hours. `add` and `between` are each other's inverse, and
everything else is said in them: a case is due when so many counted seconds have gone by since it was opened, a pause
moves what is due by the counted seconds of the pause, and a clock is read by the counted seconds that are left.
Local times are turned into instants day by day, so that the days on which the clocks change are as long as they are.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from enum import StrEnum
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from threefold.crm.model.errors import Invalid

_YEARS_MOST = 40  # of office days looked through for one due time: more is a mistake


class State(StrEnum):
    """A clock's colour."""

    MET = "met"
    GREEN = "green"
    YELLOW = "yellow"  # less than a quarter of the time is left
    RED = "red"  # overdue
    PAUSED = "paused"


@dataclass(frozen=True, slots=True)
class Office:
    """When somebody is there. ``days``: Monday is 0."""

    zone: str = "UTC"
    opens: time = time(9)
    closes: time = time(17)
    days: tuple[int, ...] = (0, 1, 2, 3, 4)

    def __post_init__(self) -> None:
        wrong = {}
        try:
            _zone(self.zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):  # a path, a folder, a name with a NUL
            wrong["zone"] = "is not a time zone: it is written like Europe/Berlin"
        if self.opens >= self.closes:
            wrong["closes"] = "has to be later than it opens, on the same day"
        if not self.days or not set(self.days) <= set(range(7)):
            wrong["days"] = "needs at least one day, from 0 (Monday) to 6 (Sunday)"
        if wrong:
            raise Invalid("these office hours cannot be", wrong)

    def spans(self, since: datetime) -> Iterator[tuple[datetime, datetime]]:
        """The stretches of office time from ``since`` on, in order: the first may have begun."""
        zone = _zone(self.zone)
        day = since.astimezone(zone).date()
        for offset in range(_YEARS_MOST * 366):
            opened, closed = self._day(day + timedelta(days=offset), zone)
            if opened < closed and closed > since:
                yield max(opened, since), closed

    def _day(self, day: date, zone: tzinfo) -> tuple[datetime, datetime]:
        if day.weekday() not in self.days:
            nothing = datetime.combine(day, time(), UTC)
            return nothing, nothing
        opened = datetime.combine(day, self.opens, zone).astimezone(UTC)
        return opened, datetime.combine(day, self.closes, zone).astimezone(UTC)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a page shows. ``remaining``: counted seconds, negative where overdue; ``late``: met, but after its time."""

    state: State
    due: datetime
    remaining: int
    late: bool = False


def add(start: datetime, seconds: int, office: Office | None) -> datetime:
    """The earliest instant by which ``seconds`` have been counted since ``start``."""
    start = start.astimezone(UTC)
    left = timedelta(seconds=seconds)
    if office is None or left <= timedelta():
        return start + left if office is None else start
    for begun, closed in office.spans(start):
        if left <= closed - begun:
            return begun + left
        left -= closed - begun
    raise Invalid("that is too many office hours ahead", hint="give the policy a shorter time")


def between(start: datetime, end: datetime, office: Office | None) -> int:
    """Whole counted seconds from ``start`` to ``end``; negative where ``end`` is earlier."""
    if end < start:
        return -between(end, start, office)
    if office is None:
        return int((end - start).total_seconds())
    counted = timedelta()
    for begun, closed in office.spans(start.astimezone(UTC)):
        if begun >= end:
            break
        counted += min(closed, end) - begun
    return int(counted.total_seconds())


def due(start: datetime, minutes: int, office: Office | None = None, paused_seconds: int = 0) -> datetime:
    """When a clock of so many minutes runs out that was set at ``start`` and stood for ``paused_seconds``."""
    return add(start, minutes * 60 + paused_seconds, office)


def moved(due_at: datetime, paused_at: datetime, resumed_at: datetime, office: Office | None) -> datetime:
    """What is due after a pause: as much is left as when it began. What was overdue already stays so."""
    if due_at <= paused_at:
        return due_at
    return add(due_at, between(paused_at, resumed_at, office), office)


def read(
    now: datetime,
    *,
    start: datetime,
    due_at: datetime,
    met_at: datetime | None = None,
    paused_at: datetime | None = None,
    paused_seconds: int = 0,
    office: Office | None = None,
) -> Reading:
    """The state of one clock, ``now``."""
    if met_at is not None:
        return Reading(State.MET, due_at, between(met_at, due_at, office), late=met_at > due_at)
    remaining = between(paused_at or now, due_at, office)
    if paused_at is not None:
        return Reading(State.PAUSED, due_at, remaining)
    if now >= due_at:
        return Reading(State.RED, due_at, remaining)
    allowed = between(start, due_at, office) - paused_seconds
    return Reading(State.YELLOW if remaining * 4 < allowed else State.GREEN, due_at, remaining)


def _zone(name: str) -> tzinfo:
    return UTC if name == "UTC" else ZoneInfo(name)  # UTC is known where no time zones are installed, too
