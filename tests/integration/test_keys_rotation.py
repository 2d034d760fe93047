"""Two master keys, one log: real stores and PostgreSQL, through disaster, by passphrase and by two of three shares."""

from __future__ import annotations

import asyncio
import json
import re
import resource
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.pg import folder
from tests.protect_process import MASTER, PASSPHRASE, Failed, Process, Site, site, team

from threefold.kernel import keyfile
from threefold.kernel.keys import Keyring
from threefold.kernel.wraps import Passphrase, unwrap, wrap


@asynccontextmanager
async def kept() -> AsyncIterator[Site]:
    """A site whose stores get the master key, locked with the passphrase."""
    async with site() as here:
        (here.home / "wrapped.key").touch(mode=0o600)
        wrapped = wrap(Keyring(MASTER), Passphrase(PASSPHRASE), salt=b"0123456789abcdef")
        (here.home / "wrapped.key").write_bytes(wrapped)
        here.configure()
        yield here


async def keys_(here: Site, *arguments: str | Path, code: int = 0, **env: str) -> dict[str, Any]:
    """`threefold keys ...`: its result or error; with all that it said under "said"."""
    process = Process(
        ["-m", "threefold", "keys", *arguments, "--config", here.config, "--json"],
        here.home / f"keys-{len(here.processes)}.log",
        {**here.environment(), **env},
    )
    here.processes.append(process)
    if await process.ended() != code:
        raise Failed(f"keys {arguments}: {process.said}")
    lines = [json.loads(line) for line in process.said.splitlines() if line.startswith("{")]
    return {**next(line for line in reversed(lines) if line["type"] in {"result", "error"}), "said": process.said}


def ring(here: Site) -> Keyring:
    return keyfile.decode((here.home / "master.key").read_bytes())


async def wrapped_on(here: Site) -> list[list[str]]:
    return [[key for key in await here.objects(name) if key.startswith("keys/")] for name in here.stores]


async def stopped(protecting: Process) -> None:
    protecting.signal(15)
    await protecting.ended()


@pytest.mark.long
async def test_a_new_key_from_an_epoch_on_and_recovery_with_nothing_but_stores_and_a_secret() -> None:
    async with kept() as here:
        old_file = (here.home / "master.key").read_bytes()
        protecting = await here.protect()
        async with team(here) as people:
            await people.progress(50)
            await here.done("snapshot")
            await here.primary.sql("CREATE TABLE before_it AS SELECT 1")
            ((between,),) = await here.primary.sql("SELECT pg_switch_wal()::text")
            shares = here.home / "shares"
            await keys_(here, "split", "--to", shares)
            files = sorted(shares.iterdir())
            paper = ["--share-file", files[0], "--share-file", files[2]]
            wrong = here.home / "wrong"
            wrong.write_text("not the passphrase, yet long enough\n")
            no = await keys_(here, "rotate", "--key", "--passphrase-file", wrong, *paper, code=2)
            assert "does not open" in no["error"]
            assert ring(here).ids == Keyring(MASTER).ids

            done = await keys_(here, "rotate", "--key", *paper, THREEFOLD_PASSPHRASE=PASSPHRASE)
            assert done["prepared"] == ring(here).newest != done["in_force"] == Keyring(MASTER).key_id
            assert [len(each) for each in await wrapped_on(here)] == [2, 2, 2]
            assert all(done["prepared"] in key for each in await wrapped_on(here) for key in each)

            # Prepared is not in force: the leader may come back, and whoever has the old file reads what it writes.
            protecting.kill()
            protecting = await here.protect("--take-over")
            await people.progress(20)
            new_file = (here.home / "master.key").read_bytes()
            (here.home / "master.key").write_bytes(old_file)
            await here.done("list_points")
            (here.home / "master.key").write_bytes(new_file)

            await keys_(here, "rotate", "--activate")
            await stopped(protecting)
            protecting = await here.protect()
            await people.progress(50)
            snapshot = await here.done("snapshot")
            assert snapshot["chunks_reused"] > 100, "a new key must not send everything anew"
            assert snapshot["type"] == "result"
            await people.progress(50)
            good = await keys_(here, "verify", *paper)
            assert {each["found"] for each in good["proofs"]} == {"opens"}, good["proofs"]

            # Who has the old file alone: a clear word, and no damage; nothing is touched, nobody is fenced.
            (here.home / "master.key").write_bytes(old_file)
            for verb in (["list_points"], ["status"], ["verify"], ["snapshot"], ["recover", "--into", here.home / "x"]):
                error = await here.refused(*verb)
                assert "goes on under key" in error["error"], error
                assert "keys export" in error["hint"]
                assert error["exit_code"] == 2
            for verb in (["protect", "--wait"], ["protect", "--take-over"], ["sentinel", "--name", "s"]):
                stale = here.run(*verb)
                assert await stale.ended() == 2, stale.said
                assert "goes on under key" in stale.said
                assert "damage" not in stale.said
            (here.home / "master.key").unlink()
            await keys_(here, "export", "--to", here.home / "master.key", *paper)
            assert ring(here).ids == Keyring(*keyfile.decode(new_file).masters()).ids
            assert (here.home / "master.key").stat().st_mode & 0o777 == 0o600
            await people.progress(20)
            people.pause()
            await asyncio.sleep(0.5)
            await here.same_as_primary()
        protecting.kill()
        here.destroy_primary()
        (here.home / "master.key").unlink()
        (here.home / "wrapped.key").unlink()
        (here.home / "right").write_text(f"{PASSPHRASE}\n")

        into = folder("tf-before-") / "data"
        await here.recover(*paper, "--to", between, into=into)
        assert await here.primary.sql("SELECT count(*) FROM before_it") == [(1,)]
        here.primary.server.kill()
        await here.recover("--passphrase-file", here.home / "right", "--to", "latest")
        await people.judge()
        here.primary.server.kill()
        here.stores["S3"].kill()
        await here.recover(*paper, "--from", "S1")
        assert await here.primary.sql("SELECT count(*) FROM before_it") == [(1,)]


