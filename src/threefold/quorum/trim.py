"""Deleting entries that segments cover: on every store, in any order, as often as one likes.

Never deleted: seals (a stalled writer could create its slot again and acknowledge it), claims, and slot 0 of the
newest three epochs (a reader finds the history there). A listing tells what to delete, and is trusted only in that an
object of that key has that size; a seal is the only object of its size, and objects never change.

Bundles of entries that are all covered go with them; nothing rests on one.

A delete that lands late may hit a seal that a taker put into the slot just emptied. That one is not needed: the slot's
bytes are in segments on two stores, and every taker goes on from there.
"""

from __future__ import annotations

from threefold.quorum import keys
from threefold.quorum.history import History
from threefold.quorum.objects import SEAL_BYTES
from threefold.quorum.requests import Answers, Ask, Delete, List, Procedure
from threefold.quorum.view import Scope
from threefold.stores.store import Page

_SLOT_ZEROS_KEPT = 3


def trim(scope: Scope, spans: History, epoch: int, covered: tuple[int, int]) -> Procedure[int]:
    """Delete entries below the position ``covered``, which segments on two stores hold; gives how many were asked.

    ``spans`` are the epochs before ``epoch``, our own. Slots behind an older epoch's last one are left alone: they
    are seals, or entries that never counted.
    """
    epochs = [span.epoch for span in spans] + [epoch]
    last_slots = {span.epoch: span.last_slot for span in spans}
    keep_starts = set(epochs[-_SLOT_ZEROS_KEPT:])
    asked = 0
    for lower in epochs:
        if lower > covered[0]:
            break
        first = 1 if lower in keep_starts else 0
        below = covered[1] if lower == covered[0] else last_slots[lower] + 1
        for store in scope.stores:
            asked += yield from _trim_epoch(store, lower, first, below)
            yield from _trim_bundles(store, lower, below // scope.bundle_slots)
    return asked


def _trim_epoch(store: str, epoch: int, first: int, below: int) -> Procedure[int]:
    after, asked = "", 0
    while True:
        answers: Answers = yield Ask((List(store, keys.log_prefix(epoch), after),))
        page = answers.get(0)
        if not isinstance(page, Page) or not page.objects:
            return asked
        slots = [(keys.last_number(listed.key), listed) for listed in page.objects]
        doomed = tuple(
            listed.key
            for slot, listed in slots
            if slot is not None and first <= slot < below and listed.size > SEAL_BYTES
        )
        if doomed:
            asked += len(doomed)
            yield Ask((Delete(store, doomed),))
        after = page.objects[-1].key
        if page.last or (slots[-1][0] or 0) >= below:
            return asked


def _trim_bundles(store: str, epoch: int, below: int) -> Procedure[None]:
    """Those of a lower number, the first listing's worth: what is left over goes the next time."""
    answers: Answers = yield Ask((List(store, keys.bundle_prefix(epoch)),))
    page = answers.get(0)
    if isinstance(page, Page):
        numbers = [(keys.last_number(listed.key), listed.key) for listed in page.objects]
        doomed = tuple(key for number, key in numbers if number is not None and number < below)
        if doomed:
            yield Ask((Delete(store, doomed),))
