"""How the demo looks: a story that scrolls, and beneath it one picture that stays and moves.

The picture shows what a person should watch: how many changes people were told are saved, how fast, and which process
stands or fell. Without a terminal the story is plain lines; with ``--json`` it is JSON lines.
"""

from __future__ import annotations

import asyncio
import textwrap
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.rule import Rule
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from threefold.cli import words
from threefold.cli.output import Output
from threefold.demo.narrator import Narrator, Picture
from threefold.demo.outcome import Outcome
from threefold.demo.world import PRIMARY, PROTECT, World
from threefold.kernel.clock import Clock, SystemClock

_WIDTH = 100
_BARS = " ▁▂▃▄▅▆▇█"
_NAMES = {PRIMARY: "PostgreSQL", PROTECT: "DRaaS server"}
_ORDER = (PRIMARY, PROTECT, "S1", "S2", "S3")
_LOOKS = {
    "running": "[green]● running[/]",
    "stopped": "[yellow]❚❚ stopped[/]",
    "gone": "[bold red]✖ destroyed[/]",
    "dead": "[bold red]✖ dead[/]",
}


@asynccontextmanager
async def make_narrator(output: Output) -> AsyncIterator[Narrator]:
    """For whoever watches."""
    if output.as_json:
        yield JsonNarrator(output)
        return
    console = Console(highlight=False)
    if output.quiet or not console.is_terminal:
        yield PlainNarrator(output, SystemClock())
        return
    stage = Stage(console, SystemClock())
    with stage.live:
        moving = asyncio.create_task(stage.move())
        try:
            yield stage
        finally:
            moving.cancel()
            stage.end()


class JsonNarrator:
    """Lines of type ``act``, ``say`` and ``picture``."""

    def __init__(self, output: Output) -> None:
        self._line = output.line

    def act(self, number: int, title: str, why: str) -> None:
        self._line("act", {"number": number, "title": title, "why": why})

    def say(self, text: str, **facts: Any) -> None:
        self._line("say", {"text": text, **facts})

    def doing(self, text: str) -> None:
        self._line("doing", {"text": text})

    def picture(self, picture: Picture) -> None:
        rate = picture.per_second[-1] if picture.per_second else 0
        self._line(
            "picture",
            {"acked": picture.acked, "per_second": rate, "p99_ms": picture.p99_ms, "processes": picture.processes},
        )


class PlainNarrator:
    """Lines, with the seconds since the start."""

    def __init__(self, output: Output, clock: Clock) -> None:
        self._output = output
        self._clock = clock
        self._began = clock.monotonic()

    def act(self, number: int, title: str, why: str) -> None:
        self._output.note(f"\nAct {number}: {title}\n{textwrap.indent(textwrap.fill(why, 90), '  ')}")

    def say(self, text: str, **facts: Any) -> None:
        del facts
        self._output.note(f"  {self._clock.monotonic() - self._began:5.1f} s  {text}")

    def doing(self, text: str) -> None:
        self.say(f"{text} ...")

    def picture(self, picture: Picture) -> None: ...


class Stage:
    """A terminal."""

    def __init__(self, console: Console, clock: Clock) -> None:
        self._console = console
        self._clock = clock
        self._began = clock.monotonic()
        self._picture = Picture()
        self._doing = ""
        self._spinner = Spinner("dots", style="cyan")
        self._over = False
        # Drawn by us alone: with a thread of its own it would race with what is printed above it.
        self.live = Live(console=console, auto_refresh=False, get_renderable=self._render, transient=True)

    async def move(self) -> None:
        while True:
            self.live.refresh()
            await self._clock.sleep(1 / 8)

    def act(self, number: int, title: str, why: str) -> None:
        self._doing = ""
        width = min(self._console.width, _WIDTH)
        self._console.print()
        self._console.print(
            Rule(f"[bold]Act {number}[/]  {title}", align="left", style="cyan", characters="─"), width=width
        )
        self._console.print(Padding(Text(why, style="dim"), (0, 2)), width=width)

    def say(self, text: str, **facts: Any) -> None:
        del facts
        self._doing = ""
        seconds = self._clock.monotonic() - self._began
        line = Table.grid(padding=(0, 1))
        line.add_column(justify="right", style="dim", width=8)
        line.add_column()
        line.add_row(f"{seconds:.1f} s", Text(text))
        self._console.print(line, width=min(self._console.width, _WIDTH))

    def doing(self, text: str) -> None:
        self._doing = text

    def picture(self, picture: Picture) -> None:
        self._picture = picture

    def end(self) -> None:
        self._over = True
        self.live.refresh()

    def _render(self) -> RenderableType:
        if self._over:
            return Text()
        parts: list[RenderableType] = []
        if self._doing:
            self._spinner.update(text=Text(f" {self._doing}", style="cyan"))
            parts.append(Padding(self._spinner, (0, 0, 0, 7)))
        parts.append(self._panel())
        return Group(*parts)

    def _panel(self) -> RenderableType:
        picture = self._picture
        if not picture.processes:
            return Text()
        who = Table.grid(padding=(0, 3))
        names, states = [], []
        for name in _ORDER:
            if name in picture.processes:
                names.append(Text(_NAMES.get(name, name), style="bold"))
                states.append(Text.from_markup(self._look(name, picture)))
        who.add_row(*names)
        who.add_row(*states)
        parts: list[RenderableType] = [Rule(style="dim"), who]
        if picture.acked:
            parts.append(Text.from_markup(_work(picture)))
        return Padding(Group(*parts), (1, 2, 0, 2))

    def _look(self, name: str, picture: Picture) -> str:
        state = picture.processes[name]
        missing = picture.missing.get(name, 0)
        if state == "running" and missing:
            return f"[yellow]◐ {missing} to fill[/]"
        return _LOOKS.get(state, state)


