"""Distance for a benchmark: a process that carries TCP streams, each byte a set time later, both ways.

    python -m bench.relay [--host ADDRESS] LISTEN:TARGET ...

Then one JSON object a line on stdin, each answered by a line on stdout once it holds:
``{"delay": seconds}`` one way, ``{"hole": true}`` takes connections and bytes and answers nothing, ``{"answer": 503}``
answers every HTTP request so, at once. What is not given is off. Connections that lost bytes are cut when it changes.

Why not ``tc netem``: kernels of virtual machines and of CI are often built without it. A relay in the middle is the
same for whatever is compared, and its processor time is counted beside theirs. No stream is slowed down: up to
`_HELD_BYTES` may be on their way in each direction, 800 MB/s at 10 ms. What it does not show: a TCP handshake over that
distance (connections are kept), a window that opens slowly, loss.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import sys
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

_HELD_BYTES: Final = 8 << 20
_READ_BYTES: Final = 256 << 10
_ERROR: Final = b"<?xml version='1.0'?><Error><Code>ServiceUnavailable</Code><Message>bench</Message></Error>"


@dataclass(slots=True, eq=False)
class End:
    """One end of a stream: a socket, and what is to be written to it, with the time when it arrives."""

    socket: socket.socket
    other: End | None = None  # None: nothing stands behind it
    late: deque[tuple[float, memoryview]] = field(default_factory=deque)  # b"" at the end: no more comes
    held: int = 0
    blocked: bool = False  # the socket takes nothing now
    ended: bool = False  # nothing more is read from it
    watched: int = 0
    asked: bytearray = field(default_factory=bytearray)  # of an HTTP request that is answered here
    lost: bool = False  # bytes were swallowed


class Relay:
    """Every pair of ports."""

    def __init__(self, host: str, pairs: list[tuple[int, int]]) -> None:
        self._host = host
        self._poll = select.epoll()
        self._ends: dict[int, End] = {}
        self._waiting: set[End] = set()  # something is on its way to them
        self._delay, self._hole, self._answer = 0.0, False, 0
        self._listeners: dict[int, tuple[socket.socket, int]] = {}
        for port, target in pairs:
            listener = socket.create_server((host, port), backlog=512)
            listener.setblocking(False)
            self._listeners[listener.fileno()] = (listener, target)
            self._poll.register(listener, select.EPOLLIN)
        self._poll.register(sys.stdin.fileno(), select.EPOLLIN)

    def run(self) -> None:
        """Until stdin ends."""
        said = b""
        while True:
            due = min((end.late[0][0] for end in self._waiting if not end.blocked), default=None)
            # epoll counts in milliseconds, select in microseconds.
            select.select([self._poll], [], [], None if due is None else max(0.0, due - time.monotonic()))
            for file, events in self._poll.poll(0):
                if file in self._ends:
                    self._ready(self._ends[file], events)
                elif file in self._listeners:
                    self._accept(*self._listeners[file])
                elif file == sys.stdin.fileno():
                    read = os.read(file, 65536)
                    if not read:
                        return
                    *lines, said = (said + read).split(b"\n")
                    for line in lines:
                        self._told(json.loads(line))
                        print(json.dumps({"links": len(self._ends)}), flush=True)
            now = time.monotonic()
            for end in [each for each in self._waiting if not each.blocked]:
                self._deliver(end, now)

    def _told(self, told: dict[str, Any]) -> None:
        before = (self._hole, self._answer)
        self._delay, self._hole, self._answer = told.get("delay", 0.0), told.get("hole", False), told.get("answer", 0)
        for end in list(self._ends.values()):
            if end.lost or (self._answer and before[1] != self._answer):
                self._close(end)

    def _accept(self, listener: socket.socket, target: int) -> None:
        with suppress(BlockingIOError, ConnectionError):
            here = End(listener.accept()[0])
            self._add(here)
            if not (self._hole or self._answer):
                with suppress(OSError):
                    here.other = End(socket.create_connection((self._host, target), timeout=5), here)
                    self._add(here.other)
                if here.other is None:
                    self._close(here)

    def _add(self, end: End) -> None:
        end.socket.setblocking(False)
        end.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._ends[end.socket.fileno()] = end
        end.watched = select.EPOLLIN
        self._poll.register(end.socket, end.watched)

    def _ready(self, end: End, events: int) -> None:
        gone = events & (select.EPOLLHUP | select.EPOLLERR)
        if gone and end.ended:
            self._close(end)
            return
        if gone or events & select.EPOLLIN:
            self._read(end)
        if events & select.EPOLLOUT:
            end.blocked = False

    def _read(self, end: End) -> None:
        try:
            data = end.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self._close(end)
            return
        if self._hole and data:
            end.lost = True
        elif end.other is None:
            if data and self._answer:
                self._reply(end, data)
            else:
                self._close(end)
        else:
            to = end.other
            to.late.append((time.monotonic() + self._delay, memoryview(data)))
            to.held += len(data)
            self._waiting.add(to)
            end.ended = not data
            self._watch(end)

    def _reply(self, end: End, data: bytes) -> None:
        """An answer for each request that has come whole."""
        end.asked += data
        while (head := end.asked.find(b"\r\n\r\n")) >= 0:
            fields = bytes(end.asked[:head]).lower().split(b"\r\n")
            length = next((int(each.partition(b":")[2]) for each in fields if each.startswith(b"content-length:")), 0)
            if len(end.asked) < head + 4 + length:
                return
            method = fields[0].partition(b" ")[0]
            del end.asked[: head + 4 + length]
            reply = f"HTTP/1.1 {self._answer} Bench\r\ncontent-length: {len(_ERROR)}\r\n\r\n".encode()
            with suppress(OSError):
                end.socket.send(reply if method == b"head" else reply + _ERROR)

    def _deliver(self, end: End, now: float) -> None:
        while end.late and end.late[0][0] <= now:
            at, data = end.late[0]
            try:
                if data:
                    sent = end.socket.send(data)
                else:
                    sent = 0
                    end.socket.shutdown(socket.SHUT_WR)
            except BlockingIOError:
                end.blocked = True
                break
            except OSError:
                self._close(end)
                return
            end.held -= sent
            if sent < len(data):
                end.late[0] = (at, data[sent:])
            else:
                end.late.popleft()
        if not end.late:
            self._waiting.discard(end)
        self._watch(end)
        if end.other is not None:
            self._watch(end.other)
            if not end.late and end.other.ended and end.ended and not end.other.late:
                self._close(end)

    def _watch(self, end: End) -> None:
        """Read while the other one has room, and hear when this one takes more."""
        reads = not end.ended and (end.other is None or end.other.held < _HELD_BYTES)
        wanted = (select.EPOLLIN if reads else 0) | (select.EPOLLOUT if end.blocked else 0)
        if wanted != end.watched and end.socket.fileno() in self._ends:
            end.watched = wanted
            self._poll.modify(end.socket, wanted)

    def _close(self, end: End) -> None:
        """Both ends, at once."""
        for each in (end, end.other):
            if each is not None and self._ends.pop(each.socket.fileno(), None) is not None:
                self._poll.unregister(each.socket)
                self._waiting.discard(each)
                each.socket.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.relay", description="Carry TCP streams, later.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("pairs", nargs="+", metavar="LISTEN:TARGET")
    options = parser.parse_args()
    with suppress(OSError):
        os.nice(-15)  # a network does not wait for the machines on it
    relay = Relay(options.host, [(int(a), int(b)) for a, _, b in (pair.partition(":") for pair in options.pairs)])
    print(json.dumps({"ready": True}), flush=True)
    relay.run()


if __name__ == "__main__":
    main()
