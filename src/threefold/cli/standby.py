"""`threefold standby`: the agent of a site. It keeps the copy, watches, and carries out the switches to its site."""

from __future__ import annotations

import asyncio
import signal
from typing import Annotated

import typer

from threefold import telemetry
from threefold.bootstrap import open_parts
from threefold.bootstrap_failover import agent_of, data_dir_of, one_agent, site_of
from threefold.cli.common import execute, settings
from threefold.cli.options import CONFIG, Config, Json, Quiet
from threefold.cli.output import Output
from threefold.kernel.progress import Silent
from threefold.settings import Settings, Site


def standby(
    site: Annotated[str | None, typer.Option(help="Of this site; the recovery site if absent.", metavar="NAME")] = None,
    rebuild: Annotated[
        bool,
        typer.Option(
            "--rebuild",
            help="A data folder here that is not a copy of the log, such as an old primary's, is made one; "
            "what differs is fetched from the stores. No server may run on it.",
        ),
    ] = False,
    config: Config = CONFIG,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Keep a copy of the database ready at a site, watch the active one, and take over when it comes to that.

    Runs until it is told to stop; PostgreSQL goes on without it, and the next one adopts it. Who decides about a
    switch is said by [failover] policy.

    [bold]Examples:[/]

    threefold standby --config /etc/threefold.toml

    threefold standby --site karachi-office --rebuild
    """
    output = Output(as_json, quiet)
    found = settings(config, output)
    execute(_standby(found, output, site_of(found, site), rebuild=rebuild), output, logs=True)


async def _standby(found: Settings, output: Output, site: Site, *, rebuild: bool) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with open_parts(found, verb="standby") as parts:
        with one_agent(data_dir_of(found, site)):
            agent = await agent_of(parts, site, Silent(), telemetry.report, rebuild=rebuild)
            work = asyncio.create_task(agent.run())
            told = asyncio.create_task(stop.wait())
            try:
                await asyncio.wait({work, told}, return_when=asyncio.FIRST_COMPLETED)
                if work.done():
                    await work
            finally:
                for task in (work, told):
                    task.cancel()
                await asyncio.gather(work, told, return_exceptions=True)
    output.result({"stopped": True, "site": site.name}, f"the agent of {site.name} has stopped; its PostgreSQL runs on")
