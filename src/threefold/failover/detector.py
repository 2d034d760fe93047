"""What is the matter with the active site? A verdict of one kind, one sentence and its evidence. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from threefold.failover.reports import Report
from threefold.failover.verdicts import Kind, Verdict


@dataclass(frozen=True, slots=True)
class Patience:
    """[failover], in seconds."""

    stall_s: float = 30.0
    process_gone_s: float = 2.0
    site_gone_s: float = 8.0


class Detector:
    """Judges the PostgreSQL of the site ``watched``, as seen from the vantage ``own`` and from the others."""

    def __init__(self, patience: Patience, *, watched: str, own: str, stores: Iterable[str]) -> None:
        self._patience = patience
        self._watched = watched
        self._own = own
        self._stores = tuple(stores)

    def observe(self, report: Report, now: float) -> None:
        """A report that is news (reports.Newest): our own, several times a second, and every other vantage's."""
        raise NotImplementedError

    def stream(self, source: str, position: int, now: float) -> None:
        """How far the primary's WAL has come to ``source`` (our standby; the DRaaS server): life, where it advances."""
        raise NotImplementedError

    def verdict(self, now: float) -> Verdict:
        """Ask several times a second: time in which nobody asked does not count (attention.py)."""
        return Verdict(Kind.UNKNOWN, "nothing was seen yet", ("nothing was seen yet",), now)
