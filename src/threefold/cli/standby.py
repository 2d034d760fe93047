"""`threefold standby`: the agent of a site. It keeps the copy, watches, and carries out the switches to its site."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Annotated

import typer

from threefold import telemetry
from threefold.bootstrap import open_parts, store_configs
from threefold.bootstrap_failover import agent_of, data_dir_of, one_agent, site_of
from threefold.cli.common import execute, settings
from threefold.cli.options import CONFIG, Config, Json, Quiet
from threefold.cli.output import Output
from threefold.cli.rereading import Rereading
from threefold.failover.agent import Agent
from threefold.kernel.clock import SystemClock
from threefold.kernel.errors import BadInput, ThreefoldError
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
    switch is said by [failover] policy. The settings are read again when their file changes.

    [bold]Examples:[/]

    threefold standby --config /etc/threefold.toml

    threefold standby --site karachi-office --rebuild
    """
    output = Output(as_json, quiet)
    found = settings(config, output)
    execute(_standby(found, config, output, site_of(found, site), rebuild=rebuild), output, logs=True)


async def _standby(found: Settings, config: Path, output: Output, site: Site, *, rebuild: bool) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    def usable(new: Settings) -> None:
        same = new.system.name == found.system.name
        if not same or data_dir_of(new, site_of(new, site.name)) != data_dir_of(found, site_of(found, site.name)):
            raise BadInput(
                f"the agent of {site.name} cannot change the system or the data folder that it keeps",
                hint="start it again with the new settings, or put the old ones back",
            )
        store_configs(new)

    rereading = Rereading(config, usable, SystemClock(), telemetry.report)
    before: Settings | None = None
    while not stop.is_set():
        serving = _Serving(rereading, stop)
        try:
            new = await serving.run(found, site_of(found, site.name), rebuild=rebuild, goes_on=before is not None)
        except ThreefoldError as error:
            # Only where it did not come to work with them: later it would have ended with any settings.
            if before is None or serving.agent is not None:
                raise
            rereading.refused(error)
            found, before = before, None
            continue
        if new is None:
            break
        rebuild = rebuild and not serving.had_copy
        found, before = new, found
    output.result({"stopped": True, "site": site.name}, f"the agent of {site.name} has stopped; its PostgreSQL runs on")


class _Serving:
    """An agent by one reading of the settings. Its end ends neither the copy nor a PostgreSQL that serves."""

    def __init__(self, rereading: Rereading, stop: asyncio.Event) -> None:
        self._rereading = rereading
        self._stop = stop
        self.agent: Agent | None = None

    @property
    def had_copy(self) -> bool:
        return self.agent is not None and self.agent.had_copy

    async def run(self, found: Settings, site: Site, *, rebuild: bool, goes_on: bool) -> Settings | None:
        """Until it is stopped (None), or until the file holds other settings that can be used."""
        async with open_parts(found, verb="standby") as parts:
            with one_agent(data_dir_of(found, site)):
                agent = self.agent = await agent_of(
                    parts, site, Silent(), telemetry.report, rebuild=rebuild, goes_on=goes_on
                )
                work = asyncio.create_task(agent.run())
                told = asyncio.create_task(self._stop.wait())
                new = asyncio.create_task(self._rereading.changed(found, lambda: agent.between_switches))
                try:
                    await asyncio.wait({work, told, new}, return_when=asyncio.FIRST_COMPLETED)
                    if work.done():
                        await work
                    return new.result() if new.done() and not self._stop.is_set() else None
                finally:
                    for task in (work, told, new):
                        task.cancel()
                    await asyncio.gather(work, told, new, return_exceptions=True)
