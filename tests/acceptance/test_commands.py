"""The command as people and scripts meet it: words, exit codes, JSON; never a traceback."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
import typer
from typer.core import TyperGroup

from tests.promise import keep
from threefold.bootstrap_keys import keyring_from
from threefold.cli.main import make_app, run
from threefold.kernel.wraps import Passphrase, unwrap
from threefold.local.home import Home


def threefold(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("THREEFOLD_")}
    return subprocess.run(
        [sys.executable, "-m", "threefold", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**clean, **environment},
    )


def last_line(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that PostgreSQL's user can reach, which pytest's own is not."""
    folder = Path(tempfile.mkdtemp(prefix="threefold-commands-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def verbs(group: TyperGroup, *before: str) -> Iterator[tuple[str, ...]]:
    """All there are, as they are typed."""
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from verbs(command, *before, name)
        else:
            yield (*before, name)


def test_every_verb_has_help_with_an_example(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process: thirty of their own would take half a minute, and say the same."""
    everything = typer.main.get_command(make_app())
    assert isinstance(everything, TyperGroup)
    monkeypatch.setenv("COLUMNS", "120")
    found = list(verbs(everything))
    assert len(found) > 30
    for verb in found:
        monkeypatch.setattr(sys, "argv", ["threefold", *verb, "--help"])
        with pytest.raises(SystemExit) as end:
            run()
        assert end.value.code == 0, verb
        assert "Example" in capsys.readouterr().out, verb


@pytest.mark.parametrize(
    ("arguments", "code", "error", "hint"),
    [
        (["lst"], 2, "no such command 'lst'", "threefold --help"),
        (["status", "--jsn"], 2, "no such option: --jsn", "threefold status --help"),
        (["status"], 2, "there is no threefold.toml", "threefold init"),
        (["recover", "--to", "yesterday"], 2, "not a recovery target", "latest"),
        (["storage", "serve", "--data", "x", "--listen", "nowhere"], 2, "not an address", "127.0.0.1:9101"),
    ],
)
def test_a_mistake_gets_a_sentence_and_a_hint(
    tmp_path: Path, arguments: list[str], code: int, error: str, hint: str
) -> None:
    done = threefold(*arguments, cwd=tmp_path)
    assert done.returncode == code
    assert done.stdout == ""
    said, advised = done.stderr.replace("\n", " ").split("hint: ")
    assert said.startswith("error: ")
    assert error in said
    assert hint in advised
    machine = threefold(*arguments, "--json", cwd=tmp_path)
    assert (machine.returncode, machine.stderr) == (code, "")
    answer = last_line(machine)
    assert (answer["type"], answer["exit_code"]) == ("error", code)
    assert error in answer["error"]


def test_what_nobody_expected_is_a_sentence_too_and_a_traceback_only_if_asked_for(tmp_path: Path) -> None:
    (tmp_path / "threefold.toml").mkdir()  # reading it fails in a way that settings know
    assert "Traceback" not in threefold("status", cwd=tmp_path).stderr
    assert "Traceback" in threefold("--debug", "status", cwd=tmp_path).stderr


def test_init_makes_all_or_nothing_and_shows_the_passphrase_once(tmp_path: Path) -> None:
    done = threefold("init", "crm", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    passphrase = last_line(done)["passphrase"]
    home = Home.at(tmp_path / "crm")
    assert passphrase not in "".join(
        path.read_text() for path in home.folder.rglob("*") if path.suffix in {".toml", ".wrapped"}
    )
    unwrapped = unwrap((home.folder / "keys/master.wrapped").read_bytes(), Passphrase(passphrase))
    assert unwrapped.key_id == keyring_from(home.settings).key_id
    for secret in [*(home.folder / "secrets").iterdir(), *(home.folder / "keys").iterdir()]:
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600, secret
    assert home.settings.warnings() == []

    before = sorted(tmp_path.rglob("*"))
    again = threefold("init", "crm", cwd=tmp_path)
    assert again.returncode == 3
    assert "is not empty" in again.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_init_takes_a_passphrase_and_does_not_repeat_it(tmp_path: Path) -> None:
    (tmp_path / "phrase").write_text("correct horse battery\n")
    done = threefold("init", "crm", "--passphrase-file", "phrase", cwd=tmp_path)
    assert done.returncode == 0
    assert "correct horse" not in done.stdout + done.stderr
    unwrap((tmp_path / "crm/keys/master.wrapped").read_bytes(), Passphrase("correct horse battery"))
    short = threefold("init", "other", cwd=tmp_path, THREEFOLD_PASSPHRASE="short")
    assert short.returncode == 2
    assert not (tmp_path / "other").exists()


def test_two_stores_at_one_place_are_refused(tmp_path: Path) -> None:
    threefold("init", "crm", cwd=tmp_path)
    config = tmp_path / "crm/threefold.toml"
    ports = [line.split(":")[-1].rstrip('"') for line in config.read_text().splitlines() if line.startswith("endpoint")]
    config.write_text(config.read_text().replace(ports[1], ports[0]))
    done = threefold("status", "--config", str(config))
    assert done.returncode == 2
    assert "S1 and S2 are the same place" in done.stderr


def test_up_runs_everything_and_stops_it_in_order(place: Path) -> None:
    """And a wiped master key is no loss for whoever has the passphrase."""
    made = last_line(threefold("init", "crm", "--json", cwd=place))
    home = place / "crm"
    up = subprocess.Popen(
        [sys.executable, "-m", "threefold", "up", str(home), "--json"], stdout=subprocess.PIPE, text=True
    )
    assert up.stdout is not None
    try:
        answer = next(found for line in up.stdout if (found := json.loads(line))["type"] in {"result", "error"})
        assert answer["type"] == "result", answer
        config = str(home / "threefold.toml")
        status = last_line(threefold("status", "--json", "--config", config))
        assert status["leader"]["state"] == "streaming"
        assert len(status["snapshots"]) == 1
        assert threefold("check", "--config", config).returncode == 0

        second = threefold("up", str(home))
        assert second.returncode == 3
        assert "runs already" in second.stderr

        (home / "keys/master.key").unlink()
        assert threefold("list", "--config", config).returncode == 2
        found = threefold("list", "--json", "--config", config, THREEFOLD_PASSPHRASE=made["passphrase"])
        assert found.returncode == 0, found.stdout
        assert last_line(found)["log"]["timeline"] == 1
        wrong = threefold("list", "--config", config, THREEFOLD_PASSPHRASE="not the passphrase")
        assert wrong.returncode == 2
        assert "does not open the master key" in wrong.stderr
        pids = [int(file.read_text()) for file in (home / "run").iterdir()]
        assert len(pids) == 6
    finally:
        up.send_signal(signal.SIGINT)
        rest, _ = up.communicate(timeout=60)
    assert up.returncode == 0
    assert json.loads(rest.splitlines()[-1])["type"] == "result"
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert list((home / "run").iterdir()) == []


@pytest.mark.long
def test_up_says_who_died_and_stops_the_rest(place: Path) -> None:
    threefold("init", "crm", cwd=place)
    home = Home.at(place / "crm")
    with _up(home) as (up, _):
        victim = int((home.folder / "run/S2.pid").read_text())
        os.kill(victim, signal.SIGKILL)
        rest, _ = up.communicate(timeout=60)
        assert up.returncode == 1
        assert "S2 ended with code -9" in json.loads(rest.splitlines()[-1])["error"]
        assert list((home.folder / "run").iterdir()) == []


@pytest.mark.long
def test_up_gets_a_lost_primary_and_a_lost_store_back_when_it_is_told_to(place: Path) -> None:
    threefold("init", "crm", cwd=place)
    home = Home.at(place / "crm")
    with _up(home) as (up, answer):
        assert answer["type"] == "result", answer
        with psycopg.connect(home.superuser_conninfo(), autocommit=True) as connection:
            connection.execute("CREATE TABLE notes (text text)")
            connection.execute("INSERT INTO notes VALUES ('saved')")
        os.kill(int(home.pid_file("primary").read_text()), signal.SIGKILL)
        shutil.rmtree(home.primary, ignore_errors=True)
        up.communicate(timeout=60)
        assert up.returncode == 1
    shutil.rmtree(home.primary, ignore_errors=True)  # what it wrote while it died
    shutil.rmtree(home.storage("S3"))
    missing = threefold("up", str(home.folder))
    assert missing.returncode == 2
    assert "--new-store S3" in missing.stderr
    with _up(home, "--new-store", "S3") as (up, answer):
        assert answer["type"] == "error"
        assert "holds nothing, and the stores hold the database" in answer["error"]
        assert "--recover" in answer["hint"]
        assert up.wait(60) == 3
    assert not home.primary.exists()
    assert not home.storage("S3").exists()
    with _up(home, "--recover", "--new-store", "S3") as (_, answer):
        assert answer["type"] == "result", answer
        with psycopg.connect(home.superuser_conninfo()) as connection:
            assert connection.execute("TABLE notes").fetchall() == [("saved",)]
            assert connection.execute("SHOW hot_standby").fetchone() == ("on",)
            assert connection.execute("SHOW restore_command").fetchone() == ("",)
            assert connection.execute("SHOW recovery_target_timeline").fetchone() == ("latest",)
        assert not home.pid_file("recover").exists()
        within = time.monotonic() + 60
        while [store["state"] for store in _leader(home)["stores"]] != ["voting"] * 3:
            assert time.monotonic() < within, _leader(home)
        leader = _leader(home)
        # One epoch after the recovery, and another since the new store counts.
        assert (leader["state"], leader["epoch"], leader["timeline"]) == ("streaming", 3, 2)


def _leader(home: Home) -> dict[str, Any]:
    return dict(last_line(threefold("status", "--json", "--config", str(home.config)))["leader"])


@contextmanager
def _up(home: Home, *options: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """The process, and its answer."""
    command = [sys.executable, "-m", "threefold", "up", str(home.folder), "--json", *options]
    up = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert up.stdout is not None
    try:
        yield up, next(found for line in up.stdout if (found := json.loads(line))["type"] in {"result", "error"})
    finally:
        up.send_signal(signal.SIGINT)
        up.communicate(timeout=60)


@pytest.mark.long
def test_the_demo_keeps_the_promise(place: Path) -> None:
    began = time.monotonic()
    done = threefold("demo", "--json", "--seed", "7", "--dir", str(place / "demo"))
    outcome = last_line(done)
    keep((outcome.get("latest") or {}).get("lost_changes", 0) == 0, done.stdout[-2000:])
    assert done.returncode == 0, done.stdout[-2000:]
    assert outcome["exact"]
    assert outcome["latest"]["acked"] > 100
    assert outcome["crm"]["queue"]  # an employee on a new device saw it, on the recovered database
    assert outcome["contacts_back"] == outcome["contacts_deleted"] == 16_000
    assert time.monotonic() - began < 600  # watchable; on an idle machine of two cores it is under three minutes
    leftover = [
        process for process in psutil.process_iter(["cmdline"]) if str(place) in " ".join(process.info["cmdline"] or [])
    ]
    assert leftover == []
