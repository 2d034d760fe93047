"""Timelines: which one wrote which part of the log (PostgreSQL documentation, "Timelines").

A promotion begins a new timeline, and leaves a ``.history`` file of its ancestors, oldest first: a line each of
timeline, the LSN where it was left, and the reason. Timelines do not fence: two nodes may both make timeline 2,
so "the same number" is not "the same history" (epochs settle that, not this file).
"""

from __future__ import annotations

from dataclasses import dataclass

from threefold.kernel.errors import BadInput, Damaged
from threefold.kernel.lsn import Lsn


@dataclass(frozen=True, slots=True)
class Switch:
    """``timeline`` was left at LSN ``at``: its bytes count up to there."""

    timeline: int
    at: Lsn
    reason: str = ""


@dataclass(frozen=True, slots=True)
class History:
    """A timeline and its ancestors, oldest first."""

    timeline: int
    switches: tuple[Switch, ...] = ()


def parse_history(timeline: int, content: bytes | None) -> History:
    """Read ``{timeline}.history``; None stands for the absent file of timeline 1. Raises Damaged."""
    switches: list[Switch] = []
    for line in (content or b"").decode(errors="replace").splitlines():
        words = line.split(maxsplit=2)
        if not words or words[0].startswith("#"):
            continue
        try:
            switch = Switch(int(words[0]), Lsn.parse(words[1]), words[2].strip() if len(words) > 2 else "")
        except (ValueError, IndexError, BadInput) as error:
            raise Damaged(f"the history of timeline {timeline} has a line that is none: {line!r}") from error
        if switches and (switch.timeline <= switches[-1].timeline or switch.at < switches[-1].at):
            raise Damaged(f"the history of timeline {timeline} does not ascend at {line!r}")
        switches.append(switch)
    if switches and switches[-1].timeline >= timeline:
        raise Damaged(f"the history of timeline {timeline} names {switches[-1].timeline} as its ancestor")
    return History(timeline, tuple(switches))


def history_name(timeline: int) -> str:
    return f"{timeline:08X}.history"


def timeline_at(history: History, lsn: int) -> int:
    """The timeline that wrote the byte at ``lsn``."""
    for switch in history.switches:
        if lsn < switch.at:
            return switch.timeline
    return history.timeline


def begins_at(history: History) -> Lsn:
    """Where the timeline itself was forked off; 0 for the first."""
    return history.switches[-1].at if history.switches else Lsn(0)


def fork_point(history: History, timeline: int) -> Lsn | None:
    """Where ``timeline`` was left on the way to this one. None: it is this one, or no ancestor."""
    for switch in history.switches:
        if switch.timeline == timeline:
            return switch.at
    return None


def contains(history: History, timeline: int, lsn: int) -> bool:
    """Whether ``history`` has every byte that ``timeline`` has below ``lsn``.

    Where the switch lies below ``lsn``, what lies between may still hold no whole record; that is for the caller to
    read (`wal.first_whole_record_after`).
    """
    if timeline == history.timeline:
        return lsn >= begins_at(history)
    left = fork_point(history, timeline)
    return left is not None and lsn <= left
