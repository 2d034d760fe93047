"""What `threefold cost` shows to people, in 80 columns. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from threefold.cli.words import size, span, table
from threefold.cost.measured import YEAR_S, Flow
from threefold.cost.model import lost_changes, requests_cost, total
from threefold.cost.objectives import Considered, cheapest
from threefold.cost.objectives import span as short

if TYPE_CHECKING:
    from threefold.cli.cost import Report

NOTHING: Final = (
    "Nothing was counted yet. `threefold protect` (or `threefold up`) counts every request and byte from its first\n"
    "minute on, and keeps the counts in the stores: come back after a minute for a first look, after a day for\n"
    "figures to rely on. `threefold cost --write-prices FILE` gives you the price table to check meanwhile."
)
_SHOWN_PURPOSES: Final = 9
_ASK: Final = "For the cheapest that meets a goal: threefold cost --rpo 0s --rto 15m"


def human(report: Report) -> list[Table | str | Text]:
    lines: list[Table | str | Text] = [*_head(report), _year(report), "", _purposes(report)]
    lines += ["", *_ways(report), "", _providers(report), "", _retentions(report)]
    lines += ["", *_verdict(report)] if report.asked else ["", _ASK]
    # Text is broken between words; a plain string would be broken by the terminal, anywhere.
    return [Text.from_markup(each) if isinstance(each, str) else each for each in [*lines, "", *_assumed(report)]]


def money(value: float) -> str:
    """``1 234``, ``12.30``, ``0.05``: no more digits than matter."""
    return f"{value:,.0f}".replace(",", " ") if value >= 100 else f"{value:.2f}"


def _head(report: Report) -> list[str]:
    measured, prices = report.measured, report.prices
    lines = [
        f"[bold]What protection costs a year, in {escape(prices.currency)}[/]",
        f"Counted for {span(measured.seconds)}; prices of {prices.dated}"
        + (f",\n{escape(prices.note)}." if prices.note else "."),
    ]
    if not measured.enough:
        lines.append("[yellow]Counted for less than a day: a year made of that can be far off. Ask again tomorrow.[/]")
    return lines + [f"[yellow]{escape(note)}[/]" for note in report.notes]


def _rows(title: str, *headers: str, money_at: Iterable[int] = ()) -> Table:
    made = table(*headers, title=title)
    made.width = None
    for place, column in enumerate(made.columns):
        column.no_wrap = place != len(made.columns) - 1 or place in money_at
        if place in money_at:
            column.justify = "right"
    return made


def _year(report: Report) -> Table:
    each, assumed = report.costs, report.assumed
    machines = f"the DRaaS server, {money(report.prices.draas)} a month"
    if report.now.standby == "warm":
        machines += f"; the warm standby, {money(report.prices.standby)}"
    places = ", ".join(f"{name} {at.key}" for name, at in zip(report.now.stores, report.now.providers, strict=True))
    kept = report.retentions["as it is"][0]
    flow = _all(report)
    rows = _rows("", "", "a year", "for", money_at=(1,))
    work = f"{assumed.setup_hours:g} h of work at {money(assumed.hour_of_work)}, spread over {assumed.years:g} years"
    rows.add_row("[bold]Starting[/]", f"[bold]{money(each.starting)}[/]", work)
    rows.add_row("[bold]Running[/]", f"[bold]{money(each.running)}[/]", escape(places))
    rows.add_row("  processing", money(each.processing), machines)
    rows.add_row("  storage", money(each.storage), f"{size(kept.bytes)} on each store once retention has run its time")
    rows.add_row(
        "  requests", money(each.requests), f"{_big(flow.put)} puts, {_big(flow.get)} gets, {_big(flow.list)} lists"
    )
    rows.add_row(
        "  transfer", money(each.transfer), f"{size(flow.bytes_out)} to the stores, {size(flow.bytes_in)} back"
    )
    rows.add_row("[bold]Possible disasters[/]", f"[bold]{money(each.disasters)}[/]",
                 f"expected, at {assumed.disasters_per_year:g} a year")  # fmt: skip
    rto = report.rtos[report.now.standby]
    back = f"back in {short(rto.seconds)}" if rto.seconds is not None else "RTO not known, and not counted"
    rows.add_row("  recovered", money(each.recovered), f"{back}; {_lost(report)}")
    rows.add_row("  irrecoverable", money(each.irrecoverable), "the primary and two of the three stores at once")
    rows.add_section()
    rows.add_row("[bold]In all[/]", f"[bold]{money(each.total)}[/]", "")
    return rows


def _lost(report: Report) -> str:
    if not report.now.rpo_s:
        return "nothing saved is lost"
    lost = lost_changes(report.measured, report.now)
    return f"the last {short(report.now.rpo_s)} may be lost, at least {money(lost)} changes"


def _all(report: Report) -> Flow:
    return total({f"{store} {purpose}": flow for store, purposes in report.measured.flows.items()
                  for purpose, flow in purposes.items()})  # fmt: skip


def _big(number: float) -> str:
    """``950``, ``12 k``, ``3.4 million``."""
    for least, name in ((1e9, "billion"), (1e6, "million"), (1e3, "k")):
        if number >= least:
            value = number / least
            return f"{value:.1f} {name}" if value < 10 else f"{value:.0f} {name}"
    return f"{number:.0f}"


def _purposes(report: Report) -> Table:
    """What the requests are for, over all stores."""
    by_purpose: dict[str, tuple[Flow, float]] = {}
    providers = dict(zip(report.now.stores, report.now.providers, strict=True))
    for store, purposes in report.measured.flows.items():
        at = providers[store]
        for purpose, flow in purposes.items():
            before, paid = by_purpose.get(purpose, (Flow(), 0.0))
            by_purpose[purpose] = (before.plus(flow), paid + requests_cost(flow, at))
    rows = _rows("What the requests are for (all stores, a day)", "purpose", "puts", "gets", "lists", "sent", "read",
                 "a year", money_at=(1, 2, 3, 4, 5, 6))  # fmt: skip
    dearest = sorted(by_purpose.items(), key=lambda each: (-each[1][1], -each[1][0].put))
    for purpose, (flow, paid) in dearest[:_SHOWN_PURPOSES]:
        day = flow.times(86400 / YEAR_S)
        rows.add_row(purpose, _big(day.put), _big(day.get), _big(day.list), size(day.bytes_out), size(day.bytes_in),
                     money(paid))  # fmt: skip
    return rows


def _ways(report: Report) -> list[Table | str]:
    rows = _rows("Durability and standby, with the stores as they are", "", "running", "disasters", "in all", "RPO",
                 "RTO", money_at=(1, 2, 3, 4, 5))  # fmt: skip
    known = [name for name in report.ways if report.rtos[name.rpartition(", ")[2]].seconds is not None]
    cheapest_way = min(known, key=lambda name: report.ways[name].total, default="")
    for name, each in report.ways.items():
        durability, standby = name.split(", ")
        rto = report.rtos[standby].seconds
        here = " (yours)" if (durability, standby) == (report.now.durability, report.now.standby) else ""
        mark = "[green]" if name == cheapest_way else ""
        rows.add_row(
            f"{mark}{name}{here}", money(each.running), money(each.disasters), f"{mark}{money(each.total)}",
            "0" if durability == "sync" else short(report.now.lag_s), short(rto) if rto is not None else "?",
        )  # fmt: skip
    why = [f"RTO {standby}: {escape(rto.why)}." for standby, rto in report.rtos.items()]
    guess = [] if report.measured.warm else ["The warm standby's requests are an estimate: none was counted here."]
    if len(known) < len(report.ways):
        guess.append(
            "Where the RTO is not known, no hour without the CRM is counted: that sum is too small, not cheap."
        )
    guess.append("Async loses at least what is counted: by log entries, which changes under load share.")
    return [rows, *why, *guess,
            "Sync and async ask the stores for the same: what async saves is waiting, not requests."]  # fmt: skip


def _providers(report: Report) -> Table:
    rows = _rows("One store at each provider, at your pace", "provider", "storage", "requests", "transfer", "machine",
                 "in all", "", money_at=(1, 2, 3, 4, 5))  # fmt: skip
    mine = {each.key for each in report.now.providers}
    for key, (provider, each) in sorted(report.providers.items(), key=lambda item: item[1][1].running):
        note = "yours" if key in mine else "" if provider.may_vote else "ask check"
        rows.add_row(key, money(each.storage), money(each.requests), money(each.transfer), money(each.processing),
                     money(each.running), note)  # fmt: skip
    rows.caption = "ask check: it may not offer what a vote rests on; threefold check tells."
    rows.caption_justify = "left"
    return rows


def _retentions(report: Report) -> Table:
    rows = _rows("Retention", "", "snapshots", "log", "on each store", "storage a year", money_at=(1, 2, 3, 4))
    for name, (kept, each) in report.retentions.items():
        rows.add_row(name, str(kept.snapshots), f"{kept.wal_days:.0f} d", size(kept.bytes), money(each.storage))
    rows.caption = "The log is kept from the oldest snapshot on, so old snapshots keep old log."
    rows.caption_justify = "left"
    return rows


def _verdict(report: Report) -> list[Table | str]:
    wanted = report.wanted
    asked = " and ".join(
        f"{name} {short(value)}" for name, value in (("RPO", wanted.rpo_s), ("RTO", wanted.rto_s)) if value is not None
    )
    best = cheapest(report.considered)
    if best is None:
        lines: list[Table | str] = [f"[red]No combination keeps to {asked}.[/]"]
    else:
        lines = [
            (
                f"[bold green]The cheapest that keeps to {asked}:[/] {best.choice.durability}, "
                f"{best.choice.standby} standby, on {_where(best)}: {money(best.costs.total)} a year."
            )
        ]
    cheaper = [each for each in report.considered if each.misses and (best is None or _before(each, best))]
    if cheaper:
        lines.append("Cheaper, and not enough:" if best else "What there is:")
        lines += [
            f"  {money(each.costs.total)}: {each.choice.durability}, {each.choice.standby}, {_where(each)}: "
            f"{'; '.join(each.misses)}"
            for each in cheaper
        ]
    elif best is not None:
        lines.append("Nothing cheaper was passed over.")
    return lines


def _before(each: Considered, best: Considered) -> bool:
    return each.costs.total < best.costs.total


def _where(each: Considered) -> str:
    return ", ".join(provider.key for provider in each.choice.providers)


def _assumed(report: Report) -> list[str]:
    own = report.assumed
    kept = report.measured.growth
    entries = _big(report.measured.entries * 86400 / YEAR_S)
    assumed = (
        "[bold]Assumed, not measured[/] ([dim]\\[cost] of threefold.toml takes your own[/]): "
        f"{own.disasters_per_year:g} disasters a year; an hour without the CRM {money(own.hour_of_downtime)}; "
        f"a lost change {money(own.lost_change)}; all data {money(own.everything)}; "
        f"a provider loses its copy with {own.store_lost_per_year:g} a year."
    )
    measured = (
        f"[bold]Measured:[/] a snapshot {size(kept.base)}, each further one {size(kept.delta)}, "
        f"one every {span(kept.interval_days * 86400)}; {size(kept.wal_day)} of log a day in {entries} entries."
    )
    return [assumed, measured]
