"""`threefold status`: how it stands, from what the leader and the stores say."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Any

from rich.table import Table

from threefold.bootstrap import open_parts
from threefold.cli import status_sites
from threefold.cli.common import ask_opener, execute
from threefold.cli.list_points import facts as points_facts
from threefold.cli.list_points import recovery_points
from threefold.cli.options import Given, opens_the_stores
from threefold.cli.output import Output
from threefold.cli.words import facts_table, moment, size, span, table
from threefold.kernel.errors import Damaged, Unavailable
from threefold.kernel.wraps import Opener
from threefold.protect.beacon import SILENCE_S, LeaderStatus, read_leader
from threefold.quorum.reader import Extent
from threefold.settings import Settings
from threefold.vault.chunk_store import Catalogue

_STATES = {
    "streaming": "[green]protected[/]: every confirmed change is on two of three stores",
    "waiting-for-stores": "[red]commits wait[/]: too few stores answer",
    "spooling": "[red]RPO > 0[/]: too few stores answer, commits are kept on the DRaaS server's own disk",
    "waiting-for-primary": "[yellow]no connection to the primary[/]",
    "between-epochs": "[yellow]a new epoch begins[/]",
    "stopped": "[yellow]stopped in good order[/]: commits wait until a DRaaS server runs",
}
_COLOURS = {"voting": "green", "behind": "yellow", "filling": "yellow", "silent": "red", "lost": "red"}


@opens_the_stores
def status(given: Given) -> None:
    """Who leads, how far the stores are, what could be recovered now; which site is active, and what is missing.

    [bold]Example:[/] watch threefold status
    """
    execute(_status(given.settings(), given.output, given.opener()), given.output)


async def _status(found: Settings, output: Output, opener: Opener | None) -> None:
    async with open_parts(found, opener=opener, ask=ask_opener, verb="status") as parts:
        leader = await read_leader(parts.stores, parts.keyring)
        age = (parts.clock.now() - datetime.fromisoformat(leader.at)).total_seconds() if leader else 0.0
        extent: Extent | None = None
        catalogue = Catalogue((), {}, (), ())
        trouble = ""
        sites = await status_sites.sites_of(parts)
        try:
            extent, catalogue = await recovery_points(parts, output)
        except (Damaged, Unavailable) as error:  # who leads, and where, is worth as much then
            trouble = error.message
    facts: dict[str, Any] = {
        "system": found.system.name,
        "site": found.system.site,
        "leader": {**asdict(leader), "settled": leader.settled, "received": leader.received} if leader else None,
        "beacon_age_seconds": round(age, 1) if leader else None,
        **points_facts(extent, catalogue),
        "trouble": trouble,
        **status_sites.facts(sites),
    }
    output.result(facts, *_human(found, leader, age, extent, catalogue, trouble), *status_sites.human(sites))


def _human(
    found: Settings, leader: LeaderStatus | None, age: float, extent: Extent | None, catalogue: Catalogue, trouble: str
) -> list[Table | str]:
    name = f"[bold]{found.system.name}[/]" + (f" at {found.system.site}" if found.system.site else "")
    if leader is None:
        lines: list[Table | str] = [f"{name}: nothing protects it yet. Start: threefold protect (or threefold up)"]
    else:
        lines = [f"{name}: {_state(leader, age)}", _leader_table(leader, age), _stores_table(leader)]
    if trouble:
        lines.append(f"[red]What could be recovered is not known now:[/] {trouble}")
    elif not catalogue.summaries:
        lines.append("No snapshot yet: without one nothing can be recovered. Take one: threefold snapshot")
    else:
        last = catalogue.summaries[-1]
        end = f", the log goes on to {extent.end}" if extent else ""
        lines.append(f"Last snapshot {moment(last.stopped)} ({size(last.size)}){end}.")
    return lines


def _state(leader: LeaderStatus, age: float) -> str:
    if leader.state != "stopped" and age > SILENCE_S:
        return f"[red]the DRaaS server fell silent[/] {span(age)} ago: commits wait until one runs"
    state = _STATES.get(leader.state, leader.state)
    return f"{state} ({leader.reason})" if leader.reason else state


def _leader_table(leader: LeaderStatus, age: float) -> Table:
    rows = facts_table()
    rows.add_row(
        "leader", f"epoch {leader.epoch} on {leader.host}, process {leader.pid}, heard {span(max(age, 0))} ago"
    )
    rows.add_row("durability", leader.durability)
    rows.add_row("on two stores", f"{leader.settled} on timeline {leader.timeline}")
    behind = leader.received - leader.settled
    rows.add_row("received", f"{leader.received}" + (f" ({size(behind)} under way)" if behind else ""))
    rows.add_row("RPO now", span(leader.rpo_seconds) if leader.rpo_seconds else "0: nothing confirmed would be lost")
    return rows


def _stores_table(leader: LeaderStatus) -> Table:
    rows = table("store", "state", "put p50", "p99", "waiting", "to fill", "puts", "")
    for line in leader.stores:
        colour = _COLOURS.get(line.state, "yellow")
        rows.add_row(
            line.name,
            f"[{colour}]{line.state}[/]",
            f"{line.p50_ms:.1f} ms",
            f"{line.p99_ms:.1f} ms",
            size(line.waiting_bytes),
            str(line.missing),
            str(leader.puts_per_store.get(line.name, 0)),
            line.reason,
        )
    return rows
