"""Bad weather between the DRaaS server and its stores: every kind of fault on every kind of request; the ledger judges.

    python -m tests.acceptance.weather --seed 7 --rounds 50

A proxy stands before S1 and before S2. First S1 alone is in bad weather, then one of the two, or both for a moment,
changing every few seconds. Each request meets a fault by chance: 503, 409, a reset with or without the request applied,
half a body, a slow first byte, a stalled body, wrong bytes, a stale list, a black hole. Meanwhile people write, and
each round something happens: a snapshot, a take-over, a scrub, a prune, or the disaster: the primary is destroyed and
S3 dies with it; what comes back comes through the same weather. No change that was acknowledged may be lost, no wrong
byte be served, and commits must go on: within a round's patience, and soon when the weather clears. A seed gives the
same plan and the same dice; moments are real time.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from tests.fault_proxy import FINE, Act, Fault, FaultProxy
from tests.protect_process import NAMES, Failed, Process, Site, Team, site, team

FAULTS = (
    Act(Fault.ANSWER, status=503, code="SlowDown"),
    Act(Fault.ANSWER, status=500, code="InternalError"),
    Act(Fault.ANSWER, status=409, code="ConditionalRequestConflict"),
    Act(Fault.ANSWER, status=404, code=""),  # a gateway's
    Act(Fault.CUT),
    Act(Fault.LOSE_REPLY),
    Act(Fault.HALF_BODY),
    Act(Fault.SLOW_FIRST, seconds=0.3),
    Act(Fault.DELAY, seconds=0.3),
    Act(Fault.WRONG_BYTES),
    Act(Fault.STALE_LIST),
    Act(Fault.STALL, least=256),
    Act(Fault.BLACK_HOLE),
)
_BOTH = 0.3  # of the turns: commits are slow then, and what is acknowledged has a copy in bad weather
_SHARE = {"create": 0.3, "read": 0.3, "write": 0.6, "list": 0.6, "delete": 0.6}  # of the requests in bad weather
_WEIGHTS = [0.3 if act.fault in {Fault.STALL, Fault.BLACK_HOLE} else 1 for act in FAULTS]  # each costs a time-out
BEHIND = ("S1", "S2")
POLICY = '[retention]\npitr = "1ms"\ndaily = 0\nweekly = 0\nmonthly = 0\ngrace = "0s"\n'


def kind_of(head: str) -> str:
    """What is asked, as a store's protocol names it (stores/store.py)."""
    line = head.split("\r\n", 1)[0]
    if line.startswith("PUT"):
        return "create" if "if-none-match" in head.lower() else "write"
    if line.startswith("GET"):
        return "list" if "list-type=2" in line else "read"
    return "delete"


def _name(act: Act) -> str:
    return f"{act.fault.value} {act.status}" if act.fault is Fault.ANSWER else act.fault.value


class Weather:
    """Over the stores in `BEHIND`; ``bad`` are those that have it bad just now."""

    def __init__(self, seed: int) -> None:
        self._chances = {name: random.Random(f"{seed} {name}") for name in BEHIND}
        self._turns = random.Random(f"{seed} turns")
        self.bad: set[str] = set()
        self.storm = False  # twice as bad
        self.met: Counter[tuple[str, str]] = Counter()  # fault and request

    def over(self, name: str) -> Callable[[str], Act]:
        def decide(head: str) -> Act:
            chance, kind = self._chances[name], kind_of(head)
            strikes = chance.random() < _SHARE[kind] * (2 if self.storm else 1)
            # What this kind of request has met least is the likeliest, so that each meets each.
            weights = [weight / (1 + self.met[_name(act), kind]) for act, weight in zip(FAULTS, _WEIGHTS, strict=True)]
            act = chance.choices(FAULTS, weights)[0]
            if name not in self.bad or not strikes:
                return FINE
            self.met[_name(act), kind] += 1
            return act

        return decide

    async def alternate(self) -> None:
        while True:
            both = self._turns.random() < _BOTH
            self.bad = set(BEHIND) if both else {BEHIND[self._turns.randrange(2)]}
            await asyncio.sleep(self._turns.uniform(0.5, 1.5) if both else self._turns.uniform(1, 4))

    def table(self) -> str:
        kinds = ("create", "write", "read", "list", "delete")
        faults = sorted({fault for fault, _ in self.met})
        rows = [f"{'':18}" + "".join(f"{kind:>8}" for kind in kinds)]
        rows += [f"{fault:18}" + "".join(f"{self.met[fault, kind]:8}" for kind in kinds) for fault in faults]
        return "\n".join(rows)


