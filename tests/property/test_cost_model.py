"""The model of a year's costs: what must never go down when something goes up, and what must add up."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.resources import files

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from threefold.cost.measured import YEAR_S, Flow, Growth, Measured, Stored, bandwidth, growth, last_recovery, yearly
from threefold.cost.model import Assumptions, Choice, costs, keep, storage_cost, transfer_cost, two_of_three_gone
from threefold.cost.objectives import Objectives, cheapest, considered, rto_cold, rto_warm
from threefold.cost.prices import Provider, parse_prices
from threefold.cost.traffic import (
    Count,
    Recovered,
    TrafficRecord,
    cells,
    decode,
    encode,
    purpose_of,
    since,
)
from threefold.kernel.errors import BadInput, Damaged
from threefold.kernel.keys import Keyring
from threefold.stores.health import Operation
from threefold.stores.traffic import Traffic
from threefold.vault.retention import Policy

PRICES = parse_prices((files("threefold.cost") / "prices.toml").read_text(), "shipped")
NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
KEYRING = Keyring(bytes(32))

amounts = st.floats(0, 1e12)
flows = st.builds(Flow, put=amounts, get=amounts, list=amounts, bytes_out=amounts, bytes_in=amounts)
growths = st.builds(
    Growth,
    base=st.floats(0, 1e12),
    delta=st.floats(0, 1e10),
    interval_days=st.floats(0.3, 40),
    wal_day=st.floats(0, 1e11),
    short_lived_day=st.floats(0, 1e11),
    other=st.floats(0, 1e9),
)
policies = st.builds(
    Policy,
    pitr=st.integers(0, 90).map(lambda days: timedelta(days=days)),
    daily=st.integers(0, 40),
    weekly=st.integers(0, 20),
    monthly=st.integers(0, 24),
)
providers = st.sampled_from(list(PRICES.providers.values()))


@st.composite
def measurements(draw: st.DrawFn) -> Measured:
    purposes = {"log entries": draw(flows), "beacons": draw(flows)}
    if draw(st.booleans()):
        purposes["warm standby"] = draw(flows)
    return Measured(1e6, dict.fromkeys(("S1", "S2", "S3"), purposes), draw(growths), draw(st.floats(0, 1e9)), 1e9, 1e8)


choices = st.builds(
    Choice,
    durability=st.sampled_from(["sync", "async"]),
    standby=st.sampled_from(["warm", "cold"]),
    providers=st.tuples(providers, providers, providers),
    retention=policies,
    lag_s=st.floats(0, 60),
    rto_s=st.floats(0, 1e5),
    stores=st.just(("S1", "S2", "S3")),
)


@settings(max_examples=60, deadline=None)
@given(growths, policies, st.integers(0, 60), st.sampled_from(["pitr", "daily", "weekly", "monthly"]))
def test_longer_retention_never_keeps_less(grows: Growth, policy: Policy, more: int, which: str) -> None:
    longer = timedelta(days=more) if which == "pitr" else more
    wider = replace(policy, **{which: getattr(policy, which) + longer})
    assert keep(grows, wider).bytes >= keep(grows, policy).bytes * (1 - 1e-9)
    assert keep(grows, wider).snapshots >= keep(grows, policy).snapshots


@settings(max_examples=60, deadline=None)
@given(measurements(), choices, st.floats(1, 10))
def test_more_of_anything_never_costs_less(measured: Measured, choice: Choice, factor: float) -> None:
    assumed = Assumptions()
    before = costs(measured, choice, PRICES, assumed)
    assert before.total == pytest.approx(before.starting + before.running + before.disasters)
    assert min(before.starting, before.processing, before.storage, before.requests, before.transfer) >= 0
    busier = replace(
        measured,
        flows={
            name: {purpose: flow.times(factor) for purpose, flow in each.items()}
            for name, each in measured.flows.items()
        },
    )
    least = 1 - 1e-9
    assert costs(busier, choice, PRICES, assumed).running >= before.running * least
    slower = costs(measured, replace(choice, rto_s=choice.rto_s * factor), PRICES, assumed)
    assert slower.disasters >= before.disasters * least
    riskier = replace(assumed, disasters_per_year=assumed.disasters_per_year * factor)
    assert costs(measured, choice, PRICES, riskier).disasters >= before.disasters * least
    assert (
        costs(measured, replace(choice, durability="sync"), PRICES, assumed).disasters
        <= costs(measured, replace(choice, durability="async"), PRICES, assumed).disasters / least
    )
    warm = costs(measured, replace(choice, standby="warm"), PRICES, assumed)
    assert warm.processing > costs(measured, replace(choice, standby="cold"), PRICES, assumed).processing


@given(st.floats(0, 0.5), st.permutations(["aws", "gcs", "r2"]))
def test_one_domain_is_never_safer_than_three(each: float, apart: list[str]) -> None:
    three, two, one = (two_of_three_gone(names, each) for names in (apart, [*apart[:2], apart[0]], apart[:1] * 3))
    assert 0 <= three <= two + 1e-12
    assert two <= one + 1e-12
    assert one == pytest.approx(each)
    assert three == pytest.approx(3 * each**2 * (1 - each) + each**3)


@settings(max_examples=40, deadline=None)
@given(measurements(), choices, st.floats(0, 100), st.floats(0, 1e4))
def test_the_cheapest_keeps_to_what_was_asked(measured: Measured, choice: Choice, rpo: float, rto: float) -> None:
    rtos = {
        "warm": rto_warm(measured, automatic=False, notices_s=600, detects_s=8),
        "cold": rto_cold(measured, notices_s=600),
    }
    found = considered(measured, choice, PRICES, Assumptions(), rtos, Objectives(rpo, rto))
    best = cheapest(found)
    if best is not None:
        assert best.choice.rpo_s <= rpo
        seconds = rtos[best.choice.standby].seconds
        assert seconds is not None
        assert seconds <= rto
        assert all(each.misses for each in found if each.costs.total < best.costs.total)
    else:
        assert all(each.misses for each in found)
    for each in found:
        if each.choice.providers != choice.providers:
            assert len({at.key for at in each.choice.providers}) == 3
            assert all(at.may_vote for at in each.choice.providers)


def test_a_million_puts_and_a_terabyte() -> None:
    """By hand: AWS at 5 a million puts, 0.023 a GB and month, 0.09 a GB out."""
    aws = PRICES.providers["aws-s3"]
    grows = Growth(base=1e12)
    measured = Measured(YEAR_S, {"S1": {"log entries": Flow(put=1e6, bytes_in=1e9)}}, grows)
    choice = Choice("sync", "cold", (aws,), Policy(timedelta(0)), 0.0, 3600.0, ("S1",))
    none = Assumptions(setup_hours=0, disasters_per_year=1, hour_of_downtime=100, store_lost_per_year=0)
    found = costs(measured, choice, PRICES, none)
    assert found.requests == pytest.approx(5.0)
    assert found.storage == pytest.approx(1000 * 0.023 * 12)
    assert found.transfer == pytest.approx(0.09)
    assert found.recovered == pytest.approx(100 + 1000 * 0.09)
    assert found.processing == pytest.approx(12 * PRICES.draas)


def test_what_a_provider_bills_beyond_what_lies_there() -> None:
    wasabi, b2 = PRICES.providers["wasabi"], PRICES.providers["b2"]
    assert storage_cost(1e9, Growth(), wasabi) == pytest.approx(1000 * wasabi.storage * 12)  # its least
    busy = Growth(short_lived_day=100e9)  # deleted within minutes, billed for 90 days
    assert storage_cost(1e9, busy, wasabi) == pytest.approx(9001 * wasabi.storage * 12)
    assert transfer_cost(Flow(bytes_in=30e9), b2, 1e9) == 0  # three times what is stored, each month
    assert transfer_cost(Flow(bytes_in=46e9), b2, 1e9) == pytest.approx(10 * b2.egress)


def test_the_log_is_kept_from_the_oldest_snapshot_on() -> None:
    year = keep(Growth(wal_day=1e9), Policy(timedelta(days=7), 7, 4, 12))
    week = keep(Growth(wal_day=1e9), Policy(timedelta(days=7)))
    assert 7 <= week.wal_days <= 10
    assert year.wal_days > 300
    assert year.bytes == pytest.approx(year.wal_days * 1e9)


def test_counts_come_back_and_add_up() -> None:
    record = TrafficRecord()
    cell = ("S1", "log entries", Operation.CREATE)
    day = timedelta(days=1)
    record.add(NOW - day / 2, NOW, {cell: Count(5, 1, 100, 0, 50, 0.5)})
    record.add(NOW, NOW + day / 3, {cell: Count(1, 0, 10, 0, 0, 0.0)}, [Recovered("2026", 4.0, 9)])
    again = decode(encode(record, "protect", KEYRING, bytes(12)), "protect", KEYRING)
    assert again == record
    assert again.days["2026-11-30"][cell] == Count(6, 1, 110, 0, 50, 0.5)
    with pytest.raises(Damaged):
        decode(encode(record, "protect", KEYRING, bytes(12)), "standby", KEYRING)
    seconds, found = yearly({"protect": record}, NOW + day)
    assert seconds == 86400 * 5 / 6  # from when its process began until it added last
    assert found["S1"]["log entries"].put == pytest.approx(6 * YEAR_S / seconds)
    seconds, found = yearly({"protect": record, "snapshot": again}, NOW + day)
    assert seconds == 86400 * 5 / 6
    both = 6 * YEAR_S / seconds + 6 * YEAR_S / (1.5 * 86400)  # the other one runs now and then
    assert found["S1"]["log entries"].put == pytest.approx(both)
    assert bandwidth([record]) == pytest.approx(100.0)
    assert last_recovery([TrafficRecord(), record]) == Recovered("2026", 4.0, 9)
    assert last_recovery([TrafficRecord()]) is None


def test_days_long_past_are_let_go_and_time_with_them() -> None:
    record = TrafficRecord()
    for day in range(40):
        record.add(NOW, NOW + timedelta(days=day), {("S1", "beacons", Operation.WRITE): Count(86400)})
    assert len(record.days) == 30
    now = NOW + timedelta(days=39)
    seconds, found = yearly({"protect": record}, now)
    assert 29 * 86400 < seconds <= 30 * 86400
    assert found["S1"]["beacons"].put == pytest.approx(YEAR_S, rel=0.05)


def test_a_verb_of_now_and_then_is_counted_over_thirty_days_of_the_calendar() -> None:
    """Once a fortnight for a year, beside one that runs each day: 30 days that have entries would be over a year."""
    prune, snapshot = TrafficRecord(), TrafficRecord()
    cell = ("S1", "retention", Operation.DELETE)
    for day in range(0, 365, 14):
        prune.add(NOW + timedelta(days=day), NOW + timedelta(days=day), {cell: Count(14)})
    for day in range(365):
        at = NOW + timedelta(days=day)
        snapshot.add(at, at, {("S1", "snapshots", Operation.CREATE): Count(1)})
    now = NOW + timedelta(days=364)
    assert len(prune.days) <= 3
    _, found = yearly({"prune": prune, "snapshot": snapshot}, now)
    assert found["S1"]["snapshots"].put == pytest.approx(365.25, rel=0.05)
    assert found["S1"]["retention"].delete == pytest.approx(3 * 14 * 365.25 / 29.5, rel=0.01)  # it ran three times


def test_what_was_counted_before_the_last_thirty_days_counts_no_more() -> None:
    old, new = TrafficRecord(), TrafficRecord()
    cell = ("S1", "log entries", Operation.CREATE)
    old.add(NOW - timedelta(days=50), NOW - timedelta(days=40), {cell: Count(10**6)})
    new.add(NOW - timedelta(days=2), NOW, {cell: Count(100)})
    assert yearly({"protect": old}, NOW)[1] == {}
    seconds, found = yearly({"protect": new, "standby": old}, NOW)
    assert seconds == pytest.approx(2 * 86400)
    assert found["S1"].keys() == {"log entries"}
    assert found["S1"]["log entries"].put == pytest.approx(50 * 365.25)


def test_a_store_is_billed_for_what_it_was_asked_itself() -> None:
    """S2 was not counted yet; S3's requests are not those of the second place. By hand: AWS, 5 a million puts."""
    aws, own = PRICES.providers["aws-s3"], PRICES.providers["own"]
    measured = Measured(YEAR_S, {"S1": {"log entries": Flow(put=1e6)}, "S3": {"log entries": Flow(put=3e6)}}, Growth())

    def paid(*at: Provider) -> float:
        choice = Choice("sync", "cold", at, Policy(timedelta(0)), 0.0, 0.0, ("S1", "S2", "S3"))
        return costs(measured, choice, PRICES, Assumptions()).requests

    assert paid(aws, own, own) == pytest.approx(5.0)
    assert paid(own, own, aws) == pytest.approx(15.0)
    assert paid(own, aws, own) == pytest.approx(10.0)  # as the others are asked, on average


