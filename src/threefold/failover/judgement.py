"""From a scene to a verdict: the rules, the gravest doubt about ourselves first. Pure.

| rule | kind | given up after |
|---|---|---|
| we have looked at nothing yet | unknown | never |
| fewer than two stores answer us, and nobody else misses them | cut-off | never |
| fewer than two stores answer anybody we hear | store-failure | never |
| PostgreSQL answers our queries: well, late, without writing, with its disk full, as a standby | healthy, slow, service-disruption, store-failure | never |
| nobody listens at its port | service-disruption | process_gone |
| it does not answer us; others have seen it alive since, or its WAL comes | network-failure; slow, until that is sure | never |
| its host answers somebody, PostgreSQL nobody: standing still, or starting | service-disruption | stall |
| its host answers nobody, and a vantage at its site is heard | service-disruption | site_gone |
| its host answers nobody, and nothing of its site is heard | site-failure | site_gone |

Whatever rule applied, a site is not given up while a vantage that is heard had an answer from PostgreSQL in its last
word, or anybody saw it alive in the last two seconds (`_spared`). A write that hangs because the stores or the DRaaS
server do not answer is PostgreSQL keeping its promise.

*Seen by one only.* Without another vantage a cut line and a dead site look the same from here. It is called a site
failure then, because a quorum of stores answers us, so that the line that failed is not ours alone, and the evidence
says how little it rests on.
"""  # noqa: E501 - a table

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from threefold.failover.evidence import evidence_of, names
from threefold.failover.reports import Condition, Seen, Waits
from threefold.failover.scene import ALIVE_S, Scene, View
from threefold.failover.verdicts import Kind
from threefold.quorum.majority import QUORUM

# A query that usually takes milliseconds: people notice.
SLOW_MS: Final = 400.0
# Less is less than two WAL segments.
DISK_FULL_BYTES: Final = 32 * 2**20
# How much longer a stall looks from outside than it is: from the last answer before it to the first one after.
STALL_MARGIN_S: Final = 2.0
# Our own report is made several times a second; one that is so old is none.
_OWN_REPORT_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class Patience:
    """[failover], in seconds."""

    stall_s: float = 30.0
    process_gone_s: float = 2.0
    site_gone_s: float = 8.0


@dataclass(frozen=True, slots=True)
class Judgement:
    """``theme`` tells apart what has one kind; ``lasted_s``: since when, where the scene knows; ``give_up`` with it."""

    kind: Kind
    theme: str
    sentence: str
    evidence: tuple[str, ...] = ()
    lasted_s: float | None = None
    give_up: bool = False


def judge(scene: Scene, patience: Patience) -> Judgement:
    """The first rule that applies."""
    found = next(said for rule in _RULES if (said := rule(scene, patience)) is not None)
    return Judgement(
        found.kind,
        found.theme,
        found.sentence,
        evidence_of(scene),
        found.lasted_s,
        found.give_up and not _spared(scene),
    )


def _spared(scene: Scene) -> bool:
    """Whether anybody has a word for the primary's life: then it is not given up, whatever the rule says."""
    return scene.alive_s <= ALIVE_S or any(view.alive for view in scene.views)


def _nothing_yet(scene: Scene, patience: Patience) -> Judgement | None:
    del patience
    if scene.own is None or scene.own.report_s > _OWN_REPORT_S:
        return Judgement(Kind.UNKNOWN, "nothing", f"nothing was seen of the primary at {scene.watched} yet")
    return None


def _no_quorum(scene: Scene, patience: Patience) -> Judgement | None:
    del patience
    silent = scene.silent_stores
    if len(scene.stores) - len(silent) >= QUORUM:
        return None
    missed = any(_misses_quorum(view, scene) for view in scene.others)
    if missed or (scene.own is not None and scene.own.alive):
        why = "others miss them too" if missed else "the primary answers us, so it is not our line"
        said = f"{names(silent)} do not answer: fewer than two stores are left, commits wait; {why}"
        return Judgement(Kind.STORE_FAILURE, "no quorum", said)
    said = f"we are cut off: {names(silent)} do not answer us, and nothing that we see from here can be trusted"
    return Judgement(Kind.CUT_OFF, "cut off", said)


def _misses_quorum(view: View, scene: Scene) -> bool:
    return sum(view.stores.get(name) in {Seen.SILENT, Seen.FAILED} for name in scene.silent_stores) >= QUORUM


def _it_answers_us(scene: Scene, patience: Patience) -> Judgement | None:
    """Our own queries are answered, or refused by a PostgreSQL that lives."""
    del patience
    own = scene.own
    if own is None or not own.alive or own.seen.process is Seen.REFUSED:
        return None
    seen, site = own.seen, scene.watched
    disrupted = Kind.SERVICE_DISRUPTION
    if seen.condition is Condition.STANDBY:
        return Judgement(disrupted, "standby", f"the server at {site} answers, but is a standby: it takes no writes")
    full = [view for view in scene.views if view.seen.disk_free is not None and view.seen.disk_free < DISK_FULL_BYTES]
    if full:
        return Judgement(disrupted, "disk full", f"the primary's disk at {site} is full, as {_who(full[0], scene)}")
    if seen.sql is Seen.OK and seen.process is Seen.SILENT:
        said = f"the primary at {site} takes no new connection, while those that exist are served"
        return Judgement(disrupted, "no new connection", said)
    hangs = [view for view in scene.views if view.seen.write is Seen.SILENT and view.seen.waits is not Waits.NOTHING]
    stuck = hangs[0] if hangs else None
    if stuck is not None and stuck.seen.waits is not Waits.STORES:
        on = "its disk" if stuck.seen.waits is Waits.DISK else "something other than the stores"
        said = f"the primary at {site} answers, but a write has been waiting for {on}, as {_who(stuck, scene)}"
        return Judgement(disrupted, "write", said)
    if scene.silent_stores:
        said = f"{names(scene.silent_stores)} does not answer; the primary at {site} does, and two stores carry on"
        return Judgement(Kind.STORE_FAILURE, f"stores {scene.silent_stores}", said)
    if scene.draas.seen is Seen.SILENT or stuck is not None:
        said = f"the primary at {site} answers, but is not protected: commits may wait; it is not to blame"
        return Judgement(disrupted, "unprotected", said)
    if seen.condition is Condition.FULL:
        said = f"the primary at {site} is alive and has no connection left for us"
        return Judgement(Kind.SLOW, "full", said)
    if seen.condition is Condition.SHUT_TO_US:
        said = f"the primary at {site} is alive and does not let us in: {seen.detail}"
        return Judgement(Kind.HEALTHY, "shut", said)
    if scene.late or (seen.sql_ms or 0.0) >= SLOW_MS:
        return Judgement(Kind.SLOW, "slow", f"the primary at {site} answers late, and is alive")
    return Judgement(Kind.HEALTHY, "healthy", f"the primary at {site} answers")


