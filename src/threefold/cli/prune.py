"""`threefold prune`: what nothing needs any more goes, in two phases."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Annotated

import typer
from rich.table import Table

from threefold.bootstrap import open_parts, policy_of, still_members, thresholds_of
from threefold.cli.common import ask_opener, execute
from threefold.cli.options import Given, opens_the_stores
from threefold.cli.output import Output
from threefold.cli.words import count, facts_table, moment, size, span
from threefold.kernel.wraps import Opener
from threefold.settings import Settings
from threefold.upkeep.prune import Prune, PruneReport
from threefold.vault.retention import Policy

_SHOWN = 20


@opens_the_stores
def prune(
    given: Given,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would go and what it saves; change nothing.")
    ] = False,
) -> None:
    """Mark what no recovery point needs any more, and delete what an earlier run marked, after the grace period.

    What is needed of packs that are mostly dead is written into new ones, so that the old ones can go as well.
    Run it once a day. What is kept stands in [retention] of the settings.

    [bold]Example:[/] threefold prune --dry-run
    """
    execute(_prune(given.settings(), given.output, given.opener(), dry_run=dry_run), given.output)


async def _prune(found: Settings, output: Output, opener: Opener | None, *, dry_run: bool) -> None:
    policy = policy_of(found)
    progress = output.progress()
    async with open_parts(found, opener=opener, ask=ask_opener, verb="prune") as parts:
        try:
            work = Prune(
                parts.stores,
                parts.keyring,
                parts.clock,
                progress,
                policy,
                repack=thresholds_of(parts.settings),
                still_members=partial(still_members, parts),
            )
            report = await work.run(dry_run=dry_run)
        finally:
            output.finish(progress)
    output.result(asdict(report), *_human(report, policy))


def _human(report: PruneReport, policy: Policy) -> list[Table | str]:
    kept = facts_table("Kept")
    for name, why in sorted(report.kept.items()):
        kept.add_row(name, why)
    kept.add_row("log", f"from {report.wal_from} on" if report.wal_from else "all of it")
    lines: list[Table | str] = [kept, *report.notes]
    would = "would be " if report.dry_run else ""
    if report.dry_run and report.due:
        lines.append(
            f"{count(len(report.due), 'object')} would be deleted now, which frees {size(report.freed_bytes)}:"
        )
        lines += _some(report.due)
    elif report.deleted:
        where = ", ".join(f"{number} on {name}" for name, number in sorted(report.deleted.items()))
        lines.append(f"Deleted: {where}; {size(report.freed_bytes)} are free again.")
    lines += _repacked(report, policy)
    if report.marked:
        lines.append(
            f"{count(len(report.marked), 'object')} ({size(report.marked_bytes)}) {would}marked: nothing needs them. "
            f"A prune deletes them {span(policy.grace.total_seconds())} from now, if that is still so:"
        )
        lines += _some(report.marked)
    if report.waiting:
        lines.append(f"{count(report.waiting, 'object')} marked earlier wait for the end of the grace period.")
    if report.spared:
        lines.append(
            f"{count(len(report.spared), 'object')} marked earlier stay: they are needed again, or not there any more."
        )
    if report.locked:
        until = moment(max(report.locked.values()))
        also = f", and {report.waits_for_locked} that they need" if report.waits_for_locked else ""
        lines.append(
            f"{count(len(report.locked), 'object')} due stay under their retention lock{also}; "
            f"the first goes after {moment(min(report.locked.values()))}, the last after {until}."
        )
    for name, keys in sorted(report.held.items()):
        lines.append(f"[yellow]{name} does not let {count(len(keys), 'object')} go:[/] {keys[0]} ...")
    if not (report.marked or report.deleted or report.due or report.waiting or report.locked or report.repack.packs):
        lines.append("[green]Everything that is stored is needed.[/]")
    return lines


def _repacked(report: PruneReport, policy: Policy) -> list[str]:
    """Of packs that are needed in small part only."""
    found, lines = report.repack, []
    if found.packs and (report.dry_run or found.revised):
        would = "would be" if report.dry_run else "were"
        also = f", and with them {count(len(found.snapshots), 'manifest')}"
        lines.append(
            f"{count(len(found.packs), 'pack')}, mostly of what nothing needs, {would} written anew{also}: "
            f"{size(found.copied_bytes)} copied. When the old ones are deleted, {span(policy.grace.total_seconds())} "
            f"after they are marked, {size(found.won_bytes)} are won; until then both are there."
        )
        if found.locked_until is not None:
            lines.append(f"Some of the old ones stay under their retention lock until {moment(found.locked_until)}.")
    if found.put_off:
        lines.append(f"[yellow]Writing packs anew is put off:[/] {found.put_off}.")
    lines += [f"[yellow]Pack {pack} stays as it is:[/] {why}" for pack, why in sorted(found.left.items())]
    return lines


def _some(keys: list[str]) -> list[str]:
    more = [f"  and {len(keys) - _SHOWN} more"] if len(keys) > _SHOWN else []
    return [*(f"  {key}" for key in keys[:_SHOWN]), *more]
