"""`threefold up` and the verbs that it runs: what they say, how they end, and that they end with it."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from threefold.kernel.clock import SystemClock
from threefold.kernel.errors import Damaged, Refused, ThreefoldError, Unavailable
from threefold.local import stack as stack_module
from threefold.local.create import create_home
from threefold.local.home import Home
from threefold.local.stack import Stack

_RESULT = json.dumps({"type": "result", "answer": 1})


class _Child:
    """A process of `threefold VERB`: says its lines and ends, or is waited for in vain."""

    pid = 4711

    def __init__(self, lines: list[str], hear: Callable[[str, str], None], stuck: asyncio.Event | None) -> None:
        self._lines, self._hear, self._stuck = lines, hear, stuck
        self.last_line = lines[-1] if lines else ""
        self.stopped: signal.Signals | None = None

    async def ended(self) -> int:
        for line in self._lines:
            self._hear("verb", line)
        if self._stuck is not None:
            self._stuck.set()
            await asyncio.sleep(60)
        return 0

    async def stop(self, within: float = 15, number: signal.Signals = signal.SIGTERM) -> None:
        self.stopped = number


@pytest.fixture
def home(tmp_path: Path) -> Home:
    create_home(tmp_path / "crm")
    return Home.at(tmp_path / "crm")


@pytest.fixture
def stack(home: Home) -> Stack:
    return Stack(home, SystemClock(), lambda _, __: None)


def _says(
    monkeypatch: pytest.MonkeyPatch,
    *lines: str,
    stuck: asyncio.Event | None = None,
    looks: Callable[[], None] = lambda: None,
) -> list[_Child]:
    """What the next verbs say. ``looks`` is called while they run."""
    children: list[_Child] = []

    async def start(_: str, __: Any, hear: Callable[[str, str], None], **___: Any) -> _Child:
        def hears(who: str, line: str) -> None:
            looks()
            hear(who, line)

        children.append(_Child(list(lines), hears, stuck))
        return children[-1]

    monkeypatch.setattr(stack_module, "start", start)
    return children


def test_a_line_that_is_no_object_is_passed_over(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    note = json.dumps({"type": "note", "text": "half of it"})
    _says(monkeypatch, "3", "null", '["a"]', "a warning", note, '{"type": "note"}', _RESULT, "4")
    assert asyncio.run(stack.run("snapshot", note=heard.append))["answer"] == 1
    assert heard == ["  half of it", "  "]


@pytest.mark.parametrize(
    ("kind", "raised"), [("Refused", Refused), ("Damaged", Damaged), ("OtherKey", Unavailable), (None, Unavailable)]
)
def test_it_ends_with_the_kind_of_error_that_the_verb_ended_with(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, kind: str | None, raised: type[Exception]
) -> None:
    _says(monkeypatch, json.dumps({"type": "error", "kind": kind, "error": "it is so", "hint": "do this"}))
    with pytest.raises(raised, match="recover: it is so") as caught:
        asyncio.run(stack.run("recover"))
    assert type(caught.value) is raised


def test_its_process_id_lies_in_run_as_long_as_it_runs(
    home: Home, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    _says(monkeypatch, _RESULT, looks=lambda: seen.append(home.pid_file("crm-sample").read_text()))
    asyncio.run(stack.run("crm sample"))
    assert seen == ["4711\n"]
    assert not home.pid_file("crm-sample").exists()


@pytest.fixture
def stopped(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was stopped of a recovery into a primary that is gone."""
    found: list[str] = []

    async def stop_recovered() -> None:
        found.append("the recovered server")

    monkeypatch.setattr(stack.primary, "stop_recovered", stop_recovered)
    monkeypatch.setattr(stack_module, "refuse_taken", lambda *_: None)  # whatever else runs on this machine
    return found


@pytest.mark.parametrize("line", [_RESULT, json.dumps({"type": "error", "kind": "Refused", "error": "no"})])
def test_the_server_of_a_recovery_is_stopped_however_that_ends(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, stopped: list[str], line: str
) -> None:
    _says(monkeypatch, line)
    ran = asyncio.run(_outcome(stack._recover_primary(lambda _: None)))
    assert isinstance(ran, Refused) == (line != _RESULT)
    assert stopped == ["the recovered server"]


def test_a_ctrl_c_stops_the_recovery_and_its_server(
    home: Home, stack: Stack, monkeypatch: pytest.MonkeyPatch, stopped: list[str]
) -> None:
    async def interrupted() -> list[_Child]:
        stuck = asyncio.Event()
        children = _says(monkeypatch, stuck=stuck)
        working = asyncio.create_task(stack._recover_primary(lambda _: None))
        await stuck.wait()
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working
        return children

    (child,) = asyncio.run(interrupted())
    assert child.stopped is signal.SIGINT
    assert stopped == ["the recovered server"]
    assert not home.pid_file("recover").exists()


@pytest.mark.parametrize("check", ["refuse_running", "refuse_taken"])
def test_a_server_that_runs_there_already_is_left_alone(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, stopped: list[str], check: str
) -> None:
    def refuses(*_: Any) -> None:
        raise Refused("PostgreSQL is running there")

    monkeypatch.setattr(stack_module, check, refuses)
    assert isinstance(asyncio.run(_outcome(stack._recover_primary(lambda _: None))), Refused)
    assert stopped == []


def test_what_lies_in_the_way_is_refused_before_anything_is_started(home: Home, stack: Stack) -> None:
    home.primary.mkdir()
    (home.primary / "lost+found").mkdir()
    with pytest.raises(Refused, match="is not empty either"):
        asyncio.run(stack.start_stores())
    assert stack.children == {}


def test_a_database_that_is_there_is_not_recovered(home: Home, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    home.primary.mkdir()
    (home.primary / "PG_VERSION").write_text("18\n")
    children = _says(monkeypatch, _RESULT)
    said: list[str] = []
    asyncio.run(stack.recover_primary(True, said.append))
    assert said == [f"{home.primary} is there: nothing to get back"]
    assert children == []


def test_a_store_whose_place_is_taken_is_not_begun(home: Home, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    def taken(address: str, name: str) -> None:
        raise Refused(f"something answers at {address}: {name}")

    monkeypatch.setattr(stack_module, "refuse_taken", taken)
    shutil.rmtree(home.storage("S3"))
    assert isinstance(asyncio.run(_outcome(stack.begin_store("S3"))), Refused)
    assert not home.storage("S3").exists()
    assert isinstance(asyncio.run(_outcome(stack.start_store(home.settings.store[0]))), Refused)
    assert stack.children == {}


async def _outcome(work: Any) -> ThreefoldError | None:
    try:
        await work
    except ThreefoldError as error:
        return error
    return None
