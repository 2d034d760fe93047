"""The agent of the recovery site as a child process: `threefold standby`, for as long as the DRaaS server runs there.

It is in a session of its own and writes to a file of its own, so that it outlives a DRaaS server that was killed: it
may be in the middle of a switch. The next one finds it by its lock and leaves it alone, and starts one when it is gone.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from threefold.kernel.clock import Clock
from threefold.kernel.report import Report

_LOOK_S = 2.0
_AGAIN_S = 1.0
_AGAIN_MOST_S = 60.0
_STOP_PATIENCE_S = 15.0


@dataclass(frozen=True, slots=True)
class AgentProgram:
    """How to run it. ``lock`` is held by an agent that runs."""

    command: Sequence[str]
    lock: Path
    log: Path


def is_locked(lock: Path) -> bool:
    """Whether some process holds it."""
    try:
        file = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(file)


async def keep_agent(program: AgentProgram, clock: Clock, report: Report) -> None:
    """Until cancelled; then the agent is ended in good order, where it is ours."""
    pause, told = _AGAIN_S, False
    while True:
        if is_locked(program.lock):
            if not told:
                told = True
                report("an agent runs already", lock=str(program.lock))
            await clock.sleep(_LOOK_S)
            continue
        told = False
        began = clock.monotonic()
        process = await _start(program)
        report("agent started", pid=process.pid, log=str(program.log))
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            await _end(process)
            raise
        pause = _AGAIN_S if clock.monotonic() - began > _AGAIN_MOST_S else min(pause * 2, _AGAIN_MOST_S)
        report("agent ended", level="error", code=code, again_in_s=pause, log=str(program.log))
        await clock.sleep(pause)


async def _start(program: AgentProgram) -> asyncio.subprocess.Process:
    program.log.parent.mkdir(parents=True, exist_ok=True)
    with program.log.open("ab") as log:
        return await asyncio.create_subprocess_exec(
            *program.command, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )


async def _end(process: asyncio.subprocess.Process) -> None:
    """Its PostgreSQL runs on without it, and the next agent adopts that."""
    try:
        process.terminate()
        async with asyncio.timeout(_STOP_PATIENCE_S):
            await process.wait()
    except ProcessLookupError:
        return
    except TimeoutError:
        process.kill()
        await process.wait()