class Campaign:
    def __init__(
        self, here: Site, people: Team, protecting: Process, weather: Weather, seed: int, say: Callable[[str], None]
    ) -> None:
        self._here = here
        self._people = people
        self._protecting = protecting
        self._weather = weather
        self._chance = random.Random(seed)
        self._say = say

    async def round(self, act: str = "") -> None:
        acts: dict[str, Callable[[], Awaitable[None]]] = {
            "snapshot": self._snapshot,
            "take-over": self._take_over,
            "scrub": self._scrub,
            "prune": self._prune,
            "disaster": self._disaster,
        }
        name = act or self._chance.choice(list(acts))
        self._say(f"{name}, bad over {sorted(self._weather.bad)}, {len(self._people.acked)} acked so far")
        await acts[name]()
        await self._people.progress(20, within=120)

    async def _snapshot(self) -> None:
        here = self._here
        await here.primary.sql("CREATE TABLE IF NOT EXISTS filler (x text)")
        await here.primary.sql("INSERT INTO filler SELECT md5(random()::text) FROM generate_series(1, 20000)")
        await self._willingly("snapshot")

    async def _take_over(self) -> None:
        self._protecting.kill()
        self._protecting = self._here.begin_protecting()
        await self._protecting.says('"streaming"', 120)

    async def _scrub(self) -> None:
        """Through the weather it finds what is not so; it must break nothing. If it lasts, it is stopped."""
        here = self._here
        arguments = ["-m", "threefold", "store", "scrub", "--fresh", "--config", here.config, "--json"]
        process = Process(arguments, here.home / f"scrub-{len(here.processes)}.log", here.environment())
        here.processes.append(process)
        with suppress(Failed):
            code = await process.ended(20)
            assert code in {0, 1, 3, 5}, process.said
        process.kill()

    async def _prune(self) -> None:
        await self._willingly("prune")

    async def _willingly(self, verb: str) -> None:
        """It ends well, or says in an error of its own that the stores do not let it, and is tried again."""
        for _ in range(4):
            process = self._here.run(verb, "--json")
            code = await process.ended(120)
            if code == 0:
                return
            assert '"type": "error"' in process.said, f"{verb} broke: {process.said}"
            self._say(f"  {verb} ended with {code}")

    async def _disaster(self) -> None:
        here, people = self._here, self._people
        lost = here.stores[NAMES[2]]
        lost.kill()
        here.destroy_primary()
        self._protecting.kill()
        people.pause()
        await here.recover()
        await people.judge()
        self._say(f"  the primary was destroyed: {len(people.acked)} acknowledged, 0 lost")
        lost.start()
        await lost.ready()
        self._protecting = await here.protect(within=120)
        await here.sync()
        people.resume()
        await people.progress(5, within=120)
        await self._snapshot()


@asynccontextmanager
async def _proxied(weather: Weather) -> AsyncIterator[Site]:
    async with site(settings={"wal_keep_size": "64MB"}) as here:
        proxies = {name: FaultProxy(here.stores[name].port) for name in BEHIND}
        try:
            for name, proxy in proxies.items():
                proxy.__enter__()
                proxy.weather = weather.over(name)
                here.ports[name] = proxy.port
            here.configure(more=POLICY)
            yield here
        finally:
            for proxy in proxies.values():
                proxy.__exit__(None, None, None)


async def run(seed: int, plan: list[str], *, say: Callable[[str], None] = lambda _: None) -> tuple[int, Weather]:
    """Acknowledged changes, none of which was lost. ``plan``: acts by name, "" for one by chance."""
    weather = Weather(seed)
    async with _proxied(weather) as here:
        protecting = await here.protect()
        async with team(here) as people:
            await people.progress(20)
            await here.done("snapshot")
            campaign = Campaign(here, people, protecting, weather, seed, say)
            weather.bad = {"S1"}
            await people.progress(40, within=120)
            turning: asyncio.Task[None] | None = None
            for act in plan:
                await campaign.round(act)
                turning = turning or asyncio.create_task(weather.alternate())
            if turning is not None:
                turning.cancel()
                with suppress(asyncio.CancelledError):
                    await turning
            weather.bad = set()
            await people.progress(40, within=30)  # no wedge
            await here.whole(90)
            weather.bad, weather.storm = set(BEHIND), True
            await people.progress(60, within=90)
            here.stores[NAMES[2]].kill()
            here.destroy_primary()
            people.pause()
            weather.bad = set()
            await here.recover()
            await people.judge()
            here.stores[NAMES[2]].start()
            await here.stores[NAMES[2]].ready()
        verified = await here.done("verify", "--deep")
        assert verified["problems"] == [], verified
        return len(people.acked), weather


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--rounds", type=int, default=40)
    given = parser.parse_args()
    print(f"seed {given.seed}, {given.rounds} rounds", flush=True)
    try:
        acked, weather = asyncio.run(run(given.seed, [""] * given.rounds, say=lambda text: print(text, flush=True)))
    except BaseException:
        again = f"python -m tests.acceptance.weather --seed {given.seed} --rounds {given.rounds}"
        print(f"failed: {again}", file=sys.stderr, flush=True)
        raise
    print(weather.table())
    print(f"{acked} acknowledged changes, 0 lost, {weather.met.total()} faults")


if __name__ == "__main__":
    main()
