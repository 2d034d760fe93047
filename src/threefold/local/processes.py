"""Child processes of `threefold up`: started, listened to, watched, stopped in order.

Each runs in a session of its own, so that a Ctrl-C in our terminal reaches us alone and we decide the order. What a
child says is handed on line by line, or goes to a file where it shall outlive us. None is restarted silently: who died
is said, and why is for a person.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from threefold.kernel.errors import Refused, Unavailable

Hear = Callable[[str, str], None]  # who, line
_LINE_BYTES = 1 << 20


class Child:
    """One process of ours."""

    def __init__(
        self, name: str, process: asyncio.subprocess.Process, hear: Hear, log_file: Path | None = None
    ) -> None:
        self.name = name
        self._last_lines: deque[str] = deque(maxlen=2)
        self._process = process
        self._hear = hear
        self._log_file = log_file
        self._listening = [
            asyncio.create_task(self._listen(stream)) for stream in (process.stdout, process.stderr) if stream
        ]

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def last_line(self) -> str:
        """What it said last."""
        return self._last_two()[-1]

    @property
    def complaint(self) -> tuple[str, str]:
        """What it said at its end, as an error and its hint, which may be empty."""
        before, last = self._last_two()
        if last.startswith("hint: "):
            return before.removeprefix("error: "), last.removeprefix("hint: ")
        return last.removeprefix("error: ") or "it said nothing", ""

    def _last_two(self) -> tuple[str, str]:
        lines = self._log_file.read_text(errors="replace").splitlines() if self._log_file else list(self._last_lines)
        before, last = ["", "", *lines][-2:]
        return before, last

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    async def ended(self) -> int:
        """Its exit code, once it has ended and all it said was heard."""
        code = await self._process.wait()
        await asyncio.gather(*self._listening, return_exceptions=True)
        return code

    def send(self, number: signal.Signals) -> None:
        """To it and whatever it started."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    async def stop(self, within: float = 15, number: signal.Signals = signal.SIGTERM) -> None:
        """Asked first, then killed."""
        self.send(signal.SIGCONT)
        self.send(number)
        try:
            async with asyncio.timeout(within):
                await self.ended()
        except TimeoutError:
            self.send(signal.SIGKILL)
            await self.ended()

    async def _listen(self, stream: asyncio.StreamReader) -> None:
        while line := await stream.readline():
            self._last_lines.append(line.decode(errors="replace").rstrip())
            self._hear(self.name, self._last_lines[-1])


async def start(
    name: str,
    arguments: Sequence[str],
    hear: Hear,
    *,
    environment: Mapping[str, str] | None = None,
    log_file: Path | None = None,
) -> Child:
    """``python -m`` with ``arguments``, by the Python that runs us."""
    with contextlib.ExitStack() as files:
        output = files.enter_context(log_file.open("ab")) if log_file else asyncio.subprocess.PIPE
        process = await _start(arguments, environment or {}, output)
    return Child(name, process, hear, log_file)


async def _start(
    arguments: Sequence[str], environment: Mapping[str, str], output: int | IO[bytes]
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env={**os.environ, **environment},
        start_new_session=True,
        limit=_LINE_BYTES,
    )


async def until(ready: Callable[[], bool], child: Child, what: str, within: float = 30) -> None:
    """Wait for ``ready``. Raises Unavailable where the child ends first, with what it said last.

    The child is looked at before and after: what answers in the place of one that has ended is somebody else's.
    """
    ended = asyncio.create_task(child.ended())
    try:
        async with asyncio.timeout(within):
            while not ended.done() and not ready():
                await asyncio.wait({ended}, timeout=0.05)
            await asyncio.wait({ended}, timeout=0.05)  # its end may have come while `ready` asked
            if ended.done():
                error, hint = child.complaint
                raise Unavailable(f"{child.name} ended before {what}: {error}", hint=hint)
    except TimeoutError:
        raise Unavailable(f"{child.name} took more than {within:g} s, and not yet {what}: {child.last_line}") from None
    finally:
        ended.cancel()


def answers(address: str) -> Callable[[], bool]:
    """Whether somebody takes connections there."""
    host, _, port = address.rpartition(":")

    def ask() -> bool:
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=0.5):
            return True
        return False

    return ask


def refuse_taken(address: str, name: str) -> None:
    """Before ``name`` is started there: it would end a moment later, and what answers would pass for it till then."""
    if answers(address)():
        raise Refused(
            f"something answers at {address} already, where {name} has to listen",
            hint="stop it, or give another address in threefold.toml",
        )


def alive(pid_file: Path) -> int | None:
    """The process id in a file, where that process still runs."""
    try:
        pid = int(pid_file.read_text())
        os.kill(pid, 0)
    except (OSError, ValueError):
        return None
    return pid
