"""Reading without taking over: for recovery, drills and verification while a leader may be at work.

Everything acknowledged before the read began is found: it is on two stores, and two are asked. A tail that is not
settled may be found as well; who needs a definite end takes over. Never seals.
"""

from __future__ import annotations

from threefold.quorum.claim import highest_claim
from threefold.quorum.requests import Pause, Procedure
from threefold.quorum.segments import ASK_AGAIN_S
from threefold.quorum.view import Scope, View, look
from threefold.quorum.walk import Found, SupersededError, walk


def read_log(scope: Scope) -> Procedure[Found | None]:
    """The log as it stands; None when it never began. Waits (asking again) while too few stores answer."""
    while True:
        head = yield from _newest_start(scope)
        if head is None:
            return None
        try:
            return (yield from walk(scope, head, believe))
        except SupersededError:
            yield Pause(ASK_AGAIN_S)


def believe(scope: Scope, view: View) -> Procedure[None]:
    """Decide one slot without touching it: an entry that any store holds, or vacant on as many as decide."""
    while view.entry is None and view.vacant() < scope.decisive:
        yield Pause(ASK_AGAIN_S)
        (again,) = yield from look(scope, view.epoch, [view.slot])
        view.entry, view.copies, view.seals, view.absent = again.entry, again.copies, again.seals, again.absent


def _newest_start(scope: Scope) -> Procedure[View | None]:
    highest = yield from highest_claim(scope, decisive=1)
    for epoch in range(highest, 0, -1):
        (view,) = yield from look(scope, epoch, [0])
        yield from believe(scope, view)
        if view.entry is not None:
            return view
    return None
