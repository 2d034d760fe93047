"""A year's expenditure, by the paper's words (section V, challenge B): starting, running, possible disasters. Pure.

- *Starting*: setting up and the first snapshot's requests, spread over some years.
- *Running*: processing (machines), storage, requests, transfer.
- *Possible disasters*, expected: of recovered ones (the hours without a CRM, changes that were lost, what reading
  everything back costs), and of irrecoverable ones (the primary and two of the three stores at once).

    disasters a year * (RTO in hours * an hour + lost changes, at least * a change + egress)
    + disasters a year * P(two of three stores are gone) * everything

P counts failure domains: two stores of one provider are lost together. Lost changes are counted as log entries, which
commits share under load: at least so many are lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import pairwise, product
from typing import Final

from threefold.cost.measured import DAY_S, YEAR_S, Flow, Growth, Measured
from threefold.cost.prices import Prices, Provider
from threefold.cost.traffic import WARM
from threefold.kernel.lsn import Lsn
from threefold.vault.manifest import Summary
from threefold.vault.retention import Policy, kept

GB: Final = 1e9
MONTHS: Final = 12
YEAR_DAYS: Final = YEAR_S / DAY_S
_INTERVAL_DAYS_MIN: Final = 1 / 24  # more often, and there would be too many to go through
_MILLION: Final = 1e6
# What the agent of an idle warm standby was counted to ask each store, a second (`threefold up`, its first minute).
AGENT_PUTS_S: Final = 1.0
AGENT_GETS_S: Final = 8.5
AGENT_LISTS_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What nobody can measure: the user's own figures ([cost] in the settings), money in the table's currency."""

    setup_hours: float = 16.0
    hour_of_work: float = 60.0
    years: float = 3.0
    disasters_per_year: float = 0.05
    store_lost_per_year: float = 0.01
    hour_of_downtime: float = 500.0
    lost_change: float = 5.0
    everything: float = 500_000.0


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to protect. ``providers``: one for each of ``stores``; ``lag_s``: what async may lose."""

    durability: str  # sync, async
    standby: str  # warm, cold
    providers: tuple[Provider, ...]
    retention: Policy
    lag_s: float
    rto_s: float
    stores: tuple[str, ...]

    @property
    def rpo_s(self) -> float:
        return 0.0 if self.durability == "sync" else self.lag_s


@dataclass(frozen=True, slots=True)
class Kept:
    """What retention keeps on one store once it has run for long: snapshots, days of log, bytes."""

    snapshots: int
    wal_days: float
    bytes: float


@dataclass(frozen=True, slots=True)
class Costs:
    """A year, by part."""

    starting: float
    processing: float
    storage: float
    requests: float
    transfer: float
    recovered: float
    irrecoverable: float

    @property
    def running(self) -> float:
        return self.processing + self.storage + self.requests + self.transfer

    @property
    def disasters(self) -> float:
        return self.recovered + self.irrecoverable

    @property
    def total(self) -> float:
        return self.starting + self.running + self.disasters


def keep(grows: Growth, policy: Policy) -> Kept:
    """Retention's own rules over snapshots at the measured interval, and the log from the oldest kept one on.

    What an older snapshot holds that the next kept one does not grows with the time between them, to all of it at most.
    """
    interval = max(grows.interval_days, _INTERVAL_DAYS_MIN)
    ages = _kept_ages(policy, interval)
    gaps = [older - newer for newer, older in pairwise(ages)]
    old = sum(min(grows.base, grows.delta * gap / interval) for gap in gaps)
    # The oldest is as old as it gets just before it goes: a whole interval more.
    wal_days = ages[-1] + grows.interval_days
    return Kept(len(ages), wal_days, grows.base + old + grows.wal_day * wal_days + grows.other)


@lru_cache(maxsize=256)
def _kept_ages(policy: Policy, interval_days: float) -> tuple[float, ...]:
    """Days, ascending, of the snapshots that are kept."""
    reach = max(policy.pitr / timedelta(days=1), policy.daily, 7 * policy.weekly, 31 * policy.monthly) + 2 * 31
    now = datetime(2026, 1, 1, tzinfo=UTC)
    ages = [number * interval_days for number in range(int(reach / interval_days) + 2)]
    there = [_summary(number, now - timedelta(days=age)) for number, age in enumerate(ages)]
    names = kept(there, policy, now)
    return tuple(sorted((now - each.stopped) / timedelta(days=1) for each in there if each.id in names))


def _summary(number: int, at: datetime) -> Summary:
    newest_first = Lsn(10**9 - number)
    return Summary(str(number), "", 0, 18, 0, 1, newest_first, newest_first, at, at, 0, 0)


def requests_cost(flow: Flow, at: Provider) -> float:
    paid = flow.put * at.put + flow.get * at.get + flow.list * at.list + flow.delete * at.delete
    return paid / _MILLION


def transfer_cost(flow: Flow, at: Provider, stored_bytes: float) -> float:
    free = at.free_egress * stored_bytes / GB * MONTHS
    return max(flow.bytes_in / GB - free, 0.0) * at.egress + flow.bytes_out / GB * at.ingress


def storage_cost(stored_bytes: float, grows: Growth, at: Provider) -> float:
    """What is deleted before its minimum is billed as if it lay there for so long."""
    early = grows.short_lived_day * at.minimum_days
    return max((stored_bytes + early) / GB, at.minimum_gb) * at.storage * MONTHS


def purposes_of(flows: Mapping[str, Flow], standby: str, estimate: Flow) -> dict[str, Flow]:
    """One store's, with or without a warm standby; ``estimate`` stands for one that was never measured."""
    found = {purpose: flow for purpose, flow in flows.items() if purpose != WARM}
    if standby == "warm":
        found[WARM] = flows.get(WARM, estimate)
    return found


