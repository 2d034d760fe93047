"""The scenarios: what happens, and what must come of it. Data; test_scenarios.py plays them.

``story``      what happens, for people
``acts``       the same, done to a company
``outcome``    FAIL_OVER: the recovery site becomes active. GO_ON: nobody switches, and the clients are told "saved"
               again while the fault lasts. WAIT: nobody is told anything while it lasts, and all goes on afterwards
``verdicts``   the agent says one of these at some moment; () where none is asked for
``never``      and none of these
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
        never=("site-failure", "service-disruption"),
        mended_within=20,
    ),
    Scenario(
        "30 % loss",
        "Three of ten packets are lost, everywhere. It is slow, not dead.",
        (acts.everywhere(loss=0.3),),
        GO_ON,
        within=30,
        hold=20,
        never=("site-failure", "service-disruption"),
        mended_within=40,
    ),
    Scenario(
        "flapping link",
        "The link between the two sites works for two seconds, and then not for one, again and again.",
        (acts.between("primary", "recovery", flap=(2.0, 1.0)),),
        GO_ON,
        within=15,
        hold=15,
        never=("site-failure", "service-disruption"),
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
)
