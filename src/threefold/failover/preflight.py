"""Whether the day of the disaster is prepared: who takes over, with what, on whose word. Pure.

Nothing here stops protection, so nothing fails: it warns, with what to do. On loopback all sites are one machine, which
is for trying out and is not warned of.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final, Literal

from threefold.failover.policy import Policy
from threefold.protect.preflight import Finding, Level

# A restart of PostgreSQL refuses connections for about that long; a switch in the midst of one is a nuisance.
_RESTART_S: Final = 1.0
_SITE_GONE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is set, and who was seen alive."""

    policy: Policy
    standby: Literal["warm", "cold"]
    recovery: str  # the site's name
    primary_host: str
    recovery_host: str  # where its PostgreSQL listens
    data_dir_set: bool
    process_gone_s: float
    site_gone_s: float
    agent_lives: bool  # at the recovery site
    copy: str  # "": ready; else why it is not
    sentinels: tuple[str, ...]  # heard, beside the agents
    strict: bool
    without_quorum: str


def judge(facts: Prepared) -> list[Finding]:
    return [*_copy(facts), *_address(facts), *_witness(facts), *_patience(facts), *_promise(facts)]


def _copy(facts: Prepared) -> Iterator[Finding]:
    name, warm = "recovery site", facts.standby == "warm"
    if not facts.data_dir_set:
        detail = f"where the PostgreSQL of {facts.recovery} would lie is not said: a person has to name a folder"
        yield Finding(name, Level.WARNING, detail, "data_dir in [recovery]")
    elif warm and not facts.agent_lives:
        detail = f"nobody keeps a copy at {facts.recovery}, though a warm one is wanted"
        remedy = f"threefold standby --site {facts.recovery}, or let threefold protect run there, which starts it"
        yield Finding(name, Level.WARNING, detail, remedy)
    elif warm and facts.copy:
        yield Finding(name, Level.WARNING, f"the copy at {facts.recovery} is not ready: {facts.copy}")
    elif warm:
        yield Finding(name, Level.FINE, f"a copy follows at {facts.recovery}")
    elif facts.policy == "automatic":
        detail = f"{facts.recovery} takes over by itself, but cold: it serves only when a snapshot is restored"
        yield Finding(name, Level.WARNING, detail, 'standby = "warm" in [recovery]')
    else:
        yield Finding(name, Level.FINE, f"{facts.recovery} is restored from the stores when it is asked for")


def _address(facts: Prepared) -> Iterator[Finding]:
    if _loopback(facts.recovery_host) and not _loopback(facts.primary_host):
        detail = f"after a switch only {facts.recovery} itself would reach its PostgreSQL, on {facts.recovery_host}"
        yield Finding(
            "recovery address", Level.WARNING, detail, "listen in [recovery]: an address that the CRM reaches"
        )


def _witness(facts: Prepared) -> Iterator[Finding]:
    if facts.policy == "manual" or _loopback(facts.primary_host):
        return
    if facts.sentinels:
        yield Finding("witnesses", Level.FINE, f"{', '.join(facts.sentinels)} also watches the primary")
    elif facts.policy == "automatic":
        detail = f"only {facts.recovery} watches: from there a cut line and a dead site look the same"
        yield Finding("witnesses", Level.WARNING, detail, "threefold sentinel, at a third place and beside the primary")


def _patience(facts: Prepared) -> Iterator[Finding]:
    if facts.policy != "automatic":
        return
    if facts.process_gone_s < _RESTART_S:
        detail = f"a restart of PostgreSQL that takes {facts.process_gone_s:g} s is taken for its end"
        yield Finding("process_gone", Level.WARNING, detail, 'process_gone = "2s" in [failover]')
    if facts.site_gone_s < _SITE_GONE_S:
        detail = f"a network that is away for {facts.site_gone_s:g} s is taken for the end of a site"
        yield Finding("site_gone", Level.WARNING, detail, 'site_gone = "8s" in [failover]')


def _promise(facts: Prepared) -> Iterator[Finding]:
    if not facts.strict:
        detail = "after a switch writes are confirmed before they are protected: a second disaster then loses them"
        yield Finding("strict", Level.WARNING, detail, "strict = true in [failover]")
    if facts.without_quorum == "spool":
        detail = "while two stores are away changes are confirmed on one disk: a disaster meanwhile loses them"
        yield Finding("without_quorum", Level.WARNING, detail, 'without_quorum = "block" in [failover]')


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host in {"", "localhost"} or host.startswith("/")
