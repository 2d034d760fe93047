"""What `threefold recover` makes of its arguments, before anything is asked of a store."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from threefold.cli import recover as verb
from threefold.cli.options import Given
from threefold.kernel.errors import BadInput, NotThere


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the recovery itself was told; it ends there."""
    heard: dict[str, Any] = {}

    @asynccontextmanager
    async def parts(_settings: Any, **_: Any) -> Any:
        yield SimpleNamespace(stores={}, keyring=None, clock=None, binaries=None)

    async def recover(**told: Any) -> None:
        heard.update(told)
        raise NotThere("no snapshot")

    monkeypatch.setattr(Given, "settings", lambda _: None)
    monkeypatch.setattr(verb, "open_parts", parts)
    monkeypatch.setattr(verb, "recover_now", recover)
    monkeypatch.setattr(verb, "execute", lambda work, _output: asyncio.run(work))
    return heard


def test_settings_are_laid_over_the_primarys(asked: dict[str, Any], tmp_path: Path) -> None:
    """What is not on this machine (a library, TLS) must not stand in the way of a recovery."""
    with pytest.raises(NotThere):
        verb.recover(into=tmp_path, start=True, setting=["ssl=off", "shared_preload_libraries="], as_json=True)
    assert asked["start"].settings == {"ssl": "off", "shared_preload_libraries": ""}


@pytest.mark.parametrize(("start", "setting"), [(False, "ssl=off"), (True, "ssl"), (True, "=off")])
def test_a_setting_that_would_change_nothing_is_refused(
    asked: dict[str, Any], tmp_path: Path, start: bool, setting: str
) -> None:
    with pytest.raises(BadInput):
        verb.recover(into=tmp_path, start=start, setting=[setting])
    assert asked == {}
