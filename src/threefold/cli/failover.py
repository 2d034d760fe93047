"""`threefold failover`: make another site the active one, now; and follow the switch to its end."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from threefold import telemetry
from threefold.bootstrap import Parts, journal_of, open_parts
from threefold.bootstrap_failover import data_dir_of, hands_of, keeper_of, one_agent, site_of
from threefold.cli.common import ask_opener, execute
from threefold.cli.options import Given, OnlySay, Reason, opens_the_stores
from threefold.cli.output import Output
from threefold.cli.words import span
from threefold.failover import switch as procedure
from threefold.failover.agent_beacon import wait_for_pulse
from threefold.failover.journal import Journal
from threefold.failover.ordering import Asked, check, check_site, order_facts, picture
from threefold.failover.steps import Kind, Step, Switch
from threefold.failover.switch import AbandonedError
from threefold.kernel.errors import BadInput, Refused, Unavailable
from threefold.kernel.wraps import Opener
from threefold.protect.beacon import read_leader
from threefold.settings import Settings, Site

_POLL_S = 0.1
# An agent that lives takes an order up within a fraction of a second.
_TAKEN_UP_S = 15.0

_SAYS = {
    Kind.ORDERED: "ordered",
    Kind.STOPPED: "the old site's PostgreSQL was stopped in good order",
    Kind.FENCED: "fenced: nobody else can confirm anything, and the log's end is fixed",
    Kind.PROMOTING: "decided: the copy is complete, and is promoted",
    Kind.SERVING: "it takes writes",
    Kind.PROTECTED: "protected again: a new epoch, a new snapshot",
    Kind.ABANDONED: "abandoned",
}


@opens_the_stores
def failover(
    given: Given,
    to: Annotated[
        str | None, typer.Option(help="The site that shall be active; the one that is not, if absent.", metavar="SITE")
    ] = None,
    planned: Annotated[
        bool, typer.Option("--planned", help="In good order: the active site's PostgreSQL is stopped first.")
    ] = False,
    dry_run: OnlySay = False,
    yes: Annotated[bool, typer.Option("--yes", "--force", help="Although the active site seems to be well.")] = False,
    here: Annotated[
        bool,
        typer.Option("--here", help="Carry it out in this process where no agent does; the data folder is here."),
    ] = False,
    abandon: Annotated[
        bool, typer.Option("--abandon", help="End the switch under way, if its site is not active yet.")
    ] = False,
    reason: Reason = "",
    until: Annotated[
        str, typer.Option(help="Return when the new site is serving, or is protected.", metavar="STEP")
    ] = "protected",
) -> None:
    """Switch to another site: fence the old one, complete the copy, promote it, protect it.

    Nothing that was confirmed is lost. The same command goes on with a switch that was interrupted.

    [bold]Examples:[/]

    threefold failover --dry-run

    threefold failover --planned --to eu-cloud
    """
    output, found = given.output, given.settings()
    if until not in {"serving", "protected"}:
        raise BadInput(f"not a step to wait for: {until}", hint="--until serving, or --until protected")
    wanted = Wanted(to, planned=planned, forced=yes, here=here, reason=reason, until=Kind(until), dry_run=dry_run)
    opener = given.opener()
    work = _abandon(found, output) if abandon else switch_over(found, output, wanted, opener)
    execute(work, output)


class Wanted:
    """What was asked for on the command line."""

    def __init__(
        self,
        to: str | None,
        *,
        planned: bool,
        forced: bool,
        here: bool,
        reason: str,
        until: Kind = Kind.PROTECTED,
        dry_run: bool = False,
    ) -> None:
        self.to, self.planned, self.forced, self.here = to, planned, forced, here
        self.reason, self.until, self.dry_run = reason, until, dry_run


async def switch_over(found: Settings, output: Output, wanted: Wanted, opener: Opener | None) -> None:
    async with open_parts(found, opener=opener, ask=ask_opener, verb="failover") as parts:
        journal = journal_of(parts, by="a person at the command line")
        asked, site = await _asked(parts, journal, wanted)
        if wanted.dry_run:
            check_site(asked)
            _show(output, picture(asked, parts.clock.now(), forced=wanted.forced))
            return
        check(asked, forced=wanted.forced)
        switch = asked.active.switch if asked.active.under_way else None
        if switch is None:
            switch = await journal.order(
                to=asked.to, reason=wanted.reason or "a person ordered it", planned=wanted.planned, **order_facts(asked)
            )
        if asked.target is None and wanted.here:
            switch = await _carry_out(parts, journal, site, switch, output, wanted.until)
        else:
            switch = await _follow(parts, journal, switch, output, wanted.until)
    _done(output, switch)


async def _asked(parts: Parts, journal: Journal, wanted: Wanted) -> tuple[Asked, Site]:
    active = await journal.active()
    sites = parts.settings.sites()
    to = wanted.to or (active.switch.target if active.under_way and active.switch else None)
    to = to or next(site.name for site in reversed(sites) if site.name != active.site)
    site = site_of(parts.settings, to)
    target = await wait_for_pulse(parts.stores, to, parts.keyring, parts.clock)
    source = None
    if wanted.planned:
        source = await wait_for_pulse(parts.stores, active.site, parts.keyring, parts.clock)
    leader = await read_leader(parts.stores, parts.keyring)
    return Asked(to, active, wanted.planned, target, source, leader, wanted.here), site


async def _carry_out(parts: Parts, journal: Journal, site: Site, switch: Switch, output: Output, until: Kind) -> Switch:
    """In this process."""
    progress = output.progress()
    tell = _Teller(output)
    try:
        with one_agent(data_dir_of(parts.settings, site)):
            keeper = keeper_of(parts, site, progress, telemetry.report)
            hands = hands_of(parts, site, keeper, journal, progress, telemetry.report, heard=tell)
            tell(switch)
            switch = await procedure.to_serving(hands, switch)
            return switch if until is Kind.SERVING else await procedure.to_protected(hands, switch)
    except AbandonedError as abandoned:
        raise _was_abandoned(abandoned.switch) from None
    finally:
        output.finish(progress)


async def _follow(parts: Parts, journal: Journal, switch: Switch, output: Output, until: Kind) -> Switch:
    """An agent carries it out; we watch."""
    tell = _Teller(output)
    began = parts.clock.monotonic()
    while True:
        tell(switch)
        if switch.abandoned:
            raise _was_abandoned(switch)
        if switch.step(until) is not None:
            return switch
        if len(switch.steps) == 1 and parts.clock.monotonic() - began > _TAKEN_UP_S:
            began = parts.clock.monotonic()
            output.note(f"the agent at {switch.target} has not begun yet: see its log; to end this: --abandon")
        await parts.clock.sleep(_POLL_S)
        try:
            switches = await journal.read()
        except Unavailable as error:
            output.note(error.message)
            continue
        switch = next(each for each in switches.all if each.number == switch.number)


class _Teller:
    """Says each step once."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._said = 0

    def __call__(self, switch: Switch) -> None:
        for step in switch.steps[self._said :]:
            if self._output.as_json:
                self._output.line("step", {"switch": switch.number, **step_facts(step)})
            else:
                self._output.note(f"{step.seconds:8.2f} s  {_SAYS[step.kind]}")
        self._said = len(switch.steps)


