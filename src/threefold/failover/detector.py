"""What is the matter with the active site? A verdict of one kind, one sentence and its evidence. Pure.

The detector remembers who said what when; `judgement.judge` decides what it means. It serves liveness only: were it
wrong every time, no change would be lost and no two sites would acknowledge, because a switch is made by taking over
the epoch (quorum-log), and whoever has no quorum of stores cannot do that. A wrong verdict costs a needless switch.

Two things must not be taken for the primary's silence, and both are kept out by the clock that silence is measured on:

- *our own sleep*: only attended time counts (attention.py);
- *our own isolation*: while fewer than two stores answer us, the clock for everything but the stores stands still.
  Otherwise the first moment after our network came back - the stores answer, the primary's first answer is still on
  its way - would look like a primary that has been silent for as long as we were cut off.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from threefold.failover.attention import Attention
from threefold.failover.judgement import Patience, judge
from threefold.failover.reports import PERIOD_S, LeaderSeen, Report, Seen
from threefold.failover.scene import ANSWERS, Scene, View
from threefold.failover.suspicion import Suspicion
from threefold.failover.verdicts import Verdict
from threefold.quorum.majority import QUORUM

__all__ = ["Detector", "Patience"]

PROBE_PERIOD_S: Final = 0.5
STORE_PERIOD_S: Final = 1.0
# A vantage that is not heard for so long is no witness, however irregular it always was.
HEARD_S: Final = 6.0
# One that has been silent for so long is not spoken of any more: it was taken away.
FORGOTTEN_S: Final = 600.0


@dataclass(slots=True)
class _Vantage:
    report: Report
    came: float
    reports: Suspicion
    alive_at: float | None = None
    host_at: float | None = None
    refused_since: float | None = None


@dataclass(slots=True)
class _Stream:
    position: int
    advanced_at: float | None = None


@dataclass(slots=True)
class _Leader:
    seen: LeaderSeen = field(default_factory=LeaderSeen)
    changed_at: float | None = None


class Detector:
    """Judges the PostgreSQL of the site ``watched``, as seen from the vantage ``own`` and from the others."""

    def __init__(self, patience: Patience, *, watched: str, own: str, stores: Iterable[str]) -> None:
        self._patience = patience
        self._watched = watched
        self._own = own
        self._attention = Attention()
        self._awake = 0.0  # attended time; the stores are judged by it
        self._quorate = 0.0  # the part of it in which a quorum of stores answered; everything else is judged by it
        self._stores = {name: Suspicion(STORE_PERIOD_S) for name in stores}
        self._store_answers = dict.fromkeys(self._stores, 0)
        self._answers = Suspicion(PROBE_PERIOD_S)
        self._answered = 0
        self._vantages: dict[str, _Vantage] = {}
        self._streams: dict[str, _Stream] = {}
        self._leader = _Leader()
        self._began: tuple[object, float] = (None, 0.0)

    def observe(self, report: Report, now: float) -> None:
        """A report that is news (reports.Newest): our own, several times a second, and every other vantage's."""
        at = self._advance(now)
        mine = report.vantage == self._own
        if mine:
            self._hear_stores(report)
            self._hear_leader(report.draas, at)
        seen = report.of(self._watched)
        vantage = self._vantages.get(report.vantage)
        if vantage is None:
            period = PROBE_PERIOD_S if mine else PERIOD_S
            vantage = self._vantages[report.vantage] = _Vantage(report, at, Suspicion(period, at))
        vantage.report, vantage.came = report, at
        vantage.reports.beat(at)
        alive = [at - age for age in (seen.sql_age_s, seen.write_age_s) if age is not None]
        if seen.process is Seen.OK and seen.condition in ANSWERS:
            alive.append(at - (seen.host_age_s or 0.0))
        vantage.alive_at = max([*alive, vantage.alive_at or 0.0]) if alive else vantage.alive_at
        if seen.host_age_s is not None:
            vantage.host_at = max(at - seen.host_age_s, vantage.host_at or 0.0)
        if seen.process is not Seen.REFUSED:
            vantage.refused_since = None
        elif vantage.refused_since is None:
            vantage.refused_since = at
        if mine and seen.answers > self._answered:
            self._answered = seen.answers
            self._answers.beat(at - (seen.sql_age_s or 0.0))

    def stream(self, source: str, position: int, now: float) -> None:
        """How far the primary's WAL has come to ``source`` (our standby; the DRaaS server): life, where it advances."""
        at = self._advance(now)
        stream = self._streams.setdefault(source, _Stream(position))
        if position > stream.position:
            stream.advanced_at = at
        stream.position = position

    def verdict(self, now: float) -> Verdict:
        """Ask several times a second: time in which nobody asked does not count."""
        at = self._advance(now)
        judgement = judge(self._scene(at), self._patience)
        what = (judgement.kind, judgement.theme)
        if self._began[0] != what:
            self._began = (what, self._awake)
        lasted = judgement.lasted_s if judgement.lasted_s is not None else self._awake - self._began[1]
        return Verdict(
            kind=judgement.kind,
            sentence=judgement.sentence,
            evidence=judgement.evidence,
            since=now - lasted,
            give_up=judgement.give_up,
            lasted_s=lasted,
        )

    def _advance(self, now: float) -> float:
        awake = self._attention.at(now)
        # A store that is merely late stops this clock as well: to be patient for nothing is harmless.
        if sum(not store.late(awake) for store in self._stores.values()) >= QUORUM:
            self._quorate += awake - self._awake
        self._awake = awake
        return self._quorate

    def _hear_stores(self, report: Report) -> None:
        for name, store in self._stores.items():
            answers = report.store_answers.get(name, 0)
            if answers > self._store_answers[name]:
                store.beat(self._awake)
            self._store_answers[name] = answers

    def _hear_leader(self, seen: LeaderSeen, at: float) -> None:
        known = self._leader.seen
        if (seen.epoch, seen.beat) > (known.epoch, known.beat):
            if known.epoch:
                self._leader.changed_at = at
            stream = self._streams.setdefault("the DRaaS server", _Stream(seen.received))
            # A new epoch or timeline begins where it must, which proves nothing of the primary.
            if seen.epoch == known.epoch and seen.received > stream.position:
                stream.advanced_at = at
            stream.position = seen.received
        self._leader.seen = seen

    def _scene(self, at: float) -> Scene:
        own = self._vantages.get(self._own)
        others = {name: each for name, each in self._vantages.items() if name != self._own}
        heard = {
            name: each for name, each in others.items() if not each.reports.silent(at) and at - each.came <= HEARD_S
        }
        alive = [each.alive_at for each in self._vantages.values() if each.alive_at is not None]
        alive += [each.advanced_at for each in self._streams.values() if each.advanced_at is not None]
        host = [each.host_at for each in self._vantages.values() if each.host_at is not None]
        changed = self._leader.changed_at
        return Scene(
            watched=self._watched,
            own=self._view(own, at) if own is not None else None,
            others=tuple(self._view(each, at) for each in heard.values()),
            unheard={
                name: at - each.came
                for name, each in others.items()
                if name not in heard and at - each.came <= FORGOTTEN_S
            },
            streams={name: at - s.advanced_at for name, s in self._streams.items() if s.advanced_at is not None},
            stores={name: not store.silent(self._awake) for name, store in self._stores.items()},
            late=self._answers.late(at),
            silent=self._answers.silent(at),
            draas=self._leader.seen,
            draas_s=at - changed if changed is not None else None,
            alive_s=at - max(alive, default=0.0),
            host_s=at - max([*alive, *host], default=0.0),
            ever=bool(alive),
            missed_s=self._attention.missed,
        )

    def _view(self, vantage: _Vantage, at: float) -> View:
        report = vantage.report

        def since(moment: float | None) -> float | None:
            return at - moment if moment is not None else None

        return View(
            vantage=report.vantage,
            site=report.site,
            seen=report.of(self._watched),
            report_s=at - vantage.came,
            sql_s=since(vantage.alive_at),
            host_s=since(vantage.host_at),
            refused_s=since(vantage.refused_since),
            stores=report.stores,
        )
