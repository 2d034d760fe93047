"""`threefold verify`: whether what is stored can be restored."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from threefold.bootstrap import open_parts
from threefold.cli.common import ask_opener, execute
from threefold.cli.options import Given, opens_the_stores
from threefold.cli.output import Output
from threefold.cli.words import count, facts_table, size
from threefold.kernel.errors import BadInput, Damaged, ThreefoldError
from threefold.kernel.wraps import Opener
from threefold.recover.log import OpenLog, open_quorum_log
from threefold.recover.verify import Report, verify_stored
from threefold.settings import Settings
from threefold.vault.chunk_store import Vault


@opens_the_stores
def verify(
    given: Given,
    deep: Annotated[bool, typer.Option("--deep", help="Read, decrypt and compare every byte of every copy.")] = False,
) -> None:
    """Prove that what is stored can be restored: snapshots, packs, and a log without a gap.

    Exit code 1 if a recovery point is lost. A missing copy is reported, and is no such loss.

    [bold]Example:[/] threefold verify --deep
    """
    execute(_verify(given.settings(), given.output, given.opener(), deep=deep), given.output)


async def _verify(found: Settings, output: Output, opener: Opener | None, *, deep: bool) -> None:
    progress = output.progress()
    async with open_parts(found, opener=opener, ask=ask_opener, verb="verify") as parts:
        vault = Vault(parts.stores, parts.keyring, parts.clock, note=progress.note)
        log: OpenLog | ThreefoldError
        try:
            log = await open_quorum_log(parts.stores, parts.keyring, parts.clock, progress.note)
        except BadInput:
            raise  # the key file is another one, or an old one: that says nothing of what is stored
        except ThreefoldError as error:
            log = error
        try:
            report = await verify_stored(vault, log, progress, deep=deep)
        finally:
            output.finish(progress)
    output.result({**asdict(report), "restorable": report.restorable}, _table(report), _problems(report))
    if not report.restorable:
        raise Damaged("not everything that is stored can be restored", hint="the problems are listed above")


def _table(report: Report) -> Table:
    rows = facts_table("Stored")
    rows.add_row("snapshots", str(report.snapshots))
    rows.add_row("packs", str(report.packs))
    rows.add_row("log", f"{report.wal_start} to {report.wal_end}")
    if report.bytes_read or report.wal_bytes_read:
        rows.add_row(
            "read and compared", f"{size(report.bytes_read)} of snapshots, {size(report.wal_bytes_read)} of log"
        )
    return rows


def _problems(report: Report) -> str:
    if not report.problems:
        return "[green]Everything can be restored.[/]"
    lines = [f"{count(len(report.problems), 'problem')}:"]
    for problem in report.problems:
        grave = "[bold red]lost[/]" if problem.costs_recovery else "[yellow]copy[/]"
        where = f"{problem.store} " if problem.store else ""
        lines.append(f"  {grave} {where}{problem.key}: {problem.what}; {problem.remedy}")
    return "\n".join(lines)
