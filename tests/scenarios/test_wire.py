"""The wire does what it is told, is no bottleneck, and nothing of a killed run stays behind."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.scenarios.links import ADDRESS, Network
from tests.scenarios.measure import measure
from tests.scenarios.netns import entered, remove_stale, why_not

_MISSING = why_not()
pytestmark = [pytest.mark.scenarios, pytest.mark.skipif(bool(_MISSING), reason=_MISSING)]


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network() as made:
        yield made


@pytest.fixture
def net(network: Network) -> Iterator[Network]:
    yield network
    network.mend()


def _socket(net: Network, host: str) -> socket.socket:
    with entered(net.namespaces[host].name):
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((ADDRESS[host], 0))
    made.settimeout(1.0)
    return made


def _arrived(net: Network, here: str, there: str, packets: int = 200) -> tuple[int, float]:
    """How many of so many datagrams, and after how long the first."""
    with _socket(net, here) as sender, _socket(net, there) as receiver:
        began = time.monotonic()
        for _ in range(packets):
            sender.sendto(b"x" * 100, receiver.getsockname())
        found, first = 0, 0.0
        try:
            while found < packets:
                receiver.recv(200)
                first = first or time.monotonic() - began
                found += 1
                receiver.settimeout(0.3)
        except TimeoutError:
            pass
    return found, first


def test_a_whole_link_loses_nothing(net: Network) -> None:
    assert _arrived(net, "primary", "recovery")[0] == 200


def test_a_cut_is_in_the_direction_that_was_named_alone(net: Network) -> None:
    net.links("primary", "recovery", one_way=True, cut=True)
    assert _arrived(net, "primary", "recovery")[0] == 0
    assert _arrived(net, "recovery", "primary")[0] == 200
    assert _arrived(net, "primary", "s1")[0] == 200


def test_delay_and_loss_are_what_was_asked_for(net: Network) -> None:
    net.links("primary", "recovery", delay=0.2)
    found, first = _arrived(net, "primary", "recovery")
    assert found == 200
    assert 0.19 < first < 0.5
    net.links("primary", "recovery", loss=0.3)
    assert 100 < _arrived(net, "primary", "recovery")[0] < 180


def test_a_link_flaps(net: Network) -> None:
    net.links("primary", "recovery", flap=(0.3, 0.3))
    seen = set()
    end = time.monotonic() + 1.5
    with _socket(net, "primary") as sender, _socket(net, "recovery") as receiver:
        receiver.settimeout(0.03)
        while time.monotonic() < end and len(seen) < 2:
            sender.sendto(b"x", receiver.getsockname())
            try:
                receiver.recv(10)
                seen.add(True)
            except TimeoutError:
                seen.add(False)
    assert seen == {True, False}


def test_a_rate_holds(net: Network) -> None:
    net.links("primary", "recovery", rate=100_000)
    began = time.monotonic()
    assert 0 < _arrived(net, "primary", "recovery", packets=300)[0] <= 300
    assert time.monotonic() - began > 0.25  # 300 packets of 128 bytes


def test_it_is_no_bottleneck_of_small_commits(net: Network) -> None:
    figures = measure(net, rounds=500, megabytes=50)
    # 66 us and 400 MiB/s where nothing else runs; a commit takes milliseconds and some kilobytes.
    assert figures["round_trip_p50_us"] < 1500, figures
    assert figures["mib_per_s"] > 20, figures


def test_what_a_killed_run_left_is_removed_by_the_next() -> None:
    program = (
        "import subprocess, sys, time\n"
        "from tests.scenarios.links import Network\n"
        "net = Network()\n"
        "with net.namespaces['s1'].inside():\n"
        "    left = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "print(left.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    assert run.stdout is not None
    left = int(run.stdout.readline())
    run.kill()
    run.wait()
    assert list(Path("/run/netns").glob(f"tf-{run.pid}-*"))
    remove_stale()
    assert not list(Path("/run/netns").glob(f"tf-{run.pid}-*"))
    end = time.monotonic() + 2
    while psutil.pid_exists(left) and psutil.Process(left).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end, "a process of the killed run goes on"
        time.sleep(0.02)
