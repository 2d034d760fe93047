"""Everything that is known of the active site at one moment, as ages in seconds: what a judgement is made from. Pure.

"Alive" means that PostgreSQL itself did something that only a living one does: it answered a query, confirmed a
commit, or sent more WAL. Another vantage's *last word* stands until that vantage itself has fallen silent: one report
that is lost must not turn "it sees the primary" into "nobody does".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from threefold.failover.reports import Condition, LeaderSeen, PrimarySeen, Seen

# What happened this short a while ago is taken for the present.
ALIVE_S = 2.0
# WAL need not flow. Where it did this lately, the primary lived.
STREAMED_S = 3.0
# A host that answered anybody so lately is there.
HOST_S = 3.0
# How late a report may show what was so before: its period, its way through a store, the reader's round.
REPORT_LAG_S = 1.5
# The same of WAL: the DRaaS server's beacon is written every two seconds, and tells of what came since the last one.
WAL_LAG_S = 4.0

ANSWERS = frozenset({Condition.FULL, Condition.SHUT_TO_US})  # it talks to us, though it does not serve us


@dataclass(frozen=True, slots=True)
class View:
    """One vantage's last word, and how old it is."""

    vantage: str
    site: str
    seen: PrimarySeen
    report_s: float  # since the report came
    sql_s: float | None = None  # since PostgreSQL answered it, or confirmed a commit; None: never
    host_s: float | None = None  # since the host answered it
    refused_s: float | None = None  # for how long nobody has been listening there, without a break
    stores: Mapping[str, Seen] = field(default_factory=dict)  # as it sees them

    @property
    def alive(self) -> bool:
        """By its last word. A commit is tried seldom: that one went through is the present for a moment only."""
        seen = self.seen
        wrote = seen.write is Seen.OK and seen.write_age_s is not None and seen.write_age_s <= ALIVE_S
        return seen.sql is Seen.OK or wrote or (seen.process is Seen.OK and seen.condition in ANSWERS)

    @property
    def host_answers(self) -> bool:
        seen = self.seen
        return self.alive or seen.host is Seen.OK or seen.process in {Seen.OK, Seen.REFUSED}

    @property
    def host_silent(self) -> bool:
        return not self.host_answers and self.seen.host in {Seen.SILENT, Seen.FAILED}


@dataclass(frozen=True, slots=True)
class Scene:
    watched: str  # the site's name
    own: View | None  # None: our own probes have said nothing yet
    others: tuple[View, ...] = ()  # of vantages that are heard
    unheard: Mapping[str, float] = field(default_factory=dict)  # vantages that fell silent: for how long
    streams: Mapping[str, float] = field(default_factory=dict)  # by who receives: since WAL came last
    stores: Mapping[str, bool] = field(default_factory=dict)  # whether each answers us
    late: bool = False  # our own queries' answers are overdue
    silent: bool = False  # so long that it is no accident
    draas: LeaderSeen = field(default_factory=LeaderSeen)
    draas_s: float | None = None  # since its beacon changed
    alive_s: float = 0.0  # since anybody saw PostgreSQL alive; where nobody has: since we look
    host_s: float = 0.0  # since its host answered anybody; likewise
    ever: bool = False  # it was seen alive at least once
    missed_s: float = 0.0  # that we ourselves slept through

    @property
    def views(self) -> tuple[View, ...]:
        return (self.own, *self.others) if self.own is not None else self.others

    @property
    def witnesses(self) -> tuple[View, ...]:
        """Others who have seen it alive since we have not: the word of who saw no more than we did proves nothing."""
        return tuple(view for view in self.others if view.alive and self._since_us(view.sql_s))

    @property
    def flowing(self) -> tuple[str, ...]:
        """Who is still getting its WAL, likewise."""
        return tuple(source for source, age in self.streams.items() if age <= STREAMED_S and self._since_us(age))

    def _since_us(self, age: float | None) -> bool:
        ours = self.own.sql_s if self.own is not None else None
        return ours is None or age is None or age + REPORT_LAG_S < ours

    @property
    def host_answers(self) -> bool:
        """Whether the primary's host answers anybody, by now."""
        return any(
            view.host_answers and (view is self.own or (view.host_s is not None and view.host_s <= HOST_S))
            for view in self.views
        )

    @property
    def silent_stores(self) -> tuple[str, ...]:
        return tuple(name for name, answers in self.stores.items() if not answers)

    @property
    def refused(self) -> View | None:
        """Who has been refused the longest, where nobody has had an answer of its process since."""
        refused = [view for view in self.views if view.refused_s is not None]
        longest = max(refused, key=lambda view: view.refused_s or 0.0, default=None)
        if longest is None or longest.refused_s is None:
            return None
        since = longest.refused_s - REPORT_LAG_S
        contradicted = any(view.seen.process is Seen.OK and view.report_s < since for view in self.views)
        lives = [view.sql_s for view in self.views if view.alive and view.sql_s is not None]
        # What came last before it died may be told of afterwards: it is no sign of life, and no lasting one.
        flows = [age for age in self.streams.values() if age <= STREAMED_S]
        outlived = any(age < since for age in lives) or any(age < longest.refused_s - WAL_LAG_S for age in flows)
        return None if contradicted or outlived else longest