def step_facts(step: Step) -> dict[str, Any]:
    return {"step": step.kind, "seconds": step.seconds, "at": step.at, "by": step.by, "facts": dict(step.facts)}


def _was_abandoned(switch: Switch) -> Refused:
    why = switch.last.facts.get("why", "no reason was given")
    return Refused(f"switch {switch.number} was abandoned: {why}", hint="the old site is still active; order it anew")


def _done(output: Output, switch: Switch) -> None:
    facts = {
        "switch": switch.number,
        "active": switch.target,
        "dsn": switch.dsn,
        "steps": [step_facts(step) for step in switch.steps],
    }
    last = switch.last
    output.result(facts, f"[bold]{switch.target}[/] is the active site, {last.kind.value} after {span(last.seconds)}.")


def _show(output: Output, facts: dict[str, Any]) -> None:
    lines = [f"From [bold]{facts['from']}[/] to [bold]{facts['to']}[/]" + (", planned" if facts["planned"] else "")]
    lines += [f"  {number}. {text}" for number, text in enumerate(facts["steps"], 1)]
    lines.append(f"The detector: {facts['detector']['sentence'] or 'nothing yet'}")
    lines.append(f"Lost would be {facts['lost']}; {facts['unconfirmed_bytes'] or 0} bytes are under way, unconfirmed.")
    lines.append(f"It should take {facts['expected']}.")
    if facts["refused"]:
        lines.append(f"[yellow]Now it would be refused:[/] {facts['refused']['error']}\n  {facts['refused']['hint']}")
    output.result(facts, *lines)


async def _abandon(found: Settings, output: Output) -> None:
    async with open_parts(found, verb="failover") as parts:
        journal = journal_of(parts, by="a person at the command line")
        active = await journal.active()
        if not active.under_way or active.switch is None:
            raise Refused("no switch is under way", hint="see `threefold status`")
        switch = await journal.abandon(active.switch.number, "a person abandoned it")
    output.result({"switch": switch.number, "abandoned": True}, f"switch {switch.number} is abandoned")
