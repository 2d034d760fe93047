"""What a warm standby is told, and what is made of the folder that stands where it shall be. Pure.

**Which bytes are the copy's own.** A standby receives what its primary has flushed, acknowledged or not, so it may hold
bytes that the log never settled. They do no harm: replaying more than was acknowledged loses nothing, and a server
that is promoted behind the log's end continues the log (protect/continuity.py, "forked beyond it"): whoever protects
it streams the old timeline from the log's end up to the fork, and only then the new one. Below the log's end, however,
copy and log must agree. PostgreSQL replays whole records, one after the other; so up to where whole records reach in
``pg_wal``, a byte that differs from the log's may have been replayed, and the copy is of another history: foreign, to
be made anew. Behind that lies nothing that was or can be replayed (a record cut off, zeros, or the old content of a
segment file that PostgreSQL recycled), and the log's bytes are laid over it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final

from threefold.kernel.errors import Refused
from threefold.kernel.lsn import Lsn
from threefold.postgres.wal import PAGE_BYTES, first_boundary, records

SYNC: Final = "ANY 1 (threefold)"
MB: Final = 1024 * 1024
_KEPT_MB: Final = 256
_AHEAD_BYTES: Final = 256 * MB
# Of what is laid over, what a primary has no use for.
_STANDBY_ONLY: Final = (
    "hot_standby",
    "restore_command",
    "recovery_target_timeline",
    "recovery_min_apply_delay",
    "recovery_target",
    "recovery_target_lsn",
    "recovery_target_xid",
    "recovery_target_time",
    "recovery_target_name",
    "wal_retrieve_retry_interval",
    "wal_receiver_timeout",
    "wal_receiver_status_interval",
    "max_standby_archive_delay",
    "max_standby_streaming_delay",
)
_RETRY: Final = "1s"  # while there is a primary to connect to; each try is a line in its log and in ours
_RETRY_WAITING: Final = "100ms"  # while what comes next is put into pg_wal


def laid_over(
    limits: Mapping[str, str], segment_size: int, *, follow: str, timeline: str = "latest", hurry: bool = False
) -> dict[str, str]:
    """A standby's settings. ``follow``: primary_conninfo; "": no primary. ``hurry``: no query holds replay up.

    It waits for the DRaaS server's word from the start, though it has nothing to wait for before it is promoted: a
    setting that is changed on the way reaches the process that goes by it some time later, and a write could slip in.
    ``limits`` are the primary's: with less, PostgreSQL stops replaying. The WAL that is kept is what a promoted server
    still has to send, until protection has a slot there.
    """
    delay = "0" if hurry else "5s"
    return {
        "synchronous_standby_names": SYNC,
        "primary_conninfo": follow,
        "primary_slot_name": "",
        "archive_mode": "off",
        "archive_command": "",
        "archive_library": "",
        "archive_cleanup_command": "",
        "recovery_end_command": "",
        "restore_command": "",
        "recovery_target_timeline": timeline,
        "recovery_min_apply_delay": "0",
        **dict.fromkeys(
            (name for name in _STANDBY_ONLY if name.startswith("recovery_target") and "line" not in name), ""
        ),
        "hot_standby": "on",
        "wal_retrieve_retry_interval": _RETRY if follow else _RETRY_WAITING,
        "wal_receiver_timeout": "10s",
        "wal_receiver_status_interval": "1s",
        "max_standby_archive_delay": delay,
        "max_standby_streaming_delay": delay,
        "wal_keep_size": f"{max(_KEPT_MB, 4 * segment_size // MB)}MB",
        **limits,
    }


def kept_when_promoted(settings: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, str]:
    """What stays of a standby's settings when it is the primary; ``wanted`` wins."""
    return {**{name: value for name, value in settings.items() if name not in _STANDBY_ONLY}, **wanted}


def ahead(segment_size: int) -> int:
    """How many bytes of the log, whole segments, are put in front of replay at most."""
    return max(_AHEAD_BYTES, 4 * segment_size)


class Do(Enum):
    KEEP = "kept"
    RESTORE = "restored"
    REBUILD = "rebuilt"


@dataclass(frozen=True, slots=True)
class Folder:
    """What stands in the data folder. ``marker``: ours, read; ``signal``: standby.signal is there."""

    path: Path
    empty: bool
    marker: Mapping[str, Any] | None
    postgres: bool
    signal: bool
    running: int | None

    @property
    def ours(self) -> bool:
        """A standby that `prepare` made, or made of a former primary, whole."""
        return self.signal and self.marker is not None and bool(self.marker.get("standby"))


def what_to_do(found: Folder, *, rebuild: bool) -> Do:
    """Raises Refused where that would destroy something that nobody gave up."""
    if found.empty or (found.marker is not None and found.marker.get("finished") is False):
        return Do.RESTORE
    if not found.postgres:
        raise Refused(
            f"{found.path} is not empty, and no PostgreSQL data folder",
            hint="name another folder for the standby; nothing was touched",
        )
    if found.ours and found.marker is not None and not rebuild and not found.marker.get("foreign"):
        return Do.KEEP
    if not found.ours and not rebuild:
        raise Refused(
            f"{found.path} holds a PostgreSQL database that is no standby of ours",
            hint="is it this site's former primary? Make it a standby: threefold standby --rebuild; or move it away",
        )
    if found.running is not None and not found.ours:
        raise Refused(
            f"PostgreSQL is running in {found.path}, process {found.running}: it cannot be rebuilt",
            hint=f"stop it first: pg_ctl stop -D {found.path}",
        )
    return Do.REBUILD


def whole_until(data: bytes | memoryview, *, start: Lsn, at: Lsn, segment_size: int) -> Lsn:
    """Up to where whole records reach in ``data``, a standby's own bytes from ``start`` on; ``at`` is replayed.

    A recycled segment file may hold an old record, whole and well, just where the next one would begin; but that one
    names another record as the one before it.
    """
    page = max(Lsn(max(at - 1, 0) // PAGE_BYTES * PAGE_BYTES), start)
    view = memoryview(data)
    begin = first_boundary(view[page - start :], start=page) if page < at and page % PAGE_BYTES == 0 else None
    last: Lsn | None = None
    end = at
    for record in records(
        view, start=start, at=begin if begin is not None and begin <= at else at, segment_size=segment_size
    ):
        if last is not None and record.previous != last:
            break
        last = record.start
        end = max(end, record.end)
    return end


def first_difference(one: bytes | memoryview, two: bytes | memoryview) -> int | None:
    """Where two runs of bytes first differ, or one of them ends before the other; None: they are equal."""
    one, two = memoryview(one), memoryview(two)
    if one == two:
        return None
    low, high = 0, min(len(one), len(two))
    if one[:high] == two[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == two[low:middle]:
            low = middle
        else:
            high = middle
    return low


def age(*, caught_up_s_ago: float | None, last_commit_s_ago: float | None) -> float | None:
    """What is read is at most that old: it was the primary's state when replay last had all, and it has that commit."""
    known = [each for each in (caught_up_s_ago, last_commit_s_ago) if each is not None]
    return max(min(known), 0.0) if known else None
