"""`threefold demo`: the whole story on this machine in one go."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from threefold.cli.common import execute
from threefold.cli.demo_failover import failover_table, what_runs_on
from threefold.cli.demo_stage import make_narrator, outcome_table, what_is_left
from threefold.cli.options import Json, Quiet
from threefold.cli.output import Output
from threefold.demo.burning import play_failover
from threefold.demo.run import play
from threefold.kernel.clock import SystemClock
from threefold.kernel.errors import Damaged


def demo(
    folder: Annotated[
        Path | None,
        typer.Option("--dir", help="A new or empty folder to play in, which is left there.", metavar="DIR"),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running, to look around.")] = False,
    failover: Annotated[
        bool,
        typer.Option("--failover", help="The other story: the site burns while customers ask, and nobody notices."),
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the CRM's data and of what people do.")] = 1,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Protect a CRM's PostgreSQL, destroy it, recover it, and prove that nothing was lost.

    Six acts with real processes, in about two minutes; nothing outside one folder is touched. The exit code is 0
    only if every acknowledged change is there, exactly.

    With --failover: a warm copy at a second site takes over by itself while customers go on asking, and the burnt
    site is rebuilt and takes back.

    [bold]Examples:[/]

    threefold demo --keep

    threefold demo --failover
    """
    output = Output(as_json, quiet)
    work = _failover(output, folder, keep=keep) if failover else _demo(output, folder, keep=keep, seed=seed)
    execute(work, output)


async def _demo(output: Output, folder: Path | None, *, keep: bool, seed: int) -> None:
    place = folder or Path(tempfile.mkdtemp(prefix="threefold-demo-", dir="/tmp"))
    try:
        async with make_narrator(output) as narrator:
            world, outcome = await play(place, narrator, SystemClock(), seed=seed, keep=keep)
    finally:
        if folder is None and not keep:
            shutil.rmtree(place, ignore_errors=True)
    output.result(outcome.facts(), outcome_table(outcome), what_is_left(world, keep=keep, folder=folder))
    if not outcome.exact:
        raise Damaged("the recovered database is not what was promised", hint="run it again with --keep and report it")


async def _failover(output: Output, folder: Path | None, *, keep: bool) -> None:
    place = folder or Path(tempfile.mkdtemp(prefix="threefold-demo-", dir="/tmp"))
    try:
        async with make_narrator(output) as narrator:
            scene, outcome = await play_failover(place, narrator, SystemClock(), keep=keep)
    finally:
        if folder is None and not keep:
            shutil.rmtree(place, ignore_errors=True)
    facts = {**asdict(outcome), "exact": outcome.exact}
    output.result(facts, failover_table(outcome), what_runs_on(scene, keep=keep, folder=folder))
    if not outcome.exact:
        raise Damaged("the customers were promised something else", hint="run it again with --keep and report it")
