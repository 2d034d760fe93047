from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
from tests.conformance import servers
from tests.conformance.servers import Missing, Server


def _session(start: Callable[[], AbstractContextManager[Server]]) -> Iterator[Server]:
    try:
        with start() as server:
            yield server
    except Missing as why:
        pytest.skip(str(why))


@pytest.fixture(scope="session")
def azurite() -> Iterator[Server]:
    yield from _session(servers.azurite)


@pytest.fixture(scope="session")
def rclone() -> Iterator[Server]:
    yield from _session(servers.rclone)


@pytest.fixture(scope="session")
def own() -> Iterator[Server]:
    yield from _session(servers.own)
