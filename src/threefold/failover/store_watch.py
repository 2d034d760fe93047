"""The three stores, watched: does each answer, and what do the beacons in them say?

Every store has a loop of its own, so that one that hangs holds up nobody (a sentinel's report goes out to the others,
the other stores' beacons are read on). A store that answers "there is no such object" has answered as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from threefold.failover import reports
from threefold.failover.aspects import Aspect
from threefold.failover.reports import LeaderSeen, Newest, Report, Seen
from threefold.failover.suspicion import Suspicion
from threefold.kernel.clock import Clock
from threefold.kernel.errors import Damaged, OtherKey
from threefold.kernel.keys import Keyring, goes_on_under_another
from threefold.protect import beacon
from threefold.protect.beacon import LeaderStatus
from threefold.quorum.majority import QUORUM
from threefold.stores.soon import answers_soon
from threefold.stores.store import ABSENT, Gone, ObjectStore, Page, Unknown

ROUND_S: Final = 1.0
_PATIENCE_S: Final = 3.0
# Rounds between two looks for vantages that are new. A listing is a hint: who is missed is found by the next.
_LOOK_AROUND: Final = 10
# Rounds without a change after which a vantage is read only when we look around.
_GONE: Final = 600


async def read_reports(stores: Mapping[str, ObjectStore], keyring: Keyring) -> dict[str, Report]:
    """The last report of each vantage that any store gives, whether or not it still lives: for a look at once.

    Of several the one with the highest beat; runs cannot be ordered, so this is for people and not for a detector.
    """
    found: dict[str, Report] = {}
    for bodies in (await answers_soon(stores, _sentinels_of)).values():
        for key, body in bodies.items():
            report = _opened(body, key, keyring) if isinstance(body, bytes) else None
            if report is not None and report.beat >= (found[key].beat if key in found else 0):
                found[key] = report
    return {report.vantage: report for report in found.values()}


async def _sentinels_of(store: ObjectStore) -> dict[str, bytes | Gone | Unknown]:
    page = await store.list("beacons")
    keys = _sentinels(page) if isinstance(page, Page) else []
    return dict(zip(keys, await asyncio.gather(*(store.read(key) for key in keys)), strict=True))


class StoreWatch:
    """``on_news`` is called with every report that shows a living vantage (reports.Newest), and only then."""

    def __init__(
        self,
        stores: Mapping[str, ObjectStore],
        keyring: Keyring,
        clock: Clock,
        at: Callable[[], float],
        *,
        reads_reports: bool,
        on_news: Callable[[Report], None],
    ) -> None:
        self._stores = stores
        self._keyring = keyring
        self._clock = clock
        self._at = at
        self._reads_reports = reads_reports
        self._on_news = on_news
        self._aspects = {name: Aspect(_PATIENCE_S) for name in stores}
        self.answers = dict.fromkeys(stores, 0)
        self.ms: dict[str, float] = {}
        self.leader: LeaderStatus | None = None
        self._leader_beats = Suspicion(beacon.PERIOD_S, at())
        self._leader_changed = False
        self._newest = Newest()
        self._quiet: dict[str, int] = {}  # by key: rounds without news
        self._others: dict[str, str] = {}  # by store: under which key that is not ours its leader's beacon is

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for name, store in self._stores.items():
                group.create_task(self._rounds(name, store))

    def seen(self) -> dict[str, Seen]:
        at = self._at()
        return {name: aspect.word(at) for name, aspect in self._aspects.items()}

    def check(self) -> None:
        """Raises BadInput where two stores show that the log goes on under a key that is not ours."""
        if len(self._others) >= min(QUORUM, len(self._stores)):
            raise goes_on_under_another(next(iter(self._others.values())), self._keyring)

    def draas(self) -> LeaderSeen:
        leader = self.leader
        if leader is None:
            return LeaderSeen()
        silent = self._leader_beats.silent(self._at())
        seen = Seen.SILENT if silent else Seen.OK if self._leader_changed else Seen.UNKNOWN
        return LeaderSeen(
            seen=Seen.REFUSED if leader.state == "stopped" else seen,
            epoch=leader.epoch,
            beat=leader.beat,
            state=leader.state,
            received=int(leader.received),
            timeline=leader.timeline,
            reason=leader.reason,
        )

    async def _rounds(self, name: str, store: ObjectStore) -> None:
        rounds = 0
        while True:
            began = self._clock.monotonic()
            await self._round(name, store, look_around=rounds % _LOOK_AROUND == 0)
            rounds += 1
            await self._clock.sleep(max(0.1, ROUND_S - (self._clock.monotonic() - began)))

    async def _round(self, name: str, store: ObjectStore, *, look_around: bool) -> None:
        started, began = self._at(), self._clock.monotonic()
        self._aspects[name].ask(started)
        body = await store.read(beacon.LEADER)
        definite = isinstance(body, bytes) or body is ABSENT
        self._aspects[name].answer(Seen.OK if definite else Seen.FAILED, started=started, at=self._at())
        if not definite:
            return
        self.answers[name] += 1
        self.ms[name] = round((self._clock.monotonic() - began) * 1000, 1)
        if isinstance(body, bytes):
            self._hear_leader(name, body)
        if not self._reads_reports:
            return
        if look_around:
            page = await store.list("beacons")
            for key in _sentinels(page) if isinstance(page, Page) else []:
                self._quiet.setdefault(key, 0)
        keys = [key for key, quiet in self._quiet.items() if look_around or quiet < _GONE * len(self._stores)]
        bodies = await asyncio.gather(*(store.read(key) for key in keys))
        for key, report_body in zip(keys, bodies, strict=True):
            self._quiet[key] += 1
            if report_body is ABSENT:
                self._newest.absent(name, key.removeprefix(reports.PREFIX))
            report = _opened(report_body, key, self._keyring) if isinstance(report_body, bytes) else None
            if report is not None and self._newest.take(name, report):
                self._quiet[key] = 0
                self._on_news(report)

    def _hear_leader(self, name: str, body: bytes) -> None:
        self._others.pop(name, None)
        try:
            leader = beacon.decode(body, self._keyring)
        except OtherKey as other:
            self._others[name] = other.key_id
            return
        except Damaged:
            return
        known = self.leader
        if known is None or (leader.epoch, leader.beat) > (known.epoch, known.beat):
            self.leader = leader
            self._leader_changed = known is not None
            self._leader_beats.beat(self._at())


def _sentinels(page: Page) -> list[str]:
    return [listed.key for listed in page.objects if listed.key.startswith(reports.PREFIX)]


def _opened(body: bytes, key: str, keyring: Keyring) -> Report | None:
    try:
        return reports.decode(body, key, keyring)
    except Damaged:
        return None
