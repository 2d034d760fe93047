"""Token buckets, and whose address counts."""

from __future__ import annotations

import pytest

from threefold.connectivity.headers import Asked, caller
from threefold.connectivity.limits import Buckets, Rate, of_address


def test_a_burst_is_let_through_and_the_next_learns_how_long_to_wait() -> None:
    buckets = Buckets(Rate(burst=3, per_second=2))
    assert [buckets.take("a", 0.0) for _ in range(4)] == [0, 0, 0, 0.5]
    assert buckets.take("b", 0.0) == 0, "one's flood is not another's"
    assert buckets.take("a", 0.4) > 0
    assert buckets.take("a", 0.5) == 0
    assert buckets.take("a", 0.5) > 0


def test_being_refused_takes_nothing_and_a_bucket_never_holds_more_than_its_burst() -> None:
    buckets = Buckets(Rate(burst=2, per_second=1))
    for _ in range(50):
        buckets.take("a", 0.0)
    assert buckets.wait("a", 0.0) == 1.0
    assert [buckets.take("a", 1e6) for _ in range(3)] == [0, 0, 1.0]


def test_a_clock_that_goes_back_gives_nothing() -> None:
    buckets = Buckets(Rate(burst=1, per_second=1))
    assert buckets.take("a", 100.0) == 0
    assert buckets.take("a", 50.0) > 0


def test_a_flood_from_many_addresses_keeps_memory_bounded_and_who_owes_is_not_forgotten() -> None:
    buckets = Buckets(Rate(burst=2, per_second=0.001), most=100)
    buckets.take("debtor", 0.0)
    buckets.take("debtor", 0.0)
    for n in range(99):
        buckets.take(f"x{n}", 0.0)
    assert len(buckets) <= 100
    refilled = Buckets(Rate(burst=2, per_second=1), most=100)
    for n in range(100):
        refilled.take(f"x{n}", 0.0)
    refilled.take("debtor", 10.0)
    refilled.take("debtor", 10.0)
    assert len(refilled) == 1, "full buckets are dropped first"
    assert refilled.take("debtor", 10.0) > 0


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("unix", "unix"),
    ],
)
def test_who_has_an_ipv6_network_counts_once(address: str, key: str) -> None:
    assert of_address(address) == key


def test_only_the_trusted_proxys_own_word_counts() -> None:
    asked = Asked([(b"x-forwarded-for", b"10.9.9.9, 192.0.2.1")])
    assert caller(("127.0.0.1", 1), asked, trust_proxy=False) == "127.0.0.1"
    assert caller(("127.0.0.1", 1), asked, trust_proxy=True) == "192.0.2.1"
    assert caller(("127.0.0.1", 1), Asked([]), trust_proxy=True) == "127.0.0.1"
