"""Was everything kept that was promised? The ledgers of all clients against what the database holds at the end. Pure.

- *Lost*: an acknowledged change that is not there. A site that was cut off and went on confirming shows here, because
  what it confirmed is not in the history that won.
- *Duplicated*: a change that is there twice.
- *Reordered*: an acknowledged entry that is not at the position it was told, or that stands behind one which was only
  tried after it had been acknowledged.
- *Invented*: something that nobody tried.
- *Torn*: accounts whose balances are not what the transfers that are there make of them.
- *Two sites at once*: a change that was tried on an older timeline after a newer one had acknowledged, and was
  acknowledged there. (Tried before and heard of later is no such thing: a reply may be long under way.)
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any


@dataclass(frozen=True, slots=True)
class Try:
    kind: str
    to: Any
    at: float


@dataclass(frozen=True, slots=True)
class Ack:
    position: int
    timeline: int
    site: str
    at: float


@dataclass(slots=True)
class Ledger:
    """All that all clients wrote down."""

    tried: dict[str, Try] = field(default_factory=dict)
    acked: dict[str, Ack] = field(default_factory=dict)

    def add(self, text: str) -> None:
        """The lines of one client; a last one torn by a kill was promised to nobody."""
        for line in text[: text.rfind("\n") + 1].splitlines():
            told = json.loads(line)
            if "try" in told:
                self.tried[told["try"]] = Try(told["kind"], told["to"], told["at"])
            else:
                self.acked[told["ack"]] = Ack(told["position"], told["timeline"], told["site"], told["at"])

    def acks_since(self, at: float, site: str | None = None) -> list[Ack]:
        """By the time that they were heard."""
        found = [ack for ack in self.acked.values() if ack.at > at and site in {None, ack.site}]
        return sorted(found, key=lambda ack: ack.at)

    def longest_gap(self, since: float) -> float:
        """The longest time from there on in which nobody was told anything."""
        times = [since, *(ack.at for ack in self.acks_since(since))]
        return max((b - a for a, b in pairwise(times)), default=0.0)


@dataclass(frozen=True, slots=True)
class Found:
    """What the database holds."""

    entries: list[tuple[int, int, str]]  # key, position, item
    transfers: list[tuple[str, int, int, int]]  # item, debtor, creditor, amount
    balances: dict[int, int]


def check(ledger: Ledger, found: Found, *, balance: int) -> list[str]:
    """What is wrong, a sentence each; nothing where all is well. ``balance``: of each account in the beginning."""
    return [
        *_missing(ledger, found),
        *_order(ledger, found),
        *_money(found, balance),
        *_two_sites(ledger),
    ]


def _missing(ledger: Ledger, found: Found) -> Iterable[str]:
    there = Counter([item for _, _, item in found.entries] + [item for item, *_ in found.transfers])
    lost = [item for item in ledger.acked if item not in there]
    if lost:
        sites = Counter(f"{ledger.acked[item].site} on timeline {ledger.acked[item].timeline}" for item in lost)
        of = f"{len(lost)} of {len(ledger.acked)}"
        yield f"{of} acknowledged changes are lost, {lost[:3]} first, told by {dict(sites)}"
    twice = [item for item, times in there.items() if times > 1]
    if twice:
        yield f"{len(twice)} changes are there twice, {twice[:3]} first"
    invented = [item for item in there if item not in ledger.tried]
    if invented:
        yield f"{len(invented)} changes are there that nobody tried, {invented[:3]} first"


def _order(ledger: Ledger, found: Found) -> Iterable[str]:
    moved, behind = [], []
    newest: dict[int, float] = {}  # of each list: when the youngest entry so far was tried
    for key, position, item in sorted(found.entries):
        tried, ack = ledger.tried.get(item), ledger.acked.get(item)
        if ack is not None and ack.position != position:
            moved.append(f"{item} told {ack.position}, is {position}")
        if ack is not None and ack.at < newest.get(key, 0.0):
            behind.append(item)
        if tried is not None:
            newest[key] = max(newest.get(key, 0.0), tried.at)
            if tried.kind != "append" or tried.to != key:
                moved.append(f"{item} is in list {key}, tried for {tried.to}")
    if moved:
        yield f"{len(moved)} entries are not where they were acknowledged: {moved[:3]}"
    if behind:
        yield f"{len(behind)} entries stand behind one that was tried after they were acknowledged: {behind[:3]}"


def _money(found: Found, balance: int) -> Iterable[str]:
    should = dict.fromkeys(found.balances, balance)
    for _, debtor, creditor, amount in found.transfers:
        should[debtor] -= amount
        should[creditor] += amount
    wrong = {
        account: (found.balances[account], due) for account, due in should.items() if found.balances[account] != due
    }
    if wrong:
        yield f"accounts do not hold what the transfers make of them (is, should): {wrong}"


def _two_sites(ledger: Ledger) -> Iterable[str]:
    first: dict[int, float] = {}
    for ack in ledger.acked.values():
        first[ack.timeline] = min(first.get(ack.timeline, ack.at), ack.at)
    late = []
    for item, ack in ledger.acked.items():
        newer = min((at for timeline, at in first.items() if timeline > ack.timeline), default=None)
        if newer is not None and ledger.tried[item].at > newer:
            late.append(item)
    if late:
        yield f"two sites acknowledged at once: {len(late)} changes on an older timeline, {late[:3]} first"
