"""A base backup into the stores against pg_basebackup into a folder, and the way back to a database that is written."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from typing import Any

import psutil

from bench.rig import Rig
from threefold.local.home import REPLICATION_USER


def compare(rig: Rig) -> dict[str, Any]:
    """pg_basebackup before and after, so that neither has the warmer cache; ours once: a second one sends nothing."""
    first = _basebackup(rig)
    with rig.ours():
        began = time.monotonic()
        taken = rig.json("snapshot")
        ours = time.monotonic() - began
        second = _basebackup(rig)
        (size,) = rig.sql("SELECT sum(pg_database_size(oid)) FROM pg_database")[0]
        megabytes = float(taken["bytes"]) / 1e6
        recovery = _recover(rig, megabytes)
    stock = (first + second) / 2
    return {
        "database_mb": round(float(size) / 1e6, 1),  # type: ignore[arg-type]
        "snapshot": {"seconds": round(ours, 2), "mb_per_s": round(megabytes / ours, 1), "mb": round(megabytes, 1)},
        "pg_basebackup": {"seconds": round(stock, 2), "mb_per_s": round(megabytes / stock, 1)},
        "recover": recovery,
    }


def _basebackup(rig: Rig) -> float:
    folder = rig.base / "basebackup"
    dsn = f"host=127.0.0.1 port={rig.home.primary_port} user={REPLICATION_USER}"
    command = [rig.program("pg_basebackup"), "-D", str(folder), "-c", "fast", "-X", "none", "-d", dsn]
    password = rig.home.secret(f"{REPLICATION_USER}.password")
    began = time.monotonic()
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PGPASSWORD": password})
    took = time.monotonic() - began
    shutil.rmtree(folder)
    return took


def _recover(rig: Rig, megabytes: float) -> dict[str, Any]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = rig.base / "recovered"
    began = time.monotonic()
    done = rig.json("recover", "--into", str(folder), "--start", "--port", str(port))
    took = time.monotonic() - began
    with contextlib.suppress(psutil.NoSuchProcess):
        postmaster = psutil.Process(done["pid"])
        postmaster.send_signal(signal.SIGQUIT)
        psutil.wait_procs([postmaster], timeout=10)
    shutil.rmtree(folder)
    fetching = done["seconds"].get("restore", 0.0) or took
    return {
        "writable_after_s": round(took, 2),
        "mb_per_s": round(megabytes / fetching, 1),
        "phases": {phase: round(seconds, 2) for phase, seconds in done["seconds"].items()},
    }
