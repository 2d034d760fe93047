"""The options that verbs share, word for word, and the five that every verb has that opens the stores."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Concatenate

import typer

from threefold.cli import common
from threefold.cli.output import Output
from threefold.kernel.wraps import Opener
from threefold.settings import Settings

Config = Annotated[
    Path, typer.Option("--config", "-c", help="The settings.", envvar="THREEFOLD_CONFIG", metavar="FILE")
]
Json = Annotated[bool, typer.Option("--json", help="JSON lines on stdout, nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only the answer, and errors.")]
HomeFolder = Annotated[Path, typer.Argument(help="The folder that `threefold init` made.", metavar="[DIR]")]
OnlySay = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
Reason = Annotated[str, typer.Option(help="Why: it is kept in the journal.", metavar="TEXT")]

PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        help="Open the master key that lies in the stores with the passphrase in this file. Where the key file is "
        "gone, THREEFOLD_PASSPHRASE does the same.",
        metavar="FILE",
    ),
]
ShareFile = Annotated[
    list[Path] | None,
    typer.Option(
        help="Open it with two of the three shares: a file each. Repeat it. THREEFOLD_SHARE_FILES does the same where "
        "the key file is gone.",
        metavar="FILE",
    ),
]

CONFIG = Path("threefold.toml")
HERE = Path()


@dataclass(frozen=True, slots=True)
class Given:
    """What somebody asked for by the five options; nothing is read before it is wanted."""

    output: Output
    config: Path
    passphrase_file: Path | None
    share_files: list[Path] | None

    def settings(self) -> Settings:
        """Raises BadInput."""
        return common.settings(self.config, self.output)

    def opener(self) -> Opener | None:
        """What opens the wrapped key, if it was named. Raises BadInput."""
        return common.opener_from(self.passphrase_file, self.share_files)


def _given(
    config: Config = CONFIG,
    passphrase_file: PassphraseFile = None,
    share_file: ShareFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> Given:
    return Given(Output(as_json, quiet), config, passphrase_file, share_file)


_FIVE = inspect.signature(_given, eval_str=True).parameters


def opens_the_stores(verb: Callable[Concatenate[Given, ...], None]) -> Callable[..., None]:
    """A verb whose first parameter is what the five options come to. They stand last in its ``--help``."""

    @wraps(verb)
    def command(**options: Any) -> None:
        given = _given(**{name: options.pop(name) for name in _FIVE if name in options})
        verb(given, **options)

    _, *own = inspect.signature(verb, eval_str=True).parameters.values()
    command.__signature__ = inspect.Signature([*own, *_FIVE.values()])  # type: ignore[attr-defined]  # typer reads it
    return command
