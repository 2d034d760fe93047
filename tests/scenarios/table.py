"""The scenarios: what happens, and what must come of it. Data; test_scenarios.py plays them.

``story``      what happens, for people
``acts``       the same, done to a company
``outcome``    FAIL_OVER: the recovery site becomes active. GO_ON: nobody switches, and the clients are told "saved"
               again while the fault lasts. WAIT: nobody is told anything while it lasts, and all goes on afterwards
``verdicts``   the agent says one of these at some moment; () where none is asked for
``never``      and none of these; where nobody shall switch, no verdict ever says that the site is to be given up
``within``     seconds from the last act to the first change that is acknowledged again, by the clients in ``clients``
``hold``       how long the fault lasts where nobody switches
``after``      acts that end the fault; then changes are acknowledged within ``mended_within``
``needs``      verbs of the command line without which it cannot be played
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from tests.scenarios import acts
from tests.scenarios.acts import Act

FAIL_OVER: Final = "fail-over"
GO_ON: Final = "go on"
WAIT: Final = "wait"


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    story: str
    acts: tuple[Act, ...]
    outcome: str
    verdicts: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    within: float = 15.0
    hold: float = 6.0
    after: tuple[Act, ...] = (acts.mend(),)
    mended_within: float = 15.0
    needs: tuple[str, ...] = ()
    options: tuple[str, ...] = ()  # of the scenario's own: see test_scenarios.py
    sections: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


WITHOUT_SWITCH: Final = (
    Scenario(
        "one store gone",
        "The host of one store dies. Two are enough: nobody notices, and nobody switches.",
        (acts.host_gone("s2"),),
        GO_ON,
        within=4,
        verdicts=("healthy", "store-failure"),
        after=(acts.mend(), acts.start_store("s2")),
    ),
    Scenario(
        "two stores gone",
        "Two stores die. Commits wait, because one copy is no promise; nobody switches, because nobody can see a "
        "quorum. When the stores come back, all goes on.",
        (acts.host_gone("s1"), acts.host_gone("s3")),
        WAIT,
        hold=8,
        never=("site-failure",),
        after=(acts.mend(), acts.start_store("s1"), acts.start_store("s3")),
    ),
    Scenario(
        "500 ms delay",
        "Every link takes half a second longer in each direction. It is slow, not dead.",
        (acts.everywhere(delay=0.5),),
        GO_ON,
        within=20,
        hold=15,
        never=("site-failure",),
        mended_within=20,
    ),
    Scenario(
        "30 % loss",
        "Three of ten packets are lost, everywhere. It is slow, not dead.",
        (acts.everywhere(loss=0.3),),
        GO_ON,
        within=30,
        hold=20,
        never=("site-failure",),
        mended_within=40,
    ),
    Scenario(
        "flapping link",
        "The link between the two sites works for two seconds, and then not for one, again and again.",
        (acts.between("primary", "recovery", flap=(2.0, 1.0)),),
        GO_ON,
        within=15,
        hold=15,
        never=("site-failure",),
    ),
    Scenario(
        "primary stalls for 6 s",
        "Every process of the primary stands still for six seconds, as when its machine is migrated.",
        (acts.stop_postgres(6),),
        GO_ON,
        never=("site-failure",),
    ),
    Scenario(
        "primary stalls for 25 s",
        "Every process of the primary stands still for 25 seconds. Up to 30 it is not a disaster.",
        (acts.stop_postgres(25),),
        GO_ON,
        within=20,
    ),
    Scenario(
        "DRaaS host gone",
        "The recovery site's host dies, and with it the DRaaS server and the standby. A second DRaaS server waits at "
        "the primary's site: it takes the epoch over, and commits go on. Nobody switches.",
        (acts.second_draas(), acts.host_gone("recovery")),
        GO_ON,
        within=25,
        hold=25,
    ),
    Scenario(
        "the primary's clock jumps",
        "The clock of the primary's host jumps forward by an hour, and then back by two. No clock decides anything.",
        (acts.jump("primary", 3600), acts.wait(3), acts.jump("primary", -3600)),
        GO_ON,
        never=("site-failure",),
        within=5,
        after=(acts.jump("primary", 0),),
        options=("clocks",),
    ),
    Scenario(
        "the recovery site's clock jumps",
        "The clock of the DRaaS server and the agent jumps forward by an hour. S3 refuses what is signed more than 15 "
        "minutes off, ours as any: commits wait until the clock is right again, or as below. Nobody switches.",
        (acts.jump("recovery", 3600),),
        WAIT,
        hold=12,
        after=(acts.jump("recovery", 0),),
        options=("clocks",),
    ),
    Scenario(
        "the recovery site's clock jumps, with a second DRaaS server",
        "The same, back by an hour, and a second DRaaS server waits at the primary's site: the stores take its word.",
        (acts.second_draas(), acts.jump("recovery", -3600)),
        GO_ON,
        within=30,
        hold=20,
        after=(acts.jump("recovery", 0),),
        options=("clocks",),
    ),
    Scenario(
        "a store's clock jumps",
        "The clock of one store's host jumps forward by an hour, and another's back by one.",
        (acts.jump("s1", 3600),),
        GO_ON,
        never=("site-failure",),
        within=5,
        after=(acts.jump("s1", 0),),
        options=("clocks",),
    ),
    Scenario(
        "the third vantage's clock jumps",
        "The clock of the sentinel that is at neither site jumps forward by an hour, and then back by two.",
        (acts.jump("third", 3600), acts.wait(3), acts.jump("third", -3600)),
        GO_ON,
        never=("site-failure",),
        within=5,
        after=(acts.jump("third", 0),),
        options=("clocks",),
    ),
)

PARTED: Final = (
    Scenario(
        "partition of the two sites",
        "Nothing passes between the primary's and the recovery site; all else works. Commits wait for the DRaaS "
        "server, and nobody switches: the third vantage sees the primary alive.",
        (acts.cut("primary", "recovery"),),
        WAIT,
        hold=20,
        verdicts=("network-failure",),
        never=("site-failure",),
    ),
    Scenario(
        "partition of the two sites, with a second DRaaS server",
        "The same, and a second DRaaS server waits at the primary's site: it takes the epoch over from the one that "
        "reaches no primary, and commits go on.",
        (acts.second_draas(), acts.cut("primary", "recovery")),
        GO_ON,
        within=30,
        hold=30,
        verdicts=("network-failure",),
        never=("site-failure",),
        mended_within=25,
    ),
    Scenario(
        "asymmetric loss between the two sites",
        "What the primary sends to the recovery site is lost; the other direction works. Nobody switches.",
        (acts.cut("primary", "recovery", one_way=True),),
        WAIT,
        hold=20,
        verdicts=("network-failure",),
        never=("site-failure",),
    ),
)

WITH_SWITCH: Final = (
    Scenario(
        "primary's process killed",
        "Every process of the primary's PostgreSQL is killed; its host answers. Given up after two seconds.",
        (acts.kill_postgres(),),
        FAIL_OVER,
        within=12,
        verdicts=("service-disruption",),
    ),
    Scenario(
        "host gone",
        "The primary's host loses its power: no process, no link, no word.",
        (acts.host_gone("primary"),),
        FAIL_OVER,
        within=20,
        verdicts=("site-failure",),
    ),
    Scenario(
        "partition of the primary from all",
        "The primary runs on and nobody reaches it. Its own clients are told nothing more; the recovery site takes "
        "over. When the links are mended the old primary does no harm, and its clients follow.",
        (acts.isolate("primary"),),
        FAIL_OVER,
        within=20,
        verdicts=("site-failure",),
        mended_within=20,
    ),
    Scenario(
        "the primary is heard by nobody",
        "What the primary sends is lost, whoever it is for; what is sent to it arrives.",
        (acts.cut("primary", "recovery", "s1", "s2", "s3", "third", one_way=True),),
        FAIL_OVER,
        within=20,
        verdicts=("site-failure",),
        mended_within=20,
    ),
    Scenario(
        "one store gone, then the primary",
        "A store's host dies, and some seconds later the primary's. Two stores have everything.",
        (acts.host_gone("s1"), acts.wait(3), acts.host_gone("primary")),
        FAIL_OVER,
        within=40,
        verdicts=("site-failure",),
        after=(acts.mend(), acts.start_store("s1")),
    ),
    Scenario(
        "primary killed, and returns",
        "The primary's process is killed, the recovery site takes over, and somebody starts the old primary again. It "
        "was never fenced by hand: its commits hang, and the log refuses it.",
        (acts.kill_postgres(),),
        FAIL_OVER,
        within=12,
        verdicts=("service-disruption",),
        after=(acts.start_postgres(), acts.wait(8)),
    ),
    Scenario(
        "disk full at the primary",
        "The file system of pg_wal has no byte left: PostgreSQL panics, and cannot start again.",
        (acts.fill_wal_disk("primary/wal"),),
        FAIL_OVER,
        within=30,
        verdicts=("service-disruption",),
        options=("small pg_wal",),
    ),
)
