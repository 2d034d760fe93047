"""`threefold up` waits for a primary that lets nobody in yet: a recovered one replays its log first."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from threefold.kernel.clock import SystemClock
from threefold.kernel.errors import Unavailable
from threefold.local import primary
from threefold.local.create import create_home
from threefold.local.home import Home


def test_a_primary_that_takes_no_connections_yet_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(primary, "_STREAMING_PATIENCE_S", 0.3)
    create_home(tmp_path / "crm")
    ours = primary.Primary(Home.at(tmp_path / "crm"), SystemClock())
    with pytest.raises(Unavailable, match=r"does not stream after 0\.3 s"):  # nobody listens there
        asyncio.run(ours.wait_until_streaming())
