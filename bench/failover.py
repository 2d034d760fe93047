"""`python -m bench.failover`: from the kill of the primary to the first write accepted elsewhere, round by round.

Each round has its own processes over the same folder, put back to how it was (prepared.py): three storage servers, a
primary, the DRaaS server, the agent of the recovery site; policy automatic, strict. Then the primary is killed with -9
and its data folder taken away, while a client asks for a commit on whichever site takes one, again and again. Warm,
nothing else is done. Cold, nobody keeps a copy and nobody watches: `threefold failover` is called at the moment of the
kill.

- *seen*: the agent names what is the matter; *decided*: the order stands on two stores;
- *serving*: the copy is promoted; *first write*: a COMMIT returned, so it is on two of three stores again;
- every row whose COMMIT returned before the kill must be there: ``lost`` is counted, not assumed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg.conninfo import make_conninfo

from bench.machine import machine
from bench.prepared import put_back
from threefold.bootstrap import Parts, journal_of, open_parts
from threefold.failover.agent_beacon import read_agent
from threefold.kernel.clock import Clock, SystemClock
from threefold.local.create import any_ports, create_home
from threefold.local.home import Home
from threefold.local.stack import Stack
from threefold.postgres.server import Server

_READY_S: Final = 600.0
_BACK_S: Final = 600.0
_POLL_S: Final = 0.05  # each look reads from all three stores: looking more often would slow down what is measured
_ILL: Final = frozenset({"service-disruption", "network-failure", "site-failure"})
PARTS: Final = ("seen", "decided", "serving", "first_write")


async def prepare(base: Path, megabytes: int, standby: str, clock: Clock) -> Path:
    """The folder that every round begins with: filled, a snapshot taken, the copy ready, everything stopped."""
    folder = base / "home"
    await asyncio.to_thread(create_home, folder, ports=any_ports(), standby=standby, policy="automatic")
    home = Home.at(folder)
    async with _running(home, clock) as (stack, parts):
        await asyncio.to_thread(_fill, home, megabytes)
        await stack.run("snapshot")
        if standby == "warm":
            await _ready(parts, home, clock)
    folder.rename(base / "prepared")
    return base / "prepared"


async def one_round(prepared: Path, clock: Clock) -> dict[str, float]:
    """Seconds since the kill, and what was lost."""
    folder = prepared.with_name("home")
    folder.mkdir(exist_ok=True)
    if _burnt(folder / "primary").exists():
        _burnt(folder / "primary").rename(folder / "primary")
    await asyncio.to_thread(put_back, prepared, folder)
    await asyncio.to_thread(os.sync)  # what was copied is not written while the round is timed
    home = Home.at(folder)
    async with _running(home, clock) as (stack, parts):
        if home.settings.recovery.standby == "warm":
            await _ready(parts, home, clock)
        return await _blow(home, stack, parts, clock)


@asynccontextmanager
async def _running(home: Home, clock: Clock) -> AsyncIterator[tuple[Stack, Parts]]:
    stack = Stack(home, clock, lambda _, __: None, logs_to_files=True)
    async with open_parts(home.settings) as parts:
        try:
            await stack.start_stores()
            await stack.start_primary()
            await stack.start_standby()
            await stack.start_protect()
            yield stack, parts
        finally:
            await stack.stop()
            for data in (home.primary, home.folder / "recovered"):
                Server(stack.primary.server.binaries, data, 0).kill()


def _fill(home: Home, megabytes: int) -> None:
    with psycopg.connect(home.superuser_conninfo(), autocommit=True) as connection:
        connection.execute("CREATE TABLE acked (n bigint PRIMARY KEY)")
        connection.execute("CREATE TABLE bulk (id bigint, filler text)")
        for part in range(max(1, megabytes // 100)):
            connection.execute(
                "INSERT INTO bulk SELECT n, (SELECT string_agg(md5((n * 31 + k)::text), '') FROM"
                " generate_series(1, 30) k) FROM generate_series(%s::bigint, %s::bigint) n",
                (part * 100_000, part * 100_000 + megabytes * 1000 // max(1, megabytes // 100) - 1),
            )


async def _ready(parts: Parts, home: Home, clock: Clock) -> None:
    """The agent sees the primary healthy, and has its copy."""
    site = home.settings.sites()[1].name
    until = clock.monotonic() + _READY_S
    while clock.monotonic() < until:
        agent = await read_agent(parts.stores, site, parts.keyring)
        if agent is not None and agent.verdict == "healthy" and agent.copy_ready:
            return
        await clock.sleep(0.2)
    raise TimeoutError("the recovery site is not ready")


async def _blow(home: Home, stack: Stack, parts: Parts, clock: Clock) -> dict[str, float]:
    acked: list[int] = []
    stop = asyncio.Event()
    client = asyncio.create_task(asyncio.to_thread(_commits, home, acked, stop))
    await clock.sleep(2)
    site, journal = home.settings.sites()[1].name, journal_of(parts)
    at, before = clock.monotonic(), len(acked)
    burning = asyncio.create_task(asyncio.to_thread(_burn, stack.primary.server, home.primary))
    by_hand = None
    if home.settings.recovery.standby == "cold":
        by_hand = asyncio.create_task(stack.run("failover", "--here", "--yes", "--reason", "the primary was killed"))
    found: dict[str, float] = {}
    told = 0
    while len(acked) <= before or "serving" not in found:
        if clock.monotonic() - at > _BACK_S:
            raise TimeoutError("no write was accepted any more")
        agent = await read_agent(parts.stores, site, parts.keyring)
        if agent is not None and agent.verdict in _ILL:
            found.setdefault("seen", clock.monotonic() - at)
        newest = (await journal.read()).newest
        for step in newest.steps[told:] if newest else ():
            told += 1
            found.setdefault({"ordered": "decided"}.get(step.kind.value, step.kind.value), clock.monotonic() - at)
        if "decided" not in found:
            before = len(acked)  # one more may have been on its way when the signal was
        if len(acked) > before:
            found.setdefault("first_write", clock.monotonic() - at)
        await clock.sleep(_POLL_S)
    found.setdefault("first_write", clock.monotonic() - at)
    await burning
    stop.set()
    await client
    if by_hand is not None:
        await by_hand
    found["lost"] = await asyncio.to_thread(_lost, home, acked)
    return {name: round(value, 2) for name, value in found.items()}


def _burn(server: Server, data: Path) -> None:
    """The signals go at once; that every process is gone is waited for beside the clock.

    The folder goes out of reach by one rename: the next round puts it back without copying all of it.
    """
    server.kill()
    data.rename(_burnt(data))


def _burnt(data: Path) -> Path:
    return data.parent.with_name("burnt")


def _both(home: Home) -> str:
    ports = f"{home.primary_port},{home.settings.recovery.listen.rpartition(':')[2]}"
    two = make_conninfo(home.superuser_conninfo(), host="127.0.0.1,127.0.0.1", port=ports)
    return make_conninfo(two, target_session_attrs="read-write", connect_timeout=2)


def _commits(home: Home, acked: list[int], stop: asyncio.Event) -> None:
    """One commit after the other, on whichever site takes it."""
    number = 0
    while not stop.is_set():
        with suppress(psycopg.OperationalError), psycopg.connect(_both(home), autocommit=True) as connection:
            while not stop.is_set():
                number += 1
                connection.execute("INSERT INTO acked VALUES (%s)", (number,))
                acked.append(number)


def _lost(home: Home, acked: list[int]) -> int:
    with psycopg.connect(_both(home)) as connection:
        there = {row[0] for row in connection.execute("SELECT n FROM acked")}
    return len(set(acked) - there)


def summary(rounds: list[dict[str, float]]) -> dict[str, Any]:
    """Median and worst of each part."""
    answer: dict[str, Any] = {"rounds": len(rounds), "lost": sum(each["lost"] for each in rounds)}
    for part in PARTS:
        times = [each[part] for each in rounds if part in each]
        if times:
            answer[part] = {"median": round(statistics.median(times), 2), "worst": max(times)}
    took = [each["first_write"] - each["decided"] for each in rounds]
    answer["decision_to_first_write"] = {"median": round(statistics.median(took), 2), "worst": round(max(took), 2)}
    return answer


def show(found: dict[str, Any]) -> None:
    at = found["machine"]
    print(f"{at['date']}; {at['cores']} x {at['cpu']}, {at['memory_gb']} GB; load before: {at['load_before']}\n")
    print("| standby | database | rounds | seen | decided | serving | first write | decision to first write | lost |")
    print("|---|---|---|---|---|---|---|---|---|")
    for case in found["cases"]:
        cells = [
            f"{case[part]['median']:.1f} ({case[part]['worst']:.1f})"
            for part in (*PARTS, "decision_to_first_write")
            if part in case
        ]
        size = f"{case['megabytes'] / 1000:g} GB"
        print(f"| {case['standby']} | {size} | {case['rounds']} | {' | '.join(cells)} | {case['lost']:g} |")
    print("\nSeconds since the kill: median (worst).")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.failover", description="Kill the primary; time what follows."
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[100, 1000, 5000])
    parser.add_argument("--standby", choices=("warm", "cold"), nargs="+", default=["warm", "cold"])
    parser.add_argument("--dir", type=Path, help="on the disk to measure; the system's folder for temporary files")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, nothing else there")
    options = parser.parse_args()
    found: dict[str, Any] = {"machine": machine(), "cases": []}
    for standby in options.standby:
        for megabytes in options.megabytes:
            rounds = []
            if options.dir is not None:
                options.dir.mkdir(parents=True, exist_ok=True)
            base = Path(tempfile.mkdtemp(prefix="threefold-bench-", dir=options.dir))
            base.chmod(0o755)
            try:
                prepared = asyncio.run(prepare(base, megabytes, standby, SystemClock()))
                for number in range(options.rounds):
                    rounds.append(asyncio.run(one_round(prepared, SystemClock())))
                    done = f"{standby}, {megabytes} MB, round {number + 1}"
                    print(f"... {done}: {rounds[-1]}", file=sys.stderr, flush=True)
            finally:
                shutil.rmtree(base, ignore_errors=True)
            found["cases"].append({"standby": standby, "megabytes": megabytes, **summary(rounds)})
    if options.json:
        print(json.dumps(found))
    else:
        show(found)


if __name__ == "__main__":
    main()
