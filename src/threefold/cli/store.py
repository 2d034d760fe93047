"""`threefold store`: the three stores looked after: scrub, repair, lock, status."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Final

import typer
from rich.table import Table

from threefold.bootstrap import Parts, named_of, open_parts, renewal_of
from threefold.cli.common import ask_opener, execute
from threefold.cli.options import Given, opens_the_stores
from threefold.cli.output import Output
from threefold.cli.store_replace import replace
from threefold.cli.words import count, moment, size, span, table
from threefold.kernel.errors import BadInput, Damaged, Unavailable
from threefold.kernel.wraps import Opener
from threefold.settings import Settings
from threefold.upkeep.inventory import Inventory, take_inventory
from threefold.upkeep.listing import Holding
from threefold.upkeep.renew import Renewed
from threefold.upkeep.score import FORMULA
from threefold.upkeep.scrub import Scrub, ScrubReport

app = typer.Typer(help="Look after the three stores.", no_args_is_help=True)
app.command()(replace)

_RATE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kKMG]?)B?(?:/s)?")
_UNITS: Final = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9}
_SHOWN: Final = 40

Rate = Annotated[
    str | None,
    typer.Option(
        help="At most so many bytes a second from and to each store. Absent: as fast as it goes.", metavar="20MB/s"
    ),
]


def rate_of(text: str | None) -> float | None:
    """``20MB/s``, ``500kB/s``. Raises BadInput."""
    if text is None:
        return None
    match = _RATE.fullmatch(text.strip())
    if match is None or float(match[1]) <= 0:
        raise BadInput(f"not a rate: {text!r}", hint="a rate reads like 20MB/s or 500kB/s")
    return float(match[1]) * _UNITS[match[2]]


@app.command()
@opens_the_stores
def scrub(
    given: Given,
    rate: Rate = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="From the beginning, also where one was stopped.")] = False,
) -> None:
    """Read and verify everything on every store, and mend what is missing or damaged from the other stores.

    It may run beside a DRaaS server. Stopped, it goes on where it was. Exit code 1 if something is whole on no store.

    [bold]Example:[/] threefold store scrub --rate 20MB/s
    """
    work = _scrub(given.settings(), given.output, given.opener(), rate_of(rate), None, fresh=fresh)
    execute(work, given.output)


@app.command()
@opens_the_stores
def repair(
    given: Given,
    store: Annotated[str, typer.Argument(help="The store to repair.", metavar="STORE")],
    rate: Rate = None,
) -> None:
    """Bring one store up to date: what the others list and it lacks, and what the last scrub found damaged on it.

    [bold]Example:[/] threefold store repair S2 --rate 50MB/s
    """
    work = _scrub(given.settings(), given.output, given.opener(), rate_of(rate), store, fresh=True)
    execute(work, given.output)


@app.command()
@opens_the_stores
def lock(given: Given) -> None:
    """Make the retention locks of all that is needed longer, now; `threefold protect` does so by itself.

    For what lay there before [locks] was set, and where no DRaaS server runs. Exit code 1 if something is not locked.

    [bold]Example:[/] threefold store lock
    """
    execute(_lock(given.settings(), given.output, given.opener()), given.output)


@app.command()
@opens_the_stores
def status(given: Given) -> None:
    """What each store holds, what the last scrub found on it, how it answers, and a score to choose by.

    [bold]Example:[/] threefold store status --json
    """
    execute(_status(given.settings(), given.output, given.opener()), given.output)


async def _scrub(
    found: Settings, output: Output, opener: Opener | None, rate: float | None, only: str | None, *, fresh: bool
) -> None:
    progress = output.progress()
    async with open_parts(found, opener=opener, ask=ask_opener, verb="store") as parts:
        work = Scrub(parts.stores, parts.keyring, parts.clock, parts.health, progress, bytes_per_second=rate)
        try:
            report = await (work.everything(fresh=fresh) if only is None else work.repair(only))
        finally:
            output.finish(progress)
    output.result(_facts(report), *_human(report, only))
    if report.lost:
        raise _loss(report)


def _facts(report: ScrubReport) -> dict[str, Any]:
    return {**asdict(report), "unmended": len(report.unmended)}


def _loss(report: ScrubReport) -> Damaged:
    named = ", ".join(report.lost[:3]) + (f" and {len(report.lost) - 3} more" if len(report.lost) > 3 else "")
    point = report.newest_point
    if point is None:
        return Damaged(f"whole on no store: {named}", hint="bring back a store that is away, then scrub again")
    return Damaged(
        f"whole on no store: {named}",
        hint=f"the newest recovery point that can be had is {point.lsn}, from snapshot {point.snapshot}: "
        f"`threefold recover --to {point.lsn} --snapshot {point.snapshot}`; take a new snapshot now",
    )


def _human(report: ScrubReport, only: str | None) -> list[Table | str]:
    rows = table("store", "verified", "", "missing", "damaged", "not read", "mended", "")
    for name, objects in report.objects.items():
        counts = report.counts.get(name, {})
        rows.add_row(
            name,
            count(objects, "object"),
            size(report.bytes[name]),
            *(str(counts.get(what, 0)) for what in ("missing", "damaged", "unknown", "mended")),
            f"[red]does not answer: {report.away[name]}[/]" if name in report.away else "",
        )
    lines: list[Table | str] = [*report.notes, rows]
    left = report.unmended
    if not left:
        whole = "Everything that was read is whole" if only is None else f"{only} lacks nothing that the others have"
        lines.append(f"[green]{whole}[/] ({span(report.seconds)}).")
        return lines
    lines.append(f"[yellow]{count(len(left), 'copy' if len(left) == 1 else 'copie')} could not be mended:[/]")
    lines += [f"  {each.store} {each.key}: {each.what}; {each.why}" for each in left[:_SHOWN]]
    if len(left) > _SHOWN:
        lines.append(f"  and {len(left) - _SHOWN} more: --json names them")
    return lines


async def _lock(found: Settings, output: Output, opener: Opener | None) -> None:
    if not found.locked_stores:
        raise BadInput("nothing is to be locked", hint='[locks] period = "30d" in threefold.toml')
    progress = output.progress()
    async with open_parts(found, opener=opener, ask=ask_opener, verb="store") as parts:
        renewal = renewal_of(parts, progress, once=True)
        try:
            done = await renewal.everything() if renewal else Renewed(parts.clock.now())
        finally:
            output.finish(progress)
    rows = table("store", "locked", "made longer now", "not locked", "")
    for name in found.locked_stores:
        failed = done.failed.get(name, [])
        numbers = (done.locked.get(name, 0), done.longer.get(name, 0), len(failed))
        rows.add_row(name, *map(str, numbers), f"[red]{done.why[name]}[/]" if name in done.why else "")
    output.result(asdict(done), *done.notes, rows, f"What was made longer holds until {moment(done.until)}.")
    if done.failed:
        name, keys = next(iter(done.failed.items()))
        raise Unavailable(
            f"{name} does not lock {count(len(keys), 'object')}, {keys[0]} first: {done.why[name]}",
            hint="`threefold check` tries a lock and says what is wrong",
        )


async def _status(found: Settings, output: Output, opener: Opener | None) -> None:
    async with open_parts(found, opener=opener, ask=ask_opener, verb="look") as parts:
        inventory = await take_inventory(parts.all_stores, parts.keyring, parts.clock, parts.health)
        roles = _roles(parts)
    scrub = inventory.scrub
    facts = {
        "stores": [{**asdict(each), "role": roles[each.name]} for each in inventory.stores],
        "scrub": {"run": scrub.run, "started": scrub.started, "at": scrub.at, "finished": scrub.finished},
        "score_formula": FORMULA,
    }
    output.result(facts, *_status_tables(inventory, roles))


def _roles(parts: Parts) -> dict[str, str]:
    """member, or what a store is while one is replaced: learner (is filled), joint (joins next), left, leaving."""
    now, named = parts.membership, named_of(parts.settings)
    roles = dict.fromkeys(parts.all_stores, "member")
    for name in parts.all_stores.keys() - parts.stores.keys():
        roles[name] = "joint" if now.is_joint else "learner"
        if name == named.leaving or (now.is_joint and name == now.leaving):
            roles[name] = "leaving" if now.is_joint else "left"
    return roles


def _status_tables(inventory: Inventory, roles: Mapping[str, str]) -> list[Table | str]:
    rows = table(
        "store",
        "",
        "objects",
        "log",
        "wal",
        "packs",
        "manifests",
        "missing",
        "damaged",
        "answered",
        "p50",
        "p99",
        "score",
    )
    for each in inventory.stores:
        holds = [each.holds.get(purpose, Holding()) for purpose in ("log", "wal", "packs", "manifests")]
        score = each.score
        rows.add_row(
            each.name,
            roles[each.name],
            str(sum(held.objects for held in each.holds.values())) + (" [red]?[/]" if each.trouble else ""),
            *(size(held.bytes) for held in holds),
            *(str(each.found.get(what, 0)) for what in ("missing", "damaged")),
            f"{100 * score.answered:.2f} %" if score else "",
            f"{each.today.p50_ms:.1f} ms",
            f"{each.today.p99_ms:.1f} ms",
            f"{score.score:.0f}" if score else "",
        )
    scrub = inventory.scrub
    last = "Never scrubbed: `threefold store scrub` verifies everything."
    if scrub.run:
        last = f"Last scrub began {scrub.started}, " + (
            "finished." if scrub.finished else f"stopped in {scrub.prefix}/."
        )
    troubles = [f"[red]{each.name} does not list fully:[/] {each.trouble}" for each in inventory.stores if each.trouble]
    return [rows, *troubles, last, f"Score: {FORMULA}, over 30 days."]
