"""A bad hour of a healthy primary, in virtual time: it stalls, packets are lost, and every machine is loaded.

Whoever looks does so with the pure parts that the real probes are made of (Attention, Aspect, Newest, Detector), in a
world that does to them what a loaded machine does: they wake late, they stand still for seconds (a collection of
garbage, a stolen processor), answers and time-outs lie side by side when they wake, beacons are read late or never.

One seed is one run, exactly.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.failover_situations import AWAY, HOME, STORES, THIRD
from threefold.failover.aspects import Aspect
from threefold.failover.attention import Attention
from threefold.failover.detector import Detector
from threefold.failover.judgement import Patience
from threefold.failover.reports import Condition, LeaderSeen, Newest, PrimarySeen, Report, Seen
from threefold.failover.verdicts import Verdict

STEP_S = 0.1
LOSS = 0.05


@dataclass
class Trouble:
    """How bad the hour is."""

    stalls_every_s: float = 60.0
    stall_s: tuple[float, float] = (1.0, 30.0)  # of PostgreSQL: checkpoints, a disk that hangs; its host answers
    freezes: float = 0.2  # share of them that are the whole host's
    freeze_s_max: float = 5.0  # and then no longer than this: a host that is silent is given up after eight
    pauses_every_s: float = 60.0
    pause_s: tuple[float, float] = (0.5, 20.0)  # of each one who looks
    starved: float = 0.4  # share of the steps in which one who looks gets no processor
    loss: float = LOSS
    sentinels: bool = True


@dataclass
class Outages:
    """Times at which something does not run, drawn one after the other, with some rest between them."""

    chance: random.Random
    every_s: float
    length_s: tuple[float, float]
    rest_s: float = 0.0
    begin: float = -1.0
    end: float = 0.0

    def at(self, now: float) -> bool:
        while now >= self.end:
            self.begin = self.end + self.rest_s + self.chance.expovariate(1 / self.every_s)
            self.end = self.begin + self.chance.uniform(*self.length_s)
        return now >= self.begin


class Primary:
    def __init__(self, chance: random.Random, trouble: Trouble) -> None:
        self._chance, self._trouble = chance, trouble
        self._stalls = Outages(chance, trouble.stalls_every_s, trouble.stall_s, rest_s=5.0)
        self._frozen: dict[float, bool] = {}
        self.process_dead_at = float("inf")
        self.site_dead_at = float("inf")

    def host(self, now: float) -> bool:
        return now < self.site_dead_at and not (self._stalled(now) and self._freeze())

    def process(self, now: float) -> bool:
        return now < self.process_dead_at

    def serves(self, now: float) -> bool:
        return self.process(now) and self.host(now) and not self._stalled(now)

    def _stalled(self, now: float) -> bool:
        return self._stalls.at(now)

    def _freeze(self) -> bool:
        """Whether the stall at this time is one of the host."""
        begin = self._stalls.begin
        if begin not in self._frozen:
            self._frozen = {begin: self._chance.random() < self._trouble.freezes}
            if self._frozen[begin]:
                self._stalls.end = min(self._stalls.end, begin + self._trouble.freeze_s_max)
        return self._frozen[begin]


@dataclass
class Store:
    """What one store holds: the newest report of each vantage."""

    reports: dict[str, Report] = field(default_factory=dict)


class Looker:
    """A vantage's probes, over a line that loses packets."""

    def __init__(self, name: str, site: str, chance: random.Random, trouble: Trouble, primary: Primary) -> None:
        self.name, self.site = name, site
        self._chance, self._trouble, self._primary = chance, trouble, primary
        self._pauses = Outages(chance, trouble.pauses_every_s, trouble.pause_s)
        self.attention = Attention()
        self._host, self._process, self._sql = Aspect(2.0), Aspect(8.0, no_s=2.0), Aspect(1.5)
        self._next_query = self._next_knock = self._next_report = 0.0
        self._query: tuple[float, float, float] | None = None  # attended start, sent, arrives
        self._knocks: list[tuple[float, float]] = []  # attended start, arrives
        self._answers = 0
        self._sql_ms = 0.0
        self._beat = 0
        self.slept = 0.0

    def awake(self, now: float) -> bool:
        if self._pauses.at(now):
            self.slept += STEP_S
            return False
        return self._chance.random() >= self._trouble.starved

    def work(self, now: float) -> None:
        """What it does on waking: hear what has arrived, ask again."""
        at = self.attention.at(now)
        serves, host, process = self._primary.serves(now), self._primary.host(now), self._primary.process(now)
        if self._query is not None:
            started, sent, arrives = self._query
            if now >= arrives and not process and host:
                self._sql.answer(Seen.FAILED, started=started, at=at)  # the line was reset
                self._query = None
            elif now >= arrives and serves:
                self._sql.answer(Seen.OK, started=started, at=at)
                self._answers += 1
                self._sql_ms = (now - sent) * 1000
                self._query = None
        if self._query is None and now >= self._next_query:
            self._sql.ask(at)
            self._query = (at, now, now + self._way())
            self._next_query = now + 0.5
        for knock in list(self._knocks):
            started, arrives = knock
            if now < arrives or not host:
                if now - arrives > 5:
                    self._knocks.remove(knock)
                continue
            self._host.answer(Seen.OK, started=started, at=at)
            if not process or serves:
                self._process.answer(Seen.OK if process else Seen.REFUSED, started=started, at=at)
                self._knocks.remove(knock)
        if now >= self._next_knock and len(self._knocks) < 4:
            self._host.ask(at)
            self._process.ask(at)
            self._knocks.append((at, now + self._way()))
            self._next_knock = now + 0.5

    def _way(self) -> float:
        """There and back; each loss is repaired by TCP a little later."""
        took = self._chance.uniform(0.005, 0.08)
        again = 0.2
        while self._chance.random() < 2 * self._trouble.loss:
            took += again
            again *= 2
        return took

    def report(self, answers: dict[str, int]) -> Report:
        at = self.attention.at(self.attention._last or 0.0)
        self._beat += 1
        sql = self._sql.word(at)
        return Report(
            vantage=self.name,
            site=self.site,
            run="r",
            beat=self._beat,
            sites={
                HOME: PrimarySeen(
                    host=self._host.word(at),
                    process=self._process.word(at),
                    sql=sql,
                    host_age_s=self._host.ok_age(at),
                    sql_age_s=self._sql.ok_age(at),
                    sql_ms=self._sql_ms,
                    answers=self._answers,
                    condition=Condition.SERVING if sql is Seen.OK else Condition.UNKNOWN,
                )
            },
            draas=LeaderSeen(),
            stores=dict.fromkeys(STORES, Seen.OK),
            store_answers=answers,
        )

    def publishes(self, now: float) -> bool:
        if now < self._next_report:
            return False
        self._next_report = now + 1.0
        return True


