"""What every verb shares: its options, how its work is run, and the settings it reads."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from threefold import telemetry
from threefold.cli.output import Output
from threefold.kernel.errors import BadInput
from threefold.settings import Settings, load

T = TypeVar("T")

Config = Annotated[
    Path, typer.Option("--config", "-c", help="The settings.", envvar="THREEFOLD_CONFIG", metavar="FILE")
]
Json = Annotated[bool, typer.Option("--json", help="JSON lines on stdout, nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only the answer, and errors.")]
Home = Annotated[Path, typer.Argument(help="The folder that `threefold init` made.", metavar="[DIR]")]

PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        help="Open the master key that lies in the stores with the passphrase in this file. Where the key file is "
        "gone, THREEFOLD_PASSPHRASE does the same.",
        metavar="FILE",
    ),
]

CONFIG = Path("threefold.toml")
HERE = Path()


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
