"""`threefold up` where the primary's folder is gone, or a recovery into it broke off.

Making a database anew beside stores that hold one would be no help: it is another database, which the log refuses. And
a half restored one must not be started. So `up` asks the stores first, and gets the database back when it is told to.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from threefold.kernel.errors import BadInput, Refused, Unavailable
from threefold.postgres.binaries import major_of
from threefold.recover.copy import read_marker
from threefold.recover.destination import MARKER

_NOT_BEFORE = "start again when they do: before that, no database is made anew"


class Found(Enum):
    """What lies in the primary's folder."""

    NOTHING = "nothing"
    UNFINISHED = "an unfinished recovery"
    DATABASE = "a database"


def look(folder: Path) -> Found:
    """Raises Refused for anything else that is there, which nobody may build on or write over; BadInput."""
    try:
        marker = read_marker(folder)
        if marker is not None and marker.get("finished") is False:
            return Found.UNFINISHED
        if major_of(folder) is not None:
            return Found.DATABASE
        # A recovery killed while it wrote its first marker leaves the draft of it, and nothing else.
        if folder.is_dir() and all(each.name == f"{MARKER}.new" for each in folder.iterdir()):
            return Found.NOTHING
        if not folder.is_symlink() and not folder.exists():
            return Found.NOTHING
    except OSError as error:
        raise BadInput(
            f"{error.filename or folder} cannot be read: {error.strerror}", hint="check the folder and its rights"
        ) from None
    raise Refused(
        f"{folder} holds no database, and is not empty either",
        hint="empty it, or move it away, and start again; nothing was touched",
    )


def wants_recovery(found: Found, folder: Path, status: Mapping[str, Any], *, site: str, told_to: bool) -> bool:
    """Whether to recover into ``folder``, which holds no (whole) database. ``status``: the answer of the verb.

    Raises Refused where a recovery is needed and nobody said so, where there is nothing to recover from, or where the
    system runs at another site; Unavailable where the stores do not say.
    """
    here = f"{folder} holds {found.value}"
    if status["trouble"]:
        raise Unavailable(f"{here}, and what the stores hold is not known: {status['trouble']}", hint=_NOT_BEFORE)
    if status["sites_trouble"]:
        raise Unavailable(
            f"{here}, and at which site the system runs is not known: {status['sites_trouble']}", hint=_NOT_BEFORE
        )
    # One alone of these says that there was a database once: only where all are empty, this is the first start.
    if not any(status[each] for each in ("log", "snapshots", "damaged", "leader")):
        return _first_start(found, folder, told_to=told_to)
    if status["active_site"] != site:
        raise Refused(
            f"{here}, and the system runs at site {status['active_site']}",
            hint=f"bring it back here as docs/howto/fail-back.md says: threefold standby --site {shlex.quote(site)} "
            "--rebuild, and then threefold failback",
        )
    if status["log"] is None or not status["snapshots"]:
        lack = "no log" if status["log"] is None else "no snapshot that reads" if status["damaged"] else "no snapshot"
        raise Refused(
            f"{here}, and the stores hold a database's remains, with {lack}: nothing can be got back from them",
            hint="begin anew in another folder, with stores of its own: threefold init DIR",
        )
    if not told_to:
        raise Refused(
            f"{here}, and the stores hold the database",
            hint="get it back, up to the last change that was saved: "
            f"threefold up {shlex.quote(str(folder.parent))} --recover",
        )
    return True


def _first_start(found: Found, folder: Path, *, told_to: bool) -> bool:
    """No recovery: a new database. Raises Refused where one was asked for, or begun."""
    if found is Found.UNFINISHED:
        hint = f"are these the right stores? to have a new database made: rm -r {shlex.quote(str(folder))}"
    elif told_to:
        hint = "are these the right stores? without --recover, a new database is made"
    else:
        return False
    raise Refused(f"the stores hold no database to get back into {folder}", hint=hint)