@pytest.mark.long
async def test_a_new_passphrase_and_new_shares_for_the_same_key() -> None:
    async with kept() as here:
        await stopped(await here.protect())
        first = await keys_(here, "split")
        old = [json.loads(line)["words"] for line in first["said"].splitlines() if '"share"' in line]
        assert len(old) == 3
        await keys_(here, "split", "--to", here.home / "new")
        paper = sorted((here.home / "new").iterdir())
        for place, words in enumerate(old):
            (here.home / f"old-{place}").write_text(words)
        (here.home / "phrase").write_text("a quite new passphrase\n")
        await keys_(here, "rotate", "--passphrase", "--new-passphrase-file", here.home / "phrase")
        assert [len(each) for each in await wrapped_on(here)] == [2, 2, 2]
        assert ring(here).ids == Keyring(MASTER).ids
        unwrap((here.home / "wrapped.key").read_bytes().strip(), Passphrase("a quite new passphrase"))

        for opener, opens in (
            (["--passphrase-file", here.home / "phrase"], True),
            (["--share-file", paper[1], "--share-file", paper[2]], True),
            (["--share-file", here.home / "old-0", "--share-file", here.home / "old-1"], False),
            (["--share-file", here.home / "old-0", "--share-file", paper[1]], False),
            (["--share-file", paper[1]], False),
        ):
            answer = await keys_(here, "verify", *opener, code=0 if opens else 2)
            assert opens or "share" in answer["error"], answer
        was = await keys_(here, "export", "--to", here.home / "k", code=2, **_gone(here, PASSPHRASE))
        assert "does not open the master key" in was["error"]
        await keys_(here, "export", "--to", here.home / "k", **_gone(here, "a quite new passphrase"))
        assert keyfile.decode((here.home / "k").read_bytes()).ids == Keyring(MASTER).ids
        again = await keys_(here, "export", "--to", here.home / "k", code=3, **_gone(here, "a quite new passphrase"))
        assert "is there already" in again["error"]


def _gone(here: Site, phrase: str) -> dict[str, str]:
    (here.home / "master.key").unlink(missing_ok=True)
    return {"THREEFOLD_PASSPHRASE": phrase}


@pytest.mark.long
async def test_a_store_that_is_away_stops_a_rotation_which_then_goes_on() -> None:
    async with kept() as here:
        await stopped(await here.protect())
        here.stores["S2"].kill()
        no = await keys_(here, "rotate", "--key", code=1, THREEFOLD_PASSPHRASE=PASSPHRASE)
        assert "S2" in no["error"]
        assert not ring(here).prepared
        here.stores["S2"].start()
        await here.stores["S2"].ready()
        # Died between the file and the stores: the old key is in force, and the same command goes on.
        prepared = Keyring(MASTER).followed_by(bytes(range(100, 132)))
        (here.home / "master.key").write_text(keyfile.encode(prepared))
        protecting = await here.protect()
        no = await keys_(here, "rotate", "--activate", code=3)
        assert "with this host it would be lost" in no["error"]
        await keys_(here, "rotate", "--key", THREEFOLD_PASSPHRASE=PASSPHRASE)
        assert ring(here).ids == prepared.ids
        await stopped(protecting)
        # In the file alone, by hand: nothing is sealed under a key that burns with this host.
        lone = Keyring(*prepared.masters(), bytes(range(50, 82)))
        (here.home / "master.key").write_text(keyfile.encode(lone))
        error = await here.refused("protect")
        assert error["exit_code"] == 3
        assert "with this host it would be lost" in error["error"]


