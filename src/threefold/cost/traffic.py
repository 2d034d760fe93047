"""What the stores were asked, by day, store, purpose and operation, over all processes of a system. Pure.

The *purpose* explains a bill: the paper's storage and transfer expenditure say how much, this says what for. It follows
from which verb asked, and of what part of the store.

A record holds one verb's counts of the last `DAYS_KEPT` days of the calendar. Each process adds what it has
counted since it last did (keeping.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any, Final

import zstandard

from threefold.kernel.errors import Damaged
from threefold.kernel.keys import NONCE_BYTES, Keyring
from threefold.stores.health import Operation
from threefold.stores.traffic import Traffic

PREFIX: Final = "beacons/traffic-"
DAYS_KEPT: Final = 30
_RECORD_BYTES_MAX: Final = 16 * 2**20
_RECOVERIES_KEPT: Final = 20

COORDINATION: Final = "coordination"
BEACONS: Final = "beacons"
LOG: Final = "log entries"
RECOVERY: Final = "recovery"
SNAPSHOTS: Final = "snapshots"
SEGMENTS: Final = "segments"
SCRUB: Final = "scrub"
WARM: Final = "warm standby"
LOOKS: Final = "looks"
PROBE: Final = "probe"
# These run all the time; the others now and then.
ALWAYS: Final = frozenset({"protect", "standby", "sentinel", "crm"})
# Verbs whose requests have one purpose, whatever they read.
_BY_VERB: Final = {
    "recover": RECOVERY,
    "eject": RECOVERY,
    "verify": "verification",
    "store": SCRUB,
    "prune": "retention",
    "list": LOOKS,
    "check": LOOKS,
    "cost": LOOKS,
    "look": LOOKS,
    "standby": WARM,  # its beacon as well: without a standby none of it is asked
}
_BY_PREFIX: Final = {
    "log": LOG,
    "bundles": "bundles",
    "wal": SEGMENTS,
    "packs": SNAPSHOTS,
    "snapshots": SNAPSHOTS,
    "prune": "retention",
    "beacons": BEACONS,
    "intake": "deferred changes",
    "probe": PROBE,
}


def purpose_of(verb: str, prefix: str) -> str:
    """``prefix``: the first part of a key."""
    return _BY_VERB.get(verb) or _BY_PREFIX.get(prefix, COORDINATION)


@dataclass(slots=True)
class Count:
    """Requests as a provider bills them, ``unknown`` of them without an answer; bytes of bodies; seconds."""

    requests: int = 0
    unknown: int = 0
    bytes_out: int = 0
    bytes_in: int = 0
    large_bytes: int = 0
    large_seconds: float = 0.0

    def add(self, other: Count) -> None:
        for each in _FIELDS:
            setattr(self, each, getattr(self, each) + getattr(other, each))

    def less(self, other: Count) -> Count:
        return Count(*(getattr(self, each) - getattr(other, each) for each in _FIELDS))


_FIELDS: Final = tuple(each.name for each in fields(Count))
Cell = tuple[str, str, Operation]  # store, purpose, operation


@dataclass(frozen=True, slots=True)
class Recovered:
    """A recovery that was carried out: when (ISO 8601), how long it took in seconds, bytes that were fetched."""

    at: str
    seconds: float
    bytes: int


@dataclass(slots=True)
class TrafficRecord:
    """Of one verb. ``since`` and ``until``: when counting began and was last added to, ISO 8601; days are UTC dates."""

    since: str = ""
    until: str = ""
    beat: int = 0
    days: dict[str, dict[Cell, Count]] = field(default_factory=dict)
    recovered: list[Recovered] = field(default_factory=list)

    def add(
        self, began: datetime, now: datetime, counts: Mapping[Cell, Count], recovered: Iterable[Recovered] = ()
    ) -> None:
        """What a process that ``began`` then has counted since it added last."""
        self.since = self.since or began.isoformat(timespec="milliseconds")
        self.until = now.isoformat(timespec="milliseconds")
        today = self.days.setdefault(f"{now:%Y-%m-%d}", {})
        for cell, count in counts.items():
            today.setdefault(cell, Count()).add(count)
        first = first_day(now)
        for old in [day for day in self.days if day < f"{first:%Y-%m-%d}"]:
            del self.days[old]
        self.since = max(datetime.fromisoformat(self.since), first).isoformat(timespec="milliseconds")
        self.recovered = [*self.recovered, *recovered][-_RECOVERIES_KEPT:]


def first_day(now: datetime) -> datetime:
    """When the days that count began: `DAYS_KEPT` of them, whether or not anything was counted in each."""
    return now.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=DAYS_KEPT - 1)


def cells(verb: str, traffic: Iterable[Traffic]) -> dict[Cell, Count]:
    """What a process has counted since it started."""
    found: dict[Cell, Count] = {}
    for each in traffic:
        cell = (each.store, purpose_of(verb, each.purpose), each.operation)
        count = Count(*(getattr(each, name) for name in _FIELDS))
        found.setdefault(cell, Count()).add(count)
    return found


def since(counts: Mapping[Cell, Count], before: Mapping[Cell, Count]) -> dict[Cell, Count]:
    """What came on top of ``before``."""
    new = {cell: count.less(before.get(cell, Count())) for cell, count in counts.items()}
    return {cell: count for cell, count in new.items() if count.requests}


def key_of(verb: str) -> str:
    return f"{PREFIX}{verb}"


def encode(record: TrafficRecord, verb: str, keyring: Keyring, nonce: bytes) -> bytes:
    plain = {
        "since": record.since,
        "until": record.until,
        "beat": record.beat,
        "days": {
            day: [[store, purpose, operation.value, *asdict(count).values()] for (store, purpose, operation), count in
                  counts.items()]
            for day, counts in record.days.items()
        },
        "recovered": [asdict(each) for each in record.recovered],
    }  # fmt: skip
    packed = zstandard.compress(json.dumps(plain).encode())
    return nonce + keyring.sealer("traffic").seal(packed, nonce=nonce, header=key_of(verb).encode())


def decode(body: bytes, verb: str, keyring: Keyring) -> TrafficRecord:
    """Raises Damaged."""
    packed = keyring.sealer("traffic").open(body[NONCE_BYTES:], nonce=body[:NONCE_BYTES], header=key_of(verb).encode())
    try:
        plain: dict[str, Any] = json.loads(zstandard.decompress(packed, max_output_size=_RECORD_BYTES_MAX))
        days = {
            day: {(store, purpose, Operation(name)): Count(*counts) for store, purpose, name, *counts in rows}
            for day, rows in plain["days"].items()
        }
        recovered = [Recovered(**each) for each in plain["recovered"]]
        return TrafficRecord(plain["since"], plain["until"], plain["beat"], days, recovered)
    except (ValueError, TypeError, KeyError, zstandard.ZstdError) as error:
        raise Damaged("a record of traffic is not readable", hint="another version wrote it") from error
