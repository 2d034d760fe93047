"""Our own servers: made, started, killed, promoted - and found again by whoever comes after us."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
from tests.pg import BOTH, binaries, cluster, folder, free_port

from threefold.kernel.errors import BadInput, Refused, Unavailable
from threefold.postgres.server import Server

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to run PostgreSQL as another user")


@pytest.fixture
def home() -> Iterator[Path]:
    made = folder()
    yield made
    shutil.rmtree(made)


async def test_it_inherits_no_secret_of_ours(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database superuser reads the server's environment; what opens the stores must not be in it."""
    monkeypatch.setenv("THREEFOLD_PASSPHRASE", "horse staple")
    monkeypatch.setenv("S1_SECRET", "of the store")
    monkeypatch.setenv("PGDATA", "/elsewhere")
    server = Server(binaries(18), home / "data", free_port(), socket_dir=home / "s", settings={"fsync": "off"})
    await server.initdb(password="p", sync=False)
    await server.start()
    try:
        assert server.pid is not None
        environment = psutil.Process(server.pid).environ()
        assert not {"THREEFOLD_PASSPHRASE", "S1_SECRET", "PGDATA"} & environment.keys()
        assert environment["PATH"]
    finally:
        server.kill()


@pytest.mark.parametrize("major", BOTH)
async def test_a_new_cluster_is_as_asked_for(major: int, home: Path) -> None:
    server = Server(binaries(major), home / "data", free_port(), socket_dir=home / "s", settings={"fsync": "off"})
    await server.initdb(superuser="boss", password="two words'", wal_segment_size=2**20, sync=False)
    assert (home / "data").stat().st_uid == server.account.uid
    await server.start()
    try:
        where = {"host": "127.0.0.1", "port": server.port, "dbname": "postgres", "user": "boss"}
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(**where, password="wrong")
        with psycopg.connect(**where, password="two words'") as connection:
            for setting, value in {
                "wal_segment_size": "1MB",
                "data_checksums": "on",
                "server_encoding": "UTF8",
                "password_encryption": "scram-sha-256",
            }.items():
                assert connection.execute(f"SHOW {setting}").fetchone() == (value,)
            assert connection.execute("SELECT upper('ä'), 'a' < 'B' COLLATE \"default\"").fetchone() == ("Ä", False)
        with psycopg.connect(host=str(home / "s"), port=server.port, dbname="postgres", user="boss") as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        assert server.log_file.stat().st_mode & 0o777 == 0o600  # people's data stands in it
    finally:
        await server.stop("immediate")
    assert server.status() is None


async def test_initdb_touches_nothing_that_is_there(home: Path) -> None:
    (home / "data").mkdir()
    (home / "data" / "precious").touch()
    server = Server(binaries(18), home / "data", 1)
    before = (home / "data").stat()
    with pytest.raises(Refused):
        await server.initdb()
    after = (home / "data").stat()
    assert (after.st_mtime_ns, after.st_mode, after.st_uid) == (before.st_mtime_ns, before.st_mode, before.st_uid)
    assert [path.name for path in (home / "data").iterdir()] == ["precious"]


async def test_an_initdb_that_nobody_waits_for_any_more_ends(home: Path) -> None:
    def running() -> list[psutil.Process]:
        each = psutil.process_iter(["cmdline"])
        return [process for process in each if str(home / "data") in (process.info["cmdline"] or [])]

    making = asyncio.create_task(Server(binaries(18), home / "data", 1).initdb(sync=False))
    while not running():
        await asyncio.sleep(0.01)
    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making
    assert "initdb" not in {Path(process.info["cmdline"][0]).name for process in running()}
    psutil.wait_procs(running(), timeout=5)  # what it had started ends with it
    assert running() == []


