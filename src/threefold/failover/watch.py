"""A vantage at work: it probes every site's PostgreSQL, watches the stores, and keeps its own report.

A sentinel publishes the report; an agent also judges it, together with the others' (`Judge`). Both watch *every* site's
PostgreSQL, whichever is active: no switch can make a sentinel watch the wrong one.

A commit is tried only on the server that the DRaaS server streams from, by its beacon: same timeline, same site. An
old primary that came back is looked at and left alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from threefold.failover import reports
from threefold.failover.attention import Attention
from threefold.failover.detector import Detector
from threefold.failover.judgement import Patience
from threefold.failover.probes import WRITE_S, Probe
from threefold.failover.reports import PERIOD_S, LeaderSeen, Report, Seen
from threefold.failover.sessions import State
from threefold.failover.store_watch import StoreWatch
from threefold.failover.verdicts import Kind, Verdict
from threefold.kernel.clock import Clock
from threefold.kernel.keys import NONCE_BYTES, Keyring
from threefold.stores.store import ObjectStore

_PULSE_S: Final = 0.1
_JUDGE_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Vantage:
    """Who looks, and from where. ``run`` is new with every process (Clock.new_id)."""

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
    """``async with Watch(...) as watch``: it looks until that is left.

    ``publishes``: its report goes into the stores every ``period_s``. ``reads_reports``: the others' are read, as a
    `Judge` needs it.
    """

    def __init__(
        self,
        vantage: Vantage,
        targets: Iterable[Target],
        stores: Mapping[str, ObjectStore],
        keyring: Keyring,
        clock: Clock,
        *,
        publishes: bool = False,
        reads_reports: bool = True,
        write_period_s: float = WRITE_S,
        period_s: float = PERIOD_S,
    ) -> None:
        self.vantage = vantage
        self.clock = clock
        self.stores = stores
        self._keyring = keyring
        self._publishes = publishes
        self._period = period_s
        self._attention = Attention()
        self._beat = 0
        self._listeners: list[Callable[[Report], None]] = []
        self._stores = StoreWatch(stores, keyring, clock, self._at, reads_reports=reads_reports, on_news=self._news)
        self._probes = {
            target.site: Probe(
                target.dsn,
                clock,
                self._at,
                data_dir=target.data_dir,
                may_write=self._may_write(target.site),
                write_period_s=write_period_s,
            )
            for target in targets
        }
        self._work: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._work = asyncio.create_task(self.run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)

    async def run(self) -> None:
        """Until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pulse())
            group.create_task(self._stores.run())
            for probe in self._probes.values():
                group.create_task(probe.run())
            for store in self.stores.values() if self._publishes else ():
                group.create_task(self._publish(store))

    def report(self) -> Report:
        """What it sees at this moment. Raises BadInput where our key file is an old one."""
        self._stores.check()
        if self._work is not None and self._work.done():
            self._work.result()  # a bug ended it: nothing would ever change here any more
        self._beat += 1
        return Report(
            vantage=self.vantage.name,
            site=self.vantage.site,
            run=self.vantage.run,
            beat=self._beat,
            sites={site: probe.seen() for site, probe in self._probes.items()},
            draas=self._stores.draas(),
            stores=self._stores.seen(),
            store_ms=dict(self._stores.ms),
            store_answers=dict(self._stores.answers),
        )

    def draas(self) -> LeaderSeen:
        return self._stores.draas()

    def listen(self, listener: Callable[[Report], None]) -> None:
        """Be told of every other vantage's report that is news."""
        self._listeners.append(listener)

    def unlisten(self, listener: Callable[[Report], None]) -> None:
        self._listeners = [each for each in self._listeners if each != listener]

    def _news(self, report: Report) -> None:
        if report.vantage != self.vantage.name:
            for listener in self._listeners:
                listener(report)

    def _at(self) -> float:
        return self._attention.at(self.clock.monotonic())

    async def _pulse(self) -> None:
        """Whoever looks counts only the time in which he looked: so look often, and tell the probes who must answer."""
        while True:
            self._at()
            leader = self._stores.leader
            for probe in self._probes.values() if leader is not None else ():
                probe.expected = leader.system_identifier if leader is not None else None
            await self.clock.sleep(_PULSE_S)

    def _may_write(self, site: str) -> Callable[[State], bool]:
        def may(state: State) -> bool:
            leader, seen = self._stores.leader, self._stores.draas()
            return (
                leader is not None
                and seen.seen is Seen.OK
                and not state.standby
                and state.timeline == leader.timeline
                and leader.site in {"", site}
            )

        return may

    async def _publish(self, store: ObjectStore) -> None:
        """Each store at its own pace: one that hangs gets the newest report when it is back."""
        key = reports.key_of(self.vantage.name)
        while True:
            began = self.clock.monotonic()
            nonce = bytes.fromhex(self.clock.new_id())[:NONCE_BYTES]
            await store.write(key, reports.encode(self.report(), self._keyring, nonce))
            await self.clock.sleep(max(0.1, self._period - (self.clock.monotonic() - began)))


class Judge:
    """An agent's: ``async with Judge(watch, watched=.., patience=..) as judge``, then ask `verdict` whenever needed.

    ``watched``: the active site's name; make another one after a switch.
    """

    def __init__(self, watch: Watch, *, watched: str, patience: Patience) -> None:
        self._watch = watch
        self._detector = Detector(patience, watched=watched, own=watch.vantage.name, stores=watch.stores)
        self._verdict = Verdict(Kind.UNKNOWN, "nothing was seen yet", ("we have not looked yet",), self._now())
        self._work: asyncio.Task[None] | None = None
        watch.listen(self._hear)

    async def __aenter__(self) -> Self:
        self._work = asyncio.create_task(self._judge())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watch.unlisten(self._hear)
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)

    def stream(self, position: int) -> None:
        """How far our standby has *received* WAL by streaming (not from the stores)."""
        self._detector.stream("our standby", position, self._now())

    def verdict(self) -> Verdict:
        """The newest; judged five times a second in any case."""
        if self._work is not None and self._work.done():
            self._work.result()
        return self._verdict

    def _hear(self, report: Report) -> None:
        self._detector.observe(report, self._now())

    def _now(self) -> float:
        return self._watch.clock.monotonic()

    async def _judge(self) -> None:
        while True:
            self._detector.observe(self._watch.report(), self._now())
            self._verdict = self._detector.verdict(self._now())
            await self._watch.clock.sleep(_JUDGE_S)
