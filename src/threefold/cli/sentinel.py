"""`threefold sentinel`: another pair of eyes, anywhere."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
from pathlib import Path
from typing import Annotated

import typer

from threefold import telemetry
from threefold.bootstrap import conninfo_of, open_parts
from threefold.cli.common import execute, settings
from threefold.cli.options import CONFIG, Config, Json, Quiet
from threefold.cli.output import Output
from threefold.failover.sentinel import keep_watch
from threefold.failover.watch import Target, Vantage, Watch
from threefold.kernel.errors import BadInput
from threefold.settings import Settings
from threefold.settings_values import duration

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


def sentinel(
    name: Annotated[
        str | None,
        typer.Option(
            help="What it is called in every verdict; no two alike. This host's name if absent.", metavar="NAME"
        ),
    ] = None,
    site: Annotated[
        str | None,
        typer.Option(
            help="Where it stands. Absent: the primary's site where the primary's data folder is on this machine, "
            "otherwise a third place.",
            metavar="SITE",
        ),
    ] = None,
    every: Annotated[
        str, typer.Option(help="How often it writes its report into each store; readers expect one a second.")
    ] = "1s",
    writes: Annotated[
        str, typer.Option(help="How often it tries a commit of nothing on the active primary; 0s: never.")
    ] = "10s",
    config: Config = CONFIG,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Look at the primary, the DRaaS server and the stores from here, and report it in the stores.

    Runs until it is told to stop, and decides nothing: it is what tells a dead site from a cut line. Put one beside
    the primary and one at a third place.

    [bold]Example:[/] threefold sentinel --name office-door --site karachi-office
    """
    output = Output(as_json, quiet)
    found = settings(config, output)
    called = name or _name_of_host()
    if _NAME.fullmatch(called) is None:
        raise BadInput(
            f"a sentinel cannot be called {called!r}", hint="lower case, digits and hyphens: --name office-1"
        )
    period, write_period = _seconds("--every", every), _seconds("--writes", writes)
    if not 0.2 <= period <= 10:
        raise BadInput(
            "--every is between 200ms and 10s", hint="readers take a sentinel for silent after a few seconds"
        )
    place = _site(found) if site is None else site
    execute(_sentinel(found, output, called, place, period, write_period), output, logs=True)


async def _sentinel(found: Settings, output: Output, name: str, site: str, period: float, writes: float) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with open_parts(found, verb="sentinel") as parts:
        targets = [
            Target(each.name, conninfo_of(found, each.dsn), each.data_dir if _is_here(each.data_dir) else None)
            for each in found.sites()
        ]
        vantage = Vantage(name, site, parts.clock.new_id())
        watch = Watch(
            vantage,
            targets,
            parts.stores,
            parts.keyring,
            parts.clock,
            publishes=True,
            reads_reports=False,
            write_period_s=writes,
            period_s=period,
        )
        await keep_watch(watch, telemetry.report, stop)
    output.result({"stopped": True, "sentinel": name}, f"the sentinel {name} has stopped")


def _site(found: Settings) -> str:
    home = found.sites()[0]
    return home.name if _is_here(home.data_dir) else ""


def _is_here(data_dir: Path | None) -> bool:
    try:
        return data_dir is not None and data_dir.exists()
    except OSError:  # it is, and we may not look into the folder above it
        return True


def _name_of_host() -> str:
    return re.sub(r"[^a-z0-9-]+", "-", socket.gethostname().lower()).strip("-")[:63]


def _seconds(option: str, text: str) -> float:
    try:
        return duration(text).total_seconds()
    except ValueError as error:
        raise BadInput(f"{option}: {error}") from None
