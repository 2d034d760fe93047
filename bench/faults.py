"""One of the three stores stopped (SIGSTOP: it holds its connections and says nothing), against all three healthy."""

from __future__ import annotations

import os
import signal
import time
from typing import Any, Final

from bench.commit import Run, measure, middle
from bench.rig import Rig

_VICTIM: Final = "S3"


def compare(rig: Rig, clients: int, rounds: int, seconds: float) -> dict[str, Any]:
    """In turn, on one DRaaS server."""
    healthy: list[Run] = []
    stopped: list[Run] = []
    with rig.ours():
        for _ in range(rounds):
            healthy.append(measure(rig, clients, seconds))
            victim = rig.processes[_VICTIM].pid
            os.kill(victim, signal.SIGSTOP)
            try:
                stopped.append(measure(rig, clients, seconds))
            finally:
                os.kill(victim, signal.SIGCONT)
            rig.until(lambda: _filled(rig), f"{_VICTIM} is filled in", within=120)
    return {"healthy": middle(healthy), "stopped": middle(stopped)}


def _filled(rig: Rig) -> bool:
    time.sleep(1)
    status = rig.json("status")
    stores = status["leader"]["stores"]
    return all(store["state"] == "voting" and not store["missing"] for store in stores)
