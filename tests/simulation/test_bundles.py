"""Bundles: what is gathered, what is believed, what a reader saves by them; on the simulated stores."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.simulation.leader import MemoCodec
from tests.simulation.world import STORES, World, at_once
from threefold.kernel.lsn import Lsn
from threefold.quorum import bundles, keys
from threefold.quorum.bundles import BUNDLE_BYTES, Bundler, read_bundles
from threefold.quorum.history import encode_start
from threefold.quorum.members import Format
from threefold.quorum.objects import Header, Kind, LogObject
from threefold.quorum.reading import read_log
from threefold.quorum.requests import Ask, Read
from threefold.quorum.trim import trim
from threefold.quorum.view import Scope, View
from threefold.stores.store import ABSENT

WRITER = "0123456789abcdef" * 2
LAST = 21


def _scope() -> Scope:
    return Scope(STORES, MemoCodec(), WRITER, segment_bytes=1 << 20, bundle_slots=8)


def _log(scope: Scope) -> list[LogObject]:
    """Slot 0 and slots 1 to LAST of epoch 1, ten bytes each."""
    begin = Header(Kind.START, 1, 0, WRITER, 1, Lsn(1000), Lsn(1000))
    log = [scope.codec.encode(begin, encode_start((), b""))]
    for slot in range(1, LAST + 1):
        start = Lsn(990 + 10 * slot)
        header = Header(Kind.ENTRY, 1, slot, WRITER, 1, start, Lsn(start + 10), log[-1].digest)
        log.append(scope.codec.encode(header, bytes([slot]) * 10))
    return log


def _bundles(scope: Scope, log: list[LogObject]) -> dict[int, LogObject]:
    bundler, made = Bundler(scope.bundle_slots), {}
    for entry in log[1:]:
        bundle = bundler.feed(entry.header.slot, entry.body)
        if bundle is not None:
            made[bundle[0]] = scope.codec.encode(bundles.header(scope, 1, bundle[0]), bundle[1])
    return made


def _world(scope: Scope, log: list[LogObject], made: dict[int, LogObject]) -> World:
    world = World(1)
    for store in world.stores.values():
        store.keep(keys.FORMAT, Format(scope.codec.log, "key", "0").encode(), 0.0)
        store.keep(keys.epoch_key(1), b"somebody", 0.0)
        for entry in log:
            store.keep(keys.slot_key(*entry.position), entry.body, 0.0)
        for number, bundle in made.items():
            store.keep(keys.bundle_key(1, number), bundle.body, 0.0)
    return world


def _read(world: World, scope: Scope) -> tuple[Any, list[Read]]:
    """What a reader finds, and what it read for that."""
    procedure, asked, value = read_log(scope), [], None
    while True:
        try:
            step = procedure.send(value)
        except StopIteration as done:
            return done.value, asked
        value = None
        if isinstance(step, Ask):
            asked += [request for request in step.requests if isinstance(request, Read)]
            value = {n: world.stores[r.store].perform(r, 0.0, stale=False) for n, r in enumerate(step.requests)}


def test_a_reader_takes_bundled_entries_out_of_the_bundles_and_finds_the_same_log() -> None:
    scope = _scope()
    log = _log(scope)
    made = _bundles(scope, log)
    assert set(made) == {0, 1}, "slots 1 to 7, and 8 to 15"
    without, all_slots = _read(_world(scope, log, {}), scope)
    found, asked = _read(_world(scope, log, made), scope)
    assert found == without
    assert [entry.header.slot for entry in found.recent] == list(range(LAST + 1))
    single = {request.key for request in asked if request.key.startswith(keys.LOG)}
    assert keys.slot_key(1, 15) not in single
    assert keys.slot_key(1, 16) in single
    assert len(asked) < len(all_slots)


@pytest.mark.parametrize("wrong", ["damaged", "another's place", "an entry too few", "another epoch's", "not entries"])
def test_a_bundle_that_is_not_whole_is_as_good_as_none(wrong: str) -> None:
    scope = _scope()
    log = _log(scope)
    made = _bundles(scope, log)
    body = made[1].body
    if wrong == "damaged":
        body = body[:-1] + bytes([body[-1] ^ 1])
    elif wrong == "another's place":
        body = made[0].body
    elif wrong == "an entry too few":
        payload = made[1].payload
        body = scope.codec.encode(bundles.header(scope, 1, 1), payload[: -len(log[15].body) - 4]).body
    elif wrong == "another epoch's":
        body = scope.codec.encode(bundles.header(scope, 2, 1), made[1].payload).body
    else:
        body = scope.codec.encode(bundles.header(scope, 1, 1), b"\x00\x00\x00\xffnothing").body
    world = _world(scope, log, made)
    for store in world.stores.values():
        store.objects[keys.bundle_key(1, 1)] = body
    assert set(at_once(world, read_bundles(scope, 1, [0, 1]), STORES)) == {0}
    found, _ = _read(world, scope)
    assert [entry.header.slot for entry in found.recent] == list(range(LAST + 1))


def test_one_whole_copy_is_enough_and_a_silent_store_is_not_waited_for() -> None:
    scope = _scope()
    log = _log(scope)
    world = _world(scope, log, _bundles(scope, log))
    world.stores["S1"].objects[keys.bundle_key(1, 1)] = b"rot"
    del world.stores["S2"].objects[keys.bundle_key(1, 1)]
    assert set(at_once(world, read_bundles(scope, 1, [0, 1, 2]), STORES)) == {0, 1}
    ask = next(read_bundles(scope, 1, [5]))
    assert isinstance(ask, Ask)
    (absent, *_) = (world.stores["S2"].perform(ask.requests[1], 0.0, stale=False),)
    assert not ask.enough({0: absent})
    assert ask.enough({0: absent, 2: absent})


def test_a_damaged_copy_does_not_end_the_wait_for_a_whole_one() -> None:
    scope = _scope()
    whole = _bundles(scope, _log(scope))[0].body
    procedure = read_bundles(scope, 1, [0])
    ask = next(procedure)
    assert isinstance(ask, Ask)
    assert not ask.enough({0: b"rot"})
    assert not ask.enough({0: b"rot", 1: ABSENT})
    answers = {0: b"rot", 1: ABSENT, 2: whole}
    assert ask.enough(answers)
    with pytest.raises(StopIteration) as done:
        procedure.send(answers)
    assert [entry.header.slot for entry in done.value.value[0]] == list(range(1, 8))


def test_a_bundle_in_a_slot_is_no_entry() -> None:
    """Its header has an epoch and a number, as an entry's has a slot: they must not be taken for each other."""
    scope = _scope()
    view = View(1, 1)
    view.learn(scope.codec, "S1", _bundles(scope, _log(scope))[1].body)
    assert view.entry is None
    assert view.damaged == {"S1"}


