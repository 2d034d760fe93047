"""`threefold status` where the log does not read: that is said beside what is known, and is not "no log"."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from threefold.cli import status
from threefold.cli.output import Output
from threefold.cli.status_sites import Sites
from threefold.failover.steps import Switches
from threefold.kernel.clock import SystemClock
from threefold.kernel.errors import Damaged, ThreefoldError, Unavailable
from threefold.local.create import create_home
from threefold.local.home import Home


@pytest.mark.parametrize("error", [Damaged("the log has a hole"), Unavailable("the log has a hole")])
def test_a_log_that_does_not_read_is_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: ThreefoldError
) -> None:
    @asynccontextmanager
    async def parts(*_: Any, **__: Any) -> AsyncIterator[Any]:
        yield SimpleNamespace(stores={}, keyring=None, clock=SystemClock())

    async def fails(*_: Any) -> None:
        raise error

    async def nobody(*_: Any) -> None:
        return None

    async def sites(*_: Any) -> Sites:
        return Sites(None, Switches(), {}, {}, "")

    monkeypatch.setattr(status, "open_parts", parts)
    monkeypatch.setattr(status, "read_leader", nobody)
    monkeypatch.setattr(status, "recovery_points", fails)
    monkeypatch.setattr(status.status_sites, "sites_of", sites)
    create_home(tmp_path / "crm")
    asyncio.run(status._status(Home.at(tmp_path / "crm").settings, Output(as_json=True), None))
    answer = json.loads(capsys.readouterr().out)
    assert (answer["log"], answer["trouble"]) == (None, "the log has a hole")
