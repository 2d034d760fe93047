"""Processes of ours in tests: a verb, a storage server; what each says goes to a file.

Each can be killed, stopped and waited for. `until` waits for what the test waits for, not for a time.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.pg import free_port
from threefold.storage_server.credentials import ENV_KEY, ENV_SECRET

# What `threefold storage serve` does, without the second that the command line's imports take.
_SERVE = """
import sys
from pathlib import Path
from threefold.storage_server.engine import EngineOptions
from threefold.storage_server.serve import ServeConfig, create_bucket, serve
folder, port, least = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
engine = EngineOptions(min_free_bytes=least)
create_bucket(folder, "crm-dr", options=engine)
serve(ServeConfig(data_dir=folder, port=port, engine=engine), on_ready=lambda *_: print("serving", flush=True))
"""


# One verb as cli/main.py runs it, without the seconds that importing all the others takes.
VERB = """
import importlib, sys
import typer
from threefold.cli.output import Output
from threefold.kernel.errors import ThreefoldError
verb = sys.argv.pop(1)
app = typer.Typer(pretty_exceptions_enable=False)
app.command()(getattr(importlib.import_module(f"threefold.cli.{verb}"), verb))
try:
    app(standalone_mode=False)
except ThreefoldError as error:
    Output(as_json="--json" in sys.argv).error(error)
    sys.exit(error.exit_code)
"""


class Failed(AssertionError):
    """A process did not do what it had to; with what it said."""


class Process:
    """One of ours. ``said`` is all that it wrote, stdout and stderr."""

    def __init__(self, arguments: Sequence[str | Path], log: Path, environment: Mapping[str, str]) -> None:
        self._log = log
        with log.open("ab") as file:
            self._from = file.tell()
            self._process = subprocess.Popen(
                [sys.executable, *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env={**os.environ, **environment},
                start_new_session=True,
            )

    @property
    def name(self) -> str:
        return self._log.name

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def code(self) -> int | None:
        return self._process.poll()

    @property
    def said(self) -> str:
        return self._log.read_bytes()[self._from :].decode(errors="replace")

    def rss(self) -> int:
        return int(psutil.Process(self.pid).memory_info().rss)

    def signal(self, number: int) -> None:
        """Nothing where it has ended: its number may be somebody else's by now, which a bare kill would not know."""
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self._process.wait(10)

    async def ended(self, within: float = 60) -> int:
        await until(lambda: self.code is not None, f"an end of {self._log.name}", within, lambda: self.said)
        assert self.code is not None
        return self.code

    async def says(self, text: str, within: float = 60) -> None:
        def heard() -> bool:
            if text not in self.said and self.code is not None:
                raise Failed(f"ended with {self.code}, never said {text!r}: {self.said[-2000:]}")
            return text in self.said

        await until(heard, f"{text!r} in {self._log.name}", within, lambda: self.said)


async def until(
    done: Callable[[], bool | Awaitable[bool]], what: str, within: float = 60, said: Callable[[], str] = lambda: ""
) -> None:
    end = asyncio.get_running_loop().time() + within
    while True:
        answer = done()
        if answer if isinstance(answer, bool) else await answer:
            return
        if asyncio.get_running_loop().time() > end:
            raise Failed(f"no {what} within {within} s: {said()[-3000:]}")
        await asyncio.sleep(0.05)


@dataclass
class Storage:
    """One storage server and its disk."""

    name: str
    data: Path
    log: Path
    port: int = field(default_factory=free_port)
    min_free: int = 64 * 2**20
    process: Process | None = None

    def start(self) -> None:
        secrets = {ENV_KEY: self.name, ENV_SECRET: f"only loopback sees {self.name}"}
        self.process = Process(["-c", _SERVE, self.data, str(self.port), str(self.min_free)], self.log, secrets)

    async def ready(self) -> None:
        assert self.process is not None
        await self.process.says("serving")

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.signal(number)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()

    def stop(self) -> None:
        self.signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.signal(signal.SIGCONT)

    def wipe(self) -> None:
        """The server is dead; its disk is replaced by an empty one."""
        shutil.rmtree(self.data)
