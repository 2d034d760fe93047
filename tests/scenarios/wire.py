"""The wire: a process that carries IP packets between the hosts of the scenarios, as well or as badly as it is told.

Why not ``tc netem``: many kernels (virtual machines, CI, the one this was written on) are built without it, and without
iptables. A TUN device in each namespace, all held by one process, needs neither, makes every direction of every pair
its own link (asymmetric faults come for free), and dies with its process, so that nothing is left behind. Without a
header of virtual network offloads on the device (IFF_VNET_HDR) the kernel hands over whole packets with whole
checksums.

    python -m tests.scenarios.wire NAMESPACE=HOST=ADDRESS ...

Then one JSON object a line on stdin, each answered by a line on stdout once it holds:
``{"links": [["a", "b"], ..], "delay": s, "jitter": s, "loss": 0..1, "cut": bool, "flap": [up s, down s], "rate": B/s}``
sets these directed links from there on (what is not given becomes perfect again); ``{"stats": true}`` answers what was
carried. A packet that a link cannot take within `_QUEUE_S` of waiting for its rate is dropped, as a router does.

The kernel's queue in front of a TUN device is 500 packets: whoever sends more at once waits as TCP does.

Measured on two cores of a virtual machine (measure.py): a round trip of 200 bytes takes 66 us (p99 190 us), one stream
carries 400 MiB/s. A commit of the company takes about 5 ms, six crossings among it: the wire is a tenth of that.
"""

from __future__ import annotations

import fcntl
import heapq
import json
import os
import random
import select
import socket
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tests.scenarios.netns import entered, ip

MTU = 9000
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_BATCH = 64  # packets of one device before the others have their turn
_QUEUE_S = 0.5
DEVICE = "wire0"


@dataclass(slots=True)
class Link:
    """One direction of one pair."""

    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    cut: bool = False
    flap: tuple[float, float] | None = None
    rate: float | None = None
    since: float = 0.0
    free_at: float = 0.0  # when what was sent before has left, at this rate
    carried: int = 0
    dropped: int = 0
    perfect: bool = field(default=True)

    @classmethod
    def told(cls, told: dict[str, Any], now: float) -> Link:
        link = cls(
            delay=told.get("delay", 0.0),
            jitter=told.get("jitter", 0.0),
            loss=told.get("loss", 0.0),
            cut=told.get("cut", False),
            flap=tuple(told["flap"]) if told.get("flap") else None,
            rate=told.get("rate"),
            since=now,
        )
        link.perfect = not (link.delay or link.jitter or link.loss or link.cut or link.flap or link.rate)
        return link

    def arrival(self, size: int, now: float, chance: Callable[[], float]) -> float | None:
        """When a packet that is sent now arrives; None: never."""
        if self.cut or (self.loss and chance() < self.loss):
            return None
        if self.flap is not None:
            up, down = self.flap
            if (now - self.since) % (up + down) >= up:
                return None
        at = now
        if self.rate is not None:
            if self.free_at > now + _QUEUE_S:
                return None
            self.free_at = at = max(now, self.free_at) + size / self.rate
        return at + self.delay + (self.jitter * chance() if self.jitter else 0.0)


class Wire:
    """Everything between the hosts."""

    def __init__(self, hosts: list[tuple[str, str, str]], seed: int = 1) -> None:
        """``hosts``: namespace, host, address of each."""
        self._chance = random.Random(seed).random
        self._files = {host: _open_tun(namespace, address) for namespace, host, address in hosts}
        at = {host: socket.inet_aton(address) for _, host, address in hosts}
        names = list(self._files)
        self._links = {(a, b): Link() for a in names for b in names if a != b}
        # By the file that a packet comes from, then by the address that it goes to.
        self._ways = {self._files[a]: {at[b]: (self._files[b], (a, b)) for b in names if b != a} for a in names}
        self._late: list[tuple[float, int, int, bytes]] = []
        self._number = 0

    def run(self) -> None:
        poll = select.epoll()
        for file in self._files.values():
            poll.register(file, select.EPOLLIN)
        poll.register(sys.stdin.fileno(), select.EPOLLIN)
        said = b""
        while True:
            wait = max(0.0, self._late[0][0] - time.monotonic()) if self._late else -1
            for file, _ in poll.poll(wait):
                if file in self._ways:
                    self._carry(file)
                    continue
                read = os.read(file, 65536)
                if not read:
                    return
                *lines, said = (said + read).split(b"\n")
                for line in lines:
                    print(json.dumps(self._told(json.loads(line))), flush=True)
            if self._late:
                self._deliver()

    def _carry(self, file: int) -> None:
        ways, links = self._ways[file], self._links
        for _ in range(_BATCH):
            try:
                packet = os.read(file, 65536)
            except BlockingIOError:
                return
            way = ways.get(packet[16:20])
            if way is None:
                continue  # IPv6's own business, or nobody's address
            to, pair = way
            link = links[pair]
            if link.perfect:
                link.carried += 1
                with suppress(OSError):
                    os.write(to, packet)
                continue
            now = time.monotonic()
            at = link.arrival(len(packet), now, self._chance)
            if at is None:
                link.dropped += 1
            elif at <= now:
                link.carried += 1
                with suppress(OSError):
                    os.write(to, packet)
            else:
                link.carried += 1
                self._number += 1
                heapq.heappush(self._late, (at, self._number, to, packet))

    def _deliver(self) -> None:
        now = time.monotonic()
        while self._late and self._late[0][0] <= now:
            _, _, to, packet = heapq.heappop(self._late)
            with suppress(OSError):
                os.write(to, packet)

    def _told(self, told: dict[str, Any]) -> dict[str, Any]:
        if told.get("stats"):
            return {f"{a}>{b}": [link.carried, link.dropped] for (a, b), link in self._links.items()}
        now = time.monotonic()
        for a, b in told["links"]:
            # A link that is cut loses what is under way as well; one that is only slowed down does not.
            if told.get("cut"):
                self._lose(self._files[b])
            self._links[(a, b)] = Link.told(told, now)
        return {"links": len(told["links"])}

    def _lose(self, to: int) -> None:
        self._late = [each for each in self._late if each[2] != to]
        heapq.heapify(self._late)


def _open_tun(namespace: str, address: str) -> int:
    """The device lives as long as this file is open. It is made in the namespace, and held from here."""
    with entered(namespace):
        file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(file, _TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), _IFF_TUN | _IFF_NO_PI))
    ip("-n", namespace, "address", "add", f"{address}/24", "dev", DEVICE)
    ip("-n", namespace, "link", "set", DEVICE, "mtu", str(MTU), "up")
    return file


def main() -> None:
    hosts = [tuple(each.split("=")) for each in sys.argv[1:]]
    with suppress(OSError):
        os.nice(-15)  # a network does not wait for the machines on it
    wire = Wire(hosts)  # type: ignore[arg-type]
    print(json.dumps({"ready": True}), flush=True)
    wire.run()


if __name__ == "__main__":
    main()
