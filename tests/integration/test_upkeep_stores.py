"""`threefold store` on real stores: disks that rot, a store that comes back empty, beside a DRaaS server at work."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest
from tests.protect_process import Process, Site, site, team


def command(here: Site, *arguments: str) -> Process:
    """The whole command, groups and all."""
    log = here.home / f"store-{len(here.processes)}.log"
    process = Process(["-m", "threefold", *arguments, "--config", here.config, "--json"], log, here.environment())
    here.processes.append(process)
    return process


async def result(here: Site, *arguments: str, code: int = 0) -> dict[str, Any]:
    process = command(here, *arguments)
    assert await process.ended(90) == code, process.said
    lines = [json.loads(line) for line in process.said.splitlines() if line.startswith("{")]
    assert lines[0]["type"] == "progress"
    return next(line for line in lines if line["type"] == "result")


def rot(folder: Path) -> int:
    """Flip a byte in the middle of every large object on a disk."""
    files = [path for path in (folder / "objects").rglob("*") if path.is_file() and path.stat().st_size > 2]
    for path in files:
        with path.open("r+b") as file:
            file.seek(path.stat().st_size // 2)
            byte = file.read(1)
            file.seek(-1, 1)
            file.write(bytes([byte[0] ^ 1]))
    return len(files)


async def test_a_disk_that_rots_is_found_and_mended_while_commits_go_on() -> None:
    async with site() as here:
        await here.protect()
        await here.primary.sql("CREATE TABLE fill AS SELECT i, md5(i::text) FROM generate_series(1, 150000) i")
        await here.done("snapshot")
        await here.primary.sql("SELECT pg_switch_wal()")
        async with team(here) as people:
            await people.progress(20)
            assert rot(here.stores["S2"].data) > 1  # some are entries, which are trimmed before they are looked at
            report = await result(here, "store", "scrub")
            await people.progress(20)
        packs = [each for each in report["findings"] if each["key"].startswith("packs/")]
        assert packs
        assert {(each["store"], each["what"], each["mended"]) for each in packs} == {("S2", "damaged", True)}
        assert all(each["mended"] or "not needed" in each["why"] for each in report["findings"]), report["findings"]
        assert (await result(here, "store", "scrub"))["findings"] == []
        verified = await here.done("verify", "--deep")
        assert verified["problems"] == []
        status = await result_of_status(here)
        assert [each["score"]["damaged"] > 0 for each in status["stores"]] == [False, True, False]
        assert status["stores"][1]["score"]["score"] < status["stores"][0]["score"]["score"]
        assert status["stores"][0]["holds"]["packs"]["bytes"] > 10**6


async def result_of_status(here: Site) -> dict[str, Any]:
    process = command(here, "store", "status")
    assert await process.ended(60) == 0, process.said
    found: dict[str, Any] = json.loads(process.said.splitlines()[-1])
    return found


async def test_a_store_that_lost_objects_is_repaired_alone_at_a_rate() -> None:
    async with site() as here:
        protecting = await here.protect()
        await here.done("snapshot")
        await here.whole()
        protecting.kill()
        whole = await here.objects("S3")
        async with here.parts() as parts:
            doomed = [key for key in whole if key.startswith(("packs/", "snapshots/", "timelines/"))]
            assert doomed
            await parts.stores["S3"].delete(doomed)
        report = await result(here, "store", "repair", "S3", "--rate", "50MB/s")
        assert report["counts"]["S3"] == {"missing": len(doomed), "mended": len(doomed)}
        assert await here.objects("S3") == whole


@pytest.mark.long
async def test_packs_of_dead_bytes_are_written_anew_while_people_commit_and_prunes_are_killed() -> None:
    chance = random.Random(11)
    async with site() as here:
        here.configure(
            more='[retention]\npitr = "1ms"\ndaily = 0\nweekly = 0\nmonthly = 0\ngrace = "0s"\n'
            "repack_below = 0.95\nrepack_least_mib = 1\n"
        )
        await here.protect()
        await here.primary.sql("CREATE TABLE filler AS SELECT md5(random()::text) x FROM generate_series(1, 400000)")
        await here.done("snapshot")
        async with team(here) as people:
            for rows in (50000, 40000, 30000):
                await people.progress(20)
                await here.primary.sql("TRUNCATE filler")
                await here.primary.sql(f"INSERT INTO filler SELECT md5(random()::text) FROM generate_series(1, {rows})")
                await here.done("snapshot")
            looked = await result(here, "prune", "--dry-run")
            assert looked["repack"]["packs"]
            assert looked["repack"]["won_bytes"] > 10**6
            assert looked["repack"]["put_off"] == ""
            for _ in range(5):
                pruning = command(here, "prune")
                await asyncio.sleep(chance.uniform(0.3, 1.8))
                pruning.kill()
                assert (await here.done("verify"))["restorable"]
            reports = []
            while not reports or reports[-1]["marked"] or reports[-1]["repack"]["packs"]:
                reports.append(await result(here, "prune"))
                assert len(reports) < 8, reports[-1]
            await people.progress(20)
            assert (await here.done("snapshot"))["chunks_reused"] > 0
            points = await here.done("list_points")
            assert all("." not in each["id"] for each in points["snapshots"])
            held = await here.objects("S1")
            assert any("." in key for key in held if key.startswith("snapshots/"))
            assert not {f"packs/{each}" for each in looked["repack"]["packs"]} & held.keys()
            await here.whole()
            verified = await here.done("verify", "--deep")
            assert verified["restorable"]
            assert verified["problems"] == []
            # What a killed prune had put on one or two stores, and no manifest names, is filled in like anything else.
            findings = (await result(here, "store", "scrub"))["findings"]
            assert all(each["what"] == "missing" and each["mended"] for each in findings), findings
            acked = len(people.acked)
        assert acked
        here.destroy_primary()
        here.stores["S1"].kill()
        oldest = points["snapshots"][0]["id"]
        await here.recover("--snapshot", oldest)  # by the name under which it was taken
        await people.judge()
        ((rows,),) = await here.primary.sql("SELECT count(*) FROM filler")
        assert rows == 30000


@pytest.mark.long
async def test_prune_beside_a_server_at_work_takes_nothing_that_verify_or_a_recovery_misses() -> None:
    async with site() as here:
        here.configure(more='[retention]\npitr = "1ms"\ndaily = 0\nweekly = 0\nmonthly = 0\ngrace = "0s"\n')
        await here.protect()
        async with team(here) as people:
            for _ in range(4):
                await people.progress(20)
                await here.primary.sql("CREATE TABLE IF NOT EXISTS filler (x text)")
                await here.primary.sql("TRUNCATE filler")
                await here.primary.sql("INSERT INTO filler SELECT md5(random()::text) FROM generate_series(1, 20000)")
                await here.done("snapshot")
            looked = await result(here, "prune", "--dry-run")
            marked = await result(here, "prune")
            assert marked["marked"]
            assert set(looked["marked"]) == set(marked["marked"])
            pruned = await result(here, "prune")
            assert set(pruned["deleted"]) == {"S1", "S2", "S3"}
            assert pruned["freed_bytes"] > 0
            await here.whole()
            verified = await here.done("verify", "--deep")
            assert verified["restorable"]
            assert verified["problems"] == []
            assert (await here.done("snapshot"))["chunks_reused"] > 0
            acked = len(people.acked)
        assert acked
        here.destroy_primary()
        await here.recover()
        ((rows,),) = await here.primary.sql("SELECT count(*) FROM filler")
        assert rows == 20000
