"""The steps from one membership to the next, and who is asked under which."""

from __future__ import annotations

import pytest
from tests.simulation.leader import MemoCodec
from tests.simulation.world import World, at_once

from threefold.kernel.errors import Damaged, Refused
from threefold.kernel.lsn import Lsn
from threefold.quorum import keys, start
from threefold.quorum.history import Span, decode_start, encode_start, membership_of
from threefold.quorum.membership import FOUNDED, Membership, Named, check_step
from threefold.quorum.objects import Header, Kind
from threefold.quorum.start import Opening
from threefold.quorum.view import Scope

OLD = Named(("S1", "S2", "S3"))
BOTH = Named(("S1", "S2", "S3", "S4"), "S3", "S4")
NEW = Named(("S1", "S2", "S4"))
JOINT = Membership(1, ("S1", "S2"), "S3", "S4")


def test_a_replacement_goes_through_the_two_that_stay() -> None:
    assert OLD.following(FOUNDED) is None
    assert BOTH.following(FOUNDED) == JOINT
    assert BOTH.following(JOINT) == Membership(2, ("S1", "S2", "S4"), "S3", "S4")
    assert BOTH.following(JOINT.completed()) is None
    assert JOINT.abandoned() == Membership(2, ("S1", "S2", "S3"), "S4", "S3")


def test_who_is_asked() -> None:
    assert BOTH.voters(FOUNDED) == ("S1", "S2", "S3")
    assert BOTH.voters(JOINT) == ("S1", "S2")
    assert BOTH.voters(JOINT.completed()) == ("S1", "S2", "S4")
    assert NEW.voters(JOINT.completed()) == ("S1", "S2", "S4")
    assert OLD.voters(JOINT.abandoned()) == ("S1", "S2", "S3")


@pytest.mark.parametrize(
    ("now", "says"), [(JOINT, "is being replaced by S4"), (JOINT.completed(), "was replaced by S4")]
)
def test_old_settings_are_told_what_to_change(now: Membership, says: str) -> None:
    with pytest.raises(Refused, match=f"S3 {says}") as told:
        OLD.voters(now)
    assert "S4" in told.value.hint


def test_one_replacement_at_a_time() -> None:
    with pytest.raises(Refused, match="one replacement at a time"):
        Named(("S1", "S2", "S3", "S4", "S5"), "S2", "S5").following(JOINT)


@pytest.mark.parametrize(
    ("asked", "before", "after"),
    [
        (("S1", "S3"), FOUNDED, JOINT),  # not the two that stay
        (("S1", "S2", "S3"), FOUNDED, JOINT),
        (("S1", "S2"), FOUNDED, JOINT.completed()),  # no middle
        (("S1", "S4"), JOINT, JOINT.completed()),
        (("S1", "S2", "S4"), JOINT, JOINT.completed()),
        (("S1", "S2"), JOINT, Membership(2, ("S1", "S4", "S5"))),
        (("S1", "S2"), JOINT, Membership(3, ("S1", "S2", "S4"))),
        (("S1", "S2"), Membership(2, ("S1", "S4", "S5")), Membership(3, ("S1", "S2"), "S4", "S6")),
    ],
)
def test_no_other_step_can_be_made(asked: tuple[str, ...], before: Membership, after: Membership) -> None:
    check_step(("S1", "S2"), FOUNDED, JOINT)
    check_step(("S1", "S2"), JOINT, JOINT.completed())
    check_step(("S1", "S2"), JOINT, JOINT.abandoned())
    with pytest.raises(ValueError, match="cannot go from"):
        check_step(asked, before, after)


def test_a_log_without_a_replacement_is_written_as_ever() -> None:
    spans = (Span(1, 4, 1, Lsn(0), Lsn(9)),)
    assert b"membership" not in encode_start(spans, b"wal")
    assert decode_start(encode_start(spans, b"wal")) == (spans, b"wal")
    assert decode_start(encode_start(spans, b"wal", JOINT)) == (spans, b"wal")


def test_the_membership_is_read_back() -> None:
    codec = MemoCodec()
    for membership in (FOUNDED, JOINT, JOINT.completed()):
        header = Header(Kind.START, 1, 0, "00" * 16, 1, Lsn(0), Lsn(0))
        assert membership_of(codec.encode(header, encode_start((), b"", membership))) == membership
    bad = codec.encode(Header(Kind.START, 1, 0, "00" * 16), encode_start((), b"", Membership(1, ("S1",))))
    with pytest.raises(Damaged):
        membership_of(bad)


def test_a_change_lies_on_the_two_that_stay_alone() -> None:
    world = World(1)
    scope = Scope(("S1", "S2"), MemoCodec(), "01" * 16, segment_bytes=64)
    at_once(world, start.start(scope, 1, Opening((), 1, Lsn(0), b"", JOINT)), ("S1", "S2", "S3"))
    assert [keys.slot_key(1, 0) in store.objects for store in world.stores.values()] == [True, True, False]
