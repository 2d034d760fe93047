"""What `threefold demo --failover` ends with."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from threefold.cli import words
from threefold.demo.burning import Outcome, Scene, Turn


def failover_table(outcome: Outcome) -> RenderableType:
    """What customers were promised, what was kept, and how long each switch took."""
    rows = words.facts_table("What it came to")
    verdict = outcome.verdict
    if verdict is not None:
        mark = "[bold green]0[/]" if not verdict.lost else f"[bold red]{len(verdict.lost)}[/]"
        rows.add_row("questions promised to be kept", f"[bold]{verdict.promised:,}[/]")
        rows.add_row("lost", mark)
        rows.add_row("there twice, or out of order", str(len(verdict.twice) + len(verdict.disordered)))
    rows.add_row("seen", outcome.sentence)
    rows.add_row("the site burns", _turn(outcome.failover))
    rows.add_row("customers meanwhile", _customers(outcome.failover))
    rows.add_row("the old site rebuilt in", words.span(outcome.rebuilt_seconds))
    rows.add_row("back home, planned", _turn(outcome.failback))
    rows.add_row("customers meanwhile", _customers(outcome.failback))
    return Group(Text(), rows, Text())


def _turn(turn: Turn) -> str:
    told = {"ordered": "decided", "fenced": "fenced", "serving": "serves", "protected": "protected again"}
    parts = [f"{word} {words.span(turn.steps[step])}" for step, word in told.items() if step in turn.steps]
    if turn.first_filed is not None:
        parts.append(f"[bold]first question filed {words.span(turn.first_filed)}[/]")
    return ", ".join(parts)


def _customers(turn: Turn) -> str:
    blind = f"[red]{turn.blind}[/]" if turn.blind else "0"
    return (
        f"{turn.filed:,} filed, {turn.taken:,} taken and filed later, {turn.unanswered} without an answer; "
        f"{turn.looks:,} looks at own cases, {blind} in vain; longest wait {words.span(turn.longest_wait)}"
    )


def what_runs_on(scene: Scene, *, keep: bool, folder: object) -> str:
    """How to look around, or that there is nothing."""
    if not keep:
        return (
            f"Everything is stopped; {scene.home.folder} is left to look at." if folder else "Everything is cleaned up."
        )
    crm, config = scene.home.settings.crm, scene.home.config
    pids = [child.pid for child in (*scene.stack.children.values(), *scene.more) if child.running]
    return "\n".join(
        [
            f"[bold]Everything runs on[/] in {scene.home.folder}:",
            f"  the CRM:                 {crm.public_url if crm else ''}",
            f"  a link that lets you in: threefold crm invite YOUR@ADDRESS --again --config {config}",
            f"  how it stands:           threefold status --config {config}",
            f"  switch again:            threefold failover --planned --config {config}",
            f"  stop all of it:          kill {' '.join(map(str, pids))}",
        ]
    )
