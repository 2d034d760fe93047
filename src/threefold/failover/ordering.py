"""What a person who wants a switch is told before, and whether it is refused. Pure.

A person is obeyed, after he was told what speaks against it: that the active site looks well, that nobody keeps a
copy where he wants to go, that the copy is behind.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from threefold.failover.agent_beacon import AgentStatus
from threefold.failover.steps import Active
from threefold.kernel.errors import Refused
from threefold.kernel.lsn import Lsn
from threefold.protect.beacon import LeaderStatus

# Measured (docs/explanation/performance.md), for "how long it should take".
_WARM_S: Final = "about 2 s"
# A planned switch waits until the copy has replayed what it lacks: this much takes a second or two.
_BEHIND_BYTES: Final = 256 * 2**20
_COLD: Final = "as long as the newest snapshot and the log behind it take to be restored"


@dataclass(frozen=True, slots=True)
class Asked:
    """What is wanted, and what is known. ``target`` and ``source`` are their agents, where one was seen alive."""

    to: str
    active: Active
    planned: bool
    target: AgentStatus | None
    source: AgentStatus | None
    leader: LeaderStatus | None
    here: bool  # the target's data folder is on this machine

    @property
    def looks_well(self) -> bool:
        """As far as anybody can say from here: a DRaaS server streams from it, and its site's watcher is content."""
        verdict = self.target.verdict if self.target is not None else ""
        if verdict:
            return verdict in {"healthy", "slow", "store-failure", "network-failure"}
        return self.leader is not None and self.leader.state == "streaming"


def check_site(asked: Asked) -> None:
    """Whether there is anything to do at all. Raises Refused."""
    if asked.active.site == asked.to and not asked.active.under_way:
        raise Refused(
            f"{asked.to} is the active site already", hint="to make another one active: threefold failover --to SITE"
        )


def check(asked: Asked, *, forced: bool) -> None:
    """Raises Refused."""
    check_site(asked)
    active = asked.active
    if active.under_way and active.switch is not None and active.switch.target != asked.to:
        raise Refused(
            f"switch {active.switch_number} to {active.switch.target} is under way ({active.step})",
            hint="let it end, or abandon it: threefold failover --abandon",
        )
    if active.under_way:
        return  # it is carried on
    if not asked.planned and not forced and asked.looks_well:
        raise Refused(
            f"{active.site} seems to be well: {why_well(asked)}",
            hint="a switch in good order: --planned; or, because you know better: --yes",
        )
    if asked.planned and asked.target is not None and not asked.target.copy_ready:
        raise Refused(
            f"the copy at {asked.to} is not ready: {asked.target.copy_why or 'it is being prepared'}",
            hint="wait until `threefold status` says that it follows",
        )
    if asked.planned and behind(asked) > _BEHIND_BYTES:
        raise Refused(
            f"the copy at {asked.to} is {behind(asked) / 1e6:.0f} MB behind: the pause would be long",
            hint="wait until `threefold status` says that it follows",
        )
    if asked.target is None and not asked.here:
        raise Refused(
            f"nobody keeps a copy at {asked.to}, and its data folder is not on this machine",
            hint=f"at {asked.to} run: threefold standby --site {asked.to}; or run this command there with --here",
        )


def behind(asked: Asked) -> int:
    """Bytes of the log that the target's copy lacks; 0 where nobody knows."""
    if asked.leader is None or asked.target is None or not asked.target.position.get("replayed"):
        return 0
    return max(0, asked.leader.settled - Lsn.parse(str(asked.target.position["replayed"])))


def why_well(asked: Asked) -> str:
    if asked.target is not None and asked.target.sentence:
        return asked.target.sentence
    return "a DRaaS server receives its changes"


def order_facts(asked: Asked) -> dict[str, Any]:
    """What goes into the order beside the target. ``agent``: the source is waited for to stop in good order."""
    return {"agent": asked.planned and asked.source is not None}


def refusal(asked: Asked, *, forced: bool) -> Refused | None:
    """What `check` would say."""
    try:
        check(asked, forced=forced)
    except Refused as refused:
        return refused
    return None


def picture(asked: Asked, now: datetime, *, forced: bool) -> dict[str, Any]:
    """What a dry run shows; ``refused``: why the command itself would do nothing now, and what helps."""
    leader, refused = asked.leader, refusal(asked, forced=forced)
    waiting = int(leader.received - leader.settled) if leader is not None else None
    target = asked.target
    steps = [f"order switch {asked.active.switch_number + (not asked.active.under_way)} to {asked.to}"]
    if asked.planned and asked.source is not None:
        steps.append(f"the agent at {asked.active.site} stops its PostgreSQL in good order")
    steps += [
        "fence the log: whoever wrote it until now can confirm nothing more",
        f"complete the copy at {asked.to} to the log's end" if target else f"restore the database at {asked.to}",
        "promote it",
        "protect it: a new epoch, a new timeline, a new snapshot",
    ]
    return {
        "from": asked.active.site,
        "to": asked.to,
        "planned": asked.planned,
        "steps": steps,
        "detector": {
            "verdict": target.verdict if target else "",
            "sentence": target.sentence if target else "nobody watches from there",
        },
        "lost": "nothing that was confirmed" + _async(leader),
        "unconfirmed_bytes": waiting,
        "copy": dict(target.position) if target else None,
        "expected": _WARM_S if target is not None and target.copy_ready else _COLD,
        "leader_heard": leader.at if leader is not None else None,
        "at": now.isoformat(timespec="seconds"),
        "refused": {"error": refused.message, "hint": refused.hint} if refused else None,
    }


def _async(leader: LeaderStatus | None) -> str:
    if leader is None or leader.durability != "async":
        return ""
    return f", but for the last {leader.rpo_seconds:g} s, which durability = async has confirmed early"
