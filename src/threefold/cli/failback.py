"""`threefold failback`: the planned switch back to the primary's own site."""

from __future__ import annotations

from typing import Annotated

import typer

from threefold.cli.common import execute, settings
from threefold.cli.failover import Wanted, switch_over
from threefold.cli.options import CONFIG, Config, Json, OnlySay, Quiet, Reason
from threefold.cli.output import Output
from threefold.failover.steps import Kind
from threefold.kernel.errors import BadInput


def failback(
    dry_run: OnlySay = False,
    reason: Reason = "",
    until: Annotated[
        str, typer.Option(help="Return when the site is serving, or is protected.", metavar="STEP")
    ] = "protected",
    config: Config = CONFIG,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Switch back to the primary's site, in good order: no loss, and a pause of seconds for writes.

    The agent there has to run, and its copy has to follow: threefold standby --site NAME --rebuild makes the old
    primary's folder one, and fetches only what differs.

    [bold]Example:[/] threefold failback --dry-run
    """
    output = Output(as_json, quiet)
    found = settings(config, output)
    if until not in {"serving", "protected"}:
        raise BadInput(f"not a step to wait for: {until}", hint="--until serving, or --until protected")
    home = found.sites()[0].name
    wanted = Wanted(home, planned=True, forced=False, here=False, reason=reason, until=Kind(until), dry_run=dry_run)
    execute(switch_over(found, output, wanted, None), output)
