"""What was asked of a store, counted by observed.py. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from threefold.stores.health import Operation


@dataclass(frozen=True, slots=True)
class Traffic:
    """What one store was asked by one operation; ``purpose`` is the first part of the keys."""

    store: str
    operation: Operation
    purpose: str
    requests: int
    unknown: int
    bytes_out: int  # to the store
    bytes_in: int
    large_bytes: int = 0  # of these, what was moved in transfers that measure the line, and how long they took
    large_seconds: float = 0.0
