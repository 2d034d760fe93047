"""How good the wire is: round trips and bytes a second between two hosts, with nothing else going on.

python -m tests.scenarios.measure
"""

from __future__ import annotations

import socket
import statistics
import threading
import time

from tests.scenarios.links import ADDRESS, Network


def _serve(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_echo, args=(connection,), daemon=True).start()


def _echo(connection: socket.socket) -> None:
    kind = connection.recv(1)
    while data := connection.recv(1 << 20):
        if kind == b"e":
            connection.sendall(data)
    connection.close()


def measure(net: Network, rounds: int = 2000, size: int = 200, megabytes: int = 200) -> dict[str, float]:
    with net.namespaces["recovery"].inside():
        listener = socket.create_server((ADDRESS["recovery"], 7))
    threading.Thread(target=_serve, args=(listener,), daemon=True).start()

    def connect(kind: bytes) -> socket.socket:
        with net.namespaces["primary"].inside():
            made = socket.create_connection((ADDRESS["recovery"], 7), timeout=30)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.sendall(kind)
        return made

    with connect(b"e") as echo:
        times = []
        for _ in range(rounds):
            began = time.perf_counter()
            echo.sendall(b"x" * size)
            got = 0
            while got < size:
                got += len(echo.recv(size))
            times.append((time.perf_counter() - began) * 1e6)
    with connect(b"s") as sink:
        piece = b"x" * (1 << 20)
        began = time.perf_counter()
        for _ in range(megabytes):
            sink.sendall(piece)
        sink.shutdown(socket.SHUT_WR)
        sink.recv(1)
        took = time.perf_counter() - began
    listener.close()
    times.sort()
    return {
        "round_trip_p50_us": statistics.median(times),
        "round_trip_p99_us": times[int(len(times) * 0.99)],
        "mib_per_s": megabytes / took,
    }


if __name__ == "__main__":
    with Network() as net:
        for name, value in measure(net).items():
            print(f"{name}: {value:.0f}")
