"""`threefold cost` on a real stack: what is counted is what went over the wire, and it says what to do before."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from contextlib import ExitStack

from tests.fault_proxy import FaultProxy
from tests.protect_process import NAMES, Site, site, team

from threefold.cost.keeping import read_record
from threefold.cost.traffic import TrafficRecord
from threefold.stores.health import Operation
from threefold.stores.store import Made, Page


def on_the_wire(proxy: FaultProxy) -> Counter[str]:
    """Requests by what a provider bills, as their request lines say."""
    found: Counter[str] = Counter()
    for head in proxy.heads:
        method, target, _ = head.split("\r\n", 1)[0].split(" ", 2)
        if method == "GET":
            found["list" if "list-type=2" in target else "get"] += 1
        else:
            found[{"PUT": "put", "POST": "delete", "DELETE": "delete"}[method]] += 1
    return found


KINDS = {
    Operation.CREATE: "put",
    Operation.WRITE: "put",
    Operation.READ: "get",
    Operation.LIST: "list",
    Operation.DELETE: "delete",
}


def counted(record: TrafficRecord, store: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for cells in record.days.values():
        for (name, _, operation), count in cells.items():
            if name == store:
                found[KINDS[operation]] += count.requests
    return found


async def kept(here: Site, verb: str) -> TrafficRecord:
    async with here.parts() as parts:
        return await read_record(parts.stores, verb, parts.keyring)


async def test_what_is_counted_is_what_the_stores_were_asked() -> None:
    async with site() as here:
        with ExitStack() as stack:
            proxies = {name: stack.enter_context(FaultProxy(here.stores[name].port)) for name in NAMES}
            here.ports = {name: proxy.port for name, proxy in proxies.items()}
            here.configure()
            assert (await here.done("cost"))["measured"] is False  # nothing yet, and no error
            for proxy in proxies.values():
                proxy.heads.clear()
            protect = await here.protect()
            async with team(here) as people:
                await people.progress(60)
                await here.primary.sql("CREATE TABLE fill AS SELECT i, md5(i::text) FROM generate_series(1, 300000) i")
                await asyncio.sleep(4)
            protect.signal(signal.SIGTERM)
            assert await protect.ended() == 0
            wire = {name: on_the_wire(proxy) for name, proxy in proxies.items()}
            record = await kept(here, "protect")
            for name in NAMES:
                ours = counted(record, name)
                # Its last flush asks three stores for three reads and writes, which only the next one would count.
                wire[name]["get"] -= 1
                wire[name]["put"] -= 1
                assert ours == wire[name], (name, ours, wire[name])
                assert ours["put"] > 60
                assert ours["list"] > 0
                assert ours["delete"] > 0  # entries that segments cover
            again = await here.protect()
            again.signal(signal.SIGTERM)
            await again.ended()
            for name in NAMES:
                assert counted(await kept(here, "protect"), name)["put"] > counted(record, name)["put"]


async def test_a_look_at_a_minute_of_protection() -> None:
    async with site() as here:
        here.configure(more='\n[recovery]\nsite = "away"\n')
        protect = await here.protect()
        async with team(here) as people:
            await people.progress(40)
            await here.done("snapshot")
        protect.signal(signal.SIGTERM)
        await protect.ended()
        found = await here.done("cost", "--rpo", "0s", "--rto", "1h")
        assert found["measured"] is True
        assert found["enough"] is False
        assert set(found["flows"]) == set(NAMES)
        assert found["flows"]["S1"]["log entries"]["put"] > 0
        assert found["flows"]["S1"]["snapshots"]["put"] > 0
        assert found["growth"]["base"] > 10**6
        assert found["year"]["requests"] == 0  # own disks
        assert found["providers"]["aws-s3"]["a_store"]["requests"] > 0
        assert found["cheapest"]["durability"] == "sync"
        assert all(each["misses"] for each in found["considered"] if each["durability"] == "async")
        here.destroy_primary()
        await here.recover()
        after = await here.done("cost")
        assert "last recovery" in after["rto"]["cold"]["why"]
        error = await here.refused("cost", "--prices", str(here.home / "none.toml"))
        assert "cannot read the price table" in error["error"]


async def test_a_listing_counts_as_many_requests_as_it_took() -> None:
    async with site() as here:
        with FaultProxy(here.stores["S1"].port) as proxy:
            here.ports["S1"] = proxy.port
            here.configure()
            async with here.parts() as parts:
                store = parts.stores["S1"]
                for begin in range(0, 2010, 30):
                    keys = [f"many/{number:04}" for number in range(begin, begin + 30)]
                    assert set(await asyncio.gather(*(store.create(key, b"") for key in keys))) == {Made.CREATED}
                proxy.heads.clear()
                found, after = 0, ""
                while True:
                    page = await store.list("many", after=after)
                    assert isinstance(page, Page)
                    found += len(page.objects)
                    if page.last:
                        break
                    after = page.objects[-1].key
                assert found == 2010
                (lists,) = [each for each in store.traffic() if each.operation is Operation.LIST]
                assert lists.requests == on_the_wire(proxy)["list"] == 3  # of 1000, 1000 and 10
                small = await store.list("many", limit=1)
                assert isinstance(small, Page)
                assert len(small.objects) == 1
                assert not small.last
