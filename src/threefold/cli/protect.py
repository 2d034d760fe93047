"""`threefold protect`: the DRaaS server alone, for a PostgreSQL that is already there."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from threefold import telemetry
from threefold.bootstrap import (
    Parts,
    agent_lock,
    named_of,
    open_parts,
    puts_of,
    renewal_of,
    where_of,
)
from threefold.bootstrap_failover import overdue_of
from threefold.bootstrap_keys import wrapped_key_of
from threefold.cli.common import execute, settings
from threefold.cli.options import CONFIG, Config, Json, Quiet
from threefold.cli.output import Output
from threefold.kernel.clock import SystemClock
from threefold.kernel.machine import this_machine
from threefold.kernel.memory import return_large_blocks
from threefold.protect.beside import Work, beside
from threefold.protect.child import AgentProgram, keep_agent
from threefold.protect.leader import Deployment
from threefold.protect.run import protect as protect_until
from threefold.protect.spooling import SpoolPlace
from threefold.protect.stream import Durability
from threefold.quorum.membership import ReplacedError
from threefold.settings import Settings
from threefold.upkeep.renew import keep_locked


def protect(
    take_over: Annotated[
        bool,
        typer.Option(
            "--take-over", help="End a living DRaaS server's leadership now, and do not wait for its silence."
        ),
    ] = False,
    wait: Annotated[
        bool,
        typer.Option(
            "--wait",
            help="Be the second one: take over when the leader is silent or cut off from the primary, and wait again "
            "when another one leads.",
        ),
    ] = False,
    config: Config = CONFIG,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Receive every change of the primary and put it on two of three stores before it is confirmed.

    Runs until it is told to stop. A second one waits, and takes over when the first falls silent; the first, should
    it come back, is fenced and exits with 4. With --wait two of them stand in for each other for as long as they run.
    After a fail-over it protects the site that serves then. What the primary needs for it: threefold check.

    [bold]Example:[/] threefold protect --config /etc/threefold.toml
    """
    output = Output(as_json, quiet)
    return_large_blocks()
    found = settings(config, output)
    execute(_protect(found, output, agent_of(found, config), take_over=take_over, waits=wait), output, logs=True)


def agent_of(found: Settings, config: Path) -> AgentProgram | None:
    """The agent that this host shall run: where it keeps the recovery site's data folder, and warm."""
    recovery = found.recovery
    if recovery.standby != "warm" or recovery.data_dir is None:
        return None
    folder = found.path(recovery.data_dir)
    command = (sys.executable, "-m", "threefold", "standby", "--config", str(config.resolve()))
    return AgentProgram(command, agent_lock(folder), folder.with_name(f"{folder.name}.agent.log"))


def spool_of(found: Settings) -> SpoolPlace | None:
    """Where commits go while too few stores answer; None where they shall wait."""
    limits = found.failover
    if limits.without_quorum != "spool":
        return None
    return SpoolPlace(found.path(limits.spool_dir) / f"{found.system.name}.spool", limits.spool_max_mib * 2**20)


def _deployment(found: Settings, parts: Parts, lag: float | None) -> Deployment:
    named = named_of(found)
    return Deployment(
        stores=parts.stores,
        health=parts.health,
        keyring=parts.keyring,
        clock=parts.clock,
        report=telemetry.report,
        host=socket.gethostname(),
        machine=this_machine(),
        durability=Durability(max_lag=lag),
        puts=lambda: puts_of(parts),
        spool=spool_of(found),
        membership=parts.membership,
        named=named if named.joining or parts.membership.is_joint else None,
        all_stores=parts.all_stores,
    )


async def _protect(
    found: Settings, output: Output, agent: AgentProgram | None, *, take_over: bool, waits: bool
) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    lag = found.system.max_lag.total_seconds() if found.system.durability == "async" else None
    clock, tell = SystemClock(), telemetry.report
    agents: dict[str, Work] = {"the agent": partial(keep_agent, agent, clock, tell)} if agent else {}
    async with beside(agents, clock, tell):
        while not stop.is_set():
            try:
                async with open_parts(found, verb="protect") as parts:
                    renewal = renewal_of(parts)
                    locking: dict[str, Work] = {}
                    if renewal:
                        locking["the locks"] = partial(keep_locked, renewal, parts.clock, tell, found.locks.period)
                    async with beside(locking, parts.clock, tell):
                        await protect_until(
                            _deployment(found, parts, lag),
                            where_of(parts, overdue_of(parts, telemetry.report)),
                            wrapped_key=wrapped_key_of(found),
                            take_over=take_over,
                            waits=waits,
                            stop=stop,
                        )
                    break
            except ReplacedError as moved:
                telemetry.report("opening the stores anew", members=", ".join(moved.membership.stores))
                take_over = take_over or moved.ours  # then nobody leads: the epoch before it was ours, too
    output.result({"stopped": True}, "stopped in good order")
