"""A million log entries and a hundred snapshots: list, plan, prune, take-over and status (`python -m bench.scale`).

The log lies in the stores twice over: as if trimming had been held off (every entry still there), and trimmed as a
leader trims. The verbs are run as anybody runs them; the take-over is what a new DRaaS server does before it leads.
Everything is on one machine, in ``--dir``; nothing of it is left behind, unless ``--keep``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psutil
import uvloop

from bench.machine import machine
from bench.scale_data import SYSTEM, Churn, Shape, write_log, write_snapshots
from threefold.bootstrap import Parts, open_parts
from threefold.kernel.lsn import Lsn
from threefold.local.create import any_ports, create_home
from threefold.local.home import Home
from threefold.quorum.driver import Driver
from threefold.quorum.lead import fence, resume
from threefold.quorum.objects import Codec
from threefold.quorum.reader import read_extent
from threefold.quorum.reading import read_log
from threefold.quorum.start import opening, start
from threefold.quorum.trim import trim
from threefold.quorum.view import Scope
from threefold.vault.chunk_store import Vault

GOAL_S: Final = 5.0
_VERBS: Final = {
    "list": ("list",),
    "status": ("status",),
    "prune (dry run)": ("prune", "--dry-run"),
}


class Stack:
    """Three storage servers on the folders of a home, as processes."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.home = Home.at(base / "home")
        self.started_s: dict[str, float] = {}
        self.memory: dict[str, int] = {}
        self._serving: list[psutil.Process] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        processes: dict[str, subprocess.Popen[bytes]] = {}
        try:
            for store in self.home.settings.store:
                processes[store.name] = self._start(store.name, self.home.address(store))
            self._serving = [psutil.Process(each.pid) for each in processes.values()]
            yield
            for name, process in processes.items():
                self.memory[name] = psutil.Process(process.pid).memory_info().rss
        finally:
            for process in processes.values():
                process.terminate()
            for process in processes.values():
                process.wait(60)

    def _start(self, name: str, address: str) -> subprocess.Popen[bytes]:
        secrets = {
            "THREEFOLD_STORAGE_ACCESS_KEY_ID": self.home.secret(f"{name}.key"),
            "THREEFOLD_STORAGE_SECRET_ACCESS_KEY": self.home.secret(f"{name}.secret"),
        }
        began = time.monotonic()
        with (self.base / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [*_THREEFOLD, "storage", "serve", "--data", str(self.home.storage(name)), "--listen", address],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **secrets},
                start_new_session=True,
            )
        host, _, port = address.rpartition(":")
        while time.monotonic() < began + 120:
            with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
                self.started_s[name] = round(time.monotonic() - began, 2)
                return process
            time.sleep(0.05)
        raise TimeoutError(f"{name} does not serve")

    def cpu(self) -> float:
        """Seconds of processor time that the three stores have used."""
        times = [each.cpu_times() for each in self._serving]
        return sum(each.user + each.system for each in times)

    def verb(self, *arguments: str) -> dict[str, float]:
        """Seconds, start of the program included; processor time of the program and of the stores."""
        children, stores, began = resource.getrusage(resource.RUSAGE_CHILDREN), self.cpu(), time.monotonic()
        done = subprocess.run(
            [*_THREEFOLD, *arguments, "--json", "--quiet", "--config", str(self.home.config)],
            check=False,
            capture_output=True,
            text=True,
        )
        took = time.monotonic() - began
        if done.returncode:
            raise RuntimeError(f"{arguments} ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        own = used.ru_utime + used.ru_stime - children.ru_utime - children.ru_stime
        return {"s": round(took, 2), "own cpu": round(own, 2), "stores' cpu": round(self.cpu() - stores, 2)}


_THREEFOLD: Final = [sys.executable, "-m", "threefold"]


async def take_over(parts: Parts) -> dict[str, float]:
    """What a new DRaaS server does before it leads, the questions to PostgreSQL aside; seconds of each step."""
    driver, took = Driver(parts.stores, parts.clock), {}
    codec = Codec(parts.keyring, SYSTEM)
    scope = Scope(tuple(parts.stores), codec, parts.clock.new_id(), bundles_opened={})  # as protect/leadership.py
    began = time.monotonic()
    await driver.run(read_log(scope))
    took["look"] = time.monotonic() - began
    epoch, found = await driver.run(fence(scope))
    took["fence"] = time.monotonic() - began - took["look"]
    assert found is not None
    first = await driver.run(start(scope, epoch, opening(found, 1, found.end)))
    await driver.run(resume(scope, found, first))
    took["begin"] = time.monotonic() - began - sum(took.values())
    took["s"] = time.monotonic() - began
    return {name: round(seconds, 2) for name, seconds in took.items()}


async def trim_all(parts: Parts) -> tuple[float, int]:
    """Seconds, and entries that were asked to go: all that segments cover, in one go."""
    driver = Driver(parts.stores, parts.clock)
    scope = Scope(tuple(parts.stores), Codec(parts.keyring, SYSTEM), parts.clock.new_id())
    found = await driver.run(read_log(scope))
    assert found is not None
    assert found.segment is not None
    last = found.spans[-1]
    began = time.monotonic()
    asked = await driver.run(trim(scope, found.spans[:-1], last.epoch, found.segment.position))
    return round(time.monotonic() - began, 1), asked


def measure(stack: Stack, say: Callable[[str], None]) -> dict[str, Any]:
    """Every verb twice, the better one; on a machine that is busy otherwise processor time tells more than seconds."""
    found: dict[str, Any] = {}
    for name, arguments in _VERBS.items():
        found[name] = min((stack.verb(*arguments) for _ in range(2)), key=lambda each: each["s"])
        say(f"{name}: {found[name]}")
    for name, work in {"plan of a recovery": _plan, "take-over": take_over}.items():
        own, stores = time.process_time(), stack.cpu()
        took = uvloop.run(_with_parts(stack.home, work))
        used = {"own cpu": round(time.process_time() - own, 2), "stores' cpu": round(stack.cpu() - stores, 2)}
        found[name] = took | used
        say(f"{name}: {found[name]}")
    return found


async def _plan(parts: Parts) -> dict[str, float]:
    """What `threefold recover` does before it fetches the first byte."""
    began = time.monotonic()
    vault = Vault(parts.stores, parts.keyring, parts.clock)
    await asyncio.gather(read_extent(parts.stores, parts.keyring, parts.clock), vault.catalogue())
    return {"s": round(time.monotonic() - began, 2)}


async def _with_parts(home: Home, work: Callable[[Parts], Any]) -> Any:
    async with open_parts(home.settings) as parts:
        return await work(parts)


async def sizes(parts: Parts, churn: Churn, sent: list[int]) -> dict[str, Any]:
    """What lies on one store, against what it comes to when only what changed is sent."""
    vault = Vault(parts.stores, parts.keyring, parts.clock)
    store = next(iter(parts.stores.values()))
    packs = [each.size async for each in vault.listing(store, "packs")]
    manifests = [each.size async for each in vault.listing(store, "snapshots")]
    whole = packs_of_first = sent[0] - manifests[0]
    expected = whole + (churn.snapshots - 1) * churn.share * packs_of_first
    return {
        "packs": sum(packs),
        "expected": round(expected),
        "ratio": round(sum(packs) / expected, 3),
        "manifests": sum(manifests),
        "without dedup": whole * churn.snapshots,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.scale", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--entries", type=int, default=Shape().entries)
    parser.add_argument("--tiny", type=int, default=Shape().tiny, help="of these: entries of 110 bytes in no segment")
    parser.add_argument("--snapshots", type=int, default=Churn().snapshots)
    parser.add_argument("--megabytes", type=int, default=Churn().chunks, help="the database")
    parser.add_argument("--dir", type=Path, help="on the disk to measure; the system's folder for temporary files")
    parser.add_argument("--keep", action="store_true", help="leave the data there, and say where")
    options = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="threefold-scale-", dir=options.dir))
    try:
        print(json.dumps(run(base, options), indent=1))
    finally:
        if options.keep:
            say(f"left in {base}")
        else:
            shutil.rmtree(base, ignore_errors=True)


