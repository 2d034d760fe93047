"""Stolen credentials against real storage servers: what is locked stays, a recovery comes out of it, prune waits."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import datetime, timedelta
from typing import Any

import pytest
from tests.pg import folder
from tests.protect_process import NAMES, Site, site
from tests.recovering import CLOCK

from threefold.kernel.lsn import Lsn
from threefold.kernel.wraps import Passphrase, wrap
from threefold.stores.store import Locked, NotLocked, Page, Unknown

LOCKED = ("keys/", "timelines/", "wal/", "packs/", "snapshots/", "switches/", "members/")
COMMAND = re.compile(r"threefold recover --to (\S+) --snapshot (\S+)")


async def listed(here: Site, name: str) -> list[str]:
    async with here.parts() as parts:
        keys: list[str] = []
        while True:
            page = await parts.stores[name].list("", after=keys[-1] if keys else "")
            assert isinstance(page, Page)
            keys += [each.key for each in page.objects]
            if page.last:
                return keys


async def steal(here: Site) -> None:
    """Everything that the DRaaS server's own credentials can do to an object, to every object."""
    async with here.parts() as parts:
        for name, store in parts.stores.items():
            for key in await listed(here, name):
                if key.startswith(LOCKED):
                    assert isinstance(await store.lock(key, CLOCK.now() + timedelta(seconds=1)), NotLocked), key
                    assert isinstance(await store.write(key, b"thief"), Unknown), key
                    assert isinstance(await store.erase(key), Locked), key
                    assert isinstance(await store.delete([key]), Locked), key
                else:
                    await store.delete([key])


async def findings(here: Site) -> dict[str, dict[str, Any]]:
    """Of `threefold check`, by name; this primary is not all that it asks for."""
    process = here.run("check", "--json")
    await process.ended(60)
    lines = [json.loads(line) for line in process.said.splitlines() if line.startswith("{")]
    found = next(line for line in lines if line["type"] == "result")["findings"]
    return {each["name"]: each for each in found}


async def noise(here: Site, at: int) -> None:
    await here.primary.sql(
        f"INSERT INTO load SELECT i + {at}, md5(i::text) || md5(random()::text) FROM generate_series(1, 60000) i"
    )
    await here.primary.sql("SELECT pg_switch_wal()")


@pytest.mark.long
async def test_a_thief_with_our_keys_takes_only_the_last_minutes() -> None:
    async with site() as here:
        (here.home / "wrapped.key").touch(mode=0o600)
        (here.home / "wrapped.key").write_text("{}")
        here.configure(more='[locks]\nperiod = "90s"\n')
        async with here.parts() as parts:
            wrapped = wrap(parts.keyring, Passphrase("a passphrase of tests"), salt=bytes(16))
        (here.home / "wrapped.key").write_bytes(wrapped)
        protecting = await here.protect()
        await here.primary.sql("CREATE TABLE load (i int, noise text)")
        await noise(here, 0)
        taken = await here.done("snapshot", within=120)
        assert taken["locked_on"] == list(NAMES)
        await noise(here, 100_000)
        await here.primary.sql("INSERT INTO load VALUES (-1, 'in the last segment, which is not whole')")
        await here.whole()
        end = (await here.log_end())[0]
        assert {f"lock on {name}" for name in NAMES} <= (checked := await findings(here)).keys()
        assert {checked[f"lock on {name}"]["detail"] for name in NAMES} == {"locked: deletion refused"}
        protecting.kill()
        before = {name: await listed(here, name) for name in NAMES}
        await steal(here)
        for name in NAMES:
            kept = [key for key in before[name] if key.startswith(LOCKED)]
            left = [key for key in await listed(here, name) if not key.startswith("probe/locks/")]
            assert left == kept
            assert {key.partition("/")[0] for key in kept} == {"keys", "wal", "packs", "snapshots"}
        refused = await here.refused("protect")
        assert "damaged, or robbed" in refused["error"], "it does not begin a new log over what is left"
        here.destroy_primary()
        into = folder("tf-after-thief-") / "data"
        error = await here.refused("recover", "--into", into, within=120)
        command = COMMAND.search(error["hint"])
        assert command is not None, error
        assert command[2] == taken["id"]
        assert "the newest point that can be had is" in error["error"]
        reached = Lsn.parse(command[1])
        assert 0 < end - reached < 2 * 16 * 2**20  # the segment that was not whole, and one on its way
        await here.recover("--to", command[1], "--snapshot", command[2], into=into)
        ((count,),) = await here.primary.sql("SELECT count(*) FROM load WHERE i >= 0")
        assert count == 120_000
        ((last,),) = await here.primary.sql("SELECT count(*) FROM load WHERE i < 0")
        assert last == 0


@pytest.mark.long
async def test_prune_waits_for_locks_on_real_stores_and_what_is_needed_stays_locked() -> None:
    async with site() as here:
        rules = '[retention]\npitr = "1ms"\ndaily = 0\nweekly = 0\nmonthly = 0\ngrace = "0s"\n'
        here.configure(more=f'{rules}[locks]\nperiod = "25s"\n')
        await here.protect()
        await here.primary.sql("CREATE TABLE load (i int, noise text)")
        for number in range(4):
            await noise(here, number * 100_000)
            await here.done("snapshot", within=120)
        marked = await here.done("prune")
        assert marked["marked"]
        waiting = await here.done("prune")
        assert waiting["locked"]
        assert waiting["held"] == {}
        assert not {key for key in waiting["locked"] if key in waiting["due"]}
        last = max(datetime.fromisoformat(until) for until in waiting["locked"].values())
        assert last < CLOCK.now() + timedelta(seconds=27)
        await asyncio.sleep(max(0.0, (last - CLOCK.now()).total_seconds()) + 1.5)
        pruned = await here.done("prune")
        assert pruned["locked"] == {}
        assert set(pruned["deleted"]) == set(NAMES)
        for name in NAMES:
            assert not set(waiting["locked"]) & set(await listed(here, name))
        async with here.parts() as parts:  # what is needed was made longer meanwhile
            for name in NAMES:
                for key in [
                    key for key in await listed(here, name) if key.startswith(("packs/", "snapshots/", "wal/"))
                ]:
                    until = await parts.stores[name].locked_until(key)
                    assert isinstance(until, datetime), key
                    assert until > CLOCK.now(), key
        assert (await here.done("verify"))["restorable"]
