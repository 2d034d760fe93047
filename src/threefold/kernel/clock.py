"""The only place that knows the time of day, chance, and how to wait.

Everything else is handed a Clock, so that tests and the simulation own time and randomness.
Clocks serve liveness only (invariant 2): nothing safe ever rests on what ``now`` says.
"""

from __future__ import annotations

import asyncio
import random
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Time and chance."""

    def now(self) -> datetime:
        """Wall-clock time, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never goes back."""
        ...

    async def sleep(self, seconds: float) -> None: ...

    def random(self) -> float:
        """0 ≤ x < 1; for jitter, never for secrets."""
        ...

    def new_id(self) -> str:
        """128 bits nobody else has, as 32 hexadecimal digits."""
        ...


class SystemClock:
    """The machine's own."""

    def __init__(self) -> None:
        self._random = random.SystemRandom()

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def random(self) -> float:
        return self._random.random()

    def new_id(self) -> str:
        return f"{self._random.getrandbits(128):032x}"