@pytest.mark.parametrize("major", BOTH)
async def test_killed_it_is_gone_with_all_its_processes_and_comes_back_with_all_commits(major: int) -> None:
    async with cluster(major) as primary:
        server = primary.server
        await primary.sql("CREATE TABLE t (x int)")
        await primary.sql("INSERT INTO t VALUES (1)")
        assert server.pid is not None
        processes = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
        assert len(processes) > 3
        server.kill()
        assert not any(process.is_running() and process.status() != "zombie" for process in processes)
        assert (server.data_dir / "postmaster.pid").exists()
        assert (server.pid, server.status(), server.ready()) == (None, None, False)
        await server.start()
        assert await primary.sql("SELECT x FROM t") == [(1,)]
        with pytest.raises(Refused):
            await server.start()


@pytest.mark.parametrize("mode", ["fast", "smart", "immediate"])
async def test_stop_waits_until_it_is_stopped(mode: str) -> None:
    async with cluster(18) as primary:
        await primary.server.stop(mode)
        assert primary.server.pid is None
        assert not (primary.server.data_dir / "postmaster.pid").exists()
        await primary.server.stop(mode)


async def test_a_server_that_does_not_come_up_says_why() -> None:
    async with cluster(18) as primary, cluster(18, start=False) as second:
        second.server.port = primary.server.port
        with pytest.raises(Unavailable, match=r"could not create any TCP"):
            await second.server.start()
        second.server.port = free_port()
        second.server.settings["shared_buffers"] = "nonsense"
        with pytest.raises(Unavailable, match="shared_buffers"):
            await second.server.start()


@pytest.mark.parametrize("major", BOTH)
async def test_promoted_it_takes_writes_at_once(major: int) -> None:
    async with cluster(major) as primary:
        await primary.server.stop()
        (primary.server.data_dir / "standby.signal").touch()
        await primary.server.start()
        assert not primary.server.in_production()
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            await primary.sql("CREATE TABLE t (x int)")
        await primary.server.promote()
        await primary.sql("CREATE TABLE t (x int)")
        await primary.server.promote()
    with pytest.raises(Unavailable):
        await primary.server.promote()


async def test_it_outlives_who_started_it_and_is_found_again() -> None:
    """kill -9 of the starter, and a Ctrl-C in its terminal, are not the server's business."""
    async with cluster(18, start=False) as primary:
        server = primary.server
        script = textwrap.dedent(
            f"""
            import asyncio, sys
            from pathlib import Path
            from threefold.postgres.binaries import find_binaries
            from threefold.postgres.server import Server

            async def main():
                server = Server(find_binaries(18), Path({str(server.data_dir)!r}), {server.port},
                                socket_dir=Path({str(server.socket_dir)!r}), settings={server.settings!r})
                await server.start()
                print("up", flush=True)
                await asyncio.sleep(60)

            asyncio.run(main())
            """
        )
        starter = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True)
        assert starter.stdout is not None
        assert await asyncio.to_thread(starter.stdout.readline) == b"up\n"
        os.killpg(starter.pid, signal.SIGINT)
        os.killpg(starter.pid, signal.SIGKILL)
        starter.wait()
        await asyncio.sleep(0.2)
        assert server.ready()
        assert await primary.sql("SELECT 1") == [(1,)]
        await server.stop()
        assert server.pid is None


async def test_another_process_with_the_number_of_a_dead_server_is_not_it() -> None:
    async with cluster(18) as primary:
        primary.server.kill()
        pid_file = primary.server.data_dir / "postmaster.pid"
        lines = pid_file.read_text().splitlines()
        pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
        assert primary.server.pid is None
        primary.server.kill()  # not us
        pid_file.unlink()
        await primary.server.start()


@needs_root
async def test_a_folder_that_the_servers_user_cannot_reach_is_named(home: Path) -> None:
    home.chmod(0o700)
    server = Server(binaries(18), home / "data", 1)
    with pytest.raises(BadInput) as raised:
        await server.initdb()
    assert str(home) in raised.value.hint
    assert "chmod" in raised.value.hint
