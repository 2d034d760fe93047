"""Snapshot and recovery against pgBackRest: ours to three stores, always encrypted; its to one of them.

One PostgreSQL 15 with one database for all. The variants take turns within every round, each on stores that are empty
when its turn begins, so that nothing is reused of an earlier one; the medians of the rounds count. Before each
measurement what is dirty in memory goes to the disk, so that nobody pays for who came before. Recoveries go into a new
folder each, on the same disk, up to a server that takes writes.

Within ours, each round: a first snapshot; a recovery; another recovery in whose middle one store is stopped (SIGSTOP);
1 % of the rows changed that lie together; a second snapshot. At the very end also 1 % of the rows all over the tables.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any, Final

import psutil

from bench import backrest_data, pgbackrest
from bench.child import Ran, run
from bench.rig import SERVER_SETTINGS, STORES, Rig
from threefold.local.create import free_ports
from threefold.postgres.server import Server

_VICTIM: Final = "S3"
_SETTINGS: Final = {"archive_mode": "on"}
# What a standby may not have less of than its primary had is the rig's: a recovery ends at once otherwise.
_NO_ARCHIVE: Final = SERVER_SETTINGS | {"archive_mode": "off", "synchronous_standby_names": ""}
_UP_S: Final = 120.0

Figures = dict[str, float]


def compare(folder: Path | None, megabytes: int, rounds: int) -> dict[str, Any]:
    """Medians, by variant. Raises NotThere where a program is missing."""
    program = pgbackrest.find()
    with Rig(folder, major=pgbackrest.MAJOR, secure=pgbackrest.STORE, settings=_SETTINGS) as rig:
        plain, encrypted = (pgbackrest.Repository(rig, program, encrypted=each) for each in (False, True))
        plain.end()
        backrest_data.fill(rig, megabytes)
        runs: dict[str, list[Figures]] = {"ours": [], "plain": [], "encrypted": []}
        more: dict[str, Figures] = {}
        for number in range(rounds):
            last = number == rounds - 1
            runs["plain"].append(_theirs(rig, plain))
            runs["ours"].append(_ours(rig, number, more if last else None))
            runs["encrypted"].append(_theirs(rig, encrypted, number, more if last else None))
        return {
            "postgresql": rig.binaries.version,
            "pgbackrest": plain.version(),
            "rounds": rounds,
            **{name: _medians(each) for name, each in runs.items()},
            **more,
        }


def _medians(runs: list[Figures]) -> Figures:
    return {name: round(median(run[name] for run in runs), 2) for name in runs[0]}


# --- ours ---


def _ours(rig: Rig, number: int, more: dict[str, Figures] | None) -> Figures:
    rig.empty_stores()
    with rig.ours():
        figures = _snapshot(rig, "first")
        figures |= _recovery(rig, "healthy", figures["first_mb"])
        figures |= _recovery(rig, "stopped", figures["first_mb"], victim=_VICTIM)
        backrest_data.churn_together(rig, number)
        figures |= _snapshot(rig, "second")
        if more is not None:
            backrest_data.churn_scattered(rig)
            more["scattered"] = _snapshot(rig, "scattered")
    return figures


def _snapshot(rig: Rig, name: str) -> Figures:
    _quiet(rig)
    before = rig.cpu()
    ran = run(_verb(rig, "snapshot", "--from", "primary", "--quiet"))
    taken = _result(ran.out)
    return {
        f"{name}_s": ran.seconds,
        f"{name}_mb": float(taken["bytes"]) / 1e6,
        f"{name}_stored_mb": float(taken["bytes_sent"]) / 1e6,
        f"{name}_missing": float(sum(taken["missing"].values())),
        f"{name}_peak_mb": ran.peak_mb,
        **_cpu(name, ran, before, rig.cpu()),
    }


def _recovery(rig: Rig, name: str, megabytes: float, *, victim: str = "") -> Figures:
    """``victim``: the store that is stopped when half of the files' bytes are written."""
    folder = rig.base / "recovered"
    (port,) = free_ports(1)
    stopped: list[float] = []

    def heard(line: str) -> None:
        said = json.loads(line)
        half = said.get("step") == "restore" and said["total"] and said["done"] * 2 >= said["total"]
        if victim and half and not stopped:
            stopped.append(said["done"] / said["total"])
            os.kill(rig.processes[victim].pid, signal.SIGSTOP)

    _quiet(rig)
    before = rig.cpu()
    try:
        ran = run(_verb(rig, "recover", "--into", str(folder), "--start", "--port", str(port)), heard=heard)
    finally:
        if stopped:
            os.kill(rig.processes[victim].pid, signal.SIGCONT)
    after = rig.cpu()
    done = _result(ran.out)
    with contextlib.suppress(psutil.NoSuchProcess):
        postmaster = psutil.Process(done["pid"])
        postmaster.send_signal(signal.SIGQUIT)
        psutil.wait_procs([postmaster], timeout=30)
    shutil.rmtree(folder)
    phases = {phase: float(seconds) for phase, seconds in done["seconds"].items()}
    return {
        f"{name}_s": ran.seconds,
        f"{name}_files_s": ran.seconds - phases.get("replay", 0.0),
        f"{name}_restoring_mb_per_s": megabytes / phases["restore"],
        f"{name}_peak_mb": ran.peak_mb,
        **({f"{name}_at": stopped[0]} if stopped else {}),
        **_cpu(name, ran, before, after),
    }