def _nobody_listens(scene: Scene, patience: Patience) -> Judgement | None:
    refused = scene.refused
    if refused is None or refused.refused_s is None:
        return None
    said = f"PostgreSQL at {scene.watched} is gone: its host refuses connections, as {_who(refused, scene)}"
    still = any(view.seen.process is Seen.OK for view in scene.others)
    return Judgement(
        Kind.SERVICE_DISRUPTION,
        "gone",
        said,
        lasted_s=refused.refused_s,
        give_up=refused.refused_s >= patience.process_gone_s and not still,
    )


def _others_see_it(scene: Scene, patience: Patience) -> Judgement | None:
    """While the last word of anybody who is heard has it alive, nothing worse than our line is supposed."""
    del patience
    last_words = [view.vantage for view in scene.others if view.alive]
    since_us = [view.vantage for view in scene.witnesses] + [f"{source} (WAL arrives)" for source in scene.flowing]
    if scene.own is None or not (last_words or since_us):
        return None
    own, site = scene.own.seen, scene.watched
    # Its host answers us and its WAL comes: that line is whole, and PostgreSQL is only slow to answer.
    reached = own.host is Seen.OK and own.process is not Seen.REFUSED and not scene.witnesses
    if scene.silent and since_us and not reached:
        said = f"the network between us and {site} fails: we do not see the primary there, {names(since_us)} do"
        return Judgement(Kind.NETWORK_FAILURE, "network", said, lasted_s=scene.own.sql_s)
    seen_by = names(since_us) if since_us else f"{names(last_words)} had an answer lately"
    return Judgement(
        Kind.SLOW, "late", f"the primary at {site} is late to answer us; {seen_by}", lasted_s=scene.alive_s
    )


def _host_answers(scene: Scene, patience: Patience) -> Judgement | None:
    if not scene.host_answers:
        return None
    site = scene.watched
    starting = any(view.seen.condition is Condition.STARTING for view in scene.views)
    foreign = any(view.seen.condition is Condition.FOREIGN for view in scene.views)
    if not (scene.silent or starting or foreign):
        return Judgement(Kind.SLOW, "late", f"the primary at {site} is late to answer", lasted_s=scene.alive_s)
    if starting:
        said = f"PostgreSQL at {site} is starting or recovering, and serves nobody yet"
    elif foreign:
        said = f"another database system answers at {site}, where the primary was"
    else:
        said = f"PostgreSQL at {site} stands still: its host answers, it does not"
    give_up = scene.alive_s >= patience.stall_s + STALL_MARGIN_S
    return Judgement(Kind.SERVICE_DISRUPTION, "stall", said, lasted_s=scene.alive_s, give_up=give_up)


def _host_is_silent(scene: Scene, patience: Patience) -> Judgement | None:
    if not any(view.host_silent for view in scene.views):
        return None
    site = scene.watched
    if not scene.silent:
        return Judgement(Kind.SLOW, "late", f"the primary at {site} is late to answer", lasted_s=scene.alive_s)
    # Who has never seen it alive may have the wrong address: more patience costs little there.
    allowed = patience.site_gone_s if scene.ever else max(patience.site_gone_s, patience.stall_s)
    give_up = scene.host_s >= allowed
    there = [view.vantage for view in scene.others if view.site == site]
    if there:
        said = f"the primary's host at {site} answers nobody, while {names(there)} at the same site is heard"
        return Judgement(Kind.SERVICE_DISRUPTION, "host", said, lasted_s=scene.host_s, give_up=give_up)
    said = f"site {site} has failed: nobody sees its primary, and nothing else of it is heard"
    return Judgement(Kind.SITE_FAILURE, "site", said, lasted_s=scene.host_s, give_up=give_up)


def _who(view: View, scene: Scene) -> str:
    return "we see it" if view is scene.own else f"{view.vantage} sees it"


def _cannot_tell(scene: Scene, patience: Patience) -> Judgement:
    del patience
    why = f": {scene.own.seen.detail}" if scene.own is not None and scene.own.seen.detail else ""
    return Judgement(Kind.UNKNOWN, "unclear", f"what became of the primary at {scene.watched} is not to be told{why}")


_RULES: Final[tuple[Callable[[Scene, Patience], Judgement | None], ...]] = (
    _nothing_yet,
    _no_quorum,
    _it_answers_us,
    _nobody_listens,
    _others_see_it,
    _host_answers,
    _host_is_silent,
    _cannot_tell,
)
