from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
from tests.conformance import products, servers
from tests.conformance import seaweedfs as weed
from tests.conformance.products import Missing
from tests.conformance.servers import Server


def pytest_collection_finish(session: pytest.Session) -> None:
    """What this session's tests need begins to be fetched, while others run."""
    if not session.config.option.collectonly:
        products.ahead(set().union(*map(_names, session.items)))


def _names(item: pytest.Item) -> set[object]:
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return {*getattr(item, "fixturenames", ()), *(each for each in parameters if isinstance(each, str))}


def pytest_unconfigure() -> None:
    products.give_up()


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


@pytest.fixture(scope="session")
def seaweedfs() -> Iterator[Server]:
    yield from _session(weed.seaweedfs)


@pytest.fixture(scope="session")
def real() -> Iterator[Server]:
    """Whatever the environment names; only then do tests ask for it."""
    yield from _session(servers.real)
