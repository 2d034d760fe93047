"""Network namespaces of this test run: made, entered, and gone afterwards, also after a crash.

A namespace is one host of the scenarios. Its name holds the process id of the run (``tf-{pid}-{host}``), so that two
runs do not meet, and so that whoever comes next can remove what a killed run left: its number is nobody's any more,
or somebody's who runs no Python.

A process is put into a namespace when it is made: the thread that forks is moved for the moment of the fork (`inside`).
Its host name is changed with it, in a UTS namespace of its own: two hosts with one name would be one machine to
``kernel/machine.py``, and a waiting DRaaS server would look for the leader's process number among its own.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

_PLACE = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_CLONE_NEWUTS = 0x04000000
_libc = ctypes.CDLL(None, use_errno=True)


def why_not() -> str:
    """What this machine lacks for namespaces and TUN devices; "" where nothing is missing."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not os.access("/dev/net/tun", os.W_OK):
        return "the links between the namespaces need /dev/net/tun"
    if subprocess.run(["ip", "-V"], capture_output=True, check=False).returncode:
        return "network namespaces are made with iproute2's `ip`"
    probe = f"tf-{os.getpid()}-probe"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"no network namespace can be made here: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "delete", probe], check=True)
    return ""


class Namespace:
    """One host's network. ``name`` is the host's."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.name = f"tf-{os.getpid()}-{host}"
        ip("netns", "add", self.name)
        ip("-n", self.name, "link", "set", "lo", "up")

    @contextmanager
    def inside(self) -> Iterator[None]:
        """This thread, and what it forks meanwhile, is on that host. Nothing may be awaited in between."""
        with entered(self.name):
            before = os.open("/proc/thread-self/ns/uts", os.O_RDONLY)
            try:
                _check(_libc.unshare(_CLONE_NEWUTS))
                name = self.host.encode()
                _check(_libc.sethostname(name, len(name)))
                yield
            finally:
                _enter(before, _CLONE_NEWUTS)
                os.close(before)

    def processes(self) -> list[psutil.Process]:
        """Who is there now."""
        listed = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True, check=False)
        found = []
        for pid in listed.stdout.split():
            with suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(int(pid)))
        return found

    def kill(self) -> None:
        """kill -9 of everything on that host, at one instant: stopped first, so that nobody sees another die."""
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for process in self.processes():
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
        # Who forked in that moment is met by the second look.
        left = self.processes()
        while left:
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left, timeout=0.05)
            left = [each for each in self.processes() if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]

    def close(self) -> None:
        self.kill()
        subprocess.run(["ip", "netns", "delete", self.name], capture_output=True, check=False)


@contextmanager
def entered(name: str) -> Iterator[None]:
    """This thread, and what it opens and forks meanwhile, is in the network of that namespace."""
    there, before = os.open(_PLACE / name, os.O_RDONLY), os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        _enter(there, _CLONE_NEWNET)
        yield
    finally:
        _enter(before, _CLONE_NEWNET)
        os.close(there)
        os.close(before)


def remove_stale() -> None:
    """Namespaces, with all that runs in them, of runs that were killed."""
    for place in _PLACE.glob("tf-*-*"):
        pid = place.name.split("-")[1]
        if not pid.isdigit() or int(pid) == os.getpid() or _is_theirs(int(pid)):
            continue
        stale = Namespace.__new__(Namespace)
        stale.host, stale.name = place.name.split("-", 2)[2], place.name
        stale.close()


def _is_theirs(pid: int) -> bool:
    """Whether that number may still be a run of tests. No times are compared: the machine's clock may have been set."""
    try:
        return any("python" in part for part in psutil.Process(pid).cmdline()[:2])
    except psutil.Error:
        return False


def ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def _enter(file: int, kind: int) -> None:
    _check(_libc.setns(file, kind))


def _check(answer: int) -> None:
    if answer:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
