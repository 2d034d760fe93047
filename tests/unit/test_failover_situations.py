"""The table of situations: what everybody sees, in prose and as data, and what the verdict has to be."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from tests.failover_situations import (
    DARK,
    GONE,
    STALLED,
    STARTING,
    TICK,
    UNROUTED,
    WELL,
    Sight,
    Stage,
)

from threefold.failover.judgement import DISK_FULL_BYTES
from threefold.failover.reports import Condition, PrimarySeen, Seen, Waits
from threefold.failover.verdicts import Kind

BOTH = {"beside": WELL, "third": WELL}
BEFORE = Sight(20, WELL, BOTH)
ALONE = Sight(20, WELL)


@dataclass(frozen=True)
class Situation:
    prose: str
    then: tuple[Sight, ...]
    kind: Kind
    give_up: bool
    says: str = ""  # within the sentence or the evidence
    before: tuple[Sight, ...] = (BEFORE,)


def all_see(seconds: float, seen: PrimarySeen, **more: object) -> Sight:
    return Sight(seconds, seen, {"beside": seen, "third": seen}, **more)  # type: ignore[arg-type]


def site_dark(seconds: float, **more: object) -> Sight:
    return Sight(seconds, DARK, {"beside": None, "third": DARK}, **more)  # type: ignore[arg-type]


SITUATIONS = [
    Situation("All is well.", (all_see(30, WELL),), Kind.HEALTHY, give_up=False, says="answers"),
    # --- PostgreSQL ---
    Situation(
        "Its process was killed a second ago: named at once, not yet given up.",
        (all_see(1.2, GONE),),
        Kind.SERVICE_DISRUPTION,
        give_up=False,
        says="is gone",
    ),
    Situation(
        "Its process was killed, and nothing started it again.",
        (all_see(4.6, GONE),),
        Kind.SERVICE_DISRUPTION,
        give_up=True,
        says="refuses connections",
    ),
    Situation(
        "Its process was killed, and there is no vantage but us.",
        (Sight(3.0, GONE),),
        Kind.SERVICE_DISRUPTION,
        give_up=True,
        says="no other vantage",
        before=(ALONE,),
    ),
    Situation(
        "Its process is gone; a line of ours is cut at the same time, and only the sentinel beside it can tell.",
        (Sight(5, DARK, {"beside": GONE, "third": DARK}),),
        Kind.SERVICE_DISRUPTION,
        give_up=True,
        says="as beside sees it",
    ),
    Situation(
        "It stands still for 25 s (a checkpoint, a frozen disk); its host answers.",
        (all_see(25, STALLED),),
        Kind.SERVICE_DISRUPTION,
        give_up=False,
        says="stands still",
    ),
    Situation(
        "It stands still for 30 s, which looks like a second more from outside, between two answers.",
        (all_see(31, STALLED), all_see(1, WELL)),
        Kind.HEALTHY,
        give_up=False,
    ),
    Situation(
        "It recovers, as we see; a firewall at the third place resets every connection to it.",
        (Sight(12, STARTING, {"beside": None, "third": GONE}),),
        Kind.SERVICE_DISRUPTION,
        give_up=False,
        says="starting or recovering",
    ),
    Situation(
        "It stands still for longer than [failover] stall.",
        (all_see(33, STALLED),),
        Kind.SERVICE_DISRUPTION,
        give_up=True,
    ),
    Situation(
        "It stood still for 29 s, and goes on.",
        (all_see(29, STALLED), all_see(1, WELL)),
        Kind.HEALTHY,
        give_up=False,
    ),
    Situation(
        "It crashed and recovers ('the database system is in recovery mode'): alive.",
        (all_see(0.8, GONE), all_see(25, STARTING)),
        Kind.SERVICE_DISRUPTION,
        give_up=False,
        says="starting or recovering",
    ),
    Situation(
        "It has been recovering for longer than stall.",
        (all_see(34, STARTING),),
        Kind.SERVICE_DISRUPTION,
        give_up=True,
    ),
    Situation(
        "It is restarted: nobody listens for a second, then it starts, then it serves.",
        (all_see(1.2, GONE), all_see(3, STARTING), all_see(2, WELL)),
        Kind.HEALTHY,
        give_up=False,
    ),
    Situation(
        "max_connections is reached: it refuses our probe in its own words, for minutes.",
        (all_see(120, PrimarySeen(host=Seen.OK, process=Seen.OK, sql=Seen.REFUSED, condition=Condition.FULL)),),
        Kind.SLOW,
        give_up=False,
        says="no connection left",
    ),
    Situation(
        "It does not know our password: we see less, and it is alive all the same.",
        (
            all_see(
                60,
                PrimarySeen(
                    host=Seen.OK, process=Seen.OK, sql=Seen.REFUSED, condition=Condition.SHUT_TO_US, detail="28P01"
                ),
            ),
        ),
        Kind.HEALTHY,
        give_up=False,
        says="28P01",
    ),
    Situation(
        "Its postmaster is stopped; the connections that exist are served.",
        (all_see(60, replace(WELL, process=Seen.SILENT)),),
        Kind.SERVICE_DISRUPTION,
        give_up=False,
        says="no new connection",
    ),
    Situation(
        "Another database system was started at its address.",
        (all_see(10, PrimarySeen(host=Seen.OK, process=Seen.OK, sql=Seen.REFUSED, condition=Condition.FOREIGN)),),
        Kind.SERVICE_DISRUPTION,
        give_up=False,
        says="another database system",
    ),
    Situation(
        "It was made a standby by hand: it answers, and takes no writes.",
        (all_see(60, replace(WELL, condition=Condition.STANDBY, write=Seen.UNKNOWN)),),
        Kind.SERVICE_DISRUPTION,
        give_up=False,
        says="standby",
    ),
    # --- writes ---
    Situation(
        "A commit waits for the stores: PostgreSQL keeps its promise, for minutes.",
        (all_see(120, replace(WELL, write=Seen.SILENT, waits=Waits.STORES)),),
        Kind.SERVICE_DISRUPTION,
        give_up=False,
        says="not to blame",
    ),
    Situation(
        "A commit waits for a disk that does not answer, and queries are answered from memory.",
        (all_see(60, replace(WELL, write=Seen.SILENT, waits=Waits.DISK)),),
        Kind.SERVICE_DISRUPTION,
        give_up=False,
        says="its disk",
    ),
    Situation(
        "Its disk is full, as the sentinel beside it sees.",
        (Sight(10, WELL, {"beside": replace(WELL, disk_free=DISK_FULL_BYTES / 4), "third": WELL}),),
        Kind.SERVICE_DISRUPTION,
        give_up=False,
        says="is full",
    ),
    Situation(
        "The DRaaS server's host is gone: commits hang, the primary is well.",
        (all_see(60, WELL, draas="silent"),),
        Kind.SERVICE_DISRUPTION,
        give_up=False,
        says="not protected",
    ),
    # --- the line ---
    Situation(
        "The line between us and the primary is cut; both sentinels see it alive.",
        (Sight(60, DARK, BOTH),),
        Kind.NETWORK_FAILURE,
        give_up=False,
        says="beside and third",
    ),
    Situation(
        "As above, and the router says that there is no route.",
        (Sight(60, UNROUTED, BOTH),),
        Kind.NETWORK_FAILURE,
        give_up=False,
        says="no route",
    ),
    Situation(
        "A firewall of ours resets every connection to it; the sentinel beside it sees it alive.",
        (Sight(60, GONE, {"beside": WELL, "third": None}),),
        Kind.NETWORK_FAILURE,
        give_up=False,
    ),
    Situation(
        "Our queries do not get through, and its WAL still arrives at our standby.",
        (Sight(60, DARK, wal=True),),
        Kind.NETWORK_FAILURE,
        give_up=False,
        says="WAL arrives",
        before=(ALONE,),
    ),
    Situation(
        "The line between us and the site is cut, and only the third place tells that the primary lives.",
        (Sight(60, DARK, {"beside": None, "third": WELL}),),
        Kind.NETWORK_FAILURE,
        give_up=False,
        says="third",
    ),
    Situation(
        "Answers take half a second: slow, not dead.",
        (all_see(60, replace(WELL, sql_ms=520.0)),),
        Kind.SLOW,
        give_up=False,
        says="late",
    ),
    Situation(
        "The line flaps: five seconds dark, two seconds well, again and again.",
        (all_see(5, DARK), all_see(2, WELL)) * 8,
        Kind.HEALTHY,
        give_up=False,
    ),
    # --- the site ---
    Situation(
        "The site is gone for five seconds: suspected, not given up.",
        (site_dark(5.6),),
        Kind.SITE_FAILURE,
        give_up=False,
    ),
    Situation("The site is gone.", (site_dark(10),), Kind.SITE_FAILURE, give_up=True, says="nobody sees"),
    Situation(
        "The site is gone; that a commit went through nine seconds before is no life.",
        (Sight(10, replace(DARK, write=Seen.OK, write_age_s=9.0), {"beside": None, "third": DARK}),),
        Kind.SITE_FAILURE,
        give_up=True,
    ),
    Situation(
        "The line is cut just after a commit of ours went through: the others see it, and at once it is the line.",
        (Sight(4.5, replace(DARK, write=Seen.OK, write_age_s=5.0), BOTH),),
        Kind.NETWORK_FAILURE,
        give_up=False,
    ),
    Situation(
        "The site is gone, and there is no vantage but us: said so.",
        (Sight(10, DARK),),
        Kind.SITE_FAILURE,
        give_up=True,
        says="look the same from here",
        before=(ALONE,),
    ),
    Situation(
        "The primary's host is off, and a sentinel at its site is heard.",
        (all_see(10, DARK),),
        Kind.SERVICE_DISRUPTION,
        give_up=True,
        says="at the same site",
    ),
    Situation(
        "The site is gone; the third place cannot look for itself (no name server), which proves nothing.",
        (Sight(10, DARK, {"beside": None, "third": PrimarySeen(detail="no address")}),),
        Kind.SITE_FAILURE,
        give_up=True,
    ),
    Situation(
        "PostgreSQL stands still for 20 s, then its host goes silent: the host's own patience begins anew.",
        (all_see(20, STALLED), all_see(5, DARK)),
        Kind.SERVICE_DISRUPTION,
        give_up=False,
    ),
    Situation(
        "We begin while the primary is not there, and have never seen it: twice as careful.",
        (Sight(15, DARK),),
        Kind.SITE_FAILURE,
        give_up=False,
        says="the address may be wrong",
        before=(),
    ),
    # --- the stores ---
    Situation(
        "One store does not answer.",
        (all_see(20, WELL, stores=("S1", "S3")),),
        Kind.STORE_FAILURE,
        give_up=False,
        says="S2",
    ),
    Situation(
        "One store is gone, and then the site.",
        (all_see(20, WELL, stores=("S2", "S3")), site_dark(12, stores=("S2", "S3"))),
        Kind.SITE_FAILURE,
        give_up=True,
        says="S1 silent",
    ),
    Situation(
        "Two stores are gone; we see the primary, so it is not our line.",
        (all_see(30, WELL, stores=("S1",), others_miss=("S2", "S3")),),
        Kind.STORE_FAILURE,
        give_up=False,
        says="S2 and S3",
    ),
    Situation(
        "Two stores are gone, and then the site: without a quorum nothing can be switched.",
        (
            all_see(20, WELL, stores=("S1",), others_miss=("S2", "S3")),
            site_dark(60, stores=("S1",), others_miss=("S2", "S3")),
        ),
        Kind.STORE_FAILURE,
        give_up=False,
    ),
    Situation(
        "We see nothing at all: it is us.",
        (Sight(120, DARK, {"beside": None, "third": None}, stores=()),),
        Kind.CUT_OFF,
        give_up=False,
        says="cut off",
    ),
    Situation(
        "We see one store and nothing else: it is us.",
        (Sight(120, DARK, {"beside": None, "third": None}, stores=("S3",)),),
        Kind.CUT_OFF,
        give_up=False,
    ),
    Situation(
        "We were cut off for a minute; the stores answer again, the primary's first answer is still on its way.",
        (Sight(60, DARK, {"beside": None, "third": None}, stores=()), Sight(2, DARK, {"beside": None, "third": None})),
        Kind.SLOW,
        give_up=False,
    ),
    # --- ourselves ---
    Situation(
        "We slept for ten minutes (a suspended machine), and nothing has come in yet.",
        (Sight(600, None, asleep=True), Sight(0.4, STALLED, {"beside": None, "third": None})),
        Kind.SLOW,
        give_up=False,
        says="ourselves slept",
    ),
    Situation(
        "We get the processor only every ten seconds, and see the primary well each time.",
        (Sight(10, None, asleep=True), Sight(0.4, WELL, BOTH)) * 12,
        Kind.HEALTHY,
        give_up=False,
    ),
    Situation(
        "A sentinel was taken away a while ago, and all is well.",
        (Sight(60, WELL, {"third": WELL}),),
        Kind.HEALTHY,
        give_up=False,
        says="beside has not been heard",
    ),
]


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda each: each.prose[:60])
def test_the_verdict_is_as_the_table_says(situation: Situation) -> None:
    stage = Stage()
    verdict = stage.play(*situation.before, *situation.then)
    told = "\n".join((f"{verdict.kind.value}: {verdict.sentence}", *verdict.evidence))
    assert (verdict.kind, verdict.give_up) == (situation.kind, situation.give_up), told
    assert situation.says in told
    if not situation.give_up:
        assert not any(each.give_up for each in stage.verdicts), "it had been given up meanwhile"


def test_a_dead_process_is_named_within_three_seconds_and_a_dead_site_within_ten() -> None:
    for sight, kind, within in ((all_see(3, GONE), Kind.SERVICE_DISRUPTION, 3), (site_dark(10), Kind.SITE_FAILURE, 10)):
        stage = Stage()
        stage.play(BEFORE)
        before = len(stage.verdicts)
        stage.play(sight)
        named = next(number for number, each in enumerate(stage.verdicts[before:], 1) if each.kind is kind)
        assert named * TICK < within


@pytest.mark.parametrize("late", [0.5, 1.5, 2.0, 2.5, 3.0])
def test_wal_that_is_told_of_after_the_death_holds_no_dead_process_up(late: float) -> None:
    """The DRaaS server's beacon tells every two seconds what came before."""
    stage = Stage()
    stage.play(BEFORE, all_see(late, GONE))
    told = stage._leader
    stage._leader = replace(told, beat=told.beat + 1, received=told.received + 100)
    verdict = stage.play(all_see(6.5 - late, GONE))
    assert (verdict.kind, verdict.give_up) == (Kind.SERVICE_DISRUPTION, True), verdict
    assert "refuses" in verdict.sentence


def test_since_is_when_it_began_on_the_callers_clock() -> None:
    stage = Stage(start=1_000_000.0)
    stage.play(BEFORE)
    died = stage.now
    verdict = stage.play(site_dark(10))
    assert verdict.since == pytest.approx(died, abs=1.0)
    assert verdict.lasted_s == pytest.approx(10, abs=1.0)


def test_a_vantage_that_vanished_is_spoken_of_no_more_after_a_while() -> None:
    stage = Stage()
    verdict = stage.play(BEFORE, Sight(620, WELL, {"third": WELL}))
    assert not any("beside" in line for line in verdict.evidence)
