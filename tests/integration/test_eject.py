"""What `threefold eject` writes is recovered by stock PostgreSQL: initdb's siblings and cp, nothing of ours."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import psycopg
import pytest
from tests.pg import BOTH_IN_TIME, PASSWORD, SUPERUSER, folder, free_port
from tests.protect_process import Site, site, team, until
from tests.recovering import COUNT, fill

from threefold.recover.eject import STATE


def _stock(here: Site, ejected: Path, base: Path, port: int) -> list[str]:
    """The README's own commands, with its folder and ours put in; as the user that PostgreSQL runs as."""
    data = base / "data"
    (block,) = re.findall(r"```\n(.*?)```", (ejected / "README.md").read_text(), re.DOTALL)
    script = block.replace("HERE", str(ejected)).replace("$PGDATA", str(data))
    bin_dir = here.primary.server.binaries.program("pg_ctl").parent
    started = script.replace("pg_ctl start", f"{bin_dir}/pg_ctl start -o '-p {port} -c fsync=off -k {base}'")
    return ["/bin/sh", "-ec", started]


def _owned(here: Site, *places: Path) -> None:
    account = here.primary.server.account
    if account.popen():
        for place in places:
            subprocess.run(["chown", "-R", str(account.popen()["user"]), place], check=True)


async def _asked(port: int, query: str) -> list[tuple[object, ...]]:
    dsn = f"host=127.0.0.1 port={port} user={SUPERUSER} password={PASSWORD} dbname=postgres"
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        return await (await connection.execute(query)).fetchall()


async def _promoted(port: int) -> bool:
    return await _asked(port, "SELECT pg_is_in_recovery()") == [(False,)]


@pytest.mark.parametrize("major", BOTH_IN_TIME)
async def test_stock_postgresql_recovers_from_what_was_written_out(major: int) -> None:
    home = folder("tf-eject-")
    ejected, base = home / "out", home / "stock"
    base.mkdir()
    try:
        async with site(major) as here:
            protecting = await here.protect()
            await fill(here.primary, 3000)
            await here.done("snapshot")
            await fill(here.primary, 2000)
            await here.done("snapshot")
            async with team(here) as people:
                await people.progress(30)
            await fill(here.primary, 500)
            want = await here.primary.sql(COUNT)
            await here.whole()
            protecting.kill()
            here.destroy_primary()
            for name in ("S1", "S3"):
                here.stores[name].kill()  # one store alone has to do
            first = await here.done("eject", "--store", "S2", "--to", ejected)
            assert len(first["snapshots"]) == 2
            assert first["bytes_fetched"] > 0
            # Run again it has nothing to do; interrupted, it goes on where it was.
            again = await here.done("eject", "--store", "S2", "--to", ejected)
            assert (again["resumed"], again["bytes_fetched"]) == (True, 0)
            state = json.loads((ejected / STATE).read_text())
            state["snapshots"].pop()
            (ejected / STATE).write_text(json.dumps(state))
            shutil.rmtree(ejected / "base" / first["snapshots"][-1])
            assert (await here.done("eject", "--store", "S2", "--to", ejected))["bytes_fetched"] > 0
            _owned(here, home)
            for snapshot in first["snapshots"]:
                plain = ejected / "base" / snapshot
                here.primary.run("pg_verifybackup", "--no-parse-wal", "--ignore", "tablespace_map", plain)
            port = free_port()  # just now: others take ports as well
            command = _stock(here, ejected, base, port)
            account = here.primary.server.account.popen()
            ran = subprocess.run(command, check=False, capture_output=True, text=True, cwd="/", **account)
            log = base / "recovery.log"
            assert ran.returncode == 0, (ran.stderr, log.read_text() if log.exists() else "")
            try:
                assert await _asked(port, COUNT) == want
                await until(lambda: _promoted(port), "promotion", 30)
                await _asked(port, "INSERT INTO customer (name, note) VALUES ('after', 'the disaster') RETURNING id")
            finally:
                here.primary.run("pg_ctl", "stop", "-m", "immediate", "-D", base / "data", check=False)
    finally:
        shutil.rmtree(home, ignore_errors=True)


async def test_a_folder_with_anything_else_in_it_is_refused() -> None:
    home = folder("tf-eject-")
    try:
        (home / "mine").write_text("mine")
        async with site() as here:
            error = await here.refused("eject", "--store", "S2", "--to", home)
            assert "not an empty folder" in error["error"]
            error = await here.refused("eject", "--store", "S9", "--to", home)
            assert "no store S9" in error["error"]
    finally:
        shutil.rmtree(home, ignore_errors=True)
