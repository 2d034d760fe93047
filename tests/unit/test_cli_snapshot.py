"""When `threefold snapshot` may say that the log of a snapshot is safe."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from threefold.kernel.clock import SystemClock
from threefold.kernel.errors import Refused
from threefold.kernel.lsn import Lsn
from threefold.postgres.replication import Identity
from threefold.protect import settled as module

NO_KEY: Any = None


@pytest.mark.parametrize(("system", "timeline", "safe"), [(7, 1, True), (8, 1, False), (7, 2, False)])
async def test_only_the_same_log_counts(
    monkeypatch: pytest.MonkeyPatch, system: int, timeline: int, safe: bool
) -> None:
    """A leader far ahead on another timeline says nothing of this PostgreSQL's WAL."""

    async def leader(*_: Any) -> Any:
        return SimpleNamespace(epoch=1, beat=1, settled=Lsn(100), system_identifier=system, timeline=timeline)

    monkeypatch.setattr(module, "read_leader", leader)
    waiting = module.until_settled({}, NO_KEY, SystemClock(), Identity(7, 1, Lsn(90)), Lsn(90))
    if safe:
        await waiting
    else:
        with pytest.raises(Refused):
            await waiting
