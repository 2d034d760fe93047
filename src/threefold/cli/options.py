"""The options that verbs share, word for word."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
