"""What a verb says, and where: the answer on stdout, everything else on stderr.

With ``--json`` stdout holds JSON lines and nothing else, each with a ``type``: ``progress`` and ``note`` while long
work goes on, and one last ``result`` or ``error``. With ``--quiet`` only the answer and errors are said.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType

from threefold.cli.progress import BarProgress, JsonProgress
from threefold.kernel.errors import ThreefoldError
from threefold.kernel.lsn import Lsn
from threefold.kernel.progress import Progress, Silent

_WIDE = 200


@dataclass(frozen=True, slots=True)
class Output:
    """How this run speaks."""

    as_json: bool = False
    quiet: bool = False

    def result(self, facts: Mapping[str, Any], *human: RenderableType) -> None:
        """The answer: ``facts`` for machines, ``human`` for people."""
        if self.as_json:
            self.line("result", facts)
            return
        # Nobody's screen is behind a pipe: a table is as wide as it needs to be.
        console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE)
        for part in human:
            console.print(part, soft_wrap=isinstance(part, str))

    def line(self, kind: str, facts: Mapping[str, Any]) -> None:
        sys.stdout.write(json.dumps(_plain({"type": kind, **facts})) + "\n")
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """One sentence besides the answer."""
        if self.as_json:
            self.line("note", {"text": text})
        elif not self.quiet:
            Console(stderr=True, highlight=False).print(text, markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        if self.as_json:
            self.line("note", {"text": text, "warning": True})
        else:
            Console(stderr=True, highlight=False).print(f"[yellow]warning:[/] {text}")

    def error(self, error: ThreefoldError) -> None:
        if self.as_json:
            facts = {"error": error.message, "hint": error.hint, "exit_code": error.exit_code}
            self.line("error", {"kind": type(error).__name__, **facts})
            return
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        console.print("[bold red]error:[/] ", end="")
        console.print(error.message, markup=False)
        if error.hint:
            console.print("[bold]hint:[/] ", end="")
            console.print(error.hint, markup=False)

    def progress(self) -> Progress:
        """A bar on a terminal, JSON lines with ``--json``, silence otherwise."""
        if self.as_json:
            return JsonProgress(self.line)
        if self.quiet or not sys.stderr.isatty():
            return Silent() if self.quiet else PlainNotes(self)
        return BarProgress(Console(stderr=True, highlight=False))

    def finish(self, progress: Progress) -> None:
        """The last step is over, well or not: the terminal is the answer's again."""
        if isinstance(progress, BarProgress):
            progress.close()


class PlainNotes(Silent):
    """No terminal: steps and notes as lines, no bars."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def step(self, name: str, text: str, *, total: int | None = None, unit: str = "bytes") -> None:
        del name, total, unit
        self._output.note(text)

    def note(self, text: str) -> None:
        self._output.note(text)


def _plain(value: Any) -> Any:
    """As JSON has it. An LSN is written as people write it: it is an int, which json would print as one."""
    match value:
        case Mapping():
            return {str(key): _plain(each) for key, each in value.items()}
        case Lsn() | Path():
            return str(value)
        case str() | int() | float() | None:
            return value
        case Iterable() if not isinstance(value, bytes):
            return [_plain(each) for each in value]
        case datetime():
            return value.isoformat()
        case Enum():
            return value.value
        case _:
            raise TypeError(f"no JSON form for {type(value).__name__}")
