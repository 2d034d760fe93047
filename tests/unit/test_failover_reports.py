"""Reports, freshness, suspicion, attention: the small pure parts of failure detection."""

from __future__ import annotations

from dataclasses import replace

import pytest

from threefold.failover.aspects import Aspect
from threefold.failover.attention import Attention
from threefold.failover.reports import (
    Condition,
    LeaderSeen,
    Newest,
    PrimarySeen,
    Report,
    Seen,
    Waits,
    decode,
    encode,
    key_of,
)
from threefold.failover.sentinel import changes
from threefold.failover.suspicion import SILENT, Suspicion
from threefold.kernel.errors import Damaged
from threefold.kernel.keys import Keyring

KEYRING = Keyring(bytes(32))
NONCE = bytes(range(12))
REPORT = Report(
    vantage="third",
    site="",
    run="a",
    beat=7,
    sites={
        "office": PrimarySeen(
            host=Seen.OK,
            sql=Seen.OK,
            write=Seen.SILENT,
            sql_age_s=0.2,
            condition=Condition.SERVING,
            waits=Waits.STORES,
            disk_free=1.5e9,
        ),
        "cloud": PrimarySeen(host=Seen.SILENT),
    },
    draas=LeaderSeen(Seen.OK, 3, 4, "streaming", 5, 1),
    stores={"S1": Seen.OK, "S2": Seen.SILENT},
    store_ms={"S1": 4.2},
    store_answers={"S1": 9},
)


def test_a_report_comes_out_as_it_went_in() -> None:
    assert decode(encode(REPORT, KEYRING, NONCE), key_of("third"), KEYRING) == REPORT


@pytest.mark.parametrize("position", [0, 12, 40, -1])
def test_a_report_that_was_altered_is_not_believed(position: int) -> None:
    body = bytearray(encode(REPORT, KEYRING, NONCE))
    body[position] ^= 1
    with pytest.raises(Damaged):
        decode(bytes(body), key_of("third"), KEYRING)


def test_a_report_in_anothers_place_is_not_believed() -> None:
    with pytest.raises(Damaged):
        decode(encode(REPORT, KEYRING, NONCE), key_of("beside"), KEYRING)


def at(beat: int, run: str = "a") -> Report:
    return replace(REPORT, beat=beat, run=run)


def test_what_lay_there_before_us_is_no_news_and_its_change_is() -> None:
    newest = Newest()
    assert [newest.take("S1", at(7)), newest.take("S1", at(7)), newest.take("S1", at(8))] == [False, False, True]


def test_each_beat_is_news_once_whichever_store_gives_it() -> None:
    newest = Newest()
    newest.take("S1", at(7))
    newest.take("S2", at(7))
    found = [newest.take("S2", at(8)), newest.take("S1", at(8)), newest.take("S1", at(9)), newest.take("S2", at(8))]
    assert found == [True, False, True, False]


def test_a_store_that_comes_back_with_an_old_report_makes_nobody_alive() -> None:
    newest = Newest()
    newest.take("S1", at(7))
    newest.take("S1", at(8))
    assert not newest.take("S3", at(5))
    assert not newest.take("S2", at(2000, run="of last year"))


def test_a_sentinel_that_was_restarted_is_heard_although_its_beats_begin_again() -> None:
    newest = Newest()
    newest.take("S1", at(500))
    assert newest.take("S1", at(1, run="b"))
    assert newest.take("S1", at(2, run="b"))


def test_a_vantage_that_begins_while_we_look_is_heard_at_once() -> None:
    newest = Newest()
    newest.absent("S1", "third")
    assert newest.take("S1", at(1))


# --- suspicion ---


def beaten(intervals: list[float], period: float = 1.0) -> tuple[Suspicion, float]:
    source, now = Suspicion(period), 0.0
    source.beat(now)
    for interval in intervals:
        now += interval
        source.beat(now)
    return source, now


def test_a_regular_source_has_no_hair_trigger() -> None:
    source, now = beaten([1.0] * 60)
    assert source.phi(now + 1.4) == 0
    assert not source.late(now + 2.0)
    assert source.silent(now + 5)


def test_it_learns_how_often_one_is_missing() -> None:
    steady, now = beaten([1.0] * 60)
    lossy, then = beaten([1.0, 1.0, 2.0, 1.0, 3.0, 1.0] * 10)
    assert lossy.phi(then + 4) < steady.phi(now + 4)
    assert not lossy.silent(then + 5)
    assert lossy.silent(then + 12)


