"""The part of `threefold status` that says where the database is: sites, the switch under way, agents, deficiency."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from rich.table import Table

from threefold.bootstrap import Parts, journal_of
from threefold.cli.words import span, table
from threefold.failover.agent_beacon import SILENCE_S, AgentStatus, read_agent
from threefold.failover.states import state_after
from threefold.failover.steps import Active, Kind, Switch, Switches
from threefold.kernel.errors import ThreefoldError
from threefold.settings import Site

_ROLES = {
    "active": "[green]active[/]",
    "standby": "[green]follows[/]",
    "preparing": "[yellow]being prepared[/]",
    "switching": "[yellow]taking over[/]",
    "stopped": "[yellow]its agent was stopped[/]",
}


@dataclass(frozen=True, slots=True)
class Sites:
    """What is known of them. ``active``: None where the journal could not be read, for ``trouble``."""

    active: Active | None
    switches: Switches
    agents: Mapping[str, AgentStatus]
    ages: Mapping[str, float]  # of the agents' beacons, seconds by two wall clocks
    trouble: str
    former: tuple[str, str] | None = None  # (site, data folder): a former primary that lies on this machine
    since_order_s: float | None = None


async def sites_of(parts: Parts) -> Sites:
    """What the journal and the agents' beacons say."""
    trouble, active, switches = "", None, Switches()
    agents: dict[str, AgentStatus] = {}
    places: tuple[Site, ...] = ()
    try:
        places = parts.settings.sites()
        journal = journal_of(parts)
        switches = await journal.read()
        active = switches.active(places[0].name)
    except ThreefoldError as error:
        trouble = error.message
    names = [site.name for site in places]
    names += [active.site] if active is not None and active.site not in names else []
    for name in names:
        agent = await read_agent(parts.stores, name, parts.keyring)
        if agent is not None:
            agents[name] = agent
    now = parts.clock.now()
    ages = {name: (now - datetime.fromisoformat(agent.at)).total_seconds() for name, agent in agents.items()}
    newest = switches.newest
    since = (now - datetime.fromisoformat(newest.order.at)).total_seconds() if newest is not None else None
    return Sites(active, switches, agents, ages, trouble, _former(places, active), since)


def _former(places: tuple[Site, ...], active: Active | None) -> tuple[str, str] | None:
    """A site whose database lies here, is not the active one, and is no standby: it came back from a disaster."""
    if active is None or not active.made_active:
        return None
    for site in places:
        there = site.data_dir
        if site.name == active.site or there is None or not (there / "PG_VERSION").exists():
            continue
        if not (there / "standby.signal").exists():
            return site.name, str(there)
    return None


def facts(found: Sites) -> dict[str, Any]:
    active, newest = found.active, found.switches.newest
    return {
        "active_site": active.site if active else None,
        "state": state_after(found.switches.all).value if active else "unknown",
        "switch": _switch_facts(newest, found.since_order_s) if newest else None,
        "agents": {
            name: {**asdict(agent), "beacon_age_seconds": round(found.ages[name], 1)}
            for name, agent in found.agents.items()
        },
        "deficiency": dict(_deficiency(found) or {}),
        "former_primary": {"site": found.former[0], "data_dir": found.former[1]} if found.former else None,
        "sites_trouble": found.trouble,
    }


def _switch_facts(newest: Switch, since: float | None) -> dict[str, Any]:
    return {
        "number": newest.number,
        "from": newest.source,
        "to": newest.target,
        "planned": newest.planned,
        "step": newest.last.kind.value,
        "under_way": newest.under_way,
        "concluded": newest.concluded,
        "seconds": {step.kind.value: step.seconds for step in newest.steps},
        "seconds_since_order": None if newest.concluded or since is None else round(since, 1),
        "reason": newest.order.facts.get("reason", ""),
    }


def _deficiency(found: Sites) -> Mapping[str, Any] | None:
    """As the freshest agent tells it."""
    living = [name for name, age in found.ages.items() if age < SILENCE_S and found.agents[name].role != "stopped"]
    freshest = min(living, key=lambda name: found.ages[name], default=None)
    return found.agents[freshest].deficiency if freshest is not None else None


def human(found: Sites) -> list[Table | str]:
    if found.active is None:
        return [f"[red]Which site is active is not known now:[/] {found.trouble}"] if found.trouble else []
    lines: list[Table | str] = []
    if found.agents or found.switches.newest is not None:
        lines += [f"[bold]{found.active.site}[/] is the active site.", *_switch_lines(found), _agents(found)]
    lines += _deficient(found)
    for name, agent in found.agents.items():
        if found.ages[name] >= SILENCE_S:
            continue
        if agent.action == "ask":
            lines.append(f"[red]{name} asks for a decision:[/] {agent.advice}")
        if agent.verdict not in {"", "healthy"} and agent.evidence:
            lines.append("\n".join([f"What {name} goes by:", *(f"  - {fact}" for fact in agent.evidence)]))
    if found.former is not None:
        site, folder = found.former
        lines.append(
            f"[yellow]{folder} holds the database that {site} served before switch {found.active.made_active}.[/] The "
            f"log refuses it, and its commits hang. Stop it, and make it a standby: "
            f"threefold standby --site {site} --rebuild"
        )
    return lines


def _switch_lines(found: Sites) -> list[str]:
    newest = found.switches.newest
    if newest is None or newest.concluded:
        return []
    step, since = newest.last.kind, found.since_order_s or 0.0
    what = "is under way" if newest.under_way else "is not at its end"
    line = f"[yellow]Switch {newest.number} from {newest.source} to {newest.target} {what}:[/] {step.value}, "
    line += f"{span(max(since, 0.0))} after its order"
    if step is Kind.SERVING:
        line += "; protection is not back yet"
    return [line]


def _agents(found: Sites) -> Table:
    rows = table("site", "agent", "copy", "what it sees")
    for name, agent in found.agents.items():
        age = found.ages[name]
        role = _ROLES.get(agent.role, agent.role)
        if age >= SILENCE_S and agent.role != "stopped":
            role = f"[red]silent for {span(age)}[/]"
        position = agent.position
        copy = agent.copy_why if agent.role != "active" and not agent.copy_ready else ""
        if position and agent.role == "standby":
            behind = position.get("replay_age_s")
            how = "streams" if position.get("streaming") else "fed from the stores"
            copy = f"{position.get('replayed')}, {how}" + (f", {span(behind)} old" if behind is not None else "")
        rows.add_row(name, role, copy, agent.sentence if age < SILENCE_S else "")
    return rows


def _deficient(found: Sites) -> list[str]:
    told = _deficiency(found)
    if not told:
        return []
    lacks = [f"{lack['text']} ({span(float(lack['since_s']))})" for lack in told.get("lacks", ())]
    count, total = int(told.get("count", 0)), float(told.get("total_s", 0.0))
    before = f"; {count} time{'s' if count != 1 else ''} so far, {span(total)} in all" if count else ""
    return [f"[red]Deficient:[/] {'; '.join(lacks)}{before}"] if lacks else []
