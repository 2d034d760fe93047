"""The reading that fences: ends every lower epoch for good, and finds the log as it then stands.

The old leader may still be alive, appending, writing segments and trimming. What makes it safe:

- A slot is either *adopted* (any entry seen in it counts, acknowledged or not) or *sealed* on two stores. A sealed
  slot can never be on two stores afterwards, and acknowledgements are contiguous, so nothing from it on is ever
  acknowledged again; one seal is enough although several slots are under way.
- Sealed on two stores and no entry seen means: never settled, or settled, put into a segment and trimmed before we
  came. So walk.py looks at the segments again before it believes an end.
- Where slot 0 of an epoch stands, on however few stores, its history is binding: epochs below it are never judged
  again, because judging twice could give two answers.
- A lower epoch whose slot 0 is sealed on two stores never started, and never will.
- Which two stores decide was assumed. Where the newest slot 0 says another membership, nothing is concluded
  (membership.py).

It may be stopped at any point and done again by anyone: it only adds seals, and copies of what is there.
"""

from __future__ import annotations

from functools import partial

from threefold.kernel.errors import Fenced, Refused
from threefold.quorum import keys
from threefold.quorum.claim import highest_claim
from threefold.quorum.majority import QUORUM, WINDOW
from threefold.quorum.objects import SEAL_BYTES, Header, Kind
from threefold.quorum.requests import Answers, Ask, List, Pause, Procedure, Read
from threefold.quorum.segments import ASK_AGAIN_S, listed
from threefold.quorum.view import GRACE_S, Scope, View, look, opened, put
from threefold.quorum.walk import Found, SupersededError, same_membership, walk
from threefold.stores.store import Page, Unknown

# How often an adopted entry is offered to the stores that lack it before its bytes travel in slot 0 instead.
_BRING_TRIES = 3


def take_over(scope: Scope, epoch: int) -> Procedure[Found | None]:
    """Fence all epochs below ``epoch``, which the caller has claimed; None when the log never began.

    Waits (asking again) while fewer than two stores answer. Raises Fenced where a higher epoch is at work already,
    MovedError where other stores are members by now, Refused where the log contradicts itself.
    """
    for lower in range(epoch - 1, 0, -1):
        (head,) = yield from look(scope, lower, [0])
        same_membership(scope, head)
        yield from seal_or_adopt(scope, head)
        if head.entry is None:
            continue
        try:
            found = yield from walk(scope, head, seal_or_adopt)
            yield from _nothing_beyond(scope, lower, found)
        except SupersededError:
            raise Fenced(f"a higher epoch than {epoch} is writing already") from None
        except Refused:
            # Somebody above us may have trimmed what we read, into segments of a timeline that we do not know.
            if (yield from highest_claim(scope, decisive=1)) > epoch:
                raise Fenced(f"a higher epoch than {epoch} was claimed meanwhile") from None
            raise
        return found
    return None


def seal_or_adopt(scope: Scope, view: View) -> Procedure[None]:
    """Decide one slot: returns when an entry was seen (brought to two stores if that can be), or two seals stand."""
    seal = scope.codec.encode(Header(Kind.SEAL, view.epoch, view.slot, scope.writer)).body
    contested = False
    while view.entry is None and len(view.seals) < QUORUM:
        if contested:
            yield Pause(ASK_AGAIN_S)
        yield from put(scope, view, seal, [s for s in scope.stores if s not in view.seals], patiently=contested)
        contested = True
    if view.entry is not None and contested and view.slot > 0:
        # Somebody is appending as we come. A seal further up stops it, so that the chase ends.
        ahead = View(view.epoch, view.slot + 2 * WINDOW)
        barrier = scope.codec.encode(Header(Kind.SEAL, ahead.epoch, ahead.slot, scope.writer)).body
        yield from put(scope, ahead, barrier, scope.stores)
    if view.slot == 0:
        same_membership(scope, view)  # before it is copied: a change lies on the stores that stay alone
    if view.entry is not None:
        yield from _bring_to_two(scope, view, view.entry.body)


def _bring_to_two(scope: Scope, view: View, body: bytes) -> Procedure[None]:
    for again in range(_BRING_TRIES):
        lacking = [store for store in scope.stores if store not in view.copies and store not in view.seals]
        if len(view.copies) >= QUORUM or not lacking:
            return
        if again:
            yield Pause(ASK_AGAIN_S)
        needed = QUORUM - len(view.copies)  # with one that hangs beside the other, each slot would wait for it
        yield from put(scope, view, body, lacking, patiently=again > 0, needed=needed)


def _nothing_beyond(scope: Scope, epoch: int, found: Found) -> Procedure[None]:
    """The safety net: a writer has at most WINDOW slots under way, so an entry further up contradicts this end."""
    last = max((e.header.slot for e in found.recent if e.header.epoch == epoch), default=0)
    after = keys.slot_key(epoch, last + WINDOW)
    asked = tuple(List(store, keys.log_prefix(epoch), after) for store in scope.stores)
    answers: Answers = yield Ask(asked, partial(listed, scope.decisive), GRACE_S)
    suspects = [
        Read(store, beyond.key)
        for place, store in enumerate(scope.stores)
        if isinstance(page := answers.get(place), Page)
        for beyond in page.objects
        if beyond.size > SEAL_BYTES
    ]
    while suspects:
        answers = yield Ask(tuple(suspects))
        for place, request in enumerate(suspects):
            found_there = opened(scope.codec, answers.get(place))
            if found_there is not None and not found_there.is_seal:
                raise Refused(
                    f"{request.store} holds {request.key}, beyond the end of its epoch at slot {last}",
                    hint="nothing was truncated; keep all three stores as they are and report this",
                )
        suspects = [r for place, r in enumerate(suspects) if isinstance(answers.get(place), Unknown)]
        if suspects:
            yield Pause(ASK_AGAIN_S)
