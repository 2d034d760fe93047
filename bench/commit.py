"""Commits: pgbench's simple update (``-N``) against a variant; throughput, latency, processor time."""

from __future__ import annotations

import re
import shutil
import subprocess
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Final

from bench.rig import Rig

SCALE: Final = 5
CLIENTS: Final = (1, 8, 32)
_TPS = re.compile(r"tps = ([\d.]+)")


@dataclass(frozen=True, slots=True)
class Run:
    """``cpu``: microseconds of processor time for each commit, by process."""

    tps: float
    p50_ms: float
    p99_ms: float
    most_ms: float
    cpu: dict[str, float]


def prepare(rig: Rig) -> None:
    subprocess.run(
        [rig.program("pgbench"), "-i", "-q", "-s", str(SCALE), *_where(rig)], check=True, capture_output=True
    )
    rig.sql("CHECKPOINT")


def measure(rig: Rig, clients: int, seconds: float) -> Run:
    logs = rig.base / "pgbench"
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir()
    command = [rig.program("pgbench"), "-N", "-n", "-M", "prepared", "-c", str(clients), "-j", "1"]
    command += ["-T", str(int(seconds)), "-l", f"--log-prefix={logs}/log", *_where(rig)]
    before = rig.cpu()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    after = rig.cpu()
    tps = float(_TPS.search(done.stdout)[1])  # type: ignore[index]
    took = sorted(int(line.split()[2]) for log in logs.iterdir() for line in log.read_text().splitlines())
    commits = len(took)
    cpu = {name: round((after[name] - before.get(name, 0.0)) * 1e6 / commits) for name in after}
    return Run(
        tps,
        took[commits // 2] / 1000,
        took[commits * 99 // 100] / 1000,
        took[-1] / 1000,
        {name: used for name, used in cpu.items() if used > 1},
    )


def compare(rig: Rig, clients: int, rounds: int, seconds: float, only: tuple[str, ...] = ()) -> dict[str, Any]:
    """All variants in turn, ``rounds`` times; medians."""
    variants = [name for name in ("none", "receivers", "ours") if not only or name in only]
    runs: dict[str, list[Run]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name in variants:
            with variant(rig, name):
                measure(rig, clients, 1)  # caches, connections, the first images of pages
                runs[name].append(measure(rig, clients, seconds))
    return {name: middle(of) for name, of in runs.items()}


def variant(rig: Rig, name: str) -> AbstractContextManager[None]:
    return {"none": rig.no_standby, "receivers": rig.receivers, "ours": rig.ours}[name]()


def middle(runs: list[Run]) -> dict[str, Any]:
    """The median of each figure; processor time of the median run."""
    by_tps = sorted(runs, key=lambda run: run.tps)
    typical = asdict(by_tps[len(runs) // 2])
    for name in ("tps", "p50_ms", "p99_ms", "most_ms"):
        typical[name] = round(median(getattr(run, name) for run in runs), 2)
    return {**typical, "runs_tps": [round(run.tps) for run in runs]}


def _where(rig: Rig) -> list[str]:
    return ["-h", rig.conninfo["host"], "-p", rig.conninfo["port"], "-U", rig.conninfo["user"], "postgres"]
