"""A recovery goes on: past stores that die, lag and rot, past being killed, but never over what is somebody's."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from datetime import timedelta

import pytest
from tests.pg import cluster, folder
from tests.recovering import CLOCK, COUNT, KEYRING, FolderStore, Notes, fill, log_of, recovered, snapshot, three

from threefold.kernel.errors import BadInput, Damaged, Refused
from threefold.kernel.progress import Silent
from threefold.recover.targets import Latest, Time
from threefold.recover.verify import verify_stored
from threefold.vault.chunk_store import Vault


async def test_a_store_dies_in_the_middle_of_the_restore_and_another_lags() -> None:
    stores = three()
    async with cluster(18) as primary:
        await fill(primary, 30000)
        await snapshot(primary, stores)
        log = await log_of(primary)
        stores["S1"].reads_left = 4
        stores["S3"].delay = 20
        notes = Notes()
        began = CLOCK.monotonic()
        async with recovered(stores, log, Latest(), progress=notes) as (done, sql):
            assert CLOCK.monotonic() - began < 18
            assert await sql(COUNT) == await primary.sql(COUNT)
            assert done.bytes_from["S2"] > 0
        assert stores["S1"].down
        assert any("S1" in note for note in notes.said)


async def test_damaged_copies_are_said_and_others_used_and_if_there_is_none_the_pack_is_named() -> None:
    stores = three()
    async with cluster(18) as primary:
        await fill(primary, 30000)
        info = await snapshot(primary, stores)
        log = await log_of(primary)
        manifest = await Vault(stores, KEYRING, CLOCK).manifest(info.summary.id)
        first, second = sorted(manifest.places, key=lambda place: (place.pack, place.offset))[3:5]
        pack = f"packs/{first.pack}"

        def damage(name: str, at: int) -> None:
            body = bytearray(stores[name].objects[pack])
            body[at] ^= 1
            stores[name].objects[pack] = bytes(body)

        damage("S1", first.offset + 9)
        damage("S2", second.offset + 9)
        notes = Notes()
        async with recovered(stores, log, Latest(), progress=notes) as (_, sql):
            assert await sql(COUNT) == await primary.sql(COUNT)
        async with recovered({name: stores[name] for name in ("S1", "S2")}, log, Latest(), progress=notes) as (_, sql):
            assert await sql(COUNT) == await primary.sql(COUNT)  # each lacks another chunk
        assert any(f"{pack} is damaged on S" in note for note in notes.said)
        vault = Vault(stores, KEYRING, CLOCK)
        report = await verify_stored(vault, log, Silent(), deep=True)
        assert report.restorable
        assert {(problem.store, problem.key) for problem in report.problems} == {("S1", pack), ("S2", pack)}
        assert report.wal_bytes_read > 0
        for name in ("S2", "S3"):
            damage(name, first.offset + 9)
        with pytest.raises(Damaged, match=f"{pack} is damaged on S1, S2, S3"):
            async with recovered(stores, log, Latest()):
                pass
        report = await verify_stored(vault, log, Silent(), deep=True)
        assert not report.restorable


async def test_what_is_there_is_not_touched() -> None:
    stores = three()
    async with cluster(18) as primary:
        await fill(primary, 10)
        await snapshot(primary, stores)
        log = await log_of(primary)
        home = folder("tf-taken-")
        try:
            (home / "data").mkdir()
            (home / "data" / "precious").write_text("mine")
            with pytest.raises(Refused, match="is not empty"):
                async with recovered(stores, log, Latest(), into=home / "data"):
                    pass
            assert [path.name for path in (home / "data").iterdir()] == ["precious"]
            async with recovered(stores, log, Latest(), into=home / "new"):
                pass
            with pytest.raises(Refused, match="is not empty"):  # a finished recovery is somebody's database
                async with recovered(stores, log, Latest(), into=home / "new"):
                    pass
        finally:
            shutil.rmtree(home)


KILLED = """
import asyncio, sys
from pathlib import Path
from tests.recovering import *
from threefold.recover.prove import verify_recovered
from threefold.recover.targets import Latest

stores = {name: FolderStore(Path(sys.argv[1]) / name, delay=0.1) for name in ("S1", "S2", "S3")}
asyncio.run(recover(stores=stores, keyring=KEYRING, clock=CLOCK, progress=Silent(), target=Latest(),
                    into=Path(sys.argv[2]), open_log=FileLog(*eval(sys.argv[3])).opens()))
"""


async def test_a_recovery_that_is_killed_again_and_again_comes_to_its_end() -> None:
    home = folder("tf-killed-")
    stores = {name: FolderStore(home / name) for name in ("S1", "S2", "S3")}
    async with cluster(18) as primary:
        try:
            await fill(primary, 30000)
            await snapshot(primary, stores)
            log = await log_of(primary)
            facts = f"((Path({str(log.folders[0])!r}),), {log.system_identifier}, 1, Lsn(0), Lsn({int(log.end)}))"
            marker = home / "data" / "threefold-recovery.json"
            for seconds in (0.0, 0.1, 0.2, 0.3):
                marked = marker.stat().st_ino if marker.exists() else None
                process = subprocess.Popen([sys.executable, "-c", KILLED, home, home / "data", facts])
                async with asyncio.timeout(30):
                    while not marker.exists() or marker.stat().st_ino == marked:  # it is replaced by each
                        await asyncio.sleep(0.01)
                await asyncio.sleep(seconds)
                process.kill()
                process.wait()
            assert json.loads(marker.read_text())["finished"] is False
            async with recovered(stores, log, Latest(), into=home / "data") as (done, sql):
                assert any("unfinished recovery" in note for note in done.notes)
                assert await sql(COUNT) == await primary.sql(COUNT)
        finally:
            shutil.rmtree(home)


async def test_a_recovery_that_failed_is_gone_on_with_also_after_postgresql_ran_on_it() -> None:
    stores = three()
    async with cluster(18) as primary:
        await fill(primary, 30000)
        await snapshot(primary, stores)
        await primary.sql("CREATE TABLE later AS SELECT * FROM customer")
        ((last,),) = await primary.sql("SELECT clock_timestamp()")
        log = await log_of(primary)
        home = folder("tf-again-")
        try:
            with pytest.raises(BadInput, match="the target is not in the log"):
                async with recovered(stores, log, Time(last + timedelta(hours=1)), into=home / "data"):
                    pass
            (home / "data" / "base" / "stray").write_text("left over")
            async with recovered(stores, log, Latest(), into=home / "data") as (done, sql):
                assert any("unfinished recovery" in note for note in done.notes)
                assert not (home / "data" / "base" / "stray").exists()
                assert await sql(COUNT) == await primary.sql(COUNT)
                assert await sql("SELECT count(*) FROM later") == await primary.sql("SELECT count(*) FROM later")
                assert 0 < done.bytes_fetched < done.bytes_needed / 2  # most of it was kept
        finally:
            shutil.rmtree(home)
