"""Situations for the detector, played on a clock of their own: who sees what, for how long.

A `Stage` is the world as a detector gets to know it: our own report four times a second, the others' once a second,
the DRaaS server's beacon every two. Nothing sleeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from threefold.failover.detector import Detector
from threefold.failover.judgement import Patience
from threefold.failover.reports import Condition, LeaderSeen, PrimarySeen, Report, Seen
from threefold.failover.verdicts import Verdict

TICK: Final = 0.25  # and every time a multiple of it: sums are exact, wherever the clock began
STORES: Final = ("S1", "S2", "S3")
HOME, AWAY, THIRD = "office", "cloud", "third"

OK, REFUSED, SILENT, FAILED, UNKNOWN = Seen.OK, Seen.REFUSED, Seen.SILENT, Seen.FAILED, Seen.UNKNOWN

WELL = PrimarySeen(host=OK, process=OK, sql=OK, write=OK, condition=Condition.SERVING, sql_ms=3.0)
GONE = PrimarySeen(host=OK, process=REFUSED, sql=FAILED)
STALLED = PrimarySeen(host=OK, process=SILENT, sql=SILENT)
STARTING = PrimarySeen(host=OK, process=OK, sql=REFUSED, condition=Condition.STARTING)
DARK = PrimarySeen(host=SILENT, process=SILENT, sql=SILENT)
UNROUTED = PrimarySeen(host=FAILED, process=UNKNOWN, sql=FAILED, detail="no route to host")


@dataclass(frozen=True)
class Sight:
    """What everybody sees for a while. ``others``: None for a vantage that says nothing at all."""

    seconds: float
    own: PrimarySeen | None
    others: Mapping[str, PrimarySeen | None] = field(default_factory=dict)
    stores: tuple[str, ...] = STORES  # that answer us
    others_miss: tuple[str, ...] = ()  # stores that the others miss
    wal: bool = False  # flows to our standby
    draas: str = "streaming"  # or silent
    asleep: bool = False  # we ourselves


class Stage:
    def __init__(
        self, patience: Patience | None = None, *, start: float = 0.0, sites: Mapping[str, str] | None = None
    ) -> None:
        self.now = start
        self.detector = Detector(patience or Patience(), watched=HOME, own="us", stores=STORES)
        self.sites = dict(sites or {"beside": HOME, "third": THIRD})
        self.verdicts: list[Verdict] = []
        self._beats: dict[str, int] = {}
        self._alive: dict[str, float] = {}
        self._host: dict[str, float] = {}
        self._answers = 0
        self._store_answers = dict.fromkeys(STORES, 0)
        self._leader = LeaderSeen(OK, epoch=1, beat=1, state="streaming", received=1000)
        self._wal = 1000
        self._ticks = 0

    def play(self, *sights: Sight) -> Verdict:
        for sight in sights:
            end = self.now + sight.seconds
            if sight.asleep:
                self.now = end
                continue
            while self.now < end - 1e-9:
                self.now += TICK
                self.tick(sight)
        return self.verdicts[-1]

    def tick(self, sight: Sight) -> None:
        self._ticks += 1
        if self._ticks % 4 == 0:
            for name in sight.stores:
                self._store_answers[name] += 1
        if self._ticks % 8 == 0:
            beat = self._leader.beat + (sight.draas == "streaming")
            self._leader = replace(self._leader, seen=OK if sight.draas == "streaming" else SILENT, beat=beat)
        if sight.own is not None:
            self.detector.observe(self._report("us", AWAY, sight.own, sight), self.now)
        for name, seen in sight.others.items():
            # A vantage is heard through any store that both sides reach.
            if seen is not None and sight.stores and (self._ticks + len(name)) % 4 == 0:
                self.detector.observe(self._report(name, self.sites[name], seen, sight), self.now)
        self._wal += 10 if sight.wal else 0
        self.detector.stream("our standby", self._wal, self.now)
        self.verdicts.append(self.detector.verdict(self.now))

    def _report(self, name: str, site: str, seen: PrimarySeen, sight: Sight) -> Report:
        self._beats[name] = self._beats.get(name, 0) + 1
        if seen.sql is OK:
            self._alive[name] = self.now
            self._answers += name == "us"
        if seen.host is OK:
            self._host[name] = self.now
        known = replace(
            seen,
            sql_age_s=self.now - self._alive[name] if name in self._alive else None,
            write_age_s=0.0 if seen.write is OK and seen.write_age_s is None else seen.write_age_s,
            host_age_s=self.now - self._host[name] if name in self._host else None,
            answers=self._answers,
        )
        mine = name == "us"
        missing = set(STORES) - set(sight.stores) if mine else set(sight.others_miss)
        return Report(
            vantage=name,
            site=site,
            run="r",
            beat=self._beats[name],
            sites={HOME: known},
            draas=self._leader,
            stores={store: SILENT if store in missing else OK for store in STORES},
            store_answers=dict(self._store_answers) if mine else {},
        )
