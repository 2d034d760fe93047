"""A CREATE TABLE AS that makes a lot of WAL at once: how long until all of it is safe, how far behind, how much memory.

The commit at its end waits for the standbys, so the time of the statement is the time until everything is flushed.
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil

from bench.rig import Rig

_LAG = """
SELECT pg_current_wal_flush_lsn() - min(flush_lsn) FROM pg_stat_replication WHERE sync_state = 'quorum'
"""


@dataclass(slots=True)
class Drain:
    wal_mb: float = 0.0
    seconds: float = 0.0
    peak_lag_mb: float = 0.0
    peak_rss_mb: float = 0.0  # of the standby's process
    cpu: dict[str, float] = field(default_factory=dict)  # seconds of processor time, by process


def prepare(rig: Rig, megabytes: int) -> None:
    """Rows that compress about 2:1, in a table that is not logged; copied four times they make so much WAL."""
    rig.sql(
        "CREATE UNLOGGED TABLE source AS SELECT g AS id, md5(g::text) || md5((g * 7)::text) || md5((g * 13)::text)"
        f" || md5((g * 17)::text) AS payload FROM generate_series(1, {megabytes * 1400}) g"
    )


def compare(rig: Rig, rounds: int) -> dict[str, Any]:
    results: dict[str, list[Drain]] = {"receiver": [], "ours": []}
    for _ in range(rounds):
        with rig.receivers(1, 1):
            results["receiver"].append(_drain(rig, "receiver1"))
        with rig.ours():
            results["ours"].append(_drain(rig, "protect"))
    middle = {
        name: asdict(sorted(drains, key=lambda drain: drain.seconds)[len(drains) // 2])
        for name, drains in results.items()
    }
    middle["ours"]["peak_rss_mb"] = max(drain.peak_rss_mb for drain in results["ours"])
    return {
        name: {key: round(value, 1) for key, value in figures.items() if key != "cpu"}
        | {"cpu": figures["cpu"], "mb_per_s": _speed(figures)}
        for name, figures in middle.items()
    } | {"disk": {"one_file_mb_per_s": _disk(rig.base, 1), "three_files_mb_per_s": _disk(rig.base, 3)}}


def _disk(folder: Path, files: int, megabytes: int = 128, block: int = 512 * 1024) -> float:
    """What the disk takes in all when so many write side by side, each block on the disk before the next."""

    def write(path: Path) -> None:
        data = os.urandom(block)
        with path.open("wb", buffering=0) as file:
            for _ in range(megabytes * 1024 * 1024 // block):
                file.write(data)
                os.fdatasync(file.fileno())

    paths = [folder / f"disk{number}" for number in range(files)]
    threads = [Thread(target=write, args=(path,)) for path in paths]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - began
    for path in paths:
        path.unlink()
    return round(files * megabytes * 1.048576 / took, 1)


def _speed(figures: dict[str, Any]) -> float:
    return round(figures["wal_mb"] / figures["seconds"], 1)


def _drain(rig: Rig, standby: str) -> Drain:
    drain, over = Drain(), Event()
    watch = Thread(target=_watch, args=(rig, psutil.Process(rig.processes[standby].pid), drain, over))
    watch.start()
    (before,) = rig.sql("SELECT pg_current_wal_insert_lsn() - '0/0'")[0]
    used = rig.cpu()
    began = time.monotonic()
    rig.sql("CREATE TABLE bulk AS SELECT source.* FROM source, generate_series(1, 4)")
    drain.seconds = time.monotonic() - began
    drain.cpu = {name: round(seconds - used.get(name, 0.0), 1) for name, seconds in rig.cpu().items()}
    drain.cpu = {name: seconds for name, seconds in drain.cpu.items() if seconds > 0}
    (after,) = rig.sql("SELECT pg_current_wal_insert_lsn() - '0/0'")[0]
    time.sleep(1)  # the segments that follow are in the peak of the memory as well
    over.set()
    watch.join()
    drain.wal_mb = float(after - before) / 1e6  # type: ignore[operator]
    rig.sql("DROP TABLE bulk")
    rig.sql("CHECKPOINT")
    return drain


def _watch(rig: Rig, process: psutil.Process, drain: Drain, over: Event) -> None:
    with rig.connect() as connection:
        while not over.wait(0.1):
            drain.peak_rss_mb = max(drain.peak_rss_mb, process.memory_info().rss / 1e6)
            row = connection.execute(_LAG).fetchone()
            if row and row[0] is not None:
                drain.peak_lag_mb = max(drain.peak_lag_mb, float(row[0]) / 1e6)  # type: ignore[arg-type]


def free(rig: Rig) -> None:
    rig.sql("DROP TABLE source")
    shutil.rmtree(rig.base / "receiver1", ignore_errors=True)
