"""What every verb shares: its options, how its work is run, and the settings it reads."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from threefold import telemetry
from threefold.cli.output import Output
from threefold.kernel.errors import BadInput
from threefold.settings import Settings, load

T = TypeVar("T")


def settings(config: Path, output: Output) -> Settings:
    """Read, with what is allowed and yet unwise said."""
    found = load(config)
    for warning in found.warnings():
        output.warn(warning)
    return found


def passphrase_from(path: Path | None) -> str | None:
    """The first line of the file."""
    if path is None:
        return None
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise BadInput(f"cannot read {path}: {(error.strerror or 'unknown reason').lower()}") from None
    if not lines or not lines[0].strip():
        raise BadInput(f"{path} has no passphrase in its first line")
    return lines[0].strip()


def execute(work: Coroutine[Any, Any, T], output: Output, *, logs: bool = False) -> T:
    """Run a verb's work in an event loop of its own. Ctrl-C cancels it, and it cleans up, before we leave.

    ``logs``: it serves, so its log is what is looked at; otherwise only warnings are logged.
    """
    telemetry.configure(quiet=output.quiet or not logs)
    import uvloop  # noqa: PLC0415 - 20 ms that `--help` need not pay

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)
