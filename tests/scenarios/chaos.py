"""Rounds of random kills, stops and partitions on a company of two sites, with clients at work; the ledger judges.

    python -m tests.scenarios.chaos --seed 7 --rounds 100

Each round is a company of its own, so that a round's number alone plays it again: round n of seed s is round 1 of seed
s + n - 1. Two to four faults begin at moments of their own, overlap and end: a part is killed and comes back, stands
still, a host loses its power, links are cut (also in one direction only), lose, delay or flap, a clock jumps. Then
everything is mended, as a person would: what does not run is started, no word of ours says which site shall be active.

What must hold, every time: no acknowledged change is lost, doubled or moved, no two sites acknowledge at once, and
clients are told "saved" again. After a fail-over the old primary may be started as it is (it must do no harm), or is
rebuilt from the stores, and the site switched back in good order.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil

from tests.scenarios.company import Company, company
from tests.scenarios.links import HOSTS, STORES
from tests.scenarios.netns import why_not

_SITES = ("primary", "recovery")
_ALL = tuple(host for host in HOSTS if host != "watch")


@dataclass(frozen=True, slots=True)
class Fault:
    """Begins ``after`` so many seconds, lasts ``seconds``."""

    words: str
    after: float
    seconds: float
    begin: Callable[[Company], Awaitable[None] | None]
    end: Callable[[Company], Awaitable[None] | None]

    def __str__(self) -> str:
        return f"{self.after:.1f}-{self.after + self.seconds:.1f} s {self.words}"


@dataclass(frozen=True, slots=True)
class Plan:
    faults: tuple[Fault, ...]
    afterwards: str  # after a fail-over: "leave" the old primary, "return" it as it is, "failback"
    rest: float  # seconds in which what is broken stays so, before a person comes


def plan(seed: int) -> Plan:
    """What happens in that round."""
    chance = random.Random(f"sites {seed}")
    kinds = [_kill_primary, _stop_primary, _power, _isolate, _part, _part_one_way, _worse, _flap]
    kinds += [_kill_part, _stop_part, _kill_store, _stop_store, _cut_store, _jump]
    weights = [5, 2, 4, 4, 3, 2, 2, 1, 3, 3, 2, 2, 2, 1]
    faults = [kind(chance) for kind in chance.choices(kinds, weights, k=chance.randint(2, 4))]
    afterwards = chance.choice(("leave", "return", "failback", "failback"))
    faults.sort(key=lambda fault: fault.after)
    return Plan(tuple(faults), afterwards, rest=chance.choice((0.0, chance.uniform(5, 15), chance.uniform(10, 20))))


# --- what may happen ---


def _when(chance: random.Random, longest: float = 14.0) -> dict[str, float]:
    """Short and long ones alike: what is over before anybody has noticed, and what must lead to a switch."""
    return {
        "after": chance.uniform(0, 6),
        "seconds": chance.choice((chance.uniform(0.2, 3), chance.uniform(3, longest))),
    }


def _kill_primary(chance: random.Random) -> Fault:
    # Its owner starts it again only when all is over.
    return Fault("the primary's PostgreSQL killed", chance.uniform(0, 6), 0, lambda here: here.primary.kill(), _nothing)


def _stop_primary(chance: random.Random) -> Fault:
    def stopped(number: int) -> Callable[[Company], None]:
        return lambda here: _signal(_tree(here.primary.pid), number)

    when = _when(chance, 20)
    return Fault(
        "the primary's PostgreSQL stands still", **when, begin=stopped(signal.SIGSTOP), end=stopped(signal.SIGCONT)
    )


def _power(chance: random.Random) -> Fault:
    host = chance.choice(("primary", "primary", "recovery"))

    def off(here: Company) -> None:
        here.net.isolate(host)
        here.net.namespaces[host].kill()

    # Links come back at the end, processes only when all is over.
    return Fault(f"host {host} without power", **_when(chance), begin=off, end=_mend_host(host))


def _isolate(chance: random.Random) -> Fault:
    host = chance.choice(("primary", "primary", "recovery", "third"))
    return Fault(
        f"{host} cut off from all", **_when(chance), begin=lambda here: here.net.isolate(host), end=_mend_host(host)
    )


def _part(chance: random.Random) -> Fault:
    return _links("no link between the sites", _when(chance), "primary", "recovery", cut=True)


def _part_one_way(chance: random.Random) -> Fault:
    here, there = chance.sample(_SITES, 2)
    everybody = chance.random() < 0.5
    to: Any = [host for host in _ALL if host != here] if everybody else there
    words = f"nothing of {here}'s arrives {'anywhere' if everybody else f'at {there}'}"
    return _links(words, _when(chance), here, to, one_way=True, cut=True)


def _worse(chance: random.Random) -> Fault:
    how = chance.choice(
        ({"loss": 0.05}, {"loss": 0.3}, {"delay": 0.1, "jitter": 0.1}, {"delay": 0.5}, {"rate": 200_000})
    )
    return _links(f"every link with {how}", _when(chance), _ALL, _ALL, **how)


def _flap(chance: random.Random) -> Fault:
    host, other = chance.sample(_ALL, 2)
    flap = (chance.uniform(0.3, 2), chance.uniform(0.3, 2))
    return _links(f"flapping link {host}-{other}", _when(chance), host, other, flap=flap)


def _links(words: str, when: dict[str, float], one: Any, other: Any, *, one_way: bool = False, **how: Any) -> Fault:
    return Fault(
        words,
        **when,
        begin=lambda here: here.net.links(one, other, one_way=one_way, **how),
        end=lambda here: here.net.links(one, other, one_way=one_way),
    )


def _kill_part(chance: random.Random) -> Fault:
    part = chance.choice(
        ("protect", "protect", "agent-recovery", "agent-recovery", "sentinel-primary", "sentinel-third")
    )

    def end(here: Company) -> None:
        if here.processes[part].code is not None:
            here.again(part)

    return Fault(f"{part} killed", **_when(chance, 8), begin=lambda here: here.kill(part), end=end)


def _stop_part(chance: random.Random) -> Fault:
    part = chance.choice(("protect", "protect", "agent-recovery", "sentinel-third"))
    return Fault(
        f"{part} stands still",
        **_when(chance, 20),
        begin=lambda here: here.processes[part].signal(signal.SIGSTOP),
        end=lambda here: here.processes[part].signal(signal.SIGCONT),
    )


def _kill_store(chance: random.Random) -> Fault:
    store = chance.choice(STORES)

    def end(here: Company) -> None:
        if here.processes[store].code is not None:
            here.again(store)

    return Fault(f"{store} killed", **_when(chance, 10), begin=lambda here: here.kill(store), end=end)


def _stop_store(chance: random.Random) -> Fault:
    store = chance.choice(STORES)
    return Fault(
        f"{store} stands still",
        **_when(chance),
        begin=lambda here: here.processes[store].signal(signal.SIGSTOP),
        end=lambda here: here.processes[store].signal(signal.SIGCONT),
    )


def _cut_store(chance: random.Random) -> Fault:
    store, host = chance.choice(STORES), chance.choice((*_SITES, "third"))
    return _links(f"no link between {store} and {host}", _when(chance), store, host, cut=True)


def _jump(chance: random.Random) -> Fault:
    host, seconds = chance.choice(_ALL), chance.choice((3600, -3600, 400, -400))
    return Fault(
        f"the clock of {host} jumps by {seconds} s",
        **_when(chance),
        begin=lambda here: here.jump(host, seconds),
        end=lambda here: here.jump(host, 0),
    )


def _nothing(_: Company) -> None:
    return


def _mend_host(host: str) -> Callable[[Company], None]:
    return lambda here: here.net.links(host, [other for other in _ALL if other != host])


def _tree(pid: int | None) -> Iterable[psutil.Process]:
    if pid is None:
        return []
    with suppress(psutil.NoSuchProcess):
        return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return []


def _signal(processes: Iterable[psutil.Process], number: int) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


# --- a round ---


async def play(seed: int, say: Callable[[str], None]) -> int:
    """Acknowledged changes, all of which were kept. Raises AssertionError."""
    chosen = plan(seed)
    say("; ".join([*map(str, chosen.faults), f"{chosen.rest:.0f} s of rest"]))
    async with company() as here:
        try:
            await asyncio.gather(*(_suffer(here, fault) for fault in chosen.faults))
            await asyncio.sleep(chosen.rest)
            here.net.mend()
            before = here.active_site()
            await _start_all(here)
            await here.acks(20, within=90)
            active = here.active_site()
            if active != "primary":
                say(f"  switched to {active}" + ("" if before == active else " after all was mended"))
                active = await _afterwards(here, chosen.afterwards, say)
            ledger = await here.judge(active)
        except BaseException:
            say(here.watching.tale())
            raise
        return len(ledger.acked)


async def _suffer(here: Company, fault: Fault) -> None:
    await asyncio.sleep(fault.after)
    for act, wait in ((fault.begin, fault.seconds), (fault.end, 0)):
        done = act(here)
        if done is not None:
            await done
        await asyncio.sleep(wait)


async def _start_all(here: Company) -> None:
    """Whatever does not run is started, as a supervisor and a person would; nobody says which site shall be active."""
    for part, process in list(here.processes.items()):
        process.signal(signal.SIGCONT)
        if process.code is not None and not part.startswith("snapshot"):
            here.again(part)
    _signal(_tree(here.primary.pid), signal.SIGCONT)
    await here.settled_switch(within=60)
    if here.active_site() == "primary" and here.primary.pid is None:
        here.start_primary()


async def _afterwards(here: Company, what: str, say: Callable[[str], None]) -> str:
    """Returns the site that is active in the end."""
    number = len(here.watching.switches())
    await here.protected_again(number, within=60)
    if what == "leave":
        return "recovery"
    if here.primary.pid is None and what == "return":
        here.start_primary()
    if what == "return":
        await asyncio.sleep(6)
        await here.acks(20, within=30, site="recovery")
        return "recovery"
    began = time.monotonic()
    here.start_agent("primary", "--rebuild")
    await here.until(lambda: here.watching.in_place("primary"), "a copy at the old primary's site", 60)
    rebuilt = time.monotonic()
    await here.done("primary", "failback", within=60)
    await here.acks(20, within=60, site="primary")
    gap = here.ledger().longest_gap(rebuilt)
    say(f"  rebuilt in {rebuilt - began:.1f} s, switched back with a pause of {gap:.1f} s")
    return "primary"


async def run(seed: int, rounds: int, say: Callable[[str], None]) -> int:
    acked = 0
    for number in range(rounds):
        began = time.monotonic()
        say(f"round {number + 1}, seed {seed + number}:")
        try:
            kept = await play(seed + number, say)
        except BaseException:
            say(f"failed: make chaos SEED={seed + number} ROUNDS=1")
            raise
        acked += kept
        say(f"  {kept} acknowledged changes, 0 lost; {time.monotonic() - began:.0f} s")
    return acked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--go-on", action="store_true", help="after a failed round with the next one")
    given = parser.parse_args()
    if missing := why_not():
        sys.exit(f"error: {missing}\nhint: one machine's processes as any user: make chaos WORLD=machine")
    print(f"seed {given.seed}, {given.rounds} rounds", flush=True)
    failed: list[int] = []
    acked = 0
    for number in range(given.rounds):
        try:
            acked += asyncio.run(run(given.seed + number, 1, lambda text: print(text, flush=True)))
        except Exception as error:
            if not given.go_on:
                raise
            failed.append(given.seed + number)
            print(f"  {type(error).__name__}: {error}", flush=True)
    print(f"{acked} acknowledged changes, 0 lost" if not failed else f"failed rounds: {failed}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
