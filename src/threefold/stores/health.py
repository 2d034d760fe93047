"""How each store is doing: latency, failures, and what follows for reads. Pure; fed by observed.py.

The book serves liveness only. It says whom to ask first and when to stop waiting for one store alone; what is true
is decided by the stores' answers. Small transfers alone count as latency, since the time of a large one measures
the line.

State of a store, the gravest first:

- *lost*: someone who knows (membership: the ``format`` object is gone) said so; ends only when they say so.
- *unreachable*: its last ``FAILURES_IN_A_ROW`` requests had no definite answer.
- *slow*: its usual latency is more than ``SLOW_FACTOR`` times that of the fastest store that answers, and by more
  than ``SLOW_MARGIN``, below which nobody waits noticeably.
- *healthy*.

EWMA weights a new sample by 1/8, as TCP's smoothed round-trip time does (RFC 6298, section 2).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

SMALL = 256 * 1024  # bytes
WINDOW = 60.0  # seconds that percentiles look back
SAMPLES = 512  # at the most, for each store and operation
FAILURES_IN_A_ROW = 3
SLOW_FACTOR = 3.0
SLOW_MARGIN = 0.050  # seconds
HEDGE_FLOOR = 0.010  # seconds: below, a second request costs more than it saves
HEDGE_CEILING = 1.0  # seconds: nobody is waited for alone longer
_WEIGHT = 1 / 8


class Operation(Enum):
    __hash__ = object.__hash__  # Enum's own is a Python function, and a create asks for it four times

    CREATE = "create"
    WRITE = "write"
    READ = "read"
    LIST = "list"
    DELETE = "delete"


class State(Enum):
    HEALTHY = "healthy"
    SLOW = "slow"
    UNREACHABLE = "unreachable"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Latency:
    """Of small requests within the window, in seconds."""

    operation: Operation
    ewma: float
    p50: float
    p99: float
    samples: int


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """One store as status shows it; times are the clock's ``monotonic``."""

    name: str
    state: State
    latencies: tuple[Latency, ...]
    requests: int
    failures: int
    consecutive_failures: int
    last_error: str
    last_error_at: float | None
    last_answer_at: float | None


@dataclass(slots=True)
class _Track:
    ewma: float
    samples: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=SAMPLES))  # (at, seconds)

    def recent(self, now: float) -> list[float]:
        return sorted(seconds for at, seconds in self.samples if now - at <= WINDOW)


@dataclass(slots=True)
class _Book:
    tracks: dict[Operation, _Track] = field(default_factory=dict)
    requests: int = 0
    failures: int = 0
    consecutive_failures: int = 0
    last_error: str = ""
    last_error_at: float | None = None
    last_answer_at: float | None = None
    lost: bool = False

    def took(self, operation: Operation, seconds: float, now: float) -> None:
        track = self.tracks.get(operation)
        if track is None:
            track = self.tracks[operation] = _Track(ewma=seconds)
        track.ewma += _WEIGHT * (seconds - track.ewma)
        track.samples.append((now, seconds))

    def usual(self, operation: Operation, now: float) -> float | None:
        """The smoothed latency, unless it is of another time: then the store has to be tried again to be known."""
        track = self.tracks.get(operation)
        return track.ewma if track is not None and now - track.samples[-1][0] <= WINDOW else None


class HealthBook:
    """The health of all stores of a deployment."""

    def __init__(self, names: Iterable[str]) -> None:
        self._books = {name: _Book() for name in names}

    def record(self, name: str, operation: Operation, seconds: float, size: int, error: str | None, now: float) -> None:
        """One request has ended; ``error`` is the reason where its answer was Unknown."""
        book = self._books[name]
        book.requests += 1
        if error is not None:
            book.failures += 1
            book.consecutive_failures += 1
            book.last_error, book.last_error_at = error, now
            return
        book.consecutive_failures = 0
        book.last_answer_at = now
        if size <= SMALL:
            book.took(operation, seconds, now)

    def given_up(self, name: str, operation: Operation, seconds: float, now: float) -> None:
        """Nobody waited for the answer: it took at least ``seconds``, and whether it would have failed is not known.

        Without this, the store that always loses a hedged read would keep the latency of its better days.
        """
        book = self._books[name]
        book.requests += 1
        book.took(operation, seconds, now)

    def mark_lost(self, name: str, reason: str, now: float) -> None:
        """The store answers but is no member: its content is gone (quorum-log: membership and amnesia)."""
        book = self._books[name]
        book.lost, book.last_error, book.last_error_at = True, reason, now

    def mark_member(self, name: str) -> None:
        self._books[name].lost = False

    def state(self, name: str, now: float) -> State:
        book = self._books[name]
        if book.lost:
            return State.LOST
        if book.consecutive_failures >= FAILURES_IN_A_ROW:
            return State.UNREACHABLE
        return State.SLOW if any(self._is_slow(book, operation, now) for operation in book.tracks) else State.HEALTHY

    def snapshot(self, now: float) -> tuple[StoreHealth, ...]:
        return tuple(
            StoreHealth(
                name=name,
                state=self.state(name, now),
                latencies=tuple(_latency(operation, track, now) for operation, track in book.tracks.items()),
                requests=book.requests,
                failures=book.failures,
                consecutive_failures=book.consecutive_failures,
                last_error=book.last_error,
                last_error_at=book.last_error_at,
                last_answer_at=book.last_answer_at,
            )
            for name, book in self._books.items()
        )

    def fastest_first(self, operation: Operation, now: float) -> tuple[str, ...]:
        """All stores: those that answer before those that fail, the quick before the slow, the lost last.

        One that has not been asked lately stands first among its equals: it has to be tried to be known.
        """

        def rank(name: str) -> tuple[bool, int, float]:
            book = self._books[name]
            return book.lost, book.consecutive_failures, book.usual(operation, now) or 0.0

        return tuple(sorted(self._books, key=rank))

    def hedge_after(self, name: str, operation: Operation, now: float) -> float:
        """Seconds to wait for this store alone before another is asked as well: its p95, bounded.

        A store whose last request failed has used up its credit: no wait.
        """
        book = self._books[name]
        if book.lost or book.consecutive_failures:
            return 0.0
        track = book.tracks.get(operation)
        recent = track.recent(now) if track is not None else []
        return min(max(_percentile(recent, 95), HEDGE_FLOOR), HEDGE_CEILING)

    def _is_slow(self, book: _Book, operation: Operation, now: float) -> bool:
        own = book.usual(operation, now)
        others = [
            usual
            for other in self._books.values()
            if other is not book and not other.lost and other.consecutive_failures < FAILURES_IN_A_ROW
            if (usual := other.usual(operation, now)) is not None
        ]
        if own is None or not others:
            return False
        return own > SLOW_FACTOR * min(others) and own > min(others) + SLOW_MARGIN


def _latency(operation: Operation, track: _Track, now: float) -> Latency:
    recent = track.recent(now)
    return Latency(operation, track.ewma, _percentile(recent, 50), _percentile(recent, 99), len(recent))


def _percentile(ascending: list[float], percent: int) -> float:
    """Nearest rank; 0 of nothing."""
    return ascending[max(0, -(-len(ascending) * percent // 100) - 1)] if ascending else 0.0
