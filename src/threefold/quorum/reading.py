"""Reading without taking over: for recovery, drills and verification while a leader may be at work.

Everything acknowledged before the read began is found: it is on two stores, and two are asked. A tail that is not
settled may be found as well; who needs a definite end takes over. Never seals.
"""

from __future__ import annotations

from threefold.kernel.errors import Damaged
from threefold.quorum.claim import highest_claim
from threefold.quorum.membership import Membership, MovedError
from threefold.quorum.requests import Pause, Procedure
from threefold.quorum.segments import ASK_AGAIN_S
from threefold.quorum.view import Scope, View, look, look_at, look_well
from threefold.quorum.walk import ELSEWHERE, Found, SupersededError, same_membership, walk

_STARTS = 8
_DOUBTS = 3  # bytes may have been spoilt on their way once


def read_log(scope: Scope, *, up_to_damage: bool = False) -> Procedure[Found | None]:
    """The log as it stands; None when it never began. Waits (asking again) while too few stores answer.

    Raises Damaged where what must be there is whole on no store; ``up_to_damage``: in its place, the log before that.

    Raises MovedError where other stores are members by now; asked at the end again, for what was acknowledged before
    the reading began can have been trimmed behind segments that only the new members have.

    An epoch that began while we walked may have put what we walked over into segments of a timeline that we did not
    look at, and trimmed it: an end is believed only if no newer epoch has begun by then.
    """
    highest, head = yield from _newest_start(scope)
    while True:
        superseded, found = False, None
        if head is not None:
            try:
                found = yield from walk(scope, head, believe, up_to_damage=up_to_damage)
            except SupersededError:
                superseded = True
                yield Pause(ASK_AGAIN_S)
        before = highest, head.epoch if head else 0
        highest, head = yield from _newest_start(scope)
        if not superseded and before == (highest, head.epoch if head else 0):
            return found


def membership_now(scope: Scope) -> Procedure[Membership]:
    """Whose answers count by the newest slot 0 that these stores show; as assumed where no epoch has begun."""
    try:
        yield from _newest_start(scope)
    except MovedError as moved:
        return moved.membership
    return scope.membership


def believe(scope: Scope, view: View) -> Procedure[None]:
    """Decide one slot without touching it: an entry that any store holds, or vacant on as many as decide.

    One that is damaged on the stores that had it stays undecided: `View.hopeless`.
    """
    doubts = 0
    while view.entry is None and view.vacant() < scope.decisive and doubts < _DOUBTS:
        yield Pause(ASK_AGAIN_S)
        (again,) = yield from look(scope, view.epoch, [view.slot])
        view.become(again)
        doubts += view.hopeless(scope)
    if view.entry is None:
        view.become((yield from look_well(scope, view)))


def _newest_start(scope: Scope) -> Procedure[tuple[int, View | None]]:
    """The highest claim, and slot 0 of the highest epoch that began."""
    highest = yield from highest_claim(scope, decisive=1)
    # Claims that came to nothing lie above it, seldom many; slot 0s are read some at a time.
    for top in range(highest, 0, -_STARTS):
        views: list[View] = yield from look_at(scope, [(epoch, 0) for epoch in range(top, max(top - _STARTS, 0), -1)])
        for view in views:
            yield from believe(scope, view)
            if view.entry is not None:
                same_membership(scope, view)
                return highest, view
            if view.hopeless(scope):
                raise Damaged(view.damage, hint=ELSEWHERE)
    return highest, None