def _work(picture: Picture) -> str:
    rates = list(picture.per_second)
    rate = round(sum(rates[-4:]) / len(rates[-4:])) if rates else 0
    return (
        f"people: [bold]{picture.acked:,}[/] changes saved   [cyan]{_bars(rates)}[/] {rate}/s   "
        f"p50 {picture.p50_ms:.0f} ms  p99 {picture.p99_ms:.0f} ms"
    )


def _bars(rates: Sequence[int]) -> str:
    top = max(rates, default=0) or 1
    return "".join(_BARS[round(rate / top * (len(_BARS) - 1))] for rate in rates[-24:])


def outcome_table(outcome: Outcome) -> RenderableType:
    """The end: what was promised, what was kept, what it took."""
    rows = words.facts_table("What it came to")
    verdict = outcome.latest
    if verdict is not None:
        mark = "[bold green]0[/]" if verdict.exact else f"[bold red]{verdict.lost_changes}[/]"
        rows.add_row("changes acknowledged", f"[bold]{verdict.acked:,}[/]")
        rows.add_row("changes lost", f"{mark}   ({verdict.in_flight} were under way, promised to nobody)")
        rows.add_row("rows compared", f"{sum(verdict.rows.values()):,} in {len(verdict.rows)} tables, every column")
    rows.add_row("RPO", "0" if outcome.exact else "[bold red]not 0[/]")
    took = words.span(outcome.writable_seconds)
    rows.add_row("RTO", f"[bold]{took}[/] from the blow to the first change ({_phases(outcome.recovery)})")
    rows.add_row(
        "the CRM's pages", f"back after {words.span(outcome.crm_seconds)}, as an employee on a new laptop saw them"
    )
    back = f"{outcome.contacts_back:,} of {outcome.contacts_deleted:,} contacts, {_phases(outcome.before)}"
    rows.add_row("before the mistake", back)
    for name, pace in (("pace, healthy", outcome.healthy), ("pace, S3 stopped", outcome.one_store_stopped)):
        if pace is not None:
            rows.add_row(
                name, f"{pace.per_second:.0f} changes a second, p50 {pace.p50_ms:.0f} ms, p99 {pace.p99_ms:.0f} ms"
            )
    rows.add_row("S3 whole again after", words.span(outcome.filled_in_seconds))
    sent = outcome.snapshot.get("bytes_sent", 0)
    rows.add_row("database", f"{words.size(outcome.database_bytes)}; its snapshot {words.size(sent)} in each store")
    rows.add_row("stored", ", ".join(f"{name} {words.size(size)}" for name, size in outcome.stored_bytes.items()))
    rows.add_row("puts", ", ".join(f"{name} {count:,}" for name, count in outcome.puts.items()))
    rows.add_row("PostgreSQL", outcome.postgresql)
    return Group(Text(), rows, Text())


def what_is_left(world: World, *, keep: bool, folder: object) -> str:
    """How to look around, or that there is nothing."""
    if not keep:
        return (
            f"Everything is stopped; {world.home.folder} is left to look at." if folder else "Everything is cleaned up."
        )
    home, outcome = world.home, world.outcome
    pids = [child.pid for name, child in world.stack.children.items() if name not in world.gone]
    pids += [found["pid"] for found in (outcome.recovery, outcome.before) if found.get("pid")]
    lines = [
        f"[bold]Everything runs on[/] in {home.folder}:",
        f"  export PGPASSWORD=$(cat {home.folder}/secrets/crm.password)",
        f"  the CRM's pages:         {outcome.crm.get('link')}   (lets one device in, once)",
        f"  the recovered database:  psql {_psql(outcome.recovery)}",
        f"  before the mistake:      psql {_psql(outcome.before)}",
        f"  what the stores hold:    threefold list --config {home.config}",
        f"  stop all of it:          kill {' '.join(map(str, pids))}",
    ]
    return "\n".join(lines)


def _psql(recovered: Mapping[str, Any]) -> str:
    return f"-h 127.0.0.1 -p {recovered.get('port')} -U crm crm"


def _phases(recovered: Mapping[str, Any]) -> str:
    names = {"plan": "plan", "restore": "snapshot", "wal": "log", "replay": "replay"}
    return ", ".join(
        f"{names.get(name, name)} {words.span(seconds)}" for name, seconds in recovered.get("seconds", {}).items()
    )
