"""One of the three stores in trouble, against all three healthy: in turn, on one DRaaS server that goes on.

Healthy means no relay in between: it would cost the healthy ones processor time. Before each fault the store has
everything again and votes.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from statistics import median
from typing import Any, Final

from bench.apart import Host, host_of_its_own, relay, why_not
from bench.commit import Run, measure, middle
from bench.rig import Rig
from threefold.local.create import free_ports

_VICTIM: Final = "S3"
CLIENTS: Final = 8
WORDS: Final = {
    "slow": "one 300 ms away (there and back)",
    "stopped": "one stopped (SIGSTOP)",
    "black_hole": "one takes connections and answers nothing",
    "cut_off": "packets to one are lost",
    "refusing": "one answers 503 at once",
}


def compare(
    rig: Rig, rounds: int, seconds: float, say: Callable[[str], None], only: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Each fault has a healthy turn of its own before it; the ratio is the median of these pairs."""
    wanted = [name for name in WORDS if name in only or not only]
    if "cut_off" in wanted and (why := why_not()):
        say(f"packets are not lost here: {why}")
        wanted.remove("cut_off")
    healthy: list[Run] = []
    runs: dict[str, list[Run]] = {name: [] for name in wanted}
    ratios: dict[str, list[float]] = {name: [] for name in wanted}
    rig.stop(_VICTIM)
    with host_of_its_own() as host:
        port = int(rig.address(_VICTIM).rpartition(":")[2])
        address = f"{host.address}:{port}"
        rig.start_store(_VICTIM, address, host.inside)
        with rig.elsewhere({_VICTIM: address}), rig.ours():
            for number in range(rounds):
                for fault in wanted:
                    rig.until(lambda: _filled(rig), f"{_VICTIM} is filled in", within=300)
                    healthy.append(measure(rig, CLIENTS, seconds))
                    with _fault(rig, host, port, fault):
                        runs[fault].append(measure(rig, CLIENTS, seconds))
                    ratios[fault].append(runs[fault][-1].tps / healthy[-1].tps)
                    say(f"round {number + 1}, {WORDS[fault]}: {ratios[fault][-1]:.2f} of healthy")
        rig.stop(_VICTIM)
    rig.start_store(_VICTIM)
    found = {name: {**middle(of), "of_healthy": round(median(ratios[name]), 3)} for name, of in runs.items()}
    return {"healthy": middle(healthy), **found}


def _fault(rig: Rig, host: Host, port: int, fault: str) -> AbstractContextManager[None]:
    match fault:
        case "stopped":
            return _stopped(rig)
        case "cut_off":
            return _cut_off(host)
        case "slow":
            return _behind(rig, host, port, delay=0.15)
        case "black_hole":
            return _behind(rig, host, port, hole=True)
        case _:
            return _behind(rig, host, port, answer=503)


@contextmanager
def _stopped(rig: Rig) -> Iterator[None]:
    victim = rig.processes[_VICTIM].pid
    os.kill(victim, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(victim, signal.SIGCONT)


@contextmanager
def _cut_off(host: Host) -> Iterator[None]:
    host.cable(plugged=False)
    try:
        yield
    finally:
        host.cable(plugged=True)


@contextmanager
def _behind(rig: Rig, host: Host, port: int, **how: Any) -> Iterator[None]:
    """The store moves to another port, and the relay stands at the one that it is known by."""
    (moved,) = free_ports(1)
    rig.stop(_VICTIM)
    rig.start_store(_VICTIM, f"{host.address}:{moved}", host.inside)
    try:
        with relay(rig, [(port, moved)], host, **how):
            yield
    finally:
        rig.stop(_VICTIM)
        rig.start_store(_VICTIM, f"{host.address}:{port}", host.inside)


def _filled(rig: Rig) -> bool:
    time.sleep(1)
    stores = rig.json("status")["leader"]["stores"]
    return all(
        store["state"] == "voting" and not store["missing"] and store["waiting_bytes"] < 1 << 20 for store in stores
    )
