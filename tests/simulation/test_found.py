"""What the simulation found, told once more by hand: a seed is lost when the world changes, this is not."""

from __future__ import annotations

import pytest

from tests.simulation.leader import MemoCodec
from tests.simulation.world import STORES, World, at_once
from threefold.kernel.errors import Damaged
from threefold.kernel.lsn import Lsn
from threefold.quorum import keys, lead, start
from threefold.quorum.builder import SegmentBuilder, Settled
from threefold.quorum.history import Span, encode_start
from threefold.quorum.lead import resume
from threefold.quorum.members import Format
from threefold.quorum.objects import Header, Kind
from threefold.quorum.reading import read_log
from threefold.quorum.requests import Ask
from threefold.quorum.segments import SegmentAt, newest_segment
from threefold.quorum.view import Scope, look
from threefold.quorum.walk import Found
from threefold.stores.store import ABSENT

WRITER = "0123456789abcdef" * 2


def _scope(stores: tuple[str, ...] = STORES) -> Scope:
    return Scope(stores, MemoCodec(), WRITER, segment_bytes=64)


def test_a_fork_inside_a_segment_behind_a_tail_that_travelled() -> None:
    """Timeline 2 forks at 1456; timeline 1 has a segment [1408, 1472), and its slot 0 carried [1216, 1512) along.

    The first segment of timeline 2 must hold its own bytes from 1456 on; they were taken for known (seed 2536).
    """
    world, scope = World(1), _scope()
    old, new = bytes([1]) * 296, bytes([2]) * 100
    segment = scope.codec.encode(Header(Kind.SEGMENT, 4, 0, WRITER, 1, Lsn(1408), Lsn(1472)), old[:64])
    for store in world.stores.values():
        store.keep(keys.segment_key(1, 22), segment.body, 0.0)
    before = Header(Kind.START, 4, 0, WRITER, 1, Lsn(1216), Lsn(1512))
    fourth = scope.codec.encode(before, encode_start((), old))
    spans = (Span(4, 0, 1, Lsn(1216), Lsn(1512)),)
    found = Found(spans, 1, Lsn(1512), SegmentAt(1, 22, Lsn(1408), Lsn(1472), 4, 0), (fourth,), ())
    first = scope.codec.encode(Header(Kind.START, 7, 0, WRITER, 2, Lsn(1456), Lsn(1456)), encode_start(spans, b""))

    resumed = at_once(world, resume(scope, found, first), STORES)
    builder = SegmentBuilder(resumed.begin, scope.segment_bytes)
    for part in resumed.recent:
        builder.feed(part)
    builder.feed(Settled(2, Lsn(1456), new, 7, 1))

    whole = builder.whole[0]
    assert (whole.timeline, int(whole.start), int(whole.end)) == (2, 1408, 1472)
    assert whole.parts == (old[:48] + new[:16],)


def test_damaged_bytes_do_not_end_the_wait_for_a_decision() -> None:
    """The store with the whole copy is always the slowest: a reading must wait for it all the same."""
    scope = _scope()
    procedure = look(scope, 1, [3])
    ask = next(procedure)
    assert isinstance(ask, Ask)
    assert not ask.enough({0: b"damaged", 1: ABSENT})
    assert ask.enough({0: b"damaged", 1: ABSENT, 2: ABSENT})


