"""The hosts of the scenarios and the links between them, as the tests use them.

with Network() as net:
    process = net.start("primary", [...], log)     # a process on that host
    net.links("primary", "recovery", cut=True)      # both ways; one_way=True: only from the first to the second
    net.mend()
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.scenarios.netns import Namespace, remove_stale

HOSTS = ("primary", "recovery", "s1", "s2", "s3", "third", "watch")
STORES = ("s1", "s2", "s3")
ADDRESS = {host: f"10.77.0.{number}" for number, host in enumerate(HOSTS, 1)}
_ROOT = Path(__file__).parents[2]


class Network:
    """Seven hosts and the wire between them. ``watch`` is the tests' own eye; its links are never broken."""

    def __init__(self) -> None:
        remove_stale()
        self.namespaces: dict[str, Namespace] = {}
        try:
            self.namespaces = {host: Namespace(host) for host in HOSTS}
            hosts = [f"{space.name}={host}={ADDRESS[host]}" for host, space in self.namespaces.items()]
            self._wire = subprocess.Popen(
                [sys.executable, "-m", "tests.scenarios.wire", *hosts],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=_ROOT,
                start_new_session=True,
            )
            self._answer()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def links(
        self, here: str | Iterable[str], there: str | Iterable[str], *, one_way: bool = False, **how: Any
    ) -> None:
        """Of each of the one with each of the other; returns once it holds. What ``how`` does not name is perfect."""
        pairs = [(a, b) for a in _hosts(here) for b in _hosts(there) if a != b]
        if not one_way:
            pairs += [(b, a) for a, b in pairs]
        self._tell({"links": pairs, **how})

    def isolate(self, host: str, **how: Any) -> None:
        """A host's links with everybody but the tests."""
        self.links(host, others(host), **(how or {"cut": True}))

    def mend(self) -> None:
        """Every link is perfect again."""
        self._tell({"links": [(a, b) for a in HOSTS for b in HOSTS if a != b]})

    def carried(self) -> dict[str, tuple[int, int]]:
        """Packets carried and dropped, by direction (``a>b``)."""
        return {link: (carried, dropped) for link, (carried, dropped) in self._tell({"stats": True}).items()}

    def close(self) -> None:
        for space in self.namespaces.values():
            space.close()
        if hasattr(self, "_wire"):
            self._wire.kill()
            self._wire.communicate()

    def _tell(self, what: dict[str, Any]) -> dict[str, Any]:
        assert self._wire.stdin is not None
        self._wire.stdin.write(json.dumps(what).encode() + b"\n")
        self._wire.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._wire.stdout is not None
        line = self._wire.stdout.readline()
        if not line:
            raise AssertionError("the wire ended; what it said stands above")
        answer: dict[str, Any] = json.loads(line)
        return answer


def others(host: str) -> list[str]:
    """All hosts but this one and the tests' own."""
    return [each for each in HOSTS if each not in {host, "watch"}]


def _hosts(given: str | Iterable[str]) -> list[str]:
    return [given] if isinstance(given, str) else list(given)