def run(base: Path, options: argparse.Namespace) -> dict[str, Any]:
    create_home(base / "home", ports=any_ports(), passphrase="only for a benchmark")
    stack = Stack(base)
    shape = Shape(entries=options.entries, tiny=options.tiny)
    churn = Churn(snapshots=options.snapshots, chunks=options.megabytes)
    found: dict[str, Any] = {"machine": machine(), "entries": shape.entries, "snapshots": churn.snapshots}
    end = uvloop.run(write_log(stack.home, shape, say))
    with stack.running():
        found["a store starts, s"] = dict(stack.started_s)

        async def snapshots(parts: Parts) -> dict[str, Any]:
            log = (Lsn(16 * 2**20), end)
            return await sizes(parts, churn, await write_snapshots(parts.stores, parts.keyring, churn, log, say))

        found["sizes"] = uvloop.run(_with_parts(stack.home, snapshots))
        say("trimming held off")
        found["trimming held off"] = measure(stack, say)
        say("trimming")
        took, asked = uvloop.run(_with_parts(stack.home, trim_all))
        found["trim"] = {"seconds": took, "entries, all stores": asked}
        found["trimmed"] = measure(stack, say)
    found["memory of a store, MB"] = {name: size // 10**6 for name, size in stack.memory.items()}
    return found


def say(what: str) -> None:
    print(f"... {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
