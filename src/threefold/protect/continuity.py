"""Does this primary continue that log? Pure; asked before the claim (courtesy) and after the take-over (safety).

A primary continues the log when it is the same database system and has every whole record that the log has:

- on the log's own timeline, with everything that the log holds flushed (it sends only what it has flushed), and the
  same bytes there: a copy of the system that went on by itself reaches the same LSNs;
- or on a descendant of it, forked at the log's end, or beyond it, or before it with no whole record in between
  (a recovery forks at the end of the last whole record; the log may end in the middle of the next).

Timelines do not fence (two nodes may both make timeline 2), so a timeline's number is compared together with the
history that the stores keep of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from threefold.kernel.errors import Refused
from threefold.kernel.lsn import Lsn
from threefold.postgres.timeline import History, fork_point

_OTHER = "is this the right primary? To protect a new one, give it a [system] name of its own"


WholeRecordFrom = Callable[[Lsn], Lsn | None]


@dataclass(frozen=True, slots=True)
class Continuation:
    """Stream ``timeline`` from ``at`` on."""

    timeline: int
    at: Lsn


def same_system(log: int, primary: int) -> None:
    """Raises Refused for another database system."""
    if log != primary:
        raise Refused(f"the primary is database system {primary}, the log is that of {log}", hint=_OTHER)


def same_bytes(log: bytes, primary: bytes, at: Lsn) -> None:
    """Raises Refused where the primary's WAL from ``at`` on is not the log's."""
    if log != primary:
        raise Refused(
            f"the primary holds other changes than the log behind {at}: it is a copy that went on by itself",
            hint="recover from the stores (`threefold recover`) and protect the recovered database",
        )


def continuation(
    timeline: int,
    end: Lsn,
    *,
    flushed: Lsn,
    history: History,
    whole_record_from: WholeRecordFrom,
) -> Continuation:
    """How the primary (``history``, ``flushed``) goes on from a log that ends at ``end`` on ``timeline``.

    ``whole_record_from`` reads the log: the first whole record at or after an LSN, if any. Raises Refused.
    """
    if timeline == history.timeline:
        if flushed < end:
            raise Refused(
                f"the log reaches {end}, the primary has only {flushed}: it lost changes that were acknowledged",
                hint="recover from the stores (`threefold recover`) and protect the recovered database",
            )
        return Continuation(timeline, end)
    fork = fork_point(history, timeline)
    if fork is None:
        raise Refused(
            f"the primary is on timeline {history.timeline}, which does not descend from the log's timeline {timeline}",
            hint="a newer primary may be at work: protect that one, or recover from the stores",
        )
    if fork > end:
        return Continuation(timeline, end)
    if fork < end:
        record = whole_record_from(fork)
        if record is not None:
            raise Refused(
                f"the primary left timeline {timeline} at {fork}, the log holds a whole record at {record}",
                hint="it was recovered to an earlier point: protect it under a [system] name of its own",
            )
    return Continuation(_next_after(history, timeline), fork)


def still_sends(timeline: int, received: Lsn, *, flushed: Lsn, history: History) -> bool:
    """Whether the primary goes on with ``timeline`` behind ``received``; otherwise this is for another epoch to judge.

    A primary that was promoted may have more of the old timeline than the log has, and sends it up to its fork.
    """
    if timeline == history.timeline:
        return flushed >= received
    fork = fork_point(history, timeline)
    return fork is not None and fork > received


def _next_after(history: History, timeline: int) -> int:
    ancestors = [switch.timeline for switch in history.switches]
    following = [*ancestors[1:], history.timeline]
    return following[ancestors.index(timeline)]