def test_a_reading_is_not_believed_when_an_epoch_began_meanwhile() -> None:
    """Epoch 2, on timeline 2, begins and trims epoch 1 while a reader walks over it."""
    world, scope = World(1), _scope()
    stores = world.stores.values()
    codec = scope.codec

    def put(key: str, body: bytes) -> None:
        for store in stores:
            store.keep(key, body, 0.0)

    first = codec.encode(Header(Kind.START, 1, 0, WRITER, 1, Lsn(1000), Lsn(1000)), encode_start((), b""))
    entry = codec.encode(Header(Kind.ENTRY, 1, 1, WRITER, 1, Lsn(1000), Lsn(1024), first.digest), bytes(range(24)))
    put(keys.FORMAT, Format(codec.log, "key", "0").encode())
    put(keys.epoch_key(1), b"somebody")
    put(keys.slot_key(1, 0), first.body)
    put(keys.slot_key(1, 1), entry.body)
    procedure = read_log(scope)
    value, began = None, False
    while True:
        try:
            step = procedure.send(value)
        except StopIteration as done:
            found = done.value
            break
        if isinstance(step, Ask) and not began and getattr(step.requests[0], "key", "") == keys.slot_key(1, 1):
            began = True
            span = Span(1, 1, 1, Lsn(1000), Lsn(1024))
            second = codec.encode(Header(Kind.START, 2, 0, WRITER, 2, Lsn(1024), Lsn(1024)), encode_start((span,), b""))
            segment = codec.encode(Header(Kind.SEGMENT, 2, 0, WRITER, 2, Lsn(1000), Lsn(1024)), bytes(range(24)))
            put(keys.epoch_key(2), b"somebody else")
            put(keys.slot_key(2, 0), second.body)
            put(keys.segment_key(2, 15), segment.body)
            for store in stores:
                del store.objects[keys.slot_key(1, 1)]
        value = None
        if isinstance(step, Ask):
            value = {n: world.stores[r.store].perform(r, 0.0, stale=False) for n, r in enumerate(step.requests)}
    assert began
    assert found.timeline == 2
    assert found.end == 1024


@pytest.mark.parametrize("fixes", [True, False])
def test_a_take_over_alone_does_not_fix_the_end_for_a_switch(fixes: bool) -> None:
    """S3 has an entry that was never settled, and is silent while a switch fences; the next taker hears it.

    The log then ended behind the fork of who was promoted, and nobody could lead for it: so a fence puts slot 0.
    """
    world, scope = World(1), _scope()
    codec = scope.codec
    first = codec.encode(Header(Kind.START, 1, 0, WRITER, 1, Lsn(1000), Lsn(1000)), encode_start((), b""))
    one = codec.encode(Header(Kind.ENTRY, 1, 1, WRITER, 1, Lsn(1000), Lsn(1024), first.digest), bytes(24))
    two = codec.encode(Header(Kind.ENTRY, 1, 2, WRITER, 1, Lsn(1024), Lsn(1048), one.digest), bytes(24))
    for name, store in world.stores.items():
        store.keep(keys.FORMAT, Format(codec.log, "key", "0").encode(), 0.0)
        store.keep(keys.epoch_key(1), b"somebody", 0.0)
        store.keep(keys.slot_key(1, 0), first.body, 0.0)
        store.keep(keys.slot_key(1, 1), one.body, 0.0)
        if name == "S3":
            store.keep(keys.slot_key(1, 2), two.body, 0.0)

    epoch, found = at_once(world, lead.fence(scope), ("S1", "S2"))
    assert found.end == 1024
    if fixes:
        at_once(world, start.start(scope, epoch, start.opening(found, 1, found.end)), ("S1", "S2"))
    _, later = at_once(world, lead.fence(_scope()), ("S1", "S2", "S3"))
    assert later.end == (1024 if fixes else 1048)


@pytest.mark.parametrize("asked", [STORES, ("S1", "S3")])
def test_a_rotten_segment_is_not_taken_for_a_lone_one_while_the_third_store_is_not_asked(
    asked: tuple[str, ...],
) -> None:
    """S3 was away while the segment was written, S1's copy rotted. Only if S2 has none either did its author die.

    With S2 not asked the segment before was gone on from, and the first trimmed slot was taken for the log's end (581).
    """
    world, scope = World(1), _scope(asked)
    segment = scope.codec.encode(Header(Kind.SEGMENT, 1, 3, WRITER, 1, Lsn(1024), Lsn(1088)), bytes(64))
    rotten = bytearray(segment.body)
    rotten[-1] ^= 1
    world.stores["S1"].keep(keys.segment_key(1, 16), bytes(rotten), 0.0)
    if asked != STORES:
        world.stores["S2"].keep(keys.segment_key(1, 16), segment.body, 0.0)
        with pytest.raises(Damaged, match="damaged"):
            at_once(world, newest_segment(scope, 1, None, Lsn(1030)), asked)
    else:
        assert at_once(world, newest_segment(scope, 1, None, Lsn(1030)), asked) is None
