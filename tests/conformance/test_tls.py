"""A store with a certificate of a private authority: trusted through ca_file, and not otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from bench.tls import make_certificate
from tests.conformance import servers
from tests.conformance.servers import Server

from threefold.stores.open import open_store
from threefold.stores.store import ABSENT, Unknown


@pytest.fixture
def authority(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Files: the authority's certificate, the server's certificate, the server's key."""
    made = make_certificate(tmp_path / "tls")
    return made.authority, made.certificate, made.key


@pytest.fixture
def secure(authority: tuple[Path, Path, Path]) -> Iterator[Server]:
    with servers.own(tls=authority[1:]) as server:
        yield server


async def test_a_private_authority(secure: Server, authority: tuple[Path, Path, Path]) -> None:
    trusting = open_store(replace(secure.config, ca_file=authority[0]))
    assert await trusting.read("nothing") is ABSENT
    assert isinstance(await open_store(secure.config).read("nothing"), Unknown)