@pytest.mark.parametrize("wanted", [Objectives(), Objectives(rpo_s=0.0), Objectives(0.0, 1e9)])
def test_what_takes_nobody_knows_how_long_is_never_the_cheapest(wanted: Objectives) -> None:
    measured = Measured(1e6, {"S1": {"log entries": Flow(put=1e6)}}, Growth(base=1e9))
    own = PRICES.providers["own"]
    choice = Choice("sync", "cold", (own, own, own), Policy(timedelta(0)), 5.0, 0.0, ("S1", "S2", "S3"))
    rtos = {
        "warm": rto_warm(measured, automatic=True, notices_s=600, detects_s=8),
        "cold": rto_cold(measured, notices_s=600),
    }
    assert rtos["cold"].seconds is None
    found = considered(measured, choice, PRICES, Assumptions(), rtos, wanted)
    best = cheapest(found)
    assert best is not None
    assert best.choice.standby == "warm"
    assert all("RTO not known" in " ".join(each.misses) for each in found if each.choice.standby == "cold")


def test_only_what_is_new_is_added() -> None:
    traffic = [Traffic("S1", Operation.READ, "log", 3, 0, 0, 30), Traffic("S1", Operation.READ, "wal", 1, 0, 0, 9)]
    first = cells("protect", traffic)
    assert since(first, first) == {}
    assert since(first, {})[("S1", "segments", Operation.READ)].bytes_in == 9
    assert cells("recover", traffic) == {("S1", "recovery", Operation.READ): Count(4, 0, 0, 39)}
    assert purpose_of("standby", "beacons") == "warm standby"
    assert purpose_of("protect", "epochs") == "coordination"


