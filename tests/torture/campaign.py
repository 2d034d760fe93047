"""Our storage server under random operations, killed again and again; a model judges each answer and each restart.

    python -m tests.torture.campaign --seed 7 --operations 10000
    python -m tests.torture.campaign --variant "does not sync the journal"     broken on purpose: it has to fail

One data folder, many lives of one server on it. In each, several clients work at once until it ends: by kill -9 from
outside at any moment, by its own SIGKILL at one chosen system call (in the middle of a write, of a change to the next
journal file, of compaction, of its start), or in good order. Often the power goes with it: what was not synced is lost
in part (cache.py). Then everything is looked at (check.py), and the next life begins. A seed gives the same plan;
moments are real time.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.torture.acts import BUCKETS, Actor
from tests.torture.cache import HOWS, Death, cut_power
from tests.torture.check import check, check_room
from tests.torture.client import Client, Lost, NeverSent
from tests.torture.ledger import Ledger
from tests.torture.model import Violation
from tests.torture.server import JOURNAL_FILE_BYTES, Process
from tests.torture.variants import VARIANTS

CLIENTS = 8
# Few enough of each kind for most lives to come so far.
_CALLS_ABOUT = {
    ("pwrite", "journal"): 40,
    ("pwrite", "objects"): 10,
    ("fdatasync", "journal"): 25,
    ("fsync", "journal"): 8,
    ("fsync", "objects"): 10,
    ("rename", "journal"): 3,
    ("unlink", "journal"): 2,
    ("unlink", "objects"): 5,
}


@dataclass
class Figures:
    seed: int
    operations: int = 0
    seconds: float = 0.0
    lives: int = 0
    compacted: int = 0  # journal files that were emptied
    ends: Counter[str] = field(default_factory=Counter)
    cuts: int = 0
    sectors: int = 0  # taken back by power cuts
    names: int = 0

    def __str__(self) -> str:
        ends = ", ".join(f"{how} {count}" for how, count in sorted(self.ends.items()))
        return (
            f"seed {self.seed}: {self.operations} operations in {self.lives} lives and {self.seconds:.0f} s, "
            f"{self.compacted} journal files compacted\nends: {ends}\n"
            f"{self.cuts} power cuts took {self.sectors} sectors and {self.names} names back"
        )


@dataclass(frozen=True, slots=True)
class _Plan:
    """``operations``: begun before the end, if it does not die before. ``death``: at which call, if at one."""

    operations: int
    death: Death | None
    early: Death | None  # while it starts
    later_s: float  # the signal, then
    gently: bool
    power: bool
    late: bool  # no power cut at its end, but when the next one has served what the cache had, and written nothing

    @classmethod
    def draw(cls, chance: random.Random) -> _Plan:
        def death(most: int | None = None) -> Death:
            (call, part), about = chance.choice(list(_CALLS_ABOUT.items()))
            return Death(call, part, chance.randint(1, most or about), chance.choice(HOWS), chance.random())

        return cls(
            operations=0 if chance.random() < 0.15 else chance.choice([10, 60, 60, 120]) + chance.randrange(40),
            death=death() if chance.random() < 0.6 else None,
            early=death(3) if chance.random() < 0.2 else None,
            later_s=chance.choice([0.0, 0.003, 0.01]),
            gently=chance.random() < 0.1,
            power=chance.random() < 0.6,
            late=chance.random() < 0.25,
        )


class Campaign:
    def __init__(self, folder: Path, seed: int, variant: str, say: Callable[[str], None]) -> None:
        self._data_dir, self._notes = folder / "data", folder / "notes"
        self._chance = random.Random(seed)
        self._seed, self._say = seed, say
        self._server = Process(self._data_dir, self._notes, variant)
        self._ledger = Ledger()
        self._numbers = [0]
        self._turn = 0
        self.figures = Figures(seed)

    async def run(self, operations: int) -> Figures:
        """Raises Violation."""
        began = time.monotonic()
        try:
            await self._first_life()
            while self._ledger.operations < operations:
                await self._life(_Plan.draw(self._chance))
            await self._last_life()
        finally:
            self._server.kill()
            self.figures.operations = self._ledger.operations
            self.figures.seconds = time.monotonic() - began
        return self.figures

    async def _first_life(self) -> None:
        await self._start()
        client = Client(self._server.port)
        await client.ask("PUT", f"/{BUCKETS[0]}")
        client.close()
        self._ledger.buckets.add(BUCKETS[0])
        self._server.kill()
        await self._end(power=True)

    def _dice(self, what: str) -> random.Random:
        """Of its own for each purpose: how much one draws, which depends on time, does not change the plan."""
        return random.Random(f"{self._seed} {self._turn} {what}")

    async def _life(self, plan: _Plan) -> None:
        self._turn += 1
        await self._start(plan.early, plan.death)
        oldest = self._oldest()
        if await self._check() and plan.operations:
            await self._work(plan)
        if plan.gently:
            self._server.terminate()
        else:
            self._server.kill()
        self.figures.compacted += max(0, self._oldest() - oldest)
        await self._end(power=plan.power and not plan.late)
        if plan.late:
            await self._start()
            await self._check()
            self._server.kill()
            await self._end(power=True)

    async def _last_life(self) -> None:
        await self._start()
        if not await self._check():
            raise Violation("the server ended while nobody killed it")
        await check_room(self._ledger, self._data_dir, JOURNAL_FILE_BYTES)
        self._server.terminate()
        if await self._end(power=False) != 0:
            raise Violation("the server did not stop in good order")

    # the steps of a life

    async def _start(self, *deaths: Death | None) -> None:
        """A process that was to die at an early call may not live to answer; then the next one is tried."""
        for death in [*(death for death in deaths if death), None]:
            if await asyncio.to_thread(self._server.start, death):
                return
            await self._end(power=self._dice("start").random() < 0.5)
        raise Violation("the server did not start")

    async def _check(self) -> bool:
        """False: it died meanwhile."""
        try:
            await check(self._ledger, self._server.port, self._data_dir, self._dice("check"))
        except (Lost, NeverSent):
            await self._must_have_died()
            return False
        return True

    async def _must_have_died(self) -> None:
        for _ in range(1500):
            if not self._server.runs:
                return
            await asyncio.sleep(0.02)
        raise Violation("a server that runs did not answer")

    async def _work(self, plan: _Plan) -> None:
        until = self._ledger.operations + plan.operations
        actors = [
            Actor(self._ledger, self._server.port, self._dice(f"client {number}"), self._numbers)
            for number in range(CLIENTS)
        ]
        working = [asyncio.create_task(_work_on(actor)) for actor in actors]
        while self._server.runs and self._ledger.operations < until and not any(task.done() for task in working):
            await asyncio.sleep(0.002)
        await asyncio.sleep(plan.later_s)
        if plan.gently:
            self._server.terminate()
        else:
            self._server.kill()
        for answer in await asyncio.gather(*working, return_exceptions=True):
            if isinstance(answer, BaseException):
                raise answer
        await self._must_have_died()

    async def _end(self, *, power: bool) -> int:
        """The process has ended, or does so now. Its exit code."""
        code, said = await asyncio.to_thread(self._server.ended)
        if said or code not in {0, -9}:
            raise Violation(f"the server ended with {code} and said: {said[-3000:]}")
        self.figures.lives += 1
        how = self._server.how(code)
        self.figures.ends[how] += 1
        if power:
            sectors, names = cut_power(self._data_dir, self._notes, self._dice("power"))
            self.figures.cuts += 1
            self.figures.sectors += sectors
            self.figures.names += names
        self._ledger.crash()
        self._say(
            f"life {self.figures.lives} ended {how}{', and the power' if power else ''}: {self._ledger.operations}"
        )
        return code

    def _oldest(self) -> int:
        return min((int(path.stem, 16) for path in (self._data_dir / "journal").glob("*.journal")), default=0)


async def _work_on(actor: Actor) -> None:
    try:
        while True:
            await actor.act()
    except (Lost, NeverSent):
        return
    finally:
        actor.close()


async def run(
    folder: Path, seed: int, operations: int, *, variant: str = "", say: Callable[[str], None] = lambda _: None
) -> Figures:
    """In an empty folder. Raises Violation."""
    campaign = Campaign(folder, seed, variant, say)
    try:
        return await campaign.run(operations)
    except Violation as error:
        raise Violation(f"{error}\n{campaign.figures}") from error


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--operations", type=int, default=10_000)
    parser.add_argument("--variant", choices=sorted(VARIANTS), default="", metavar="NAME", help="break the server")
    parser.add_argument("-v", "--verbose", action="store_true", help="a line for each life")
    given = parser.parse_args()
    again = f"python -m tests.torture.campaign --seed {given.seed} --operations {given.operations}"
    print(f"seed {given.seed}, {given.operations} operations", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="threefold-torture-"))
    try:
        say = (lambda text: print(text, flush=True)) if given.verbose else (lambda _: None)
        figures = asyncio.run(run(folder, given.seed, given.operations, variant=given.variant, say=say))
    except BaseException as error:
        print(f"failed: {again}" + (f' --variant "{given.variant}"' if given.variant else ""), file=sys.stderr)
        print(f"the folder is kept: {folder}", file=sys.stderr)
        if not isinstance(error, Violation):
            raise
        print(error, file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    print(figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