class Hour:
    def __init__(self, seed: int, trouble: Trouble | None = None, *, patience: Patience | None = None) -> None:
        self.trouble = trouble or Trouble()
        self.chance = random.Random(seed)
        self.primary = Primary(self.chance, self.trouble)
        self.us = self._looker("us", AWAY)
        self.others = [self._looker("beside", HOME), self._looker("third", THIRD)] if self.trouble.sentinels else []
        self.stores = {name: Store() for name in STORES}
        self.detector = Detector(patience or Patience(), watched=HOME, own="us", stores=STORES)
        self._newest = Newest()
        self._reads = {name: self.chance.random() for name in STORES}  # when each store's read under way arrives
        self._answers = dict.fromkeys(STORES, 0)
        self.now = 0.0

    def _looker(self, name: str, site: str) -> Looker:
        return Looker(name, site, self.chance, self.trouble, self.primary)

    def verdicts(self, until: float) -> Iterator[Verdict]:
        steps = 0
        while self.now < until:
            self.now += STEP_S
            steps += 1
            for other in self.others:
                gone = other.site == HOME and not self.primary.host(self.now)  # a machine beside it, in the same rack
                if steps % 2 == 0 and not gone and other.awake(self.now):
                    other.work(self.now)
                    if other.publishes(self.now):
                        self._write(other.report({}))
            if not self.us.awake(self.now):
                continue
            self.us.work(self.now)
            self._read()
            if steps % 2 == 0:
                self.detector.observe(self.us.report(dict(self._answers)), self.now)
                yield self.detector.verdict(self.now)

    def _write(self, report: Report) -> None:
        for store in self.stores.values():
            if self.chance.random() >= self.trouble.loss:
                store.reports[report.vantage] = report

    def _read(self) -> None:
        for name, arrives in self._reads.items():
            if self.now < arrives:
                continue
            self._answers[name] += 1
            for vantage in ("beside", "third"):
                report = self.stores[name].reports.get(vantage)
                if report is None:
                    self._newest.absent(name, vantage)
                elif self._newest.take(name, report):
                    self.detector.observe(report, self.now)
            late = self.chance.uniform(1.0, 3.0) if self.chance.random() < self.trouble.loss else 0.0
            self._reads[name] = self.now + self.chance.uniform(0.9, 1.2) + late
