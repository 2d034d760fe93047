"""How much may be lost and how soon it is back, for each way to protect; the cheapest that keeps to both. Pure.

RPO is a promise of the protocol: nothing with durability sync, the last ``max_lag`` at most with async. RTO is measured
where a recovery or a switch was carried out; otherwise it is put together from what was measured, and says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Final

from threefold.cost.measured import Measured
from threefold.cost.model import Assumptions, Choice, Costs, costs, recovery_bytes
from threefold.cost.prices import Prices, Provider

_READS_AT_ONCE: Final = 4  # of a recovery
_START_S: Final = 10.0  # PostgreSQL starts, replays, promotes; docs/explanation/performance.md
_SWITCH_S: Final = 5.0  # from the decision to the first change that is confirmed; same place
_WAYS: Final = (("sync", "warm"), ("sync", "cold"), ("async", "warm"), ("async", "cold"))


@dataclass(frozen=True, slots=True)
class Rto:
    """Seconds until the CRM takes changes again; None: not known yet, ``why`` says what is missing or how it came."""

    seconds: float | None
    why: str


@dataclass(frozen=True, slots=True)
class Objectives:
    """``rpo_s``, ``rto_s``: None: any."""

    rpo_s: float | None = None
    rto_s: float | None = None


@dataclass(frozen=True, slots=True)
class Considered:
    """One combination. ``misses``: why it does not do; empty: it does. Without an RTO ``costs`` lacks the outage."""

    choice: Choice
    costs: Costs
    misses: tuple[str, ...]
    rto_known: bool


def rto_warm(measured: Measured, *, automatic: bool, notices_s: float, detects_s: float) -> Rto:
    """``notices_s``: until a person acts, where the switch is not automatic; ``detects_s``: until one is given up."""
    first, who = (detects_s, "until the site is given up") if automatic else (notices_s, "until somebody confirms it")
    if measured.switched_s is not None:
        return Rto(
            first + measured.switched_s, f"{first:.0f} s {who}, and the last switch ({measured.switched_s:.1f} s)"
        )
    return Rto(
        first + _SWITCH_S, f"{first:.0f} s {who}, and {_SWITCH_S:.0f} s for the switch (no switch was measured here)"
    )


def rto_cold(measured: Measured, *, notices_s: float) -> Rto:
    """A person notices, and recovers."""
    who = f"{notices_s:.0f} s until somebody acts"
    if measured.recovered_s is not None:
        return Rto(notices_s + measured.recovered_s, f"{who}, and the last recovery ({measured.recovered_s:.1f} s)")
    wanted = recovery_bytes(measured.growth)
    if not measured.read_bytes_s or not measured.growth.base:
        return Rto(
            None, "no recovery and no large read was measured yet: `threefold recover` into an empty folder tells"
        )
    reads = wanted / (measured.read_bytes_s * _READS_AT_ONCE)
    speed = measured.read_bytes_s * _READS_AT_ONCE / 1e6
    return Rto(
        notices_s + reads + _START_S,
        f"{who}, {wanted / 1e6:.0f} MB at {speed:.0f} MB/s as the stores were measured, and {_START_S:.0f} s to start "
        "(no recovery was measured)",
    )


def considered(
    measured: Measured,
    now: Choice,
    prices: Prices,
    assumed: Assumptions,
    rtos: dict[str, Rto],
    wanted: Objectives,
) -> list[Considered]:
    """The cheapest choice of providers for each way, and the stores as they are; the cheapest first.

    Providers are three different ones that document conditional writes. Retention stays as it is: it is a promise, too.
    ``rtos``: by standby.
    """
    found = []
    for durability, standby in _WAYS:
        rto = rtos[standby]
        known = rto.seconds is not None
        misses = tuple(_misses(durability, standby, now.lag_s, rto, wanted))
        way = replace(now, durability=durability, standby=standby, rto_s=rto.seconds or 0.0)
        options = [replace(way, providers=three) for three in triples(prices.providers.values())]
        priced = [(costs(measured, each, prices, assumed), each) for each in options]
        if priced:
            best = min(priced, key=lambda each: each[0].total)
            found.append(Considered(best[1], best[0], misses, known))
        found.append(Considered(way, costs(measured, way, prices, assumed), misses, known))
    return sorted(found, key=lambda each: each.costs.total)


def cheapest(all_: Sequence[Considered]) -> Considered | None:
    return next((each for each in all_ if not each.misses), None)


def triples(providers: Iterable[Provider]) -> Iterable[tuple[Provider, ...]]:
    return combinations([each for each in providers if each.may_vote], 3)


def _misses(durability: str, standby: str, lag_s: float, rto: Rto, wanted: Objectives) -> Iterable[str]:
    rpo_s = 0.0 if durability == "sync" else lag_s
    if wanted.rpo_s is not None and rpo_s > wanted.rpo_s:
        yield f"async may lose the last {span(rpo_s)}, more than {span(wanted.rpo_s)}"
    if rto.seconds is None:  # whatever was asked: the hours without a CRM are not in its costs
        yield f"RTO not known ({standby}): what an outage costs is not counted"
    elif wanted.rto_s is not None and rto.seconds > wanted.rto_s:
        yield f"{standby} is back in {span(rto.seconds)}, later than {span(wanted.rto_s)}"


def span(seconds: float) -> str:
    """``0 s``, ``12 s``, ``3 min``, ``2.5 h``."""
    if seconds < 120:
        return f"{seconds:g} s" if seconds == int(seconds) else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
