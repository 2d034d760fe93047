"""Retention and prune over made-up histories: what a promise needs stays, whatever the times and the order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from threefold.kernel.lsn import Lsn
from threefold.upkeep.reach import Survey, decide_prune
from threefold.vault.manifest import Summary, snapshot_key
from threefold.vault.pack import pack_key
from threefold.vault.retention import Policy, kept, window_begin

T0 = datetime(2026, 11, 1, tzinfo=UTC)
SEGMENT = 2**24


@st.composite
def snapshots(draw: st.DrawFn) -> list[Summary]:
    """In the log's order, by a clock that may stand still; ids in no order at all (a clock of ours that jumps)."""
    gaps = draw(st.lists(st.integers(0, 40), min_size=1, max_size=25))
    ids = draw(st.permutations(range(len(gaps))))
    found: list[Summary] = []
    hours = 0
    for number, gap in enumerate(gaps):
        hours += gap
        at = T0 + timedelta(hours=hours)
        start = (
            Lsn(number * draw(st.integers(1, 3)) * SEGMENT + 77) if number == 0 else Lsn(found[-1].stop + gap * 2**20)
        )
        name = f"202611{ids[number]:02d}T000000Z-{ids[number]:08x}"
        found.append(Summary(name, "", 7, 18, SEGMENT, 1, start, Lsn(start + 10), at, at, 0, 1))
    return found


policies = st.builds(
    Policy,
    pitr=st.integers(0, 300).map(lambda hours: timedelta(hours=hours)),
    daily=st.integers(0, 4),
    weekly=st.integers(0, 3),
    monthly=st.integers(0, 3),
)
moments = st.integers(-100, 2000).map(lambda hours: T0 + timedelta(hours=hours))


@given(snapshots(), policies, moments, st.integers(0, 1000))
def test_every_moment_of_the_window_can_be_recovered(
    found: list[Summary], policy: Policy, now: datetime, at: int
) -> None:
    """To a moment: from the newest snapshot that stopped by then, as recovery chooses it."""
    stays = kept(found, policy, now)
    begin = window_begin(found, policy, now)
    moment = begin + (found[-1].stopped - begin) * at / 1000
    before = [each for each in found if each.stopped <= moment]
    assert not before or before[-1].id in stays
    assert {each.id for each in found[-2:]} <= stays.keys()


@given(snapshots(), policies, moments)
def test_the_last_of_each_of_the_newest_days_is_kept(found: list[Summary], policy: Policy, now: datetime) -> None:
    stays = kept(found, policy, now)
    days = sorted({each.stopped.date() for each in found}, reverse=True)[: policy.daily]
    for day in days:
        of_that_day = [each for each in found if each.stopped.date() == day]
        latest = max(each.stopped for each in of_that_day)
        assert any(each.id in stays for each in of_that_day if each.stopped == latest)


@given(snapshots(), policies, moments, st.data())
def test_nothing_goes_that_a_kept_snapshot_or_the_protocol_needs(
    found: list[Summary], policy: Policy, now: datetime, data: st.DataObject
) -> None:
    packs = [pack_key(f"202611{number:02d}T000000Z-{number:024x}") for number in range(12)]
    some = st.frozensets(st.sampled_from(packs), max_size=4)
    packs_of = {each.id: data.draw(some) for each in found}
    unusable = dict.fromkeys(data.draw(st.frozensets(st.sampled_from(sorted(packs_of)))), "why")
    unreadable = data.draw(st.sampled_from([[], ["20261101T000000Z-deadbeef"]]))
    end = found[-1].stop // SEGMENT + 2
    epoch = Lsn(data.draw(st.integers(0, end * SEGMENT)))
    wal = {f"wal/{timeline:08x}/{number:010x}": {"S1": 1} for timeline in (1, 2) for number in range(end)}
    listed = {"packs": {key: {"S1": 1} for key in packs}, "wal": wal}
    listed["snapshots"] = {snapshot_key(name): {"S1": 1} for name in packs_of}
    survey = Survey({each.id: each for each in found}, packs_of, unreadable, unusable, listed, epoch, SEGMENT)
    verdict = decide_prune(survey, policy, now, fork_bytes=SEGMENT)
    stays = [each for each in found if snapshot_key(each.id) not in verdict.keys]
    usable = [each for each in found if each.id not in unusable]
    assert kept(usable, policy, now).keys() <= {each.id for each in stays}
    for snapshot in stays:
        assert packs_of[snapshot.id].isdisjoint(verdict.keys)
        for number in range(snapshot.start // SEGMENT, end):
            assert f"wal/00000001/{number:010x}" in wal.keys() - verdict.keys
    assert not any(int(key[-10:], 16) >= epoch // SEGMENT for key in verdict.keys if key.startswith("wal/"))
    if not usable:
        assert not verdict.keys
    if unreadable:
        assert all(key.startswith("snapshots/") for key in verdict.keys)
    # And what is named by nobody that stays does go, in time: two snapshots later nothing young is left.
    if usable and not unreadable:
        needed = frozenset[str]().union(*(packs_of[each.id] for each in stays))
        named = frozenset[str]().union(*packs_of.values())
        assert verdict.keys >= named - needed
