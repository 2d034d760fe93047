"""`threefold up` where the primary's folder is gone, or a recovery into it broke off.

Making a database anew beside stores that hold one would be no help: it is another database, which the log refuses. And
a half restored one must not be started. So `up` asks the stores first, and gets the database back when it is told to.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from threefold.kernel.errors import Refused, Unavailable
from threefold.recover.copy import read_marker


class Found(Enum):
    """What lies in the primary's folder."""

    NOTHING = "nothing"
    UNFINISHED = "an unfinished recovery"
    SOMETHING = "something that is not ours to judge"


def look(folder: Path) -> Found:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return Found.NOTHING
    marker = read_marker(folder)
    return Found.UNFINISHED if marker is not None and marker.get("finished") is False else Found.SOMETHING


def wants_recovery(found: Found, folder: Path, status: Mapping[str, Any], *, site: str, told_to: bool) -> bool:
    """Whether to recover into ``folder`` before PostgreSQL is started on it. ``status``: the answer of the verb.

    Raises Refused where a recovery is needed and nobody said so, or the system runs at another site; Unavailable where
    the stores do not say what they hold.
    """
    if found is Found.SOMETHING:
        return False
    trouble = status["trouble"] or status["sites_trouble"]
    if trouble:
        raise Unavailable(
            f"{folder} holds {found.value}, and the stores do not say what they hold: {trouble}",
            hint="the storage servers' own words are above; without an answer no database is made anew",
        )
    if status["log"] is None:
        if told_to or found is Found.UNFINISHED:
            raise Refused(f"the stores hold no database to get back into {folder}", hint="are these the right stores?")
        return False
    if status["active_site"] != site:
        raise Refused(
            f"{folder} holds {found.value}, and the system runs at site {status['active_site']}",
            hint="threefold status shows it; threefold failback brings it back here",
        )
    if not told_to:
        raise Refused(
            f"{folder} holds {found.value}, and the stores hold the database",
            hint=f"get it back, up to the last change that was saved: threefold up {folder.parent} --recover",
        )
    return True