def test_large_entries_are_not_written_once_more() -> None:
    bundler = Bundler(4)
    assert bundler.feed(1, bytes(BUNDLE_BYTES)) is None
    assert bundler.feed(2, b"small") is None
    assert bundler.feed(3, b"small") is None, "the bundle it would complete is too large"
    for slot in (4, 5, 6):
        assert bundler.feed(slot, b"small") is None
    assert bundler.feed(7, b"small") is not None, "the next begins anew"


def test_bundles_go_with_the_entries_that_segments_cover() -> None:
    scope = _scope()
    log = _log(scope)
    world = _world(scope, log, _bundles(scope, log))
    at_once(world, trim(scope, (), 1, (1, 15)), STORES)
    left = [key for key in world.stores["S1"].objects if key.startswith(keys.BUNDLES)]
    assert left == [keys.bundle_key(1, 1)], "slot 15 is not covered, and lies in it"
    at_once(world, trim(scope, (), 1, (1, 16)), STORES)
    assert not any(key.startswith(keys.BUNDLES) for key in world.stores["S1"].objects)


def test_a_segment_in_the_midst_of_a_bundle_is_gone_on_from() -> None:
    scope = replace(_scope(), segment_bytes=1024)
    log = _log(scope)
    world = _world(scope, log, _bundles(scope, log))
    covered = b"".join(entry.payload for entry in log[1:4])[:24]
    segment = scope.codec.encode(Header(Kind.SEGMENT, 1, 4, WRITER, 1, Lsn(1000), Lsn(1030)), covered)
    for store in world.stores.values():
        store.keep(keys.segment_key(1, 0), segment.body, 0.0)
    found, _ = _read(world, scope)
    assert [entry.header.slot for entry in found.recent] == list(range(4, LAST + 1))


def test_bundles_that_were_opened_once_are_not_opened_again_and_other_bytes_are() -> None:
    scope = replace(_scope(), bundles_opened={})
    log = _log(scope)
    made = _bundles(scope, log)
    whole = made[1].body
    first = bundles._entries(scope, 1, 1, whole)
    assert [entry.position for entry in first] == [(1, slot) for slot in range(8, 16)]
    assert bundles._entries(scope, 1, 1, whole) is first
    assert bundles._entries(scope, 1, 1, whole[:-1] + bytes([whole[-1] ^ 1])) == []
    assert bundles._entries(scope, 1, 0, whole) == []  # the right bytes in another's place
    assert bundles._entries(scope, 2, 1, whole) == []
