"""A bounded rate: whoever moved bytes waits until they would have passed at that rate."""

from __future__ import annotations

from threefold.kernel.clock import Clock


class Pace:
    """Bytes a second, for each store; None does not hold anybody up."""

    def __init__(self, clock: Clock, bytes_per_second: float | None) -> None:
        self._clock = clock
        self._rate = bytes_per_second
        self._free_at: dict[str, float] = {}

    async def passed(self, store: str, size: int) -> None:
        """``size`` bytes went to or came from ``store``."""
        if self._rate is None:
            return
        now = self._clock.monotonic()
        self._free_at[store] = max(self._free_at.get(store, now), now) + size / self._rate
        await self._clock.sleep(self._free_at[store] - now)