def test_growth_is_told_by_packs_and_snapshots() -> None:
    packs = [(NOW, 500), (NOW, 500), (NOW + timedelta(days=1), 30), (NOW + timedelta(days=2), 10)]
    taken = [NOW + timedelta(days=day) for day in range(3)]
    found = growth(Stored(packs, taken, 7, 1.0), {"log entries": Flow(bytes_out=365.25 * 40)})
    assert (found.base, found.delta, found.interval_days, found.other) == (1000, 20, 1, 7)
    assert found.wal_day == pytest.approx(40)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("storage = 0.023", "storage = -1", "is no price"),
        ("storage = 0.023", 'storage = "much"', "is no price"),
        ("storage = 0.023", "storage = nan", "is no price"),
        ("storage = 0.023\n", "", "storage is missing"),
        ("storage = 0.023", "storage = 1\nstorag = 1", "unknown key"),
        ("dated = 2025-06-01", "", "no date"),
        ("dated = 2025-06-01", "dated = 5 6", "not valid TOML"),
    ],
)
def test_a_wrong_price_is_named(old: str, new: str, said: str) -> None:
    text = (files("threefold.cost") / "prices.toml").read_text()
    assert old in text
    with pytest.raises(BadInput, match=said) as error:
        parse_prices(text.replace(old, new, 1), "prices.toml")
    assert error.value.hint


def test_a_store_finds_its_prices() -> None:
    def key(label: str, url: str, endpoint: str | None = None) -> str:
        found: Provider = PRICES.provider_of(label, url, endpoint)
        return found.key

    assert key("", "s3://b/p") == "aws-s3"
    assert key("", "gs://b/p") == "gcs"
    assert key("", "az://b/p") == "azure"
    assert key("whoever", "s3://b/p", "https://abc.r2.cloudflarestorage.com") == "r2"
    assert key("own-S1", "s3://b", "http://127.0.0.1:9101") == "own"
    assert key("Wasabi", "s3://b", "https://elsewhere") == "wasabi"
