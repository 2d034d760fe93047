"""What stands between the DRaaS server and a store: the relay, and, for root, a host of its own for one store.

A host of its own is a network namespace behind a pair of veth devices: with its end of the cable pulled, packets to it
are lost as they are on the way to a site that burns.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.scenarios.netns import Namespace, ip, remove_stale

from bench.rig import Rig

_OURS, _THEIRS = "10.79.0.1", "10.79.0.2"
_DEVICE: Final = "wire0"
_ROOT = Path(__file__).parents[1]


class Relay:
    """`bench.relay` as a process of the rig, "relay" by name, so that its processor time is counted as well."""

    def __init__(self, rig: Rig, pairs: Sequence[tuple[int, int]], host: Host | None = None) -> None:
        inside = host.inside if host else ()
        at = ("--host", host.address) if host else ()
        ports = (f"{listen}:{target}" for listen, target in pairs)
        with (rig.base / "relay.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*inside, sys.executable, "-m", "bench.relay", *at, *ports],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=_ROOT,
                start_new_session=True,
            )
        rig.processes["relay"] = self._process
        self._answer()

    def tell(self, **what: Any) -> None:
        """Returns once it holds."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what).encode() + b"\n")
        self._process.stdin.flush()
        self._answer()

    def _answer(self) -> None:
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise RuntimeError("the relay ended; see relay.log")


@contextmanager
def relay(rig: Rig, pairs: Sequence[tuple[int, int]], host: Host | None = None, **how: Any) -> Iterator[Relay]:
    """``pairs``: the port that it listens on, the port behind it."""
    process = Relay(rig, pairs, host)
    try:
        process.tell(**how)
        yield process
    finally:
        rig.stop("relay", hard=True)


@dataclass(frozen=True, slots=True)
class Host:
    """Where a store runs. ``inside``: what runs a command there; () is this machine, where no cable can be pulled."""

    address: str = "127.0.0.1"
    inside: Sequence[str] = ()
    namespace: str = ""

    def cable(self, *, plugged: bool) -> None:
        ip("-n", self.namespace, "link", "set", _DEVICE, "up" if plugged else "down")


@contextmanager
def host_of_its_own() -> Iterator[Host]:
    """In a network of its own, where this is allowed."""
    if why_not():
        yield Host()
        return
    remove_stale()
    space = Namespace("bench")
    try:
        here = f"tfb{os.getpid()}"
        ip("link", "add", here, "type", "veth", "peer", "name", _DEVICE, "netns", space.name)
        ip("address", "add", f"{_OURS}/30", "dev", here)
        ip("-n", space.name, "address", "add", f"{_THEIRS}/30", "dev", _DEVICE)
        ip("link", "set", here, "up")
        ip("-n", space.name, "link", "set", _DEVICE, "up")
        # Known for good: a neighbour that does not answer would be told apart from one whose packets are lost.
        hardware = _hardware("-n", space.name, "link", "show", _DEVICE)
        ip("neighbour", "replace", _THEIRS, "lladdr", hardware, "dev", here, "nud", "permanent")
        yield Host(_THEIRS, ("ip", "netns", "exec", space.name), space.name)
    finally:
        space.close()


def why_not() -> str:
    """What is missing for a host of its own; "" where nothing is."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    probe = f"tfp{os.getpid()}"
    with suppress(OSError):
        made = subprocess.run(["ip", "link", "add", probe, "type", "veth"], capture_output=True, text=True, check=False)
        if made.returncode:
            return made.stderr.strip()
        subprocess.run(["ip", "link", "delete", probe], check=True)
        return ""
    return "network namespaces are made with iproute2's `ip`"


def _hardware(*arguments: str) -> str:
    shown = subprocess.run(["ip", "-j", *arguments], capture_output=True, text=True, check=True)
    return str(json.loads(shown.stdout)[0]["address"])