@pytest.mark.long
async def test_no_secret_in_logs_errors_processes_or_dumps() -> None:
    with dumps_allowed():
        await _no_secret()


@contextmanager
def dumps_allowed() -> Iterator[None]:
    """Processes that are started meanwhile would write core dumps, if they did nothing about it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    assert hard != 0, "no process here could write a core dump: nothing would be shown"
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


def test_who_is_about_to_hold_a_key_is_not_dumpable() -> None:
    code = """
import ctypes, resource
from threefold.kernel.hardening import keep_out_of_dumps
look = lambda: (ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE)[0])  # PR_GET_DUMPABLE
before = look()
keep_out_of_dumps()
print(before, look())
"""
    with dumps_allowed():
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert re.fullmatch(r"\(1, (-1|[1-9]\d*)\) \(0, 0\)\n", told), told


async def _no_secret() -> None:
    async with kept() as here:
        with listed() as seen:
            protecting = await here.protect()
            limits = Path(f"/proc/{protecting.pid}/limits").read_text()
            assert re.search(r"Max core file size +0 ", limits)
            shares = here.home / "shares"
            await keys_(here, "split", "--to", shares)
            paper = sorted(shares.iterdir())
            words = [line for path in paper for line in path.read_text().splitlines() if line[0] != "#"]
            bent = here.home / "bent"
            share = words[0].split()
            share[8] = next(word for word in share if word != share[8])  # this one alone: it may stand there twice
            bent.write_text(" ".join(share))
            wrong = await keys_(here, "verify", "--share-file", bent, "--share-file", paper[1], code=2)
            assert "share 1 does not pass its checksum: word 9 is wrong" in wrong["error"]
            two = ["--share-file", paper[0], "--share-file", paper[1]]
            await keys_(here, "rotate", "--key", *two, THREEFOLD_PASSPHRASE=PASSPHRASE)
            await keys_(here, "rotate", "--activate")
            await stopped(protecting)
            protecting = await here.protect()
            secrets = [PASSPHRASE, *words, *keyfile.encode(ring(here)).split()]
            secrets += [master.hex() for master in ring(here).masters()]
            (here.home / "master.key").unlink()
            await keys_(here, "verify", *two)
            await here.refused("list_points", env={"THREEFOLD_PASSPHRASE": "not this one"})
        said = "".join(path.read_text(errors="replace") for path in here.home.glob("*.log")) + "".join(seen)
        assert len(seen) > 3
        assert PASSPHRASE.encode() not in b"".join(Path(f"/proc/{protecting.pid}/cmdline").read_bytes().split(b"\0"))
        for secret in secrets:
            assert secret not in said
        for run in (" ".join(text.split()[i : i + 4]) for text in words for i in range(30)):
            assert run not in said  # nor a part of a share


@contextmanager
def listed() -> Iterator[set[str]]:
    """Every argument list of our processes, while it lasts."""
    seen: set[str] = set()

    async def look() -> None:
        while True:
            for process in psutil.Process().children(recursive=True):
                try:
                    seen.add(" ".join(process.cmdline()))
                except psutil.Error:
                    continue
            await asyncio.sleep(0.05)

    looking = asyncio.get_running_loop().create_task(look())
    try:
        yield seen
    finally:
        looking.cancel()


@pytest.mark.parametrize("hurt", [b"{", b'"digest"'])
async def test_damage_of_a_wrapped_copy_is_told_from_a_wrong_passphrase(hurt: bytes) -> None:
    async with kept() as here:
        await stopped(await here.protect())
        async with here.parts() as parts:
            (key,) = (await wrapped_on(here))[0]
            body = await parts.stores["S1"].read(key)
            assert isinstance(body, bytes)
            await parts.stores["S1"].write(key, body.replace(hurt, b"~" * len(hurt), 1))
        proofs = (await keys_(here, "verify", code=1, **_gone(here, PASSPHRASE)))["error"]
        assert f"{key} on S1: damaged" in proofs
        assert "S2" not in proofs
        wrong = await keys_(here, "verify", code=2, **_gone(here, "another passphrase"))
        assert "damaged on S1" in wrong["error"] or "does not open" in wrong["error"]