def test_one_long_stall_does_not_blunt_it() -> None:
    before, now = beaten([1.0] * 60)
    after, then = beaten([1.0] * 30 + [600.0] + [1.0] * 29)
    assert after.phi(then + 5) > 0.6 * before.phi(now + 5)
    assert after.silent(then + 6)


def test_a_burst_teaches_it_nothing() -> None:
    source, now = beaten(([1.0] * 5 + [0.01] * 40) * 3 + [1.0])
    assert source.phi(now + 1.4) == 0
    steady, then = beaten([1.0] * 16)
    assert source.phi(now + 2.4) == pytest.approx(steady.phi(then + 2.4), abs=0.1)


@pytest.mark.parametrize("interval", [0.5, 0.6, 0.75, 0.9])
def test_who_comes_early_is_on_time(interval: float) -> None:
    """A leader under bulk tells each segment's end: no sign of an irregular source, whose silence may be long."""
    steady, now = beaten([1.0] * 60)
    early, then = beaten([interval] * 60)
    for waited in (1.4, 2.4, 3.7, 5.0):
        assert early.phi(then + waited) == pytest.approx(steady.phi(now + waited), abs=0.01)


def test_who_was_never_heard_becomes_suspect_as_well() -> None:
    source = Suspicion(1.0, at=100.0)
    assert source.last is None
    assert source.phi(100.9) == 0
    assert source.phi(113) >= SILENT


# --- attention, aspects ---


def test_time_that_we_slept_through_does_not_count() -> None:
    attention = Attention()
    assert [attention.at(now) for now in (1000.0, 1000.2, 1600.2, 1600.4)] == pytest.approx([0, 0.2, 0.7, 0.9])
    assert attention.missed == pytest.approx(599.5)


def test_a_clock_that_went_back_stands_still() -> None:
    attention = Attention()
    assert [attention.at(now) for now in (50.0, 50.3, 10.0, 10.2)] == pytest.approx([0, 0.3, 0.3, 0.5])


def test_an_aspect_is_silent_only_after_it_was_asked_and_waited_for() -> None:
    aspect = Aspect(1.5)
    assert aspect.word(100) is Seen.UNKNOWN
    aspect.ask(100)
    assert aspect.word(101) is Seen.UNKNOWN
    assert aspect.word(101.6) is Seen.SILENT
    aspect.answer(Seen.OK, started=101, at=102)
    assert (aspect.word(103.4), aspect.word(103.6)) == (Seen.OK, Seen.SILENT)
    assert aspect.ok_age(103.6) == pytest.approx(1.6)


def test_an_answer_that_was_overtaken_changes_nothing() -> None:
    aspect = Aspect(1.5)
    aspect.ask(1)
    aspect.answer(Seen.REFUSED, started=2, at=2.1)
    aspect.answer(Seen.OK, started=1, at=2.2)
    assert aspect.word(2.3) is Seen.REFUSED


def test_a_no_may_stand_for_a_shorter_time_than_a_yes() -> None:
    aspect = Aspect(8, no_s=2)
    aspect.ask(0)
    aspect.answer(Seen.REFUSED, started=0, at=0)
    assert [aspect.word(at) for at in (1.9, 2.1, 8.1)] == [Seen.REFUSED, Seen.UNKNOWN, Seen.SILENT]
    aspect.answer(Seen.OK, started=9, at=9)
    assert [aspect.word(at) for at in (16.9, 17.1)] == [Seen.OK, Seen.SILENT]


# --- what a sentinel says in its log ---


def test_a_sentinel_tells_of_every_change_once() -> None:
    told: dict[str, str] = {}
    first = {what: (words, well) for what, words, well in changes(REPORT, told)}
    assert first["PostgreSQL at office"] == ("answers, and a commit waits for the stores", False)
    assert first["PostgreSQL at cloud"] == ("is not seen: its host does not answer", False)
    assert first["store S2"] == ("does not answer", False)
    assert first["the DRaaS server"] == ("is streaming", True)
    assert not list(changes(REPORT, told))
    well = replace(REPORT, stores={"S1": Seen.OK, "S2": Seen.OK})
    assert list(changes(well, told)) == [("store S2", "answers", True)]
