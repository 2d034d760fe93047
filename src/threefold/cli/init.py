"""`threefold init`: a folder with settings, keys and three storage servers' disks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from threefold.bootstrap_keys import passphrase_from
from threefold.cli.options import HERE, Json, Quiet
from threefold.cli.output import Output
from threefold.local.create import create_home


def init(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.", metavar="[DIR]")] = HERE,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="Take the recovery passphrase from this file's first line.", metavar="FILE")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write threefold.toml, keys and three local storage servers' folders.

    A recovery passphrase is made and shown once; bring your own with --passphrase-file or THREEFOLD_PASSPHRASE.

    [bold]Example:[/] threefold init crm && threefold up crm
    """
    output = Output(as_json, quiet)
    given = passphrase_from(passphrase_file).text if passphrase_file else os.environ.get("THREEFOLD_PASSPHRASE")
    made = create_home(folder, passphrase=given)
    facts = {
        "folder": made.folder,
        "config": made.folder / "threefold.toml",
        "primary_port": made.ports.primary,
        "stores": made.ports.stores,
        "crm_port": made.ports.crm,
    }
    human = [
        f"[bold]{made.folder}[/] is ready: threefold.toml, keys, and the folders of three storage servers.",
        "",
    ]
    if given is None:
        facts["passphrase"] = made.passphrase
        human += [
            f"Recovery passphrase:  [bold]{made.passphrase}[/]",
            "",
            "Write it down and keep it [bold]elsewhere[/]: on paper, in a password manager, not on this machine.",
            "It is shown once. With it and any one storage server the CRM can be recovered on a new machine;",
            "without it, and without keys/master.key, nobody can read what is stored - neither the provider nor you.",
            "",
        ]
    human += [f"Next:  threefold up {folder}"]
    output.result(facts, *human)
