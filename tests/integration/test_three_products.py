"""A PostgreSQL protected on three different products at once: S3 API (SeaweedFS), Azure Blob API (Azurite), ours.

One of them is killed with -9 while people write; then the primary is destroyed and recovered. Azurite forgets its last
seconds when it is killed, so that case is also that of a store which lost what it had acknowledged.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from tests.conformance import seaweedfs as weed
from tests.conformance.products import Missing
from tests.conformance.seaweedfs import SeaweedFS
from tests.conformance.servers import ACCOUNT, ACCOUNT_KEY, Azurite
from tests.protect_process import Process, Site, Storage, site, team

pytestmark = pytest.mark.long

AT_ONCE = '[retention]\npitr = "1ms"\ndaily = 0\nweekly = 0\nmonthly = 0\ngrace = "0s"\n'


@asynccontextmanager
async def three_products() -> AsyncIterator[Site]:
    async with site(start=False, settings={"wal_keep_size": "64MB", "fsync": "on"}) as here:
        s1, s2 = here.home / "seaweedfs", here.home / "azurite"
        s1.mkdir()
        s2.mkdir()
        try:
            seaweedfs, azurite = SeaweedFS(s1), Azurite(s2)
            here.stores["S1"], here.stores["S2"] = cast("Storage", seaweedfs), cast("Storage", azurite)
            for store in here.stores.values():
                store.start()
        except Missing as why:
            pytest.skip(str(why))
        await here.stores["S3"].ready()
        here.secrets |= {
            "S1_KEY": weed.KEY,
            "S1_SECRET": weed.SECRET,
            "S2_KEY": ACCOUNT,
            "S2_SECRET": ACCOUNT_KEY,
        }
        here.places = {
            "S1": f'url = "s3://{weed.BUCKET}/threefold"\nendpoint = "http://127.0.0.1:{seaweedfs.port}"',
            "S2": f'url = "az://crm-dr/threefold"\nendpoint = "{azurite.endpoint}"',
        }
        here.configure(more=AT_ONCE)
        yield here


@pytest.mark.parametrize("killed", ["S1", "S2"])
async def test_one_product_is_killed_and_the_primary_destroyed_and_nothing_is_lost(killed: str) -> None:
    async with three_products() as here:
        found = await here.done("check")
        assert found["ready"]
        protecting = await here.protect()
        async with team(here) as people:
            await people.progress(30)
            await here.primary.sql("CREATE TABLE filler AS SELECT i, md5(i::text) FROM generate_series(1, 60000) i")
            await here.done("snapshot")
            await people.progress(30)
            await here.done("snapshot")
            here.stores[killed].kill()
            await people.progress(60)
            here.stores[killed].start()
            await here.whole()
            await here.primary.sql("UPDATE filler SET md5 = md5(md5)")
            await here.primary.sql("SELECT pg_switch_wal()")
            await here.done("snapshot")
            await people.progress(30)
            await _pruned(here)
            await people.progress(30)
            people.pause()
            here.destroy_primary()
            protecting.kill()
            await here.recover()
            await people.judge()
            ((rows,),) = await here.primary.sql("SELECT count(*) FROM filler")
            assert rows == 60000
            await here.protect()
            await here.sync()
            people.resume()
            await people.progress(30)
        first = await _scrubbed(here)
        if killed != "S2":
            assert first == [], "a store that keeps what it acknowledges lacks nothing after a kill"
        assert all(each["store"] == "S2" and each["mended"] for each in first), first
        assert await _scrubbed(here) == []
        verified = await here.done("verify", "--deep")
        assert (verified["restorable"], verified["problems"]) == (True, [])
        await people.judge()


async def _pruned(here: Site) -> None:
    """The older snapshot goes from all three."""
    assert (await here.done("prune"))["marked"]
    pruned = await here.done("prune")
    assert set(pruned["deleted"]) == {"S1", "S2", "S3"}
    assert len(set(pruned["deleted"].values())) == 1, pruned


async def _scrubbed(here: Site) -> list[dict[str, Any]]:
    arguments = ["-m", "threefold", "store", "scrub", "--config", here.config, "--json"]
    process = Process(arguments, here.home / f"scrub-{len(here.processes)}.log", here.environment())
    here.processes.append(process)
    assert await process.ended(90) == 0, process.said
    lines = [json.loads(line) for line in process.said.splitlines() if line.startswith("{")]
    report = next(line for line in lines if line["type"] == "result")
    return cast("list[dict[str, Any]]", report["findings"])
