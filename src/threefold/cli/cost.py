"""`threefold cost`: what protection costs a year, from what was counted and a price table."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from threefold.bootstrap import Parts, journal_of, open_parts
from threefold.cli import cost_words
from threefold.cli.common import ask_opener, execute
from threefold.cli.options import Given, opens_the_stores
from threefold.cli.output import Output
from threefold.cost.keeping import read_traffic
from threefold.cost.measured import DAY_S, Flow, Measured, Stored, bandwidth, growth, last_recovery, yearly
from threefold.cost.model import Assumptions, Choice, Costs, Kept, at_one, costs, keep, lost_changes
from threefold.cost.objectives import (
    Considered,
    Objectives,
    Rto,
    cheapest,
    considered,
    rto_cold,
    rto_warm,
)
from threefold.cost.prices import Prices, Provider, parse_prices
from threefold.failover.steps import Kind
from threefold.kernel.errors import BadInput, Unavailable
from threefold.kernel.wraps import Opener
from threefold.settings import Settings
from threefold.settings_values import duration
from threefold.upkeep.listing import holdings, union
from threefold.vault.chunk_store import Vault
from threefold.vault.retention import Policy
from threefold.vault.revisions import original

SHIPPED: Final = "prices.toml"
_RETENTIONS: Final = {
    "7 days, nothing older": {"pitr": 7, "daily": 0, "weekly": 0, "monthly": 0},
    "7 days, 4 weeks": {"pitr": 7, "daily": 7, "weekly": 4, "monthly": 0},
    "7 days, 4 weeks, a year": {"pitr": 7, "daily": 7, "weekly": 4, "monthly": 12},
    "30 days, a year": {"pitr": 30, "daily": 30, "weekly": 4, "monthly": 12},
}


@dataclass(frozen=True, slots=True)
class Report:
    """All that is said. ``retentions``: name → what it keeps, and a year of it."""

    measured: Measured
    prices: Prices
    assumed: Assumptions
    now: Choice
    costs: Costs
    rtos: Mapping[str, Rto]
    ways: Mapping[str, Costs]
    providers: Mapping[str, tuple[Provider, Costs]]
    retentions: Mapping[str, tuple[Kept, Costs]]
    wanted: Objectives
    considered: list[Considered]
    notes: list[str]

    @property
    def asked(self) -> bool:
        return (self.wanted.rpo_s, self.wanted.rto_s) != (None, None)


@opens_the_stores
def cost(
    given: Given,
    rpo: Annotated[
        str | None, typer.Option(help="At most so much may be lost: 0s, 5s. Names the cheapest that keeps to it.")
    ] = None,
    rto: Annotated[
        str | None, typer.Option(help="The CRM is back within: 5m, 4h. Names the cheapest that keeps to it.")
    ] = None,
    prices: Annotated[Path | None, typer.Option(help="Your price table, in place of the shipped one.")] = None,
    write_prices: Annotated[
        Path | None, typer.Option(help="Write the shipped price table to FILE, to be corrected, and stop.")
    ] = None,
) -> None:
    """What protection costs a year: starting, running and possible disaster expenditure, from measured figures.

    Every request and byte is counted, by store and purpose. Beside it: what another durability, standby, provider or
    retention would cost.

    [bold]Examples:[/]

    threefold cost

    threefold cost --rpo 0s --rto 15m

    threefold cost --write-prices prices.toml
    """
    output = given.output
    if write_prices is not None:
        _write(write_prices, output)
        return
    found = given.settings()
    table = prices_of(prices or (found.path(found.cost.prices) if found.cost.prices else None))
    wanted = Objectives(_seconds("--rpo", rpo), _seconds("--rto", rto))
    execute(_cost(found, output, given.opener(), table, wanted), output)


def prices_of(path: Path | None) -> Prices:
    """The table at ``path``, or the shipped one. Raises BadInput."""
    if path is None:
        return parse_prices(_shipped(), "the shipped price table")
    try:
        return parse_prices(path.read_text(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"cannot read the price table {path}: {error}", hint="`threefold cost --write-prices FILE` makes one"
        ) from None


def _shipped() -> str:
    return (files("threefold.cost") / SHIPPED).read_text()


def _write(path: Path, output: Output) -> None:
    try:
        with path.open("x") as file:
            file.write(_shipped())
    except FileExistsError:
        raise BadInput(f"there is a {path} already", hint="it is not overwritten: name another file") from None
    except OSError as error:
        raise BadInput(f"cannot write {path}: {(error.strerror or 'unknown reason').lower()}") from None
    output.result(
        {"written": path},
        f"{path} is written. Correct it, give it a new date, and use it: --prices {path}, or \\[cost] prices in "
        "threefold.toml.",
    )


def _seconds(option: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return duration(text).total_seconds()
    except ValueError as error:
        raise BadInput(f"{option}: {error}") from None


async def _cost(found: Settings, output: Output, opener: Opener | None, prices: Prices, wanted: Objectives) -> None:
    providers = {each.name: prices.provider_of(each.provider, each.url, each.endpoint) for each in found.store}
    notes: list[str] = []
    async with open_parts(found, opener=opener, ask=ask_opener, verb="cost") as parts:
        three = counting(tuple(parts.stores), tuple(providers))
        measured = await _measure(parts, three, notes)
    if not measured.flows:
        output.result({"measured": False, "seconds": 0.0}, cost_words.NOTHING)
        return
    notes += [f"{name} was not counted yet: taken to be asked what the others are" for name in three
              if name not in measured.flows]  # fmt: skip
    report = report_of(found, measured, {name: providers[name] for name in three}, prices, wanted, notes)
    output.result(facts(report), *cost_words.human(report))


def counting(voters: tuple[str, ...], named: tuple[str, ...]) -> tuple[str, ...]:
    """The three stores that are priced: who votes, and, where the settings have dropped one that leaves, who joins."""
    return (*voters, *(name for name in named if name not in voters))[:3]


async def _measure(parts: Parts, three: tuple[str, ...], notes: list[str]) -> Measured:
    records, stored, size, switched = await asyncio.gather(
        read_traffic(parts.stores, parts.keyring), _stored(parts, notes), _database(parts), _switched(parts, notes)
    )
    now = parts.clock.now()
    seconds, flows = yearly(records, now)
    flows = {name: flows[name] for name in three if name in flows}
    first: Mapping[str, Flow] = next(iter(flows.values()), {})
    recovered = last_recovery(records.values())
    return Measured(
        seconds=seconds,
        flows=flows,
        growth=growth(replace(stored, days=seconds / DAY_S), first),
        entries=first.get("log entries", Flow()).put,
        database_bytes=size,
        read_bytes_s=bandwidth(records.values()),
        recovered_s=recovered.seconds if recovered else None,
        switched_s=switched,
    )


async def _stored(parts: Parts, notes: list[str]) -> Stored:
    """Of the store that lists most: one that was away lacks something."""
    silent: dict[str, str] = {}
    packs = {seen.key: max(seen.sizes.values()) async for seen in union(parts.stores, "packs", parts.clock, silent)}
    manifests = {original(seen.key) async for seen in union(parts.stores, "snapshots", parts.clock, silent)}
    held = [await holdings(parts.stores, prefix, parts.clock, silent) for prefix in ("snapshots", "log", "bundles")]
    notes += [f"{name} does not list everything ({why})" for name, why in silent.items()]
    named = [(_time_in(key), size) for key, size in packs.items()]
    times = [at for key in sorted(manifests) if (at := _time_in(key)) is not None]
    return Stored(
        packs=[(at, size) for at, size in named if at is not None],
        snapshots=times,
        other=sum(max((each.bytes for each in by_store.values()), default=0) for by_store in held),
    )


def _time_in(key: str) -> datetime | None:
    """Snapshots and packs are named by the time; it orders nothing that matters, and here it is a figure."""
    try:
        return datetime.strptime(key.rpartition("/")[2].partition("-")[0], "%Y%m%dT%H%M%S%z")
    except ValueError:
        return None


async def _database(parts: Parts) -> float:
    try:
        catalogue = await Vault(parts.stores, parts.keyring, parts.clock).catalogue()
    except Unavailable:
        return 0.0
    return float(catalogue.summaries[-1].size) if catalogue.summaries else 0.0


async def _switched(parts: Parts, notes: list[str]) -> float | None:
    """The last switch that was no planned one: from its order to a site that serves."""
    try:
        switches = await journal_of(parts).read()
    except Unavailable as error:
        notes.append(f"the journal of switches cannot be read now: {error.message}")
        return None
    served = [each.step(Kind.SERVING) for each in switches.all if not each.planned]
    return next((step.seconds for step in reversed(served) if step is not None), None)


def report_of(
    found: Settings,
    measured: Measured,
    providers: Mapping[str, Provider],
    prices: Prices,
    wanted: Objectives,
    notes: list[str],
) -> Report:
    """``providers``: of each store that counts."""
    own = found.cost
    assumed = Assumptions(**{name: getattr(own, name) for name in Assumptions.__slots__})
    automatic = found.failover.policy == "automatic"
    notice = own.notice.total_seconds()
    rtos = {
        "warm": rto_warm(
            measured, automatic=automatic, notices_s=notice, detects_s=found.failover.site_gone.total_seconds()
        ),
        "cold": rto_cold(measured, notices_s=notice),
    }
    rules = found.retention
    policy = Policy(rules.pitr, rules.daily, rules.weekly, rules.monthly, rules.grace)
    standby = found.recovery.standby
    now = Choice(
        found.system.durability,
        standby,
        tuple(providers.values()),
        policy,
        found.system.max_lag.total_seconds(),
        rtos[standby].seconds or 0.0,
        tuple(providers),
    )
    ways = {
        f"{durability}, {kind}": costs(
            measured,
            replace(now, durability=durability, standby=kind, rto_s=rtos[kind].seconds or 0.0),
            prices,
            assumed,
        )
        for durability in ("sync", "async")
        for kind in ("warm", "cold")
    }
    retentions = {"as it is": policy} | {
        name: Policy(**{**days, "pitr": duration(f"{days['pitr']}d")})  # type: ignore[arg-type]
        for name, days in _RETENTIONS.items()
    }
    return Report(
        measured=measured,
        prices=prices,
        assumed=assumed,
        now=now,
        costs=costs(measured, now, prices, assumed),
        rtos=rtos,
        ways=ways,
        providers={key: (each, at_one(measured, now, each)) for key, each in prices.providers.items()},
        retentions={
            name: (keep(measured.growth, each), costs(measured, replace(now, retention=each), prices, assumed))
            for name, each in retentions.items()
        },
        wanted=wanted,
        considered=considered(measured, now, prices, assumed, rtos, wanted),
        notes=notes,
    )


def facts(report: Report) -> dict[str, Any]:
    """For machines: money in ``currency``, a year."""
    best = cheapest(report.considered)
    return {
        "measured": True,
        "seconds": round(report.measured.seconds, 1),
        "enough": report.measured.enough,
        "currency": report.prices.currency,
        "prices": {"dated": report.prices.dated.isoformat(), "note": report.prices.note},
        "stores": dict(zip(report.now.stores, (each.key for each in report.now.providers), strict=True)),
        "year": _money(report.costs),
        "flows": {
            store: {purpose: asdict(flow) for purpose, flow in purposes.items()}
            for store, purposes in report.measured.flows.items()
        },
        "growth": asdict(report.measured.growth),
        "rto": {standby: {"seconds": rto.seconds, "why": rto.why} for standby, rto in report.rtos.items()},
        "rpo_seconds": report.now.rpo_s,
        "lost_changes_at_least": round(lost_changes(report.measured, report.now), 1),
        "assumptions": asdict(report.assumed),
        # Without an RTO the hours without a CRM are not in `disasters`.
        "ways": {
            name: {**_money(each), "rto_seconds": report.rtos[name.rpartition(", ")[2]].seconds}
            for name, each in report.ways.items()
        },
        "providers": {
            key: {"a_store": _money(each), "create_if_absent": provider.create_if_absent}
            for key, (provider, each) in report.providers.items()
        },
        "retentions": {name: {**asdict(kept), **_money(each)} for name, (kept, each) in report.retentions.items()},
        "considered": [_considered(each) for each in report.considered],
        "cheapest": _considered(best) if best is not None else None,
        "notes": report.notes,
    }


def _considered(each: Considered) -> dict[str, Any]:
    return {
        "durability": each.choice.durability,
        "standby": each.choice.standby,
        "providers": [provider.key for provider in each.choice.providers],
        "year": _money(each.costs),
        "rto_known": each.rto_known,
        "misses": list(each.misses),
    }


def _money(each: Costs) -> dict[str, float]:
    parts = {name: round(value, 2) for name, value in asdict(each).items()}
    return {**parts, "running": round(each.running, 2), "disasters": round(each.disasters, 2),
            "total": round(each.total, 2)}  # fmt: skip