def standby_estimate(grows: Growth) -> Flow:
    """A warm standby that was never measured: what one that idled was counted to ask, and the log once."""
    return (
        Flow(put=AGENT_PUTS_S, get=AGENT_GETS_S, list=AGENT_LISTS_S)
        .times(YEAR_S)
        .plus(Flow(bytes_in=grows.wal_day * YEAR_DAYS / 3))
    )


def costs(measured: Measured, choice: Choice, prices: Prices, assumed: Assumptions) -> Costs:
    """A year of ``choice`` at the measured pace."""
    grows = measured.growth
    stays = keep(grows, choice.retention)
    storage = requests = transfer = first = egress = machines = 0.0
    estimate = standby_estimate(grows)
    for store, at in zip(choice.stores, choice.providers, strict=True):
        flow = total(purposes_of(asked(measured, store), choice.standby, estimate))
        storage += storage_cost(stays.bytes, grows, at)
        requests += requests_cost(flow, at)
        transfer += transfer_cost(flow, at, stays.bytes)
        first += grows.base / (16 * 2**20) * at.put / _MILLION
        egress += recovery_bytes(grows) / len(choice.providers) / GB * at.egress
        machines += at.machine
    processing = MONTHS * (prices.draas + machines + (prices.standby if choice.standby == "warm" else 0.0))
    lost = lost_changes(measured, choice) * assumed.lost_change
    recovered = choice.rto_s / 3600 * assumed.hour_of_downtime + lost + egress
    gone = two_of_three_gone([at.key for at in choice.providers], assumed.store_lost_per_year)
    return Costs(
        starting=(assumed.setup_hours * assumed.hour_of_work + first) / assumed.years,
        processing=processing,
        storage=storage,
        requests=requests,
        transfer=transfer,
        recovered=assumed.disasters_per_year * recovered,
        irrecoverable=assumed.disasters_per_year * gone * assumed.everything,
    )


def asked(measured: Measured, store: str) -> Mapping[str, Flow]:
    """Of ``store``, wherever it lies; one that was not counted yet would be asked what the others are, on average."""
    if store in measured.flows:
        return measured.flows[store]
    found: dict[str, Flow] = {}
    for purposes in measured.flows.values():
        for purpose, flow in purposes.items():
            found[purpose] = found.get(purpose, Flow()).plus(flow.times(1 / len(measured.flows)))
    return found


def lost_changes(measured: Measured, choice: Choice) -> float:
    """At least so many, in one disaster: commits that come together share an entry."""
    return measured.entries / YEAR_S * choice.rpo_s


def total(purposes: Mapping[str, Flow]) -> Flow:
    found = Flow()
    for flow in purposes.values():
        found = found.plus(flow)
    return found


def recovery_bytes(grows: Growth) -> float:
    """What one recovery reads: a snapshot, and the log since, up to a whole interval."""
    return grows.base + grows.delta + grows.wal_day * grows.interval_days


def two_of_three_gone(domains: Sequence[str], each: float) -> float:
    """The chance that at least two stores are gone, each domain being lost with the chance ``each``."""
    apart = sorted(set(domains))
    chance = 0.0
    for lost in product((False, True), repeat=len(apart)):
        gone = {name for name, is_lost in zip(apart, lost, strict=True) if is_lost}
        if sum(name in gone for name in domains) >= 2:
            weight = 1.0
            for is_lost in lost:
                weight *= each if is_lost else 1 - each
            chance += weight
    return chance


def at_one(measured: Measured, choice: Choice, at: Provider) -> Costs:
    """One store at ``at``, as the first of the choice's is asked: what the providers are compared by."""
    one = replace(choice, providers=(at,), stores=choice.stores[:1])
    none = Assumptions(setup_hours=0, disasters_per_year=0)
    return costs(measured, one, Prices(_NO_DATE, "", "", 0.0, 0.0, {}), none)


_NO_DATE: Final = datetime(1970, 1, 1, tzinfo=UTC).date()
