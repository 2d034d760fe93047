"""What every verb shares: its options, how its work is run, and the settings it reads."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from getpass import getpass
from pathlib import Path
from typing import Any, TypeVar

from threefold import bootstrap_keys, telemetry
from threefold.bootstrap_keys import shares_from
from threefold.cli.output import Output
from threefold.kernel import shares
from threefold.kernel.errors import BadInput
from threefold.kernel.shares import Opened
from threefold.kernel.wraps import Opener, Passphrase
from threefold.settings import Settings, load

T = TypeVar("T")


def settings(config: Path, output: Output) -> Settings:
    """Read, with what is allowed and yet unwise said."""
    found = load(config)
    for warning in found.warnings():
        output.warn(warning)
    return found


def opener_from(passphrase_file: Path | None, share_files: list[Path] | None) -> Opener | None:
    """What opens the wrapped copy in the stores, if the options name it. Raises BadInput."""
    if passphrase_file is not None and share_files:
        raise BadInput("a passphrase and shares were given", hint="one of the two opens the key")
    if share_files:
        return shares_from(share_files)
    return bootstrap_keys.passphrase_from(passphrase_file) if passphrase_file is not None else None


def ask_opener() -> Opener | None:
    """The passphrase or two shares, typed without an echo; None where nobody sits at a terminal."""
    return ask_passphrase("Recovery passphrase (leave it empty to enter two shares): ") or ask_shares()


def ask_passphrase(prompt: str) -> Passphrase | None:
    """Typed without an echo; None for nothing, or where nobody sits at a terminal."""
    text = getpass(prompt, sys.stderr).strip() if _somebody_is_there() else ""
    return Passphrase(text) if text else None


def ask_shares() -> Opened | None:
    """Two of them, each checked before the next holder is asked."""
    words: list[str] = []
    while _somebody_is_there() and len(words) < shares.NEEDED:
        typed = getpass(f"Share {len(words) + 1} of {shares.NEEDED}, its 33 words: ", sys.stderr)
        try:
            shares.check(typed)
        except BadInput as error:
            sys.stderr.write(f"{error.message}; {error.hint}\n")
            continue
        words.append(typed)
    return shares.combine(words) if words else None


def _somebody_is_there() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def execute(work: Coroutine[Any, Any, T], output: Output, *, logs: bool = False) -> T:
    """Run a verb's work in an event loop of its own. Ctrl-C cancels it, and it cleans up, before we leave.

    ``logs``: it serves, so its log is what is looked at; otherwise only warnings are logged.
    """
    telemetry.configure(quiet=output.quiet or not logs)
    import uvloop  # noqa: PLC0415 - 20 ms that `--help` need not pay

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)
