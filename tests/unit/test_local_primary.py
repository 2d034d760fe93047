"""`threefold up`'s own PostgreSQL: made whole or not at all, of the right version, and waited for."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from threefold.kernel.clock import SystemClock
from threefold.kernel.errors import Unavailable
from threefold.local import primary
from threefold.local.create import create_home
from threefold.local.home import Home
from threefold.local.lost_primary import Found, look

done: list[str] = []


class _Server:
    """What a server would do to its folder, told in `done`."""

    interrupted = ""

    def __init__(self, binaries: int | None, data_dir: Path, *_: Any, **__: Any) -> None:
        self.binaries = binaries
        self.data_dir = data_dir
        self.pid: int | None = None

    def _do(self, what: str) -> None:
        done.append(f"{what} {self.data_dir.name}")
        if self.interrupted == what:
            raise asyncio.CancelledError

    async def initdb(self, *, password: str) -> None:
        assert password
        self.data_dir.mkdir()
        (self.data_dir / "PG_VERSION").write_text("18\n")
        self._do("initdb")

    async def start(self) -> None:
        self._do("start")
        self.pid = 1

    async def stop(self, *_: Any, **__: Any) -> None:
        self._do("stop")
        self.pid = None

    def kill(self) -> None:
        if self.pid is not None:
            done.append(f"kill {self.data_dir.name}")
        self.pid = None


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    done.clear()
    monkeypatch.setattr(primary, "Server", _Server)
    monkeypatch.setattr(primary, "find_binaries", lambda major, _: major)
    monkeypatch.setattr(primary.Primary, "_prepare", lambda _: done.append("prepare"))
    create_home(tmp_path / "crm")
    return Home.at(tmp_path / "crm")


def test_a_primary_that_takes_no_connections_yet_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(primary, "_STREAMING_PATIENCE_S", 0.3)
    create_home(tmp_path / "crm")
    ours = primary.Primary(Home.at(tmp_path / "crm"), SystemClock())
    with pytest.raises(Unavailable, match=r"does not stream after 0\.3 s"):  # nobody listens there
        asyncio.run(ours.wait_until_streaming())


def test_its_programs_are_those_of_the_database_that_is_there_when_it_starts(home: Home) -> None:
    ours = primary.Primary(home, SystemClock())
    assert ours.pid is None
    home.primary.mkdir()  # a recovery laid it down meanwhile
    (home.primary / "PG_VERSION").write_text("15\n")
    assert not asyncio.run(ours.start())
    assert ours.server.binaries == 15  # type: ignore[comparison-overlap]


@pytest.mark.parametrize("what", ["initdb", "start", "stop"])
def test_a_database_is_made_whole_or_not_at_all(home: Home, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.setattr(_Server, "interrupted", what)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(primary.Primary(home, SystemClock()).start())
    assert look(home.primary) is Found.NOTHING
    assert what != "stop" or done[-1].startswith("kill")  # nothing is left running

    done.clear()
    monkeypatch.setattr(_Server, "interrupted", "")
    assert asyncio.run(primary.Primary(home, SystemClock()).start())
    draft = "primary.threefold-new"
    assert done == [f"initdb {draft}", f"start {draft}", "prepare", f"stop {draft}", "start primary"]
    assert look(home.primary) is Found.DATABASE
    assert not (home.folder / draft).exists()


def test_it_may_be_a_link_to_another_disk(home: Home, tmp_path: Path) -> None:
    (tmp_path / "disk" / "database").mkdir(parents=True)
    home.primary.symlink_to(tmp_path / "disk" / "database")
    assert asyncio.run(primary.Primary(home, SystemClock()).start())
    assert (tmp_path / "disk" / "database" / "PG_VERSION").exists()
    assert [each.name for each in (tmp_path / "disk").iterdir()] == ["database"]


def test_a_server_that_somebody_else_runs_there_is_not_stopped(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.primary.mkdir()
    (home.primary / "PG_VERSION").write_text("18\n")

    class Theirs(_Server):
        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, **more)
            self.pid = 7

    monkeypatch.setattr(primary, "Server", Theirs)
    ours = primary.Primary(home, SystemClock())
    asyncio.run(ours.start())
    asyncio.run(ours.stop())
    assert done == ["start primary"]
