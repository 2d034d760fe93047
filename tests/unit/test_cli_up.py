"""`threefold up` stops what it started, whoever still listens to it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from threefold.cli import up
from threefold.cli.output import Output
from threefold.kernel.errors import Refused
from threefold.local.home import Home
from threefold.settings import Settings


class _Stack:
    """Starts so many processes, and then refuses."""

    started: list[str]

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    async def start_stores(self, **_: Any) -> None:
        raise Refused("S1 runs already")

    async def stop(self) -> None:
        pass


def _run(monkeypatch: pytest.MonkeyPatch, output: Output, started: list[str]) -> None:
    monkeypatch.setattr(up, "Stack", type("_Started", (_Stack,), {"started": started}))
    asyncio.run(up._up(Home(Path("/nowhere"), Settings.model_construct()), output, recover=False, new_store=None))


@pytest.mark.parametrize("broken", [BrokenPipeError(), SystemExit(1)])
def test_a_closed_pipe_leaves_nothing_running(monkeypatch: pytest.MonkeyPatch, broken: BaseException) -> None:
    stopped: list[bool] = []

    async def stop(_: _Stack) -> None:
        stopped.append(True)

    def note(_: Output, text: str) -> None:
        if text.startswith("stopping"):
            raise broken

    monkeypatch.setattr(_Stack, "stop", stop)
    monkeypatch.setattr(Output, "note", note)
    with pytest.raises(type(broken)):
        _run(monkeypatch, Output(), ["S1"])
    assert stopped == [True]


@pytest.mark.parametrize(("started", "said"), [([], []), (["PostgreSQL", "S1"], ["stopping: PostgreSQL, S1"])])
def test_only_what_was_started_is_named(monkeypatch: pytest.MonkeyPatch, started: list[str], said: list[str]) -> None:
    notes: list[str] = []
    monkeypatch.setattr(Output, "note", lambda _, text: notes.append(text))
    with pytest.raises(Refused):
        _run(monkeypatch, Output(), started)
    assert [note for note in notes if note.startswith("stopping")] == said
