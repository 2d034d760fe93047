"""`threefold snapshot`: a base backup of the primary into the stores, now."""

from __future__ import annotations

from rich.table import Table

from threefold.bootstrap import open_parts, where_of
from threefold.cli.common import execute, settings
from threefold.cli.options import CONFIG, Config, Json, Quiet
from threefold.cli.output import Output
from threefold.cli.words import facts_table, moment, size, span
from threefold.kernel.errors import BadInput, Unavailable
from threefold.postgres.replication import ReplicationLink
from threefold.protect.beacon import read_leader
from threefold.protect.settled import until_settled
from threefold.protect.snapshot import SnapshotInfo, take_snapshot
from threefold.settings import Settings
from threefold.vault.chunk_store import Vault


def snapshot(config: Config = CONFIG, as_json: Json = False, quiet: Quiet = False) -> None:
    """Take a base backup of the primary into the three stores.

    The primary goes on working; what the stores hold already is not sent again. `threefold protect` has to run: a
    snapshot counts only together with the log that belongs to it.

    [bold]Example:[/] threefold snapshot
    """
    output = Output(as_json, quiet)
    execute(_snapshot(settings(config, output), output), output)


async def _snapshot(found: Settings, output: Output) -> None:
    progress = output.progress()
    async with open_parts(found) as parts:
        if await read_leader(parts.stores, parts.keyring) is None:
            raise Unavailable(
                "the stores hold no DRaaS server's beacon",
                hint="start `threefold protect`; `threefold status` says more",
            )
        where = await where_of(parts)()
        if where.primary is None:
            raise BadInput(
                f"how to reach {where.site}, the active site, is not known here", hint="see its own settings"
            )
        link = await ReplicationLink.connect(where.primary.dsn, application_name="threefold snapshot")
        async with link:
            try:
                identity = await link.identify()
                vault = Vault(parts.stores, parts.keyring, parts.clock, note=progress.note)
                taken = await take_snapshot(
                    link,
                    vault,
                    settled=lambda lsn: until_settled(parts.stores, parts.keyring, parts.clock, identity, lsn),
                    clock=parts.clock,
                    progress=progress,
                )
            finally:
                output.finish(progress)
    output.result(facts(taken), table(taken))


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
