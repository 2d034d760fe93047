"""Becoming the leader, and picking up what the leader before left unfinished.

The order is the safety argument (docs/explanation/quorum-log.md): claim, take over everything below, let the caller
check that its primary continues the log *as the take-over found it*, put slot 0, and only then append. Before the
first new segment is written, the newest one is put on two stores again, because its author may have died after the
first copy; what older epochs left behind it is completed from their entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from threefold.kernel.errors import Unavailable
from threefold.kernel.lsn import Lsn
from threefold.quorum import keys
from threefold.quorum.builder import Settled, lineage
from threefold.quorum.claim import claim
from threefold.quorum.majority import QUORUM
from threefold.quorum.objects import LogObject
from threefold.quorum.requests import Answers, Ask, Create, Pause, Procedure, Read
from threefold.quorum.segments import ASK_AGAIN_S, segment_of
from threefold.quorum.takeover import take_over
from threefold.quorum.view import Scope, opened
from threefold.quorum.walk import Found
from threefold.stores.store import Made

_TRIES = 20


def fence(scope: Scope) -> Procedure[tuple[int, Found | None]]:
    """Claim the next epoch and end all lower ones: our epoch, and the log as it then stands for good."""
    epoch = yield from claim(scope)
    found = yield from take_over(scope, epoch)
    return epoch, found


@dataclass(frozen=True, slots=True)
class Resumed:
    """Where the segments go on: settled bytes from ``begin`` on that are in no segment yet."""

    begin: Lsn
    recent: Sequence[Settled]


def resume(scope: Scope, found: Found | None, first: LogObject) -> Procedure[Resumed]:
    """Prepare the writing of segments behind our slot 0, ``first``. Raises Unavailable where a store went away."""
    if found is None:
        return Resumed(first.header.start, lineage([first]))
    # The tail travelled on in our slot 0; it must not count twice, nor be named as a place to go on reading.
    line = lineage([*found.recent[: len(found.recent) - len(found.tail)], first])
    at = found.segment
    if at is None:
        return Resumed(found.start, line)
    yield from segment_on_two(scope, at.timeline, at.number)
    fork = next((part.start for part in line if part.timeline != at.timeline), at.end)
    if fork >= at.end:
        return Resumed(at.end, line)
    # The new timeline begins inside what is in segments already: its first segment repeats the bytes before the fork.
    before = yield from segment_on_two(scope, at.timeline, segment_of(scope, fork))
    start = before.header.start
    shared = Settled(at.timeline, start, before.payload[: fork - start], before.header.epoch, before.header.slot)
    return Resumed(start, [shared, *line])


def segment_on_two(scope: Scope, timeline: int, number: int) -> Procedure[LogObject]:
    """Read a segment from any store that has it whole, and see to it that it was put on two.

    A copy that was damaged since then counts: what matters here is that its author did not die after the first one,
    and nothing can be put in its place (mending it is for repair). Where it does not, a single rotten copy would keep
    everybody from leading for as long as the third store is away.
    """
    key = keys.segment_key(timeline, number)
    for _ in range(_TRIES):
        reads = tuple(Read(store, key) for store in scope.stores)
        answers: Answers = yield Ask(reads, partial(_two_have, scope))
        there = {store for place, store in enumerate(scope.stores) if isinstance(answers.get(place), bytes)}
        segment = next((copy for answer in answers.values() if (copy := opened(scope.codec, answer))), None)
        if segment is not None:
            lacking = [store for store in scope.stores if store not in there]
            if len(there) < QUORUM:
                answers = yield Ask(tuple(Create(store, key, segment.body) for store in lacking))
                there |= {store for place, store in enumerate(lacking) if answers.get(place) is Made.CREATED}
            if len(there) >= QUORUM:
                return segment
        yield Pause(ASK_AGAIN_S)
    raise Unavailable(f"{key} cannot be put on two stores", hint="wait until the stores answer again")


def _two_have(scope: Scope, answers: Answers) -> bool:
    """Two have it, and one of them whole. Opened only when two have answered: 16 MiB take a while."""
    bodies = [answer for answer in answers.values() if isinstance(answer, bytes)]
    return len(bodies) >= QUORUM and any(opened(scope.codec, body) for body in bodies)
