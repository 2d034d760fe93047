"""`threefold snapshot`: a base backup of the database into the stores, now."""

from __future__ import annotations

from contextlib import AsyncExitStack
from enum import StrEnum
from functools import partial
from typing import Annotated

import typer
from rich.table import Table

from threefold.bootstrap import conninfo_of, open_parts, renewal_of, still_members, where_of
from threefold.cli.common import execute, settings
from threefold.cli.options import CONFIG, Config, Json, Quiet
from threefold.cli.output import Output
from threefold.cli.words import facts_table, moment, size, span
from threefold.kernel.errors import BadInput, Refused, ThreefoldError, Unavailable
from threefold.kernel.memory import keep_large_blocks
from threefold.postgres.replication import ReplicationLink
from threefold.protect.beacon import LeaderStatus, read_leader
from threefold.protect.needed_log import snapshot_log
from threefold.protect.settled import until_settled
from threefold.protect.snapshot import Link, SnapshotInfo, ViaStandby, take_snapshot
from threefold.settings import Settings
from threefold.vault.chunk_store import Vault

_ASKED_S = 10.0
_CLOSE_BYTES = 64 * 2**20  # a standby this close replays to the snapshot's end in a moment


class Source(StrEnum):
    """Where the files come from."""

    AUTO = "auto"
    PRIMARY = "primary"
    STANDBY = "standby"


def snapshot(
    source: Annotated[
        Source,
        typer.Option(
            "--from", help="auto: the warm standby where it is there and close behind the log, else the primary."
        ),
    ] = Source.AUTO,
    config: Config = CONFIG,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Take a base backup of the database into the three stores.

    The primary goes on working, and with a warm standby is not even read; what the stores hold already is not sent
    again. `threefold protect` has to run: a snapshot counts only together with the log that belongs to it.

    [bold]Example:[/] threefold snapshot
    """
    keep_large_blocks()
    output = Output(as_json, quiet)
    execute(_snapshot(settings(config, output), output, source), output)


async def _snapshot(found: Settings, output: Output, source: Source) -> None:
    progress = output.progress()
    async with open_parts(found, verb="snapshot") as parts, AsyncExitStack() as links:
        leader = await read_leader(parts.stores, parts.keyring)
        if leader is None:
            raise Unavailable(
                "the stores hold no DRaaS server's beacon",
                hint="start `threefold protect`; `threefold status` says more",
            )
        where = await where_of(parts)()
        if where.primary is None:
            raise BadInput(
                f"how to reach {where.site}, the active site, is not known here", hint="see its own settings"
            )
        link: Link = await links.enter_async_context(await _connect(where.primary.dsn))
        if source is Source.STANDBY or (source is Source.AUTO and found.recovery.standby == "warm"):
            standby = await _standby(found, where.site, leader, links, needed=source is Source.STANDBY)
            link = link if standby is None else ViaStandby(standby, link)
        via = Source.STANDBY if isinstance(link, ViaStandby) else Source.PRIMARY
        progress.note(f"it is taken of the {via}")
        try:
            identity = await link.identify()
            vault = Vault(parts.stores, parts.keyring, parts.clock, note=progress.note)
            taken = await take_snapshot(
                link,
                vault,
                settled=lambda lsn: until_settled(parts.stores, parts.keyring, parts.clock, identity, lsn),
                needed_log=partial(snapshot_log, parts.stores, parts.keyring, parts.clock),
                clock=parts.clock,
                progress=progress,
            )
            await still_members(parts)
            renewal = renewal_of(parts)
            locked = await renewal.snapshot(vault, taken.summary.id) if renewal else None
        finally:
            output.finish(progress)
    for name, why in locked.why.items() if locked else ():
        output.warn(f"the snapshot is not locked on {name}: {why}")
    until = {"locked_until": locked.until, "locked_on": sorted(locked.locked)} if locked else {}
    output.result({**facts(taken), "from": via, **until}, table(taken))


async def _standby(
    found: Settings, active: str, leader: LeaderStatus, links: AsyncExitStack, *, needed: bool
) -> ReplicationLink | None:
    """The other site's PostgreSQL, where it is a standby of this log and, unless it is ``needed``, close behind it."""
    site = next(site for site in found.sites() if site.name != active)
    try:
        link = await links.enter_async_context(await _connect(conninfo_of(found, site.dsn)))
        at, hot = await link.identify(), await link.show("in_hot_standby")
    except ThreefoldError:
        if needed:
            raise
        return None
    ours = (at.system_id, at.timeline) == (leader.system_identifier, leader.timeline) and hot == "on"
    if not ours and needed:
        raise Refused(f"the PostgreSQL of {site.name} is no standby of this log", hint="take it --from primary")
    return link if ours and (needed or leader.settled - at.flushed <= _CLOSE_BYTES) else None


async def _connect(dsn: str) -> ReplicationLink:
    return await ReplicationLink.connect(dsn, application_name="threefold snapshot", connect_timeout_s=_ASKED_S)


def facts(taken: SnapshotInfo) -> dict[str, object]:
    summary = taken.summary
    return {
        "id": summary.id,
        "start": summary.start,
        "stop": summary.stop,
        "taken": summary.stopped,
        "bytes": summary.size,
        "bytes_sent": taken.sent,
        "chunks": taken.chunks,
        "chunks_reused": taken.chunks_reused,
        "seconds": taken.seconds,
        "missing": {store: len(keys) for store, keys in taken.missing.items()},
    }


def table(taken: SnapshotInfo) -> Table:
    summary = taken.summary
    rows = facts_table(f"Snapshot {summary.id}")
    rows.add_row("taken", f"{moment(summary.stopped)}, in {span(taken.seconds)}")
    rows.add_row("database", f"{size(summary.size)} in {summary.files} files")
    rows.add_row("sent", f"{size(taken.sent)} to each store; {taken.chunks_reused} of {taken.chunks} chunks were there")
    rows.add_row("recoverable from", f"{summary.stop} on timeline {summary.timeline}")
    for store, keys in taken.missing.items():
        rows.add_row(f"[yellow]{store}[/]", f"lacks {len(keys)} objects for now; they are filled in")
    return rows
