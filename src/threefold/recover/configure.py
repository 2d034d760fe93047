"""The settings files of a restored data folder, made fit for this machine and for what the server is to do here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from threefold.kernel.progress import Progress
from threefold.recover import overrides
from threefold.recover.destination import write_durably

AUTO_CONF: Final = "postgresql.auto.conf"
_MINIMAL_HBA: Final = """\
# The primary kept its pg_hba.conf outside the data folder, so this one was written by threefold recover.
local all all peer
host all all all scram-sha-256
"""
_MINIMAL_CONF: Final = "# The primary kept its postgresql.conf outside the data folder: its settings are not here.\n"


def configure(into: Path, lay_over: Callable[[str], str], progress: Progress, *, signal: str) -> None:
    """Nothing leads out of the folder any more, and ``lay_over`` has done its part to postgresql.auto.conf.

    ``signal``: recovery.signal, or standby.signal for a server that goes on recovering until it is promoted.
    """
    conf, hba = into / "postgresql.conf", into / "pg_hba.conf"
    if not conf.exists():
        write_durably(conf, _MINIMAL_CONF)
        progress.note("the primary kept postgresql.conf outside its data folder: check the recovered server's settings")
    if not hba.exists():
        write_durably(hba, _MINIMAL_HBA)
        progress.note("the primary kept pg_hba.conf outside its data folder: a strict one was written")
    auto_conf = into / AUTO_CONF
    _localize(into, [conf, auto_conf], progress)
    ident = into / "pg_ident.conf"
    if not ident.exists():
        write_durably(ident, "")
    before = auto_conf.read_text(errors="surrogateescape") if auto_conf.exists() else ""
    write_durably(auto_conf, lay_over(overrides.without_standby(before)))
    # Last: a server that meets it goes by all of the above.
    write_durably(into / signal, "")


def _localize(into: Path, files: list[Path], progress: Progress) -> None:
    """Nothing leads out of the data folder any more: not in these files, nor in those that they include."""
    seen: set[Path] = set()
    while files:
        file = files.pop()
        if file in seen or not file.is_file():
            continue
        seen.add(file)
        is_here = partial(_restored, into, file.parent)
        local = overrides.localized(file.read_text(errors="surrogateescape"), is_here)
        for line in local.taken_out:
            shown = line.encode(errors="surrogateescape").decode(errors="backslashreplace")
            progress.note(f"{file.relative_to(into)} had {shown}, of the primary's machine: it is a comment now")
        if local.taken_out:
            write_durably(file, local.text)
        for kind, path in local.includes:
            files += (file.parent / path).glob("*.conf") if kind == "include_dir" else [file.parent / path]


def _restored(into: Path, beside: Path, path: str) -> bool:
    """Whether what a file in ``beside`` includes came along with it."""
    return (beside / path).is_relative_to(into) and ".." not in Path(path).parts and (beside / path).exists()
