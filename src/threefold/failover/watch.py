"""A vantage at work: it probes every site's PostgreSQL, reads the stores, and keeps its own report.

A sentinel writes the report; an agent also judges it, together with the others' (`Judge`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from threefold.failover.judgement import Patience
from threefold.failover.reports import Report
from threefold.failover.verdicts import Verdict
from threefold.kernel.clock import Clock
from threefold.kernel.keys import Keyring
from threefold.stores.store import ObjectStore


@dataclass(frozen=True, slots=True)
class Vantage:
    """Who looks, and from where. ``run`` is new with every process."""

    name: str
    site: str
    run: str


@dataclass(frozen=True, slots=True)
class Target:
    """A site's PostgreSQL; the DSN holds the password by now and is never shown."""

    site: str
    dsn: str
    data_dir: Path | None = None  # only where it is on this machine


class Watch:
    """``async with Watch(...) as watch``: its loops run until it is left; nothing it does raises."""

    def __init__(
        self,
        vantage: Vantage,
        targets: tuple[Target, ...],
        stores: Mapping[str, ObjectStore],
        keyring: Keyring,
        clock: Clock,
    ) -> None:
        raise NotImplementedError

    def report(self) -> Report:
        """What it sees at this moment."""
        raise NotImplementedError


class Judge:
    """An agent's: ``async with Judge(watch, watched=.., patience=..) as judge``, then ask `verdict` whenever needed."""

    def __init__(self, watch: Watch, *, watched: str, patience: Patience) -> None:
        raise NotImplementedError

    def stream(self, position: int) -> None:
        """How far our standby has *received* WAL by streaming (not from the stores)."""
        raise NotImplementedError

    def verdict(self) -> Verdict:
        """The newest; judged five times a second in any case."""
        raise NotImplementedError
