"""What the benchmarks rest on: the relay delays each byte, both ways, slows no stream down, and fails as it is told."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import pytest

from threefold.local.create import free_ports

_ROOT = Path(__file__).parents[2]
_MEGABYTE = bytes(1 << 20)


class _Relay:
    def __init__(self, target: int) -> None:
        (self.port,) = free_ports(1)
        command = [sys.executable, "-m", "bench.relay", f"{self.port}:{target}"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=_ROOT)
        self._heard()

    def tell(self, **what: Any) -> None:
        said = cast("IO[bytes]", self.process.stdin)
        said.write(json.dumps(what).encode() + b"\n")
        said.flush()
        self._heard()

    def _heard(self) -> None:
        assert cast("IO[bytes]", self.process.stdout).readline()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=5)


@pytest.fixture
def relay() -> Iterator[_Relay]:
    """In front of a server that sends back what it gets."""
    server = socket.create_server(("127.0.0.1", 0))

    def echo(client: socket.socket) -> None:
        with client:
            while data := client.recv(1 << 20):
                client.sendall(data)

    def serve() -> None:
        while True:
            try:
                client = server.accept()[0]
            except OSError:
                return
            threading.Thread(target=echo, args=(client,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    made = _Relay(server.getsockname()[1])
    yield made
    made.process.communicate()
    server.shutdown(socket.SHUT_RDWR)
    server.close()


def _there_and_back(client: socket.socket, data: bytes) -> float:
    """Seconds until all of it is back."""
    began = time.monotonic()
    sender = threading.Thread(target=client.sendall, args=(data,))
    sender.start()
    came = bytearray()
    while len(came) < len(data):
        piece = client.recv(1 << 20)
        assert piece
        came += piece
    sender.join()
    assert came == data
    return time.monotonic() - began


def test_each_byte_comes_later_both_ways(relay: _Relay) -> None:
    relay.tell(delay=0.05)
    with relay.connect() as client:
        assert all(_there_and_back(client, b"hello") >= 0.1 for _ in range(3))


def test_a_stream_is_not_slowed_down(relay: _Relay) -> None:
    relay.tell(delay=0.05)
    with relay.connect() as client:
        # With each piece held back behind the one before, 64 of them would take 6.4 s and more.
        assert _there_and_back(client, 64 * _MEGABYTE) < 5


def test_a_hole_takes_everything_and_says_nothing(relay: _Relay) -> None:
    with relay.connect() as before:
        _there_and_back(before, b"hello")
        relay.tell(hole=True)
        with relay.connect() as client:
            for each in (before, client):
                each.settimeout(0.3)
                each.sendall(_MEGABYTE)
                with pytest.raises(TimeoutError):
                    each.recv(1)
        relay.tell()
        before.settimeout(5)
        assert before.recv(1) == b""  # what it swallowed is lost, so the stream cannot go on
    with relay.connect() as client:
        _there_and_back(client, b"hello")


def test_every_request_is_answered_as_told(relay: _Relay) -> None:
    relay.tell(answer=503)
    with relay.connect() as client:
        for _ in range(2):
            client.sendall(b"PUT /b/k HTTP/1.1\r\nContent-Length: 5\r\n\r\nhe")
            time.sleep(0.05)
            client.sendall(b"llo")
            said = b""
            while b"</Error>" not in said:
                said += client.recv(65536)
            assert said.startswith(b"HTTP/1.1 503 ")
