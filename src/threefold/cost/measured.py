"""What was measured, brought to a year: requests and bytes by store and purpose, growth of snapshots and log. Pure.

Everything that was counted in the last 30 days of the calendar counts, at its pace. Recoveries and the probe of
new stores do not: they are no running expenditure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from statistics import median
from typing import Final

from threefold.cost.traffic import (
    ALWAYS,
    LOG,
    PROBE,
    RECOVERY,
    SEGMENTS,
    WARM,
    Count,
    Recovered,
    TrafficRecord,
    first_day,
)
from threefold.stores.health import Operation

YEAR_S: Final = 365.25 * 86400
DAY_S: Final = 86400.0
ENOUGH_S: Final = DAY_S  # from then on the figures have seen a working day and a night
_SEGMENTS_ENOUGH: Final = 3
_SHORT_LIVED: Final = (LOG, "bundles")
_NOT_RUNNING: Final = {RECOVERY, PROBE}


@dataclass(frozen=True, slots=True)
class Flow:
    """Requests by kind as providers bill them, and bytes to and from a store; a year."""

    put: float = 0.0
    get: float = 0.0
    list: float = 0.0
    delete: float = 0.0
    bytes_out: float = 0.0  # to the store
    bytes_in: float = 0.0

    def plus(self, other: Flow) -> Flow:
        return Flow(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))

    def times(self, factor: float) -> Flow:
        return Flow(*(getattr(self, name) * factor for name in self.__slots__))


_KINDS: Final = {
    Operation.CREATE: "put",
    Operation.WRITE: "put",
    Operation.READ: "get",
    Operation.LIST: "list",
    Operation.DELETE: "delete",
}


def flow_of(operation: Operation, count: Count) -> Flow:
    return Flow(**{_KINDS[operation]: float(count.requests)}, bytes_out=count.bytes_out, bytes_in=count.bytes_in)


@dataclass(frozen=True, slots=True)
class Growth:
    """What one store holds of snapshots and log, and what comes to it. Bytes as they lie there, days as floats."""

    base: float = 0.0  # one whole snapshot
    delta: float = 0.0  # what one more snapshot adds
    interval_days: float = 1.0  # between two snapshots
    wal_day: float = 0.0  # log that is kept (segments), a day
    short_lived_day: float = 0.0  # entries and bundles: deleted as soon as segments cover them, a day
    other: float = 0.0  # manifests, claims, entries that wait


@dataclass(frozen=True, slots=True)
class Measured:
    """``flows``: store → purpose → a year. ``seconds``: how long was counted; ``entries``: log entries a year."""

    seconds: float
    flows: Mapping[str, Mapping[str, Flow]]
    growth: Growth
    entries: float = 0.0
    database_bytes: float = 0.0  # plain
    read_bytes_s: float = 0.0  # what one store gives on one connection; 0: not measured
    recovered_s: float | None = None  # the last recovery that was carried out
    switched_s: float | None = None  # the last switch: from its order to a site that serves

    @property
    def enough(self) -> bool:
        return self.seconds >= ENOUGH_S

    @property
    def warm(self) -> bool:
        """Whether a warm standby's requests were counted."""
        return any(WARM in purposes for purposes in self.flows.values())


def yearly(records: Mapping[str, TrafficRecord], now: datetime) -> tuple[float, dict[str, dict[str, Flow]]]:
    """Seconds that were counted, and store → purpose → a year at that pace.

    What runs all the time goes by the time until it added last; what runs now and then by all the time since anything
    was counted.
    """
    first = first_day(now)
    begun = {verb: max(datetime.fromisoformat(each.since), first) for verb, each in records.items() if each.since}
    if not begun:
        return 0.0, {}
    whole = max((now - min(begun.values())).total_seconds(), 1.0)
    counted = 0.0
    found: dict[str, dict[str, Flow]] = {}
    for verb, since in begun.items():
        record = records[verb]
        days = [counts for day, counts in record.days.items() if day >= f"{first:%Y-%m-%d}"]
        if not days:
            continue
        ran = (datetime.fromisoformat(record.until) - since).total_seconds()
        seconds = max(ran, 1.0) if verb in ALWAYS else whole
        counted = max(counted, seconds if verb in ALWAYS else 0.0)
        for counts in days:
            for (store, purpose, operation), count in counts.items():
                if purpose in _NOT_RUNNING:
                    continue
                purposes = found.setdefault(store, {})
                flow = flow_of(operation, count).times(YEAR_S / seconds)
                purposes[purpose] = purposes.get(purpose, Flow()).plus(flow)
    return counted or whole, found


def bandwidth(records: Iterable[TrafficRecord]) -> float:
    """Bytes a second of large reads on one connection; of large writes where nothing large was read; 0: neither."""
    days = [counts for record in records for counts in record.days.values()]
    for wanted in (Operation.READ, Operation.CREATE):
        moved = [count for counts in days for (_, _, operation), count in counts.items() if operation is wanted]
        seconds = sum(count.large_seconds for count in moved)
        if seconds:
            return sum(count.large_bytes for count in moved) / seconds
    return 0.0


def last_recovery(records: Iterable[TrafficRecord]) -> Recovered | None:
    """The newest that was carried out to its end."""
    return max((each for record in records for each in record.recovered), key=lambda each: each.at, default=None)


@dataclass(frozen=True, slots=True)
class Stored:
    """What one store lists. ``packs``: the time in a pack's name and its bytes; ``snapshots``: when each was taken."""

    packs: Sequence[tuple[datetime, int]] = ()
    snapshots: Sequence[datetime] = ()
    other: int = 0
    days: float = 0.0  # that were counted


def growth(stored: Stored, flows: Mapping[str, Flow]) -> Growth:
    """``flows``: of one store, a year by purpose."""
    taken = sorted(stored.snapshots)
    gaps = [(later - before).total_seconds() / DAY_S for before, later in pairwise(taken)]
    total = sum(size for _, size in stored.packs)
    added = sum(size for at, size in stored.packs if taken and at > taken[0])
    delta = added / len(gaps) if gaps else 0.0
    log, segments = flows.get(LOG, Flow()), flows.get(SEGMENTS, Flow())
    # Entries of a few hundred bytes carry as much again as a frame: segments tell better, once there are some.
    wal = segments if segments.put * stored.days / (YEAR_S / DAY_S) >= _SEGMENTS_ENOUGH else log
    short = sum((flows[name].bytes_out for name in _SHORT_LIVED if name in flows), 0.0)
    return Growth(
        base=float(total - added),
        delta=delta,
        interval_days=median(gaps) if gaps else 1.0,
        wal_day=wal.bytes_out / (YEAR_S / DAY_S),
        short_lived_day=short / (YEAR_S / DAY_S),
        other=float(stored.other),
    )
