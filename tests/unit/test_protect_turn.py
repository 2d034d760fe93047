"""When somebody who waits takes over, and when it does not."""

from __future__ import annotations

from dataclasses import replace

from threefold.kernel.lsn import Lsn
from threefold.protect.beacon import LeaderStatus
from threefold.protect.turn import Patience, Seen, Turn

_LEADER = LeaderStatus(
    epoch=3,
    writer="0a" * 16,
    host="there",
    machine="there",
    pid=1,
    beat=1,
    at="2026-11-24T20:00:00.000+00:00",
    state="streaming",
    reason="",
    system_identifier=7,
    timeline=1,
    settled=Lsn(1),
    received=Lsn(1),
    durability="sync",
    rpo_seconds=0.0,
    site="office",
    switch=0,
)
_STREAMED = Seen(_LEADER, claimed=0, production=True, streams=True)
_IDLE = replace(_STREAMED, streams=False)


def _turn(switch: int = 0, fenced: int = 0) -> Turn:
    return Turn(Patience(5.0, cut_off=2.0).times(fenced), switch, 0.0)


def _beat(seen: Seen, beat: int, state: str = "streaming", epoch: int = 3) -> Seen:
    assert seen.leader is not None
    return replace(seen, leader=replace(seen.leader, beat=beat, state=state, epoch=epoch))


def test_nobody_ever_led() -> None:
    assert _turn().come(Seen(None), 0.0) == "nobody has led yet"


def test_stores_that_do_not_answer_say_nothing_of_the_leader() -> None:
    turn = _turn()
    assert turn.come(_STREAMED, 0.0) == ""
    assert turn.come(Seen(None), 100.0) == ""


def test_silence_counts_from_the_last_change_by_the_waiters_own_clock() -> None:
    turn = _turn()
    assert turn.come(_STREAMED, 0.0) == ""
    assert turn.come(_beat(_STREAMED, 2), 4.9) == ""
    assert turn.come(_beat(_STREAMED, 2), 9.8) == ""
    assert "silent for 5 s" in turn.come(_beat(_STREAMED, 2), 9.9)


def test_a_leader_that_is_cut_off_from_a_primary_that_we_reach_is_replaced_though_it_lives() -> None:
    turn = _turn()
    assert turn.come(_STREAMED, 0.0) == ""
    for tenth in range(1, 30):
        why = turn.come(_beat(_IDLE, tenth, "waiting-for-primary"), tenth / 10)
        assert bool(why) == (tenth >= 21), tenth
        if why:
            assert "nobody has streamed from the primary for 2 s" in why
            return


def test_a_primary_that_is_away_for_everybody_is_no_reason() -> None:
    turn = _turn()
    for tenth in range(200):
        assert turn.come(_beat(replace(_IDLE, production=False), tenth, "waiting-for-primary"), tenth / 10) == ""


def test_who_was_not_sent_to_wait_only_goes_by_silence() -> None:
    turn = Turn(Patience(10.0), 0, 0.0)
    for tenth in range(200):
        assert turn.come(_beat(_IDLE, tenth, "waiting-for-primary"), tenth / 10) == ""


def test_an_epoch_that_begins_or_that_somebody_else_claims_starts_the_count_anew() -> None:
    turn = _turn()
    assert turn.come(_IDLE, 0.0) == ""
    assert turn.come(_beat(_IDLE, 2, "between-epochs"), 1.9) == ""
    assert turn.come(_beat(_IDLE, 3), 2.0) == ""
    claimed = replace(_beat(_IDLE, 4), claimed=4)
    assert turn.come(claimed, 3.9) == ""
    assert turn.come(claimed, 4.0) == ""
    assert turn.come(claimed, 5.9) == ""
    assert turn.come(claimed, 6.1) != ""


def test_a_leader_of_a_site_that_was_left_is_nobody_to_wait_for() -> None:
    assert _turn(switch=1).come(_STREAMED, 0.0) == "the leader led for a site that was left"


def test_who_is_gone_or_stopped_is_replaced_at_once() -> None:
    assert _turn().come(replace(_STREAMED, gone=True), 0.0) == "the leader's process has ended"
    assert _turn().come(_beat(_STREAMED, 2, "stopped"), 0.0) == "the leader stopped in good order"


def test_who_was_fenced_on_its_way_is_more_patient_and_never_without_end() -> None:
    turn = _turn(fenced=1)
    assert turn.come(_IDLE, 0.0) == ""
    assert turn.come(_beat(_IDLE, 2), 3.9) == ""
    assert turn.come(_beat(_IDLE, 3), 4.0) != ""
    assert Patience(5.0, 2.0).times(9) == Patience(80.0, 32.0)
