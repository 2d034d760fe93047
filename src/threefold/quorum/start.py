"""Slot 0: with it an epoch begins. Once it stands on two stores no lower epoch acknowledges anything again.

It carries the history, the bytes adopted from the tail of the epoch before, and the one timeline that this epoch
writes. A switch of timeline needs an epoch of its own, and begins at the fork.
"""

from __future__ import annotations

from dataclasses import dataclass

from threefold.kernel.errors import Fenced, Refused
from threefold.kernel.lsn import Lsn
from threefold.quorum.history import History, encode_start
from threefold.quorum.majority import QUORUM
from threefold.quorum.membership import FOUNDED, Membership, check_step
from threefold.quorum.objects import Header, Kind, LogObject
from threefold.quorum.requests import Pause, Procedure
from threefold.quorum.segments import ASK_AGAIN_S
from threefold.quorum.view import Scope, View, put
from threefold.quorum.walk import Found


@dataclass(frozen=True, slots=True)
class Opening:
    """What an epoch begins with: bytes ``wal`` are [start, start + len(wal)) of ``timeline``.

    ``membership``: whose answers count from here on.
    """

    history: History
    timeline: int
    start: Lsn
    wal: bytes
    membership: Membership = FOUNDED

    @property
    def end(self) -> Lsn:
        """Where the appending goes on."""
        return Lsn(self.start + len(self.wal))


def opening(found: Found | None, timeline: int, at: Lsn) -> Opening:
    """How to go on from what was found; ``at`` is the fork of a new timeline, or the first byte of a new log.

    Raises ValueError where a new timeline would have to carry a tail: first go on with the old timeline, which
    brings the tail to two stores, then switch.
    """
    if found is None:
        return Opening((), timeline, at, b"")
    if timeline == found.timeline:
        return Opening(found.spans, timeline, found.placed, found.tail_bytes(), found.membership)
    if found.tail or at > found.placed:
        raise ValueError("a new timeline begins where the old one is on two stores")
    return Opening(found.spans, timeline, at, b"", found.membership)


def start(scope: Scope, epoch: int, begin: Opening) -> Procedure[LogObject]:
    """Put slot 0 on two stores. Raises Fenced where a seal or somebody else's slot 0 stands.

    A change of membership is put on both stores that stay, and nowhere else: on a third one it could be found by who
    asks that one, though a seal on one that stays had already kept it from beginning.
    """
    check_step(scope.stores, scope.membership, begin.membership)
    header = Header(Kind.START, epoch, 0, scope.writer, begin.timeline, begin.start, begin.end)
    ours = scope.codec.encode(header, encode_start(begin.history, begin.wal, begin.membership))
    view = View(epoch, 0)
    again = False
    while len(view.copies) < QUORUM:
        lacking = [store for store in scope.stores if store not in view.copies]
        try:
            yield from put(scope, view, ours.body, lacking, patiently=again)
        except Refused:
            raise Fenced(f"somebody else began epoch {epoch}") from None
        if view.seals or (view.entry is not None and view.entry.digest != ours.digest):
            raise Fenced(f"epoch {epoch} was ended before it began")
        again = True
        if len(view.copies) < QUORUM:
            yield Pause(ASK_AGAIN_S)
    return ours
