"""One program's run: how long, how much of the processors, how much memory, what it said."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any, Final

_LOOK_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Ran:
    """``cpu_s`` with that of its own children; ``peak_mb`` is the program's own."""

    seconds: float
    cpu_s: float
    peak_mb: float
    out: str


def run(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    heard: Callable[[str], None] = lambda _: None,
    popen: Mapping[str, Any] | None = None,
) -> Ran:
    """Until it ends; ``heard`` gets each line as it comes. Raises RuntimeError where it fails."""
    said: list[str] = []
    with tempfile.TemporaryFile() as errors:
        began = time.monotonic()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd="/",
            env={**os.environ, **(environment or {})},
            **(popen or {}),
        )
        assert process.stdout is not None
        peak = _Peak(process.pid)
        peak.start()
        for line in process.stdout:
            said.append(line)
            heard(line)
        _, status, used = os.wait4(process.pid, 0)
        peak.over.set()
        seconds = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        process.stdout.close()
        if process.returncode:
            errors.seek(0)
            told = errors.read().decode(errors="replace")
            raise RuntimeError(f"{command[0]} ended with {process.returncode}: {''.join(said)[-2000:]}{told[-2000:]}")
    return Ran(seconds, used.ru_utime + used.ru_stime, peak.mb, "".join(said))


class _Peak(Thread):
    """What the kernel has noted as a process's peak. (Its account at the end counts from before the program began.)"""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._status = Path(f"/proc/{pid}/status")
        self.over = Event()
        self.mb = 0.0

    def run(self) -> None:
        while not self.over.wait(_LOOK_S):
            with contextlib.suppress(OSError, StopIteration):
                line = next(each for each in self._status.read_text().splitlines() if each.startswith("VmHWM:"))
                self.mb = max(self.mb, int(line.split()[1]) * 1024 / 1e6)
