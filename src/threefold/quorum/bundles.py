"""Many small entries in one object, so that a reader does not fetch thousands one by one. Pure.

A segment is whole after 16 MiB of WAL, and a quiet database may take a day and tens of thousands of entries to write
that much: whoever takes over would read each of them from two stores. So the leader writes every `BUNDLE_SLOTS` settled
entries once more, as they are, into one object of each store:

    bundles/{epoch}/{slot // BUNDLE_SLOTS}     kind BUNDLE, payload: (length, entry as it lies in its slot) each

Nothing rests on a bundle. Its entries are checked one by one as they would be out of their slots, and its own seal says
that the leader saw them settled, which never ceases to be true. Where one is missing, damaged, or was never written
because its entries are large (reading those costs little more than their bytes), the slots are read.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from threefold.kernel.errors import Damaged
from threefold.quorum import keys
from threefold.quorum.objects import Header, Kind, LogObject
from threefold.quorum.requests import Answer, Answers, Ask, Procedure, Read
from threefold.quorum.view import Scope, opened
from threefold.stores.store import ABSENT

# Above it, reading slots is as good, and writing all bytes a third time is not.
BUNDLE_BYTES: Final = 1024 * 1024
_LENGTH: Final = struct.Struct(">I")


def slots_of(number: int, bundle_slots: int) -> range:
    """The slots of a bundle. Slot 0 is in none: every reader begins with it."""
    return range(max(number * bundle_slots, 1), (number + 1) * bundle_slots)


class Bundler:
    """Gathers an epoch's settled entries, and gives the bundle that one of them completes."""

    def __init__(self, bundle_slots: int) -> None:
        self._bundle_slots = bundle_slots
        self._bodies: list[bytes] = []
        self._bytes = 0

    def feed(self, slot: int, body: bytes) -> tuple[int, bytes] | None:
        """The next settled slot: the number and payload of the bundle that it completes, if it is worth writing."""
        self._bytes += len(body) + _LENGTH.size
        if self._bytes <= BUNDLE_BYTES:
            self._bodies.append(body)
        if (slot + 1) % self._bundle_slots:
            return None
        number = slot // self._bundle_slots
        whole = len(self._bodies) == len(slots_of(number, self._bundle_slots))
        payload = b"".join(_LENGTH.pack(len(each)) + each for each in self._bodies) if whole else b""
        self._bodies, self._bytes = [], 0
        return (number, payload) if whole else None


def header(scope: Scope, epoch: int, number: int) -> Header:
    return Header(Kind.BUNDLE, epoch, number, scope.writer)


def read_bundles(scope: Scope, epoch: int, numbers: Sequence[int]) -> Procedure[dict[int, list[LogObject]]]:
    """The entries of those of the epoch's bundles that any store has whole; each asked for from all stores.

    A damaged copy decides nothing: another store's may be whole, and is waited for.
    """
    asked = tuple(Read(store, keys.bundle_key(epoch, number)) for number in numbers for store in scope.stores)
    width = len(scope.stores)
    found: dict[int, list[LogObject]] = {}
    absent = dict.fromkeys(numbers, 0)
    judged: set[int] = set()

    def decided(answers: Answers) -> bool:
        for place in answers.keys() - judged:  # asked after each answer, and opening one takes a while
            judged.add(place)
            number = numbers[place // width]
            absent[number] += answers[place] is ABSENT
            if number not in found and (entries := _entries(scope, epoch, number, answers[place])):
                found[number] = entries
        return all(number in found or absent[number] >= scope.decisive for number in numbers)

    decided((yield Ask(asked, decided)))
    return found


def _entries(scope: Scope, epoch: int, number: int, answer: Answer) -> list[LogObject]:
    """Of one copy; none where it is not that bundle, whole."""
    known = scope.bundles_opened
    if known is None or not isinstance(answer, bytes):
        return _checked(scope, epoch, number, answer)
    name = sha256(b"%d %d " % (epoch, number) + answer).digest()
    if name not in known:
        known[name] = _checked(scope, epoch, number, answer)
    return known[name]


def _checked(scope: Scope, epoch: int, number: int, answer: Answer) -> list[LogObject]:
    bundle = opened(scope.codec, answer)
    if bundle is None or bundle.header.kind is not Kind.BUNDLE or bundle.position != (epoch, number):
        return []
    try:
        entries = [scope.codec.open(body) for body in _parted(bundle.payload)]
    except Damaged:
        return []
    slots = [(epoch, slot) for slot in slots_of(number, scope.bundle_slots)]
    whole = [each.position for each in entries] == slots and all(each.header.kind is Kind.ENTRY for each in entries)
    return entries if whole else []


def _parted(payload: bytes) -> list[bytes]:
    """Raises Damaged."""
    bodies, place = [], 0
    while place < len(payload):
        if len(payload) - place < _LENGTH.size:
            raise Damaged("a bundle ends within a length")
        (length,) = _LENGTH.unpack_from(payload, place)
        place += _LENGTH.size
        bodies.append(payload[place : place + length])
        place += length
    return bodies
