"""How wide the walk reads: wider while slots are tiny, never more bytes at once than memory has room for."""

from __future__ import annotations

import os
from collections.abc import Iterator

from threefold.kernel.keys import Keyring
from threefold.kernel.lsn import Lsn
from threefold.quorum import keys
from threefold.quorum.history import encode_start
from threefold.quorum.objects import Codec, Header, Kind
from threefold.quorum.reading import read_log
from threefold.quorum.requests import Ask, List, Read
from threefold.quorum.view import Scope
from threefold.quorum.walk import Found
from threefold.stores.store import ABSENT, Page

STORES = ("S1", "S2", "S3")
WRITER = "0123456789abcdef" * 2


def _log(codec: Codec, sizes: Iterator[int]) -> dict[str, bytes]:
    """Epoch 1, with entries of these sizes, the same on each store."""
    at, before = 1000, codec.encode(Header(Kind.START, 1, 0, WRITER, 1, Lsn(1000), Lsn(1000)), encode_start((), b""))
    objects = {keys.epoch_key(1): b"somebody", keys.slot_key(1, 0): before.body}
    for slot, size in enumerate(sizes, 1):
        header = Header(Kind.ENTRY, 1, slot, WRITER, 1, Lsn(at), Lsn(at + size), before.digest)
        before = codec.encode(header, os.urandom(size))
        objects[keys.slot_key(1, slot)] = before.body
        at += size
    return objects


def _read(sizes: Iterator[int]) -> tuple[Found, list[int], list[int]]:
    """What was found; how many slots were read side by side, round by round, and how many bytes that brought."""
    codec = Codec(Keyring(bytes(range(32))), 7)
    objects = _log(codec, sizes)
    procedure = read_log(Scope(STORES, codec, WRITER))
    slots: list[int] = []
    brought: list[int] = []
    step = next(procedure)
    while True:
        assert isinstance(step, Ask)
        answers: dict[int, object] = {}
        for place, request in enumerate(step.requests):
            if isinstance(request, List):
                answers[place] = Page((), last=True)  # a hint that says nothing
            elif isinstance(request, Read):
                answers[place] = objects.get(request.key, ABSENT)
        if isinstance(step.requests[0], Read) and step.requests[0].key.startswith("log/"):
            slots.append(len(step.requests) // len(STORES))
            brought.append(sum(len(body) for body in answers.values() if isinstance(body, bytes)))
        try:
            step = procedure.send(answers)
        except StopIteration as done:
            return done.value, slots, brought


def test_tiny_slots_are_read_many_side_by_side() -> None:
    found, slots, _ = _read(iter([40] * 3000))
    assert len(found.recent) == 3001
    assert max(slots) <= 128  # a connection to each store for each
    assert len(slots) < 3000 / 128 + 8


def test_large_ones_are_not_read_all_at_once() -> None:
    found, _, brought = _read(iter([40] * 300 + [60_000] * 700))
    assert len(found.recent) == 1001
    # A wide round or two meets them unawares; those after are narrower.
    assert sum(came > 3 * 64 * 61_000 for came in brought) <= 2
