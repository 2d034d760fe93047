"""How much one may ask: token buckets, kept in memory.

A bucket holds up to ``burst`` tokens and gains ``per_second``; a request takes one and is let through, or learns how
long to hold still. Each process counts for itself: the limits keep one address or session from taking all of a
worker, and need not be exact. What must be exact, wrong passwords, is counted in the database (passwords.py).

Memory is bounded: when there are `MOST` buckets, those that are full again (their owners owe nothing) are dropped, and
if none is, the oldest, so that a flood from many addresses costs the flood's own buckets only.

Pure: the caller brings the time.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final

MOST: Final = 20_000


@dataclass(frozen=True, slots=True)
class Rate:
    burst: float
    per_second: float


class Buckets:
    """One bucket per key."""

    def __init__(self, rate: Rate, most: int = MOST) -> None:
        self._rate = rate
        self._most = most
        self._held: dict[str, tuple[float, float]] = {}  # key: tokens, when; oldest use first

    def take(self, key: str, now: float, cost: float = 1.0) -> float:
        """0: let through. Else the seconds until it would be, and nothing was taken."""
        tokens = self._tokens(key, now)
        if tokens < cost:
            return (cost - tokens) / self._rate.per_second
        self._keep(key, tokens - cost, now)
        return 0.0

    def wait(self, key: str, now: float) -> float:
        """As `take`, without taking."""
        return max(0.0, (1.0 - self._tokens(key, now)) / self._rate.per_second)

    def __len__(self) -> int:
        return len(self._held)

    def _tokens(self, key: str, now: float) -> float:
        tokens, since = self._held.get(key, (self._rate.burst, now))
        return min(self._rate.burst, tokens + max(0.0, now - since) * self._rate.per_second)

    def _keep(self, key: str, tokens: float, now: float) -> None:
        self._held.pop(key, None)
        if len(self._held) >= self._most:
            self._make_room(now)
        self._held[key] = (tokens, now)

    def _make_room(self, now: float) -> None:
        full = [key for key in self._held if self._tokens(key, now) >= self._rate.burst]
        for key in full or list(self._held)[: max(1, self._most // 10)]:
            del self._held[key]


def of_address(address: str) -> str:
    """The key of an address. Who has one of IPv6 has 2^64 of them, so these count as one."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 6:
        if parsed.ipv4_mapped:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
