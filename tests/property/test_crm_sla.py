"""Service clocks: they never run backwards, a pause costs nobody anything, and a day has the hours it has."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from threefold.crm.clocks import case_states, sla
from threefold.crm.clocks.sla import Office, State
from threefold.crm.model.errors import Conflict, Invalid

BERLIN = Office("Europe/Berlin")
EVERY_NIGHT = Office("Europe/Berlin", time(0), time(23, 59, 59), tuple(range(7)))

EPOCH = datetime(2024, 1, 1, tzinfo=UTC)
moments = st.integers(0, 3 * 366 * 86_400).map(lambda seconds: EPOCH + timedelta(seconds=seconds))
spans = st.integers(0, 400_000)
hours = st.builds(
    lambda zone, opens, length, days: Office(zone, time(opens), time(min(opens + length, 23), 30), tuple(sorted(days))),
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Karachi", "Australia/Lord_Howe"]),
    st.integers(0, 22),
    st.integers(1, 20),
    st.sets(st.integers(0, 6), min_size=1),
)
offices = st.none() | hours
FEW = settings(max_examples=60, deadline=None)


@given(moments, spans, offices)
@FEW
def test_adding_and_counting_are_inverse(start: datetime, seconds: int, office: Office | None) -> None:
    end = sla.add(start, seconds, office)
    assert end >= start
    assert sla.between(start, end, office) == seconds
    if seconds and office:
        assert sla.between(start, end - timedelta(seconds=1), office) == seconds - 1  # the earliest such instant


@given(moments, spans, spans, offices)
@FEW
def test_later_or_longer_is_never_due_earlier(start: datetime, more: int, seconds: int, office: Office | None) -> None:
    due = sla.add(start, seconds, office)
    assert sla.add(start, seconds + more, office) >= due
    assert sla.add(start + timedelta(seconds=more), seconds, office) >= due


@given(moments, moments, moments, offices)
@FEW
def test_counted_time_adds_up(one: datetime, two: datetime, three: datetime, office: Office | None) -> None:
    whole = sla.between(one, three, office)
    assert sla.between(one, two, office) + sla.between(two, three, office) == whole
    assert sla.between(three, one, office) == -whole


@given(moments, st.integers(1, 5_000), spans, spans, offices)
@FEW
def test_a_pause_moves_what_is_due_by_its_counted_time(
    start: datetime, minutes: int, after: int, length: int, office: Office | None
) -> None:
    due = sla.due(start, minutes, office)
    paused = start + timedelta(seconds=after)
    resumed = paused + timedelta(seconds=length)
    moved = sla.moved(due, paused, resumed, office)
    if paused >= due:
        assert moved == due
        return
    counted = sla.between(paused, resumed, office)
    assert sla.between(due, moved, office) == counted
    assert moved == sla.due(start, minutes, office, counted) or sla.between(moved, due, office) == -counted
    left = sla.read(paused, start=start, due_at=due, paused_at=paused, office=office).remaining
    assert sla.between(resumed, moved, office) == left


@given(moments, st.integers(1, 5_000), spans, offices)
@FEW
def test_a_clock_goes_from_green_over_yellow_to_red(
    start: datetime, minutes: int, length: int, office: Office | None
) -> None:
    order = [State.GREEN, State.YELLOW, State.RED]
    due = sla.due(start, minutes, office)
    seen = [
        order.index(
            sla.read(start + timedelta(seconds=length * step // 9), start=start, due_at=due, office=office).state
        )
        for step in range(10)
    ]
    assert seen == sorted(seen)


def test_the_days_on_which_the_clocks_change_are_as_long_as_they_are() -> None:
    spring, autumn = datetime(2026, 3, 28, 23, tzinfo=UTC), datetime(2026, 10, 24, 22, tzinfo=UTC)  # midnight there
    day = 24 * 3600
    assert sla.between(spring, spring + timedelta(days=1), EVERY_NIGHT) in (day - 1, day - 2)
    assert sla.add(spring, 22 * 3600, EVERY_NIGHT).astimezone(UTC) == datetime(2026, 3, 29, 21, tzinfo=UTC)
    assert sla.between(autumn, datetime(2026, 10, 25, 23, tzinfo=UTC), EVERY_NIGHT) == 25 * 3600 - 1
    friday = datetime(2026, 3, 27, 15, tzinfo=UTC)  # 16:00 in Berlin; on Monday 9:00 is an hour earlier in UTC
    assert sla.due(friday, 120, BERLIN) == datetime(2026, 3, 30, 8, tzinfo=UTC)
    assert sla.due(datetime(2026, 10, 23, 14, tzinfo=UTC), 120, BERLIN) == datetime(2026, 10, 26, 9, tzinfo=UTC)


def test_due_within_the_last_quarter_is_yellow_and_paused_is_neither() -> None:
    start = datetime(2026, 5, 4, 7, tzinfo=UTC)
    due = sla.due(start, 100, BERLIN)
    at = [start + timedelta(minutes=minutes) for minutes in (75, 76, 99, 100, 300)]
    states = [sla.read(now, start=start, due_at=due, office=BERLIN).state for now in at]
    assert states == [State.GREEN, State.YELLOW, State.YELLOW, State.RED, State.RED]
    paused = sla.read(at[-1], start=start, due_at=due, paused_at=at[0], office=BERLIN)
    assert (paused.state, paused.remaining) == (State.PAUSED, 25 * 60)
    late = sla.read(at[-1], start=start, due_at=due, met_at=at[-1], office=BERLIN)
    assert (late.state, late.late, late.remaining) == (State.MET, True, -200 * 60)


@pytest.mark.parametrize(
    "wrong",
    [
        {"zone": "Mars/Olympus"},
        {"zone": "../etc/passwd"},
        {"zone": "x\0"},
        {"opens": time(17), "closes": time(9)},
        {"days": ()},
        {"days": (7,)},
    ],
)
def test_hours_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(Invalid) as raised:
        Office(**wrong)
    assert raised.value.fields


def _case(kind: str, now: datetime) -> dict[str, Any]:
    return {
        "status": "new",
        "first_response_due_at": sla.due(now, 60),
        "first_responded_at": None,
        "resolution_due_at": sla.due(now, 600),
        "resolved_at": None,
        "paused_at": None,
        "paused_seconds": 0,
    }


@given(st.sampled_from(["queries", "requests"]), moments, st.data(), offices)
@FEW
def test_however_a_case_goes_it_gets_the_time_it_was_promised(
    kind: str, start: datetime, data: st.DataObject, office: Office | None
) -> None:
    case = _case(kind, start)
    case["resolution_due_at"] = sla.due(start, 600, office)
    ran = 0
    for _ in range(data.draw(st.integers(0, 8))):
        now = start + timedelta(seconds=data.draw(st.integers(0, 50_000)))
        assume(not _overdue(case, now))
        if not case_states.stands(kind, case["status"]):
            ran += sla.between(start, now, office)
        status = data.draw(st.sampled_from(sorted(case_states.FOLLOWS[kind][case["status"]])))
        case |= case_states.become(kind, case, status, now, office)
        start = now
        assert (case["paused_at"] is not None) == (status == "waiting")
        assert (case["resolved_at"] is not None) == (status in case_states.ENDED[kind])
    since = case["paused_at"] or case["resolved_at"] or start
    assert sla.between(since, case["resolution_due_at"], office) == 600 * 60 - ran


def _overdue(case: dict[str, Any], now: datetime) -> bool:
    return bool((case["paused_at"] or case["resolved_at"] or now) >= case["resolution_due_at"])


@pytest.mark.parametrize("kind", ["queries", "requests"])
def test_a_state_that_may_not_follow_is_refused_and_says_what_may(kind: str) -> None:
    now = datetime(2026, 5, 4, tzinfo=UTC)
    ended = _case(kind, now) | {"status": case_states.ENDED[kind][-1], "resolved_at": now}
    with pytest.raises(Conflict) as raised:
        case_states.become(kind, ended, "waiting", now, None)
    assert case_states.REOPENED[kind] in raised.value.hint
    with pytest.raises(Invalid):
        case_states.become(kind, ended, "on fire", now, None)
    assert case_states.become(kind, ended, ended["status"], now, None) == {}
