"""Clients of the CRM in processes of their own: a number of requests in flight, each on a connection of its own.

Everything that a client has to compute is computed before the clock runs: requests are made as the bytes that go onto
the wire, with their proofs signed. What is left is writing them and finding the end of each answer, so that on two
cores the clients take as little as they can of what the server needs. A proof holds for a minute, which bounds how
long one measurement may take.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final

import uvloop
from tests.edge_client import Client

PROCESSES: Final = 2
_MOST_SECONDS: Final = 40.0  # of a proof's sixty; the rest is for making them


@dataclass(frozen=True, slots=True)
class Ask:
    method: str
    target: str
    body: bytes = b""
    key: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """Answers for each second, and how long they took."""

    rps: float
    p50_ms: float
    p99_ms: float
    bytes: int  # of a typical answer


Asks = Callable[[int], Ask]  # of a running number


def measure(port: int, clients: Sequence[Client], ask: Asks, flight: int, seconds: float, most_rps: float) -> Run:
    """``clients``: sessions, dealt out to the connections. ``most_rps``: for how many a second proofs are made."""
    seconds = min(seconds, _MOST_SECONDS)
    fork = multiprocessing.get_context("fork")
    barrier = fork.Barrier(PROCESSES)
    each = flight // PROCESSES
    many = int(most_rps * seconds / PROCESSES)
    pipes, processes = [], []
    for number in range(PROCESSES):
        ours, theirs = fork.Pipe(duplex=False)
        mine = [clients[(number + PROCESSES * n) % len(clients)] for n in range(each)]
        work = _Work(port, mine, ask, range(number * many, (number + 1) * many), seconds)
        process = fork.Process(target=_child, args=(work, barrier, theirs))
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    answers = [pipe.recv() for pipe in pipes]
    for process in processes:
        process.join()
    wrong = [answer for answer in answers if isinstance(answer, str)]
    if wrong:
        raise RuntimeError(f"a request went wrong: {wrong[0]}")
    took = sorted(one for latencies, _, _ in answers for one in latencies)
    rps = sum(len(latencies) / lasted for latencies, lasted, _ in answers)
    return Run(rps, took[len(took) // 2] * 1000, took[len(took) * 99 // 100] * 1000, answers[0][2])


@dataclass(frozen=True, slots=True)
class _Work:
    port: int
    clients: Sequence[Client]  # one a connection
    ask: Asks
    numbers: range
    seconds: float

    def requests(self) -> list[list[bytes]]:
        """By connection."""
        made: list[list[bytes]] = [[] for _ in self.clients]
        for place, number in enumerate(self.numbers):
            at = place % len(self.clients)
            made[at].append(raw(self.clients[at], self.ask(number)))
        return made


def raw(client: Client, ask: Ask) -> bytes:
    """The request as it goes onto the wire."""
    said = {"Host": client.origin.partition("//")[2], "Accept": "*/*", **client.headers(ask.method, ask.target)}
    if ask.key:
        said["Idempotency-Key"] = ask.key
    if ask.body:
        said |= {"Content-Type": "application/json", "Content-Length": str(len(ask.body))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in said.items())
    return f"{ask.method} {ask.target} HTTP/1.1\r\n{lines}\r\n".encode() + ask.body


def _child(work: _Work, barrier: Any, pipe: Connection) -> None:
    try:
        requests = work.requests()
        barrier.wait()
        pipe.send(uvloop.run(_all(work, requests)))
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent has to hear of it
        pipe.send(f"{type(error).__name__}: {error}")
        barrier.abort()


async def _all(work: _Work, requests: list[list[bytes]]) -> tuple[list[float], float, int]:
    loop = asyncio.get_running_loop()
    end = time.perf_counter() + work.seconds
    connections = []
    for mine in requests:
        done = loop.create_future()
        protocol = _Connection(iter(mine), end, done)
        await loop.create_connection(lambda made=protocol: made, "127.0.0.1", work.port)  # type: ignore[misc]  # a protocol is what it gives
        connections.append(protocol)
    began = time.perf_counter()
    for connection in connections:
        connection.next()
    await asyncio.gather(*(connection.done for connection in connections))
    lasted = time.perf_counter() - began
    latencies = [one for connection in connections for one in connection.took]
    return latencies, lasted, max(connection.size for connection in connections)


class _Connection(asyncio.Protocol):
    """One request after the other."""

    def __init__(self, requests: Iterator[bytes], end: float, done: asyncio.Future[None]) -> None:
        self.done = done
        self.took: list[float] = []
        self.size = 0
        self._requests = requests
        self._end = end
        self._buffer = b""
        self._began = 0.0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("the server closed the connection"))

    def next(self) -> None:
        request = next(self._requests, None)
        self._began = time.perf_counter()
        if request is None or self._began > self._end:
            self.done.set_result(None)
            self._transport.close()
        else:
            self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        at = self._buffer.find(b"content-length: ", 0, head)
        length = int(self._buffer[at + 16 : self._buffer.index(b"\r\n", at)])
        if len(self._buffer) < head + 4 + length:
            return
        if self._buffer[9:10] != b"2":
            if not self.done.done():
                self.done.set_exception(RuntimeError(self._buffer[: head + 400].decode(errors="replace")))
            self._transport.close()
            return
        self.took.append(time.perf_counter() - self._began)
        self.size = max(self.size, length)
        self._buffer = b""
        self.next()