def _verb(rig: Rig, *arguments: str) -> list[str]:
    return rig.threefold(*arguments, "--json", "--config", str(rig.home.config))


def _result(out: str) -> dict[str, Any]:
    found: dict[str, Any] = next(
        facts for line in reversed(out.splitlines()) if (facts := json.loads(line))["type"] == "result"
    )
    return found


# --- theirs ---


def _theirs(
    rig: Rig, repository: pgbackrest.Repository, number: int = 0, more: dict[str, Figures] | None = None
) -> Figures:
    rig.empty_stores()
    repository.begin()
    try:
        figures = _backup(rig, repository, "first", "full")
        figures |= _restore(rig, repository)
        if more is not None:
            backrest_data.churn_together(rig, number + 1)
            more["incremental"] = _backup(rig, repository, "second", "incr")
    finally:
        repository.end()
    return figures


def _backup(rig: Rig, repository: pgbackrest.Repository, name: str, kind: str) -> Figures:
    _quiet(rig)
    before = rig.cpu()
    ran = repository.backup(kind)
    after = rig.cpu()
    sizes = repository.sizes()
    return {
        f"{name}_s": ran.seconds,
        f"{name}_mb": sizes["mb"],
        f"{name}_read_mb": sizes["read_mb"],
        f"{name}_stored_mb": sizes["stored_mb"],
        **_cpu(name, ran, before, after),
    }


def _restore(rig: Rig, repository: pgbackrest.Repository) -> Figures:
    folder = rig.base / "restored"
    (port,) = free_ports(1)
    _quiet(rig)
    before = rig.cpu()
    began = time.monotonic()
    ran = repository.restore(folder)
    server = Server(
        rig.binaries,
        folder,
        port,
        socket_dir=rig.base / "sockets",
        settings=_NO_ARCHIVE,
        log_file=rig.base / "restored.log",
    )
    try:
        asyncio.run(_writable(server))
        seconds = time.monotonic() - began
    finally:
        asyncio.run(server.stop("immediate"))
    after = rig.cpu()
    shutil.rmtree(folder)
    return {"healthy_s": seconds, "healthy_files_s": ran.seconds, **_cpu("healthy", ran, before, after)}


async def _writable(server: Server) -> None:
    await server.start(timeout=_UP_S)
    until = time.monotonic() + _UP_S
    while not (server.in_production() and server.ready()):
        if time.monotonic() > until:
            raise TimeoutError(f"what pgBackRest restored does not take writes: see {server.log_file}")
        await asyncio.sleep(0.02)


# --- both ---


def _quiet(rig: Rig) -> None:
    rig.sql("CHECKPOINT")
    os.sync()


def _cpu(name: str, ran: Ran, before: Mapping[str, float], after: Mapping[str, float]) -> Figures:
    """Seconds of processor time: of the command, of the stores, of the primary."""
    used = {process: after[process] - before.get(process, 0.0) for process in after}
    return {
        f"{name}_cpu_s": ran.cpu_s,
        f"{name}_stores_cpu_s": sum(used.get(store, 0.0) for store in STORES),
        f"{name}_postgres_cpu_s": used.get("postgres", 0.0),
    }
