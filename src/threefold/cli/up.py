"""`threefold up`: everything of a folder, in the foreground."""

from __future__ import annotations

import asyncio
import signal
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from threefold.cli.common import execute
from threefold.cli.options import HERE, HomeFolder, Json, Quiet
from threefold.cli.output import Output
from threefold.kernel.clock import SystemClock
from threefold.kernel.errors import Unavailable
from threefold.local.home import Home
from threefold.local.lost_primary import Found, look
from threefold.local.stack import Stack

_COLOURS = {"S1": "cyan", "S2": "magenta", "S3": "yellow", "protect": "green", "crm": "blue"}


def up(
    folder: HomeFolder = HERE,
    recover: Annotated[
        bool,
        typer.Option(
            "--recover",
            help="Where DIR/primary is gone, get it back from the stores first, up to the last saved change.",
        ),
    ] = False,
    new_store: Annotated[
        str | None,
        typer.Option(
            help="Begin this store anew, because DIR/storage has lost it; it is filled from the others.",
            metavar="STORE",
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run everything of DIR on this machine: PostgreSQL, three storage servers, the DRaaS server, the CRM.

    An empty CRM gets a sample company, and the links are printed that let an administrator's device and a
    customer's in.

    Each is a process of its own, with its process id in DIR/run, so that you can kill one and watch. None is
    restarted silently. Ctrl-C stops all of them in order.

    Where DIR/primary is gone and the stores hold its database, nothing is made anew: --recover gets it back. A store
    that lost its folder begins anew with --new-store; both together work as well.

    [bold]Example:[/] threefold init crm && threefold up crm
    """
    output = Output(as_json, quiet)
    home = Home.at(folder, new_store=new_store)
    execute(_up(home, output, recover=recover, new_store=new_store), output)


async def _up(home: Home, output: Output, *, recover: bool, new_store: str | None) -> None:
    console = Console(stderr=True, highlight=False)

    def hear(who: str, line: str) -> None:
        if output.as_json:
            output.line("log", {"process": who, "line": line})
        elif not output.quiet:
            console.print(f"[{_COLOURS.get(who, 'white')}]{who:>8}[/] {escape(line)}", soft_wrap=True)

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    stack = Stack(home, SystemClock(), hear, pretty_logs=not output.as_json)
    told = asyncio.create_task(stop.wait())
    working = asyncio.create_task(_work(stack, output, recover=recover, new_store=new_store))
    try:
        await asyncio.wait({told, working}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            await working
    finally:
        for task in (told, working):
            task.cancel()
        await asyncio.gather(told, working, return_exceptions=True)
        try:
            if stack.started:
                output.note(f"stopping: {', '.join(stack.started)}")
        finally:  # where nobody reads any more, saying it fails
            await stack.stop()
    output.result({"stopped": True}, "everything is stopped; nothing that was saved is lost")


async def _work(stack: Stack, output: Output, *, recover: bool, new_store: str | None) -> None:
    output.note("starting three storage servers")
    await stack.start_stores(but=new_store)
    await stack.recover_primary(recover, output.note)
    if new_store is not None:
        new = await stack.begin_store(new_store)
        output.note(
            f"{new_store} is empty: it is filled from the others, and counts again after that (threefold status)"
            if new
            else f"{new_store} has what it held: it was not begun anew"
        )
    first = look(stack.home.primary) is Found.NOTHING
    output.note("starting PostgreSQL" + (" (the first time: making its database)" if first else ""))
    await stack.start_primary()
    output.note("starting the DRaaS server")
    await stack.start_standby()
    await stack.start_protect()
    if not (await stack.run("status"))["snapshots"]:
        output.note("taking the first snapshot")
        await stack.run("snapshot")
    people = await _crm(stack, output)
    home = stack.home
    port = home.primary_port
    facts = {
        "primary": {"port": port, "user": "postgres", "password_file": home.folder / "secrets/postgres.password"},
        "stores": {store.name: store.endpoint for store in home.settings.store},
        "processes": {name: child.pid for name, child in stack.children.items()},
        "crm": {"url": home.settings.crm.public_url, **people} if home.settings.crm else None,
    }
    output.result(
        facts,
        "",
        "[bold green]Everything runs.[/]",
        *_crm_lines(home, people),
        f"PostgreSQL takes connections on port {port}:",
        f"  PGPASSWORD=$(cat {home.folder}/secrets/postgres.password) psql -h 127.0.0.1 -p {port} -U postgres",
        f"Look at it from another terminal:  threefold status --config {home.config}",
        "Ctrl-C stops everything.",
        "",
    )
    died = await stack.somebody_died()
    raise Unavailable(died, hint="the others are stopped now; start again with `threefold up`")


async def _crm(stack: Stack, output: Output) -> dict[str, Any]:
    """Start it; the first time with a sample company: the answer of `threefold crm sample`, otherwise nothing."""
    home = stack.home
    if home.settings.crm is None:
        return {}
    people: dict[str, Any] = {}
    if await asyncio.to_thread(stack.primary.crm_is_empty):
        output.note("making the CRM's tables and a sample company")
        people = await stack.run("crm sample")
    output.note("starting the CRM")
    await stack.start_crm()
    return people


def _crm_lines(home: Home, people: dict[str, Any]) -> list[str]:
    crm = home.settings.crm
    if crm is None:
        return []
    if not people:
        again = f"threefold crm invite YOUR@ADDRESS --again --config {home.config}"
        return [f"The CRM is at [bold]{crm.public_url}[/]   (nobody gets in any more? {again})"]
    lines = [
        f"The CRM is at [bold]{crm.public_url}[/]. Each of these links lets one device in, once, within three days:"
    ]
    for role, link in people["links"].items():
        lines += [f"  {people['people'][role]}, {role}:", f"    {link}"]
    return lines
