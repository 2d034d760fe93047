"""`threefold store replace`: what is to be replaced by what, how far it is, and the way back.

The DRaaS server does it (protect/replacing.py); this looks, waits and shows. Stopped and started again it goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final

import typer

from threefold.bootstrap import Parts, named_of, open_parts
from threefold.cli.common import ask_opener, execute
from threefold.cli.options import Given, opens_the_stores
from threefold.cli.output import Output
from threefold.cli.words import size, span
from threefold.kernel.errors import BadInput, Refused, Unavailable
from threefold.kernel.progress import Progress
from threefold.kernel.wraps import Opener
from threefold.protect.beacon import SILENCE_S, read_leader
from threefold.protect.fill import AHEAD
from threefold.protect.replacing import change_membership, membership_in_log
from threefold.quorum import keys
from threefold.quorum.driver import Driver
from threefold.quorum.membership import Membership, MovedError, Named
from threefold.quorum.notices import newest_notice
from threefold.settings import Settings
from threefold.stores.probe import probe
from threefold.stores.store import ABSENT
from threefold.upkeep.listing import holdings

_LOOK_EVERY_S: Final = 2.0
_COUNT_EVERY: Final = 5  # looks


@opens_the_stores
def replace(
    given: Given,
    store: Annotated[str, typer.Argument(help="The store that leaves.", metavar="STORE")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Try the new store, say what is to be copied, and change nothing.")
    ] = False,
    abandon: Annotated[
        bool, typer.Option("--abandon", help="Go back to the old three, if the new three are not in force yet.")
    ] = False,
) -> None:
    """Wait until another store has taken the place of one, while commits go on.

    The settings name the new one: a [[store]] with a name of its own and replaces = "S3". A DRaaS server that was
    started with them fills it and moves to it; this shows how far it is. The store that leaves may be gone for good.

    [bold]Example:[/] threefold store replace S3 --dry-run
    """
    output, found = given.output, given.settings()
    named = named_of(found)
    if not named.joining or named.leaving != store:
        raise BadInput(
            f"no store in these settings replaces {store}",
            hint=f'add a [[store]] with a name of its own and replaces = "{store}", and restart `threefold protect`',
        )
    if dry_run and abandon:
        raise BadInput("--dry-run and --abandon do not go together", hint="leave one of them out")
    work = _dry_run if dry_run else _abandon if abandon else _follow
    execute(work(found, named, output, given.opener()), output)


def stage(named: Named, now: Membership) -> str:
    """Where the replacement stands."""
    if now.is_joint:
        return "joint"
    if named.joining in named.voters(now):
        return "replaced"
    return "abandoned" if now.leaving == named.joining else "filling"


async def _follow(found: Settings, named: Named, output: Output, opener: Opener | None) -> None:
    progress = output.progress()
    async with open_parts(found, opener=opener, ask=ask_opener, verb="store") as parts:
        began = parts.clock.monotonic()
        try:
            now = await _Watch(parts, named, progress).wait()
        finally:
            output.finish(progress)
        seconds = parts.clock.monotonic() - began
    facts = {
        "stage": "replaced",
        "stores": list(now.stores),
        "generation": now.generation,
        "seconds": round(seconds, 1),
    }
    output.result(
        facts,
        f"[green]{named.joining} has taken the place of {named.leaving}[/] (waited {span(seconds)}).",
        f"Now change the settings of every machine that knows these stores: remove {named.leaving}, and `replaces`.",
    )


@dataclass(slots=True)
class _Watch:
    """Looks until the new three are in force."""

    parts: Parts
    named: Named
    progress: Progress
    said: str = ""
    done: int = 0
    begun: float | None = None  # when counting began, and with how many bytes there
    first: int = 0

    async def wait(self) -> Membership:
        """Raises Refused where it was abandoned."""
        parts, looks, beat, changed = self.parts, 0, (0, 0), self.parts.clock.monotonic()
        while True:
            now = await _in_force(parts)
            match stage(self.named, now):
                case "replaced":
                    return now
                case "abandoned":
                    raise Refused(
                        f"replacing {self.named.leaving} by {self.named.joining} was abandoned",
                        hint=f"take {self.named.joining} out of the settings; a new try takes an empty place",
                    )
            leader = await read_leader(parts.all_stores, parts.keyring)
            clock = parts.clock.monotonic()
            if leader is not None and (leader.epoch, leader.beat) != beat:
                beat, changed = (leader.epoch, leader.beat), clock
            line = next((each for each in leader.stores if each.name == self.named.joining), None) if leader else None
            if clock - changed > SILENCE_S:
                self._say("no DRaaS server leads: start `threefold protect` with these settings")
            elif line is not None:
                self._say(f"{line.name} {line.reason}")
            elif leader is not None and clock - changed > 1 and looks > _COUNT_EVERY:
                self._say("the DRaaS server does not know of it: restart `threefold protect` with these settings")
            if looks % _COUNT_EVERY == 0:
                await self._count()
            looks += 1
            await parts.clock.sleep(_LOOK_EVERY_S)

    async def _count(self) -> None:
        wanted, have = await _sizes(self.parts, self.named)
        have, now = min(have, wanted), self.parts.clock.monotonic()
        if self.begun is None:
            self.begun, self.first = now, have
            self.progress.step("replace-fill", f"filling {self.named.joining}", total=max(wanted, 1))
        if have > self.done:
            self.progress.advance(have - self.done)
            self.done = have
        if self.first < have < wanted:
            rate = (have - self.first) / max(now - self.begun, 0.001)
            self.progress.note(
                f"{size(have)} of {size(wanted)}, {size(int(rate))}/s, {span((wanted - have) / rate)} left"
            )

    def _say(self, text: str) -> None:
        if text != self.said:
            self.said = text
            self.progress.note(text)


async def _in_force(parts: Parts) -> Membership:
    """Of what the stores say, unless too few of them say anything: then what was known stays."""
    try:
        asking = newest_notice(tuple(parts.all_stores), parts.keyring)
        return await Driver(parts.all_stores, parts.clock).run(asking, patience=10.0)
    except Unavailable:
        return parts.membership


async def _sizes(parts: Parts, named: Named) -> tuple[int, int]:
    """Bytes: what the fullest of the stores that stay holds, and what the new one does."""
    held: dict[str, int] = {}
    silent: dict[str, str] = {}
    for prefix in AHEAD:
        for name, each in (await holdings(parts.all_stores, prefix, parts.clock, silent)).items():
            held[name] = held.get(name, 0) + each.bytes
    staying = [held.get(name, 0) for name in named.stores if name not in {named.leaving, named.joining}]
    return max(staying), held.get(named.joining, 0)


async def _dry_run(found: Settings, named: Named, output: Output, opener: Opener | None) -> None:
    async with open_parts(found, opener=opener, ask=ask_opener, verb="store") as parts:
        joining = parts.all_stores[named.joining]
        proof = await probe(joining, parts.clock)
        empty = await joining.read(keys.FORMAT)
        wanted, have = await _sizes(parts, named)
        now = stage(named, await _in_force(parts))
    if not proof.passed:
        raise Refused(f"{named.joining} may not vote: {proof.refusal}", hint="give another place")
    if now == "filling" and empty is not ABSENT:
        raise Refused(
            f"{named.joining} was a member of a log already, or does not answer",
            hint="empty it, or give it a new prefix and another name",
        )
    left = max(wanted - have, 0)
    facts: dict[str, Any] = {
        "stage": now,
        "leaving": named.leaving,
        "joining": named.joining,
        "bytes": wanted,
        "bytes_left": left,
        "create_p50_ms": round(proof.create_p50 * 1000, 1),
    }
    output.result(
        facts,
        f"{named.joining} passes the probe (a create takes {proof.create_p50 * 1000:.0f} ms); "
        f"{size(left)} are to be copied.",
        f"A DRaaS server with these settings fills it, moves, and then needs {named.leaving} no more.",
    )


async def _abandon(found: Settings, named: Named, output: Output, opener: Opener | None) -> None:
    async with open_parts(found, opener=opener, ask=ask_opener, verb="store") as parts:
        # A notice may be missing, where its author died: what counts stands in the log.
        now = await membership_in_log(parts.stores, parts.keyring, parts.clock, parts.membership)
        match stage(named, now):
            case "replaced":
                raise Refused(
                    f"{named.joining} has taken the place of {named.leaving} already",
                    hint=f"to go back, replace {named.joining} by an empty store of another name",
                )
            case "filling":
                output.result(
                    {"stage": "filling", "leaving": named.leaving, "joining": named.joining},
                    f"Nothing has changed yet. Take {named.joining} out of the settings and restart "
                    "`threefold protect`: until then it goes on.",
                )
                return
            case "joint":
                try:
                    await change_membership(parts.all_stores, parts.keyring, parts.clock, now, now.abandoned())
                except MovedError:
                    raise Refused("it went on meanwhile", hint="see `threefold store status`, and ask again") from None
    output.result(
        {"stage": "abandoned", "leaving": named.leaving, "joining": named.joining},
        f"The old three are in force. Take {named.joining} out of the settings, and start `threefold protect` again: "
        "this has fenced the one that ran.",
    )
