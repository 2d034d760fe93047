"""Child processes of `threefold up`: started, listened to, watched, stopped in order.

Each runs in a session of its own, so that a Ctrl-C in our terminal reaches us alone and we decide the order. What a
child says on stderr is handed on line by line. None is restarted silently: who died is said, and why is for a person.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from threefold.kernel.errors import Unavailable

Hear = Callable[[str, str], None]  # who, line
_LINE_BYTES = 1 << 20


class Child:
    """One process of ours."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, hear: Hear) -> None:
        self.name = name
        self.last_line = ""
        self._process = process
        self._hear = hear
        self._listening = [
            asyncio.create_task(self._listen(stream)) for stream in (process.stdout, process.stderr) if stream
        ]

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    async def ended(self) -> int:
        """Its exit code, once it has ended and all it said was heard."""
        code = await self._process.wait()
        await asyncio.gather(*self._listening, return_exceptions=True)
        return code

    def signal(self, number: signal.Signals) -> None:
        """To it and whatever it started."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    async def stop(self, within: float = 15) -> None:
        """Asked first, then killed."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(within):
                await self.ended()
        except TimeoutError:
            self.signal(signal.SIGKILL)
            await self.ended()

    async def _listen(self, stream: asyncio.StreamReader) -> None:
        while line := await stream.readline():
            self.last_line = line.decode(errors="replace").rstrip()
            self._hear(self.name, self.last_line)


async def start(
    name: str, arguments: Sequence[str], hear: Hear, *, environment: Mapping[str, str] | None = None
) -> Child:
    """``python -m`` with ``arguments``, by the Python that runs us."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(environment or {})},
        start_new_session=True,
        limit=_LINE_BYTES,
    )
    return Child(name, process, hear)


async def until(ready: Callable[[], bool], child: Child, what: str, within: float = 30) -> None:
    """Wait for ``ready``. Raises Unavailable where the child ends first, with what it said last."""
    ended = asyncio.create_task(child.ended())
    try:
        async with asyncio.timeout(within):
            while not ready():
                done, _ = await asyncio.wait({ended}, timeout=0.05)
                if done:
                    raise Unavailable(f"{child.name} ended before {what}: {child.last_line or 'it said nothing'}")
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


def alive(pid_file: Path) -> int | None:
    """The process id in a file, where that process still runs."""
    try:
        pid = int(json.loads(pid_file.read_text())["pid"])
        os.kill(pid, 0)
    except (OSError, ValueError, KeyError):
        return None
    return pid
