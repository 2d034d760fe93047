"""`threefold eject`: out of a store, and out of Threefold."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from threefold.bootstrap import open_parts
from threefold.cli.common import ask_opener, execute
from threefold.cli.options import Given, opens_the_stores
from threefold.cli.output import Output
from threefold.cli.words import facts_table, size, span
from threefold.kernel.errors import BadInput
from threefold.kernel.wraps import Opener
from threefold.recover.eject import Ejected
from threefold.recover.eject import eject as write_out
from threefold.settings import Settings


@opens_the_stores
def eject(
    given: Given,
    store: Annotated[str, typer.Option("--store", help="The store that is read; it alone.", metavar="NAME")],
    to: Annotated[Path, typer.Option("--to", help="A new or an empty folder, or one to go on with.", metavar="DIR")],
) -> None:
    """Write out everything that one store holds as plain PostgreSQL base backups and WAL files.

    Stock tools recover from that folder without Threefold; its README.md has the commands. Interrupted, or when the
    store holds more by now: run it again.

    [bold]Example:[/] threefold eject --store S2 --to /mnt/disk/crm
    """
    execute(_eject(given.settings(), given.output, given.opener(), store, to), given.output)


async def _eject(found: Settings, output: Output, opener: Opener | None, name: str, to: Path) -> None:
    progress = output.progress()
    async with open_parts(found, opener=opener, ask=ask_opener, verb="eject") as parts:
        if name not in parts.stores:
            raise BadInput(f"there is no store {name}", hint=f"there are {', '.join(parts.stores)}")
        try:
            done = await write_out(
                store=parts.stores[name], keyring=parts.keyring, clock=parts.clock, progress=progress, to=to
            )
        finally:
            output.finish(progress)
    output.result(asdict(done), *_human(done))


def _human(done: Ejected) -> list[Table | str]:
    rows = facts_table(f"Written out from {done.store}")
    rows.add_row("into", str(done.to))
    rows.add_row("base backups", f"{len(done.snapshots)} ({size(done.bytes_fetched)} fetched in {span(done.seconds)})")
    rows.add_row("WAL", f"{done.wal_start} to {done.wal_end}, timeline {done.timeline}")
    left_out = [f"[yellow]left out:[/] {name}: {why}" for name, why in done.skipped.items()]
    return [rows, *left_out, f"How to recover from it with PostgreSQL alone: {done.to}/README.md"]
