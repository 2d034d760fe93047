"""Claiming an epoch: a create-once object on two of three stores makes its author the only one who may use it.

Numbers are never skipped. A skipped number could be claimed later by somebody slow, below an epoch at work already;
and every number below ours is one that the take-over seals, so there must be few. A claim that is lost or undecided
is never used, but counts as an epoch to take over. Claims are never deleted: a deleted one could be won again.
"""

from __future__ import annotations

import json
from functools import partial

from threefold.quorum import keys
from threefold.quorum.majority import QUORUM
from threefold.quorum.requests import Answers, Ask, Create, List, Pause, Procedure, Read
from threefold.quorum.segments import listed
from threefold.quorum.view import GRACE_S, Scope
from threefold.stores.store import ABSENT, Made, Page

_TRY_AGAIN_S = 0.3


def claim(scope: Scope) -> Procedure[int]:
    """An epoch that is ours alone. Waits (asking again) while fewer than two stores answer."""
    body = json.dumps({"writer": scope.writer}).encode()
    beaten: set[int] = set()  # numbers that somebody else has on two stores, or shares with us
    while True:
        highest = yield from highest_claim(scope, decisive=QUORUM)
        number = max([highest, *beaten]) + 1
        answers: Answers = yield Ask(tuple(Create(store, keys.epoch_key(number), body) for store in scope.stores), _two)
        mine = sum(answer is Made.CREATED for answer in answers.values())
        held = mine
        doubtful = [s for place, s in enumerate(scope.stores) if answers.get(place) is not Made.CREATED]
        if mine < QUORUM:
            answers = yield Ask(tuple(Read(store, keys.epoch_key(number)) for store in doubtful))
            mine += sum(answer == body for answer in answers.values())
            held += sum(isinstance(answer, bytes) for answer in answers.values())
        if mine >= QUORUM:
            return number
        if held >= QUORUM:
            beaten.add(number)
        yield Pause(_TRY_AGAIN_S)


def highest_claim(scope: Scope, *, decisive: int) -> Procedure[int]:
    """The highest epoch whose claim ``decisive`` stores hold; 0 for none.

    A listing says where to begin, existence by key says where it ends.
    """
    highest = yield from _listed(scope, decisive)

    def definite(answers: Answers) -> bool:
        return sum(answer is ABSENT or isinstance(answer, bytes) for answer in answers.values()) >= scope.decisive

    while True:
        key = keys.epoch_key(highest + 1)
        answers: Answers = yield Ask(tuple(Read(store, key) for store in scope.stores), definite, GRACE_S)
        held = sum(isinstance(answer, bytes) for answer in answers.values())
        absent = sum(answer is ABSENT for answer in answers.values())
        if held >= decisive:
            highest += 1
        elif absent + held >= min(scope.decisive, len(scope.stores)):
            return highest
        else:
            yield Pause(_TRY_AGAIN_S)


def _listed(scope: Scope, decisive: int) -> Procedure[int]:
    seen: dict[int, set[str]] = {}
    after = dict.fromkeys(scope.stores, "")
    while after:
        stores = tuple(after)
        asked = tuple(List(store, keys.EPOCHS, after[store]) for store in stores)
        answers: Answers = yield Ask(asked, partial(listed, QUORUM), GRACE_S)
        for place, store in enumerate(stores):
            page = answers.get(place)
            if not isinstance(page, Page) or not page.objects:
                del after[store]
                continue
            for claimed in page.objects:
                number = keys.last_number(claimed.key)
                if number is not None:
                    seen.setdefault(number, set()).add(store)
            after[store] = page.objects[-1].key
            if page.last:
                del after[store]
    return max((number for number, stores in seen.items() if len(stores) >= decisive), default=0)


def _two(answers: Answers) -> bool:
    return sum(answer is Made.CREATED for answer in answers.values()) >= QUORUM
