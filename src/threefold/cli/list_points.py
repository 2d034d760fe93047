"""`threefold list`: what can be recovered, from when until when."""

from __future__ import annotations

import asyncio
from typing import Any

from rich.table import Table

from threefold.bootstrap import Parts, open_parts
from threefold.cli.common import ask_opener, execute
from threefold.cli.options import Given, opens_the_stores
from threefold.cli.output import Output
from threefold.cli.words import moment, size, table
from threefold.kernel.errors import NotThere
from threefold.kernel.wraps import Opener
from threefold.quorum.reader import Extent, read_extent
from threefold.settings import Settings
from threefold.vault.chunk_store import Catalogue, Vault
from threefold.vault.revisions import original


@opens_the_stores
def list_points(given: Given) -> None:
    """Recovery points: the snapshots, and the range of the log that leads on from them.

    Reads the stores alone, so it works when the primary is gone.

    [bold]Example:[/] threefold list --json | jq .log.end
    """
    execute(_list(given.settings(), given.opener(), given.output), given.output)


async def _list(found: Settings, opener: Opener | None, output: Output) -> None:
    async with open_parts(found, opener=opener, ask=ask_opener, verb="list") as parts:
        extent, catalogue = await recovery_points(parts, output)
    if extent is None and not catalogue.summaries:
        raise NotThere("nothing was protected yet", hint="start `threefold protect`, or `threefold up`")
    output.result(facts(extent, catalogue), snapshots_table(catalogue), describe(extent, catalogue))


async def recovery_points(parts: Parts, output: Output) -> tuple[Extent | None, Catalogue]:
    """What the stores hold; no log is an answer, a log that does not read is not: Damaged."""

    async def log() -> Extent | None:
        try:
            return await read_extent(parts.stores, parts.keyring, parts.clock, output.note)
        except NotThere:
            return None

    vault = Vault(parts.stores, parts.keyring, parts.clock, note=output.note)
    extent, catalogue = await asyncio.gather(log(), vault.catalogue())
    for note in catalogue.notes:
        output.note(note)
    return extent, catalogue


def facts(extent: Extent | None, catalogue: Catalogue) -> dict[str, Any]:
    return {
        "snapshots": [
            {
                "id": original(summary.id),
                "taken": summary.stopped,
                "start": summary.start,
                "stop": summary.stop,
                "timeline": summary.timeline,
                "bytes": summary.size,
                "postgresql": summary.major,
                "on": sorted(catalogue.found_on[summary.id]),
            }
            for summary in catalogue.summaries
        ],
        "damaged": list(catalogue.damaged),
        "log": extent
        and {"start": extent.start, "end": extent.end, "timeline": extent.timeline, "epoch": extent.epoch},
    }


def snapshots_table(catalogue: Catalogue) -> Table:
    rows = table("snapshot", "taken", "from", "size", "PostgreSQL", "on", title="Snapshots")
    for summary in catalogue.summaries:
        rows.add_row(
            original(summary.id),
            moment(summary.stopped),
            f"{summary.start} (timeline {summary.timeline})",
            size(summary.size),
            str(summary.major),
            " ".join(sorted(catalogue.found_on[summary.id])),
        )
    return rows


def describe(extent: Extent | None, catalogue: Catalogue) -> str:
    """What that means, in a sentence."""
    if extent is None:
        return "The stores hold no log yet: there is nothing to replay."
    reach = f"The log goes from {extent.start} to {extent.end} on timeline {extent.timeline}, without a gap."
    if not catalogue.summaries:
        return f"{reach} There is no snapshot to start from yet: take one with `threefold snapshot`."
    first = catalogue.summaries[0]
    since = f"{moment(first.stopped)} ({first.stop})"
    return f"{reach}\nAny moment from {since} on can be recovered: threefold recover --to TIME"
