"""`threefold recover`: from the stores to a PostgreSQL that takes writes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from threefold.bootstrap import open_parts
from threefold.cli import words
from threefold.cli.common import ask_opener, execute
from threefold.cli.options import Given, opens_the_stores
from threefold.cli.output import Output
from threefold.cli.words import size, span
from threefold.kernel.errors import BadInput
from threefold.kernel.memory import keep_large_blocks
from threefold.kernel.wraps import Opener
from threefold.recover.recover import Recovery, Serving
from threefold.recover.recover import recover as recover_now
from threefold.recover.targets import Target, parse_target
from threefold.settings import Settings

_PHASES = {
    "plan": "find the recovery point",
    "restore": "fetch the snapshot",
    "wal": "fetch the log",
    "replay": "replay, start, promote",
}


@opens_the_stores
def recover(
    given: Given,
    into: Annotated[Path | None, typer.Option(help="A new or empty folder for the database.", metavar="DIR")] = None,
    to: Annotated[
        str, typer.Option(help="latest; a time with its zone; an LSN; name:POINT; immediate.", metavar="TARGET")
    ] = "latest",
    from_store: Annotated[
        str | None, typer.Option("--from", help="Use this store alone, and say what that proves.", metavar="STORE")
    ] = None,
    snapshot: Annotated[str | None, typer.Option(help="Start from this snapshot, not the best one.")] = None,
    start: Annotated[bool, typer.Option("--start", help="Start PostgreSQL and promote it.")] = False,
    port: Annotated[int, typer.Option(help="Where the recovered server listens.")] = 5432,
    tablespace: Annotated[
        list[str] | None,
        typer.Option(help="Put the tablespace with this OID elsewhere. Repeat it for each.", metavar="OID=DIR"),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="With --start: lay a setting over the primary's, where this machine lacks something. Repeat it.",
            metavar="NAME=VALUE",
        ),
    ] = None,
) -> None:
    """Restore the database from the stores: the last snapshot and every change after it.

    Needs two of the three stores, or one with --from. Nothing in the stores is changed. A recovery that was
    interrupted is gone on with by running the same command again.

    [bold]Examples:[/]

    threefold recover --into /srv/crm --start

    threefold recover --to 2026-11-22T10:15:00Z --into /srv/before-the-mistake --start --port 5433
    """
    output = given.output
    target = parse_target(to)
    found = given.settings()
    folder = into or (found.path(found.recovery.data_dir) if found.recovery.data_dir else None)
    if folder is None:
        raise BadInput("where to is not said", hint="--into DIR, or [recovery] data_dir in threefold.toml")
    if setting and not start:
        raise BadInput("--set changes how the server is started", hint="add --start")
    places = dict(_tablespace(each) for each in tablespace or [])
    settings_over = dict(_setting(each) for each in setting or [])
    keep_large_blocks()
    execute(
        _recover(
            found,
            output,
            target=target,
            into=folder,
            only=from_store,
            snapshot=snapshot,
            tablespaces=places,
            port=port if start else None,
            settings_over=settings_over,
            opener=given.opener(),
        ),
        output,
    )


async def _recover(
    found: Settings,
    output: Output,
    *,
    target: Target,
    into: Path,
    only: str | None,
    snapshot: str | None,
    tablespaces: dict[int, Path],
    port: int | None,
    settings_over: dict[str, str],
    opener: Opener | None,
) -> None:
    progress = output.progress()
    async with open_parts(found, opener=opener, ask=ask_opener, verb="recover") as parts:
        try:
            done = await recover_now(
                stores=parts.stores,
                keyring=parts.keyring,
                clock=parts.clock,
                progress=progress,
                target=target,
                into=into,
                only=only,
                snapshot=snapshot,
                tablespaces=tablespaces,
                start=Serving(parts.binaries, port, settings=settings_over) if port is not None else None,
            )
            if done.promoted:
                parts.keeper.recovered(sum(done.seconds.values()), done.bytes_fetched)
        finally:
            output.finish(progress)
    output.result(facts(done), table(done), sentence(done, port))


def facts(done: Recovery) -> dict[str, Any]:
    return {
        "into": done.into,
        "target": done.target,
        "snapshot": done.snapshot,
        "postgresql": done.major,
        "wal": {"start": done.wal_start, "end": done.wal_end},
        "timeline": done.promoted.timeline if done.promoted else done.timeline,
        "recovered_to": done.promoted.at if done.promoted else None,
        "last_commit": done.promoted.last_commit if done.promoted else None,
        "bytes_fetched": done.bytes_fetched,
        "bytes_from": dict(done.bytes_from),
        "seconds": dict(done.seconds),
        "pid": done.server.pid if done.server else None,
        "port": done.server.port if done.server else None,
        "notes": list(done.notes),
    }


def table(done: Recovery) -> Table:
    rows = words.table("phase", "took", title="Recovery")
    rows.columns[1].justify = "right"
    for phase, seconds in done.seconds.items():
        rows.add_row(_PHASES.get(phase, phase), span(seconds))
    rows.add_section()
    rows.add_row("in all", span(sum(done.seconds.values())))
    return rows


def sentence(done: Recovery, port: int | None) -> str:
    came = ", ".join(f"{size(count)} from {name}" for name, count in done.bytes_from.items() if count)
    lines = [f"[bold]{done.into}[/] holds the database ({came or 'nothing to fetch'})."]
    if done.promoted:
        commit = f"; its last commit was at {done.promoted.last_commit}" if done.promoted.last_commit else ""
        lines.append(f"It takes writes on port {port}, timeline {done.promoted.timeline}{commit}.")
        lines.append("It is not protected yet: point \\[system] dsn at it and start `threefold protect`.")
    else:
        lines.append("It was not started: start PostgreSQL on it, and it replays the log by itself.")
    return "\n".join(lines)


def _tablespace(text: str) -> tuple[int, Path]:
    oid, _, folder = text.partition("=")
    if not oid.isdecimal() or not folder:
        raise BadInput(f"not a tablespace: {text!r}", hint="it reads like 16390=/srv/fast")
    return int(oid), Path(folder)


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise BadInput(f"not a setting: {text!r}", hint="it reads like ssl=off")
    return name, value
