"""From the snapshots, the log's extent and a target: what to restore and how far to replay. Pure.

A snapshot serves when the log holds everything from its start to its stop LSN and goes through it: its timeline is the
newest or an ancestor of it, left no earlier than the snapshot's stop. Of those that serve, the newest one at or before
the target is taken; for a restore point, whose place nobody knows, the oldest.

WAL is taken from the start of the segment that holds the snapshot's start (PostgreSQL reads the segment's first page
before any other). Positions are compared by LSN along one history, times only where the target is one.

Times compared are of one clock, the primary's: it stamps the commits, and it was read for the snapshot's stop time,
after the stop. So a snapshot that stopped at or before the target holds no commit later than the target, however wrong
our own clock may be; one that holds such a commit could not be rewound, and PostgreSQL would not notice. What it
rests on is that the primary's clock is not set back, by hand or by a new primary whose clock is behind; after that,
an LSN is the target to name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from threefold.kernel.errors import BadInput, NotThere, ThreefoldError
from threefold.kernel.lsn import Lsn
from threefold.postgres.timeline import History, contains, parse_history, timeline_at
from threefold.postgres.wal import segment_no, segment_start
from threefold.recover.log import LogExtent
from threefold.recover.targets import Immediate, Latest, Position, RestorePoint, Target, Time
from threefold.vault.manifest import Summary
from threefold.vault.revisions import original

_TARGETS: Final = (
    "recovery_target",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """Restore ``snapshot``, then replay [start, end) of ``timeline``."""

    snapshot: Summary
    target: Target
    timeline: int
    start: Lsn
    end: Lsn

    @property
    def wal_bytes(self) -> int:
        return self.end - self.start

    def settings(self) -> dict[str, str]:
        """What PostgreSQL is told, in this order.

        Whatever the primary's files may hold from a recovery or a standby of their own is overruled; other targets are
        cleared before this one is set: PostgreSQL refuses even an empty one after it.
        """
        settings = {
            "restore_command": "false",
            "recovery_target_timeline": str(self.timeline),
            "recovery_target_action": "promote",
            "recovery_target_inclusive": "on",
            "recovery_min_apply_delay": "0",
            **dict.fromkeys(_TARGETS, ""),
        }
        match self.target:
            case Time(at):
                setting, value = "recovery_target_time", at.isoformat(sep=" ")
            case RestorePoint(name):
                setting, value = "recovery_target_name", name
            case Latest() | Immediate() | Position():
                return settings
        del settings[setting]
        return {**settings, setting: value}


def choose(snapshots: Sequence[Summary], extent: LogExtent, target: Target, *, snapshot: str | None = None) -> Plan:
    """The plan. Raises BadInput for a target that the stores do not reach, NotThere where nothing can be restored."""
    history = parse_history(extent.timeline, extent.history_files.get(extent.timeline))
    if snapshot is not None:
        # Whichever revision was named, or none: the one that is there.
        snapshots = [each for each in snapshots if original(each.id) == original(snapshot)]
        if not snapshots:
            raise BadInput(f"there is no snapshot {snapshot}", hint="`threefold list` shows those that are there")
    if not snapshots:
        raise NotThere("no snapshot is there to recover from", hint="take one with `threefold snapshot`")
    unfit = {each.id: why for each in snapshots if (why := _unfit(each, extent, history))}
    fit = sorted((each for each in snapshots if each.id not in unfit), key=lambda each: (each.stop, each.id))
    if not fit:
        newest = max(snapshots, key=lambda each: each.id)
        raise NotThere(
            f"snapshot {newest.id} cannot be recovered from: {unfit[newest.id]}",
            hint="`threefold verify` shows what is missing; another store may have it",
        )
    chosen = _newest_before(fit, extent, target)
    match target:
        case Position(lsn):
            end = lsn
        case Immediate():
            end = chosen.stop
        case Latest() | Time() | RestorePoint():
            end = extent.end
    return Plan(
        snapshot=chosen,
        target=target,
        timeline=timeline_at(history, end - 1) if isinstance(target, Position | Immediate) else extent.timeline,
        start=segment_begin(chosen),
        end=end,
    )


def segment_begin(snapshot: Summary) -> Lsn:
    """Where the WAL that a snapshot needs begins."""
    return segment_start(segment_no(snapshot.start, snapshot.segment_size), snapshot.segment_size)


def _unfit(snapshot: Summary, extent: LogExtent, history: History) -> str:
    """Why it cannot be recovered from; empty where it can."""
    if snapshot.system_identifier != extent.system_identifier:
        return "it is of another database cluster than the log"
    if segment_begin(snapshot) < extent.start:
        return f"it needs WAL from {segment_begin(snapshot)} on, and the log begins at {extent.start}"
    if snapshot.stop > extent.end:
        return f"it needs WAL up to {snapshot.stop}, and the log ends at {extent.end}"
    if not contains(history, snapshot.timeline, snapshot.stop):
        return f"its timeline {snapshot.timeline} was left before its stop, {snapshot.stop}"
    return ""


def _newest_before(fit: Sequence[Summary], extent: LogExtent, target: Target) -> Summary:
    oldest, newest = fit[0], fit[-1]
    match target:
        case Latest() | Immediate():
            return newest
        case RestorePoint():
            return oldest
        case Position(lsn):
            if lsn > extent.end:
                raise _beyond(f"{lsn} is after the last recovery point, {extent.end}")
            before = [each for each in fit if each.stop <= lsn]
        case Time(at):
            before = [each for each in fit if each.stopped <= at]
    if not before:
        first = oldest.stop if isinstance(target, Position) else oldest.stopped.isoformat(timespec="seconds")
        raise _beyond(f"{target} is before the first recovery point, {first}")
    return before[-1]


def _beyond(message: str) -> ThreefoldError:
    return BadInput(message, hint="`threefold list` shows the recovery points")
