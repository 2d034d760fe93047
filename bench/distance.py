"""Every store 20 ms away (there and back), against stock tools behind the same 20 ms: three clouds, commits at home.

Three `pg_receivewal --synchronous`, ANY 2, reach the primary through the relay, as our DRaaS server beside the primary
reaches its stores through it. On one machine the relay's processor time is borne by both; it is in the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

from bench.apart import relay
from bench.commit import Run, measure, middle
from bench.rig import RECEIVERS, STORES, Rig
from threefold.local.create import free_ports

ROUND_TRIP_S: Final = 0.02
CLIENTS: Final = (1, 8, 32, 128)


def compare(
    rig: Rig, clients: int, rounds: int, seconds: float, only: Sequence[str] = (), round_trip: float = ROUND_TRIP_S
) -> dict[str, Any]:
    """Both in turn, ``rounds`` times; medians."""
    runs: dict[str, list[Run]] = {name: [] for name in ("receivers", "ours") if not only or name in only}
    for _ in range(rounds):
        for name, of in runs.items():
            with _far(rig, name, round_trip / 2):
                measure(rig, clients, 1)
                of.append(measure(rig, clients, seconds))
    return {name: middle(of) for name, of in runs.items()}


def _far(rig: Rig, name: str, delay: float) -> AbstractContextManager[None]:
    return _receivers(rig, delay) if name == "receivers" else _ours(rig, delay)


@contextmanager
def _receivers(rig: Rig, delay: float) -> Iterator[None]:
    ports = free_ports(len(RECEIVERS))
    with relay(rig, [(port, rig.home.primary_port) for port in ports], delay=delay), rig.receivers(ports=ports):
        yield


@contextmanager
def _ours(rig: Rig, delay: float) -> Iterator[None]:
    ports = dict(zip(STORES, free_ports(len(STORES)), strict=True))
    pairs = [(port, int(rig.address(name).rpartition(":")[2])) for name, port in ports.items()]
    with (
        relay(rig, pairs, delay=delay),
        rig.elsewhere({name: f"127.0.0.1:{port}" for name, port in ports.items()}),
        rig.ours(),
    ):
        yield
