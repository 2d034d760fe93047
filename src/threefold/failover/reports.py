"""What one vantage sees, and how its report travels: a small sealed beacon in each of the three stores.

A *vantage* is a process that looks: a sentinel, or the agent itself. It says of every site's PostgreSQL what it sees
of the host, the process, an SQL query and a write, each as one of five words, and of every store the same. The
reports arrive even where no direct link does, because the stores are what all sites can reach.

Freshness is a *change*, seen by the reader's own clock (invariant 2): a report holds no time stamp that anybody
judges by, only durations ("answered 0.3 s before this was written"), and those are right on any clock. Two rules make
a change mean life, both in `Newest`:

- The first thing that is read from a store counts for nothing: it may have lain there since last year.
- ``run`` names one life of the process. Within it only a higher ``beat`` is news; a run that was never met before is
  news as well. So a store that was away, and comes back with an old report, cannot make a dead sentinel look alive,
  and a sentinel that was restarted (its beats begin again) is heard at once. Nothing orders two runs by time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any, Final

from threefold.kernel.errors import Damaged
from threefold.kernel.keys import NONCE_BYTES, Keyring

PREFIX: Final = "beacons/sentinel-"
PERIOD_S: Final = 1.0
_RUNS_REMEMBERED: Final = 32


class Seen(Enum):
    """What came back. Only ok, refused and failed are answers; silent is the absence of one that was waited for."""

    OK = "ok"
    REFUSED = "refused"  # a definite no: a reset connection, or PostgreSQL saying that it takes nobody now
    SILENT = "silent"
    FAILED = "failed"  # an error that says nothing of what was asked: no route, a connection that broke
    UNKNOWN = "unknown"  # not looked at, or not to be told


class Condition(Enum):
    """What PostgreSQL says of itself where it does not simply serve."""

    SERVING = "serving"
    STARTING = "starting"  # "the database system is starting up", "in recovery mode", "shutting down": 57P03
    FULL = "full"  # no connection is left for us: 53300
    SHUT_TO_US = "shut-to-us"  # alive, and does not let us in: password, pg_hba.conf, no such role
    STANDBY = "standby"  # it serves reads, and takes no writes
    FOREIGN = "foreign"  # another database system answers at that address
    UNKNOWN = "unknown"


class Waits(Enum):
    """What a write that does not return is waiting for, as PostgreSQL itself names it."""

    NOTHING = ""
    STORES = "stores"  # for its synchronous standby, that is for us: the primary is not to blame
    DISK = "disk"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class PrimarySeen:
    """One site's PostgreSQL, from one vantage. Ages are seconds before the report was written; None: never."""

    host: Seen = Seen.UNKNOWN  # ok: its kernel answers, be it with a reset
    process: Seen = Seen.UNKNOWN  # ok: a postmaster answers a new connection; refused: nobody listens
    sql: Seen = Seen.UNKNOWN
    write: Seen = Seen.UNKNOWN
    host_age_s: float | None = None  # since its host answered
    sql_age_s: float | None = None  # since it answered a query
    write_age_s: float | None = None  # since a commit went through
    sql_ms: float | None = None  # what the last answer took
    answers: int = 0  # queries that were answered so far
    condition: Condition = Condition.UNKNOWN
    waits: Waits = Waits.NOTHING
    disk_free: float | None = None  # bytes; only from beside its data folder
    disk_size: float | None = None
    timeline: int | None = None
    system_identifier: int | None = None
    detail: str = ""  # for people; nothing is decided by it


UNSEEN: Final = PrimarySeen()


@dataclass(frozen=True, slots=True)
class LeaderSeen:
    """The DRaaS server, by its beacon. ``seen`` is ok while the beacon changes."""

    seen: Seen = Seen.UNKNOWN
    epoch: int = 0
    beat: int = 0
    state: str = ""
    received: int = 0  # LSN
    timeline: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """All that one vantage sees. ``sites`` by the site's name; ``site`` is where the vantage itself stands."""

    vantage: str
    site: str
    run: str
    beat: int
    sites: Mapping[str, PrimarySeen]
    draas: LeaderSeen = field(default_factory=LeaderSeen)
    stores: Mapping[str, Seen] = field(default_factory=dict)
    store_ms: Mapping[str, float] = field(default_factory=dict)
    store_answers: Mapping[str, int] = field(default_factory=dict)  # requests that each answered so far

    def of(self, site: str) -> PrimarySeen:
        """What it says of that site's PostgreSQL."""
        return self.sites.get(site, UNSEEN)


def key_of(vantage: str) -> str:
    return f"{PREFIX}{vantage}"


def encode(report: Report, keyring: Keyring, nonce: bytes) -> bytes:
    """Sealed like every beacon, and bound to its key: one vantage's report cannot be put in another's place."""
    body = json.dumps(asdict(report), default=lambda word: word.value).encode()
    return nonce + keyring.sealer("beacon").seal(body, nonce=nonce, header=key_of(report.vantage).encode())


def decode(body: bytes, key: str, keyring: Keyring) -> Report:
    """Raises Damaged."""
    plain = keyring.sealer("beacon").open(body[NONCE_BYTES:], nonce=body[:NONCE_BYTES], header=key.encode())
    try:
        record: dict[str, Any] = json.loads(plain)
        record["sites"] = {name: _primary(seen) for name, seen in record["sites"].items()}
        draas = record["draas"]
        record["draas"] = LeaderSeen(**{**draas, "seen": Seen(draas["seen"])})
        record["stores"] = {name: Seen(seen) for name, seen in record["stores"].items()}
        return Report(**record)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Damaged("a sentinel's report is not readable", hint="another version wrote it") from error


def _primary(record: Mapping[str, Any]) -> PrimarySeen:
    words = {name: Seen(record[name]) for name in ("host", "process", "sql", "write")}
    return PrimarySeen(
        **{**record, **words, "condition": Condition(record["condition"]), "waits": Waits(record["waits"])}
    )


class Newest:
    """Which of the reports that the stores give are news; the rules stand above."""

    def __init__(self) -> None:
        self._met: dict[str, dict[str, int]] = {}  # by vantage: run -> highest beat
        self._known: set[tuple[str, str]] = set()  # (store, vantage) that were read before

    def absent(self, store: str, vantage: str) -> None:
        """The store answered, and held no such report: whatever comes there from now on is news."""
        self._known.add((store, vantage))

    def take(self, store: str, report: Report) -> bool:
        """Whether this one, read from ``store``, shows that its vantage lives."""
        runs = self._met.setdefault(report.vantage, {})
        beat = runs.get(report.run)
        first = (store, report.vantage) not in self._known
        self._known.add((store, report.vantage))
        if beat is not None and report.beat <= beat:
            return False
        runs[report.run] = report.beat
        while len(runs) > _RUNS_REMEMBERED:
            del runs[next(iter(runs))]
        # From a store that is read for the first time only the higher beat of a run that is known proves anything.
        return beat is not None or not first
