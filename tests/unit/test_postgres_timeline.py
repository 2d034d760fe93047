import pytest

from threefold.kernel.errors import Damaged
from threefold.kernel.lsn import Lsn
from threefold.postgres.timeline import (
    History,
    Switch,
    begins_at,
    contains,
    fork_point,
    history_name,
    parse_history,
    timeline_at,
)

# As PostgreSQL writes it: the child of timeline 3, which came from 1 (timeline 2 went elsewhere).
FILE = b"""1\t0/3000148\tno recovery target specified

3\t0/5000A00\tbefore transaction 742 at 2026-11-01 10:00:00+00
"""
FIVE = parse_history(5, FILE)


def test_parse() -> None:
    assert (
        History(
            5,
            (
                Switch(1, Lsn(0x3000148), "no recovery target specified"),
                Switch(3, Lsn(0x5000A00), "before transaction 742 at 2026-11-01 10:00:00+00"),
            ),
        )
        == FIVE
    )
    assert parse_history(1, None) == History(1)
    assert history_name(0x1F) == "0000001F.history"


@pytest.mark.parametrize(
    "content", [b"one\t0/3\tx", b"1\tnowhere\tx", b"1", b"2\t0/2\tx\n1\t0/3\tx", b"1\t0/3\tx\n2\t0/2\tx", b"5\t0/1\tx"]
)
def test_a_history_that_is_none(content: bytes) -> None:
    with pytest.raises(Damaged):
        parse_history(5, content)


def test_which_timeline_wrote_a_byte() -> None:
    assert timeline_at(FIVE, 0x3000147) == 1
    assert timeline_at(FIVE, 0x3000148) == 3
    assert timeline_at(FIVE, 0x50009FF) == 3
    assert timeline_at(FIVE, 0x5000A00) == 5
    assert begins_at(FIVE) == 0x5000A00
    assert begins_at(History(1)) == 0


def test_contains() -> None:
    assert contains(FIVE, 1, 0x3000148)  # all of timeline 1 up to the switch
    assert not contains(FIVE, 1, 0x3000149)  # timeline 1 went on, elsewhere
    assert contains(FIVE, 3, 0x5000A00)
    assert not contains(FIVE, 3, 0x5000A01)
    assert contains(FIVE, 5, 0x9000000)
    assert not contains(FIVE, 2, 0x100)  # a timeline that is no ancestor
    assert not contains(FIVE, 6, 0x100)  # nor one that came later
    assert fork_point(FIVE, 3) == 0x5000A00
    assert fork_point(FIVE, 5) is None
