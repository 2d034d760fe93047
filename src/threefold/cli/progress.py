"""Where long work is, for people (a bar on stderr) and for machines (JSON lines on stdout).

A bar is drawn anew for each step; the step before stays as one finished line. At most two JSON lines a second are
written per step, so that a fast restore does not drown its reader.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars

from threefold.kernel.clock import Clock, SystemClock

_LINES_EVERY_S = 0.5


class BarProgress:
    """A bar per step, on a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: Bars | None = None
        self._task: TaskID | None = None

    def step(self, name: str, text: str, *, total: int | None = None, unit: str = "bytes") -> None:
        del name
        self.close()
        columns: list[ProgressColumn] = [SpinnerColumn(finished_text="[green]✓[/]"), TextColumn("{task.description}")]
        if total is not None:
            columns += [BarColumn(bar_width=24)]
            columns += [DownloadColumn(), TransferSpeedColumn()] if unit == "bytes" else [MofNCompleteColumn()]
        columns += [TimeElapsedColumn()]
        self._bars = Bars(*columns, console=self._console)
        self._bars.start()
        self._task = self._bars.add_task(text, total=total)

    def advance(self, amount: int) -> None:
        if self._bars is not None and self._task is not None:
            self._bars.advance(self._task, amount)

    def note(self, text: str) -> None:
        self._console.print(f"  {text}", markup=False)

    def close(self) -> None:
        """The step is done; its line stays."""
        if self._bars is None or self._task is None:
            return
        task = self._bars.tasks[0]
        self._bars.update(self._task, total=task.total or 1, completed=task.total or 1)
        self._bars.stop()
        self._bars = None


class JsonProgress:
    """Lines of type ``progress`` and ``note``."""

    def __init__(self, line: Callable[[str, Mapping[str, Any]], None], clock: Clock | None = None) -> None:
        self._line = line
        self._clock = clock or SystemClock()
        self._facts: dict[str, Any] = {}
        self._last = 0.0

    def step(self, name: str, text: str, *, total: int | None = None, unit: str = "bytes") -> None:
        self._facts = {"step": name, "text": text, "done": 0, "total": total, "unit": unit}
        self._say()

    def advance(self, amount: int) -> None:
        self._facts["done"] = self._facts.get("done", 0) + amount
        finished = self._facts.get("total") == self._facts["done"]
        if finished or self._clock.monotonic() - self._last >= _LINES_EVERY_S:
            self._say()

    def note(self, text: str) -> None:
        self._line("note", {"text": text})

    def _say(self) -> None:
        self._last = self._clock.monotonic()
        self._line("progress", self._facts)
