"""Stores that stop, hang, come back, lose their disk, and a primary that restarts: commits wait, or do not notice."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from tests.fault_proxy import Fault, FaultProxy
from tests.protect_process import NAMES, Site, site, team, until

from threefold.kernel.lsn import Lsn

MEMORY_MAX = 300 * 10**6


async def _write_without_waiting(here: Site, megabytes: int) -> None:
    """So much WAL that nobody waits for: only the stream carries it."""
    async with await psycopg.AsyncConnection.connect(here.primary.dsn(), autocommit=True) as connection:
        await connection.execute("SET synchronous_commit = local")
        for _ in range(megabytes // 10):  # random bytes: nothing compresses them
            await connection.execute(
                "SELECT pg_logical_emit_message(false, 'load', string_agg(gen_random_uuid()::text, ''))"
                " FROM generate_series(1, 290000)"
            )
            await connection.execute("SELECT pg_switch_wal()")


@pytest.mark.long
async def test_two_stores_stopped_commits_wait_in_bounded_memory_and_go_on_when_one_returns() -> None:
    async with site(settings={"max_wal_size": "1GB"}) as here:
        protecting = await here.protect()
        async with team(here) as people:
            await people.progress(50)
            here.stores["S2"].stop()
            here.stores["S3"].stop()
            await asyncio.sleep(1)  # what was on its way to the stores' sockets is answered or not by now
            acked = len(people.acked)
            await _write_without_waiting(here, 150)
            await protecting.says("commits wait: too few stores answer")
            assert len(people.acked) == acked
            leader = await here.leader()
            assert leader is not None
            assert leader.state == "waiting-for-stores"
            assert "S2" in leader.reason
            assert "did not answer in time" in leader.reason
            assert {line.name: line.state for line in leader.stores} == {
                "S1": "voting",
                "S2": "silent",
                "S3": "silent",
            }
            assert leader.rpo_seconds > 1
            status = await here.done("status")  # the command, as people ask it: it does not wait for what hangs
            assert status["leader"]["state"] == "waiting-for-stores"
            assert "S2" in status["leader"]["reason"]
            assert "2 of 3 must" in status["trouble"]
            # Held back, not taken in: the primary's slot keeps the rest.
            assert leader.received - leader.settled < 40 * 2**20
            ((restart, written),) = await here.primary.sql(
                "SELECT restart_lsn::text, pg_current_wal_lsn()::text FROM pg_replication_slots"
            )
            assert Lsn.parse(written) - Lsn.parse(restart) > 100 * 10**6
            assert protecting.rss() < MEMORY_MAX
            here.stores["S3"].go_on()
            await protecting.says("two stores answer again: commits go on")
            await people.progress(50)
            people.pause()
            await here.same_as_primary()
            assert protecting.rss() < MEMORY_MAX
            assert protecting.code is None
            here.stores["S2"].go_on()
            people.resume()
            await here.whole()


async def _all_alike(here: Site) -> None:
    """Each store lists what the others do; entries that are being trimmed come and go."""
    listings: list[dict[str, int]] = []

    async def alike() -> bool:
        listings[:] = [await here.objects(name) for name in NAMES]
        return set(listings[0]) == set(listings[1]) == set(listings[2])

    def difference() -> str:
        everything = set().union(*listings)
        return str({name: sorted(everything - set(one))[:9] for name, one in zip(NAMES, listings, strict=True)})

    await until(alike, "three stores alike", 90, difference)


@pytest.mark.long
async def test_a_stopped_store_costs_nothing_and_is_filled_in_when_it_is_back() -> None:
    async with site(settings={"max_wal_size": "1GB"}) as here:
        protecting = await here.protect()
        async with team(here) as people:
            await here.whole()
            await people.progress(300)
            healthy = sorted(took for _, took in people.times[-300:])[150]
            here.stores["S3"].stop()
            await _write_without_waiting(here, 70)  # more than may wait for a store in memory
            await here.done("snapshot", within=120)
            before = len(people.times)
            await people.progress(300)
            stopped = sorted(took for _, took in people.times[before:])[150]
            assert stopped < 5 * healthy + 0.05  # sanity: nobody waits for its time-outs
            leader = await here.leader()
            assert leader is not None
            assert (leader.state, leader.epoch) == ("streaming", 1)
            assert next(line for line in leader.stores if line.name == "S3").state == "silent"
            assert protecting.rss() < MEMORY_MAX
            here.stores["S3"].go_on()
            await here.whole(90)
            people.pause()
        await _all_alike(here)
        found = await here.objects("S3")
        for prefix in ("wal/", "packs/", "snapshots/", "log/"):
            assert any(key.startswith(prefix) for key in found), prefix
        leader = await here.leader()
        assert leader is not None
        assert leader.epoch == 1


@pytest.mark.long
async def test_a_store_that_lost_its_disk_is_filled_and_votes_from_the_next_epoch_on() -> None:
    async with site() as here:
        protecting = await here.protect()
        async with team(here) as people:
            await people.progress(50)
            waiting = here.begin_protecting()
            await waiting.says("a leader may be alive")
            store = here.stores["S2"]
            store.kill()
            store.wipe()
            store.start()
            await store.ready()
            await protecting.says("it was emptied")
            await protecting.says("store counted in again")
            leader = await here.whole()
            assert leader.epoch == 2
            assert leader.pid == protecting.pid  # whoever waits did not take the change of epoch for an end
            await people.progress(50)
            people.pause()
            # The emptied store and one other are enough.
            here.stores["S3"].kill()
            await here.same_as_primary()
            assert waiting.code is None


async def test_the_primary_restarts_and_the_epoch_goes_on() -> None:
    async with site() as here:
        protecting = await here.protect()
        server = here.primary.server
        async with team(here) as people:
            await people.progress(30)
            await server.stop("fast")
            await protecting.says("the primary was shut down")
            await server.start()
            await people.progress(30)
            for _ in range(3):
                server.kill()
                await server.start()
                await people.progress(30)
            people.pause()
            await here.same_as_primary()
            await people.judge()
        leader = await here.leader()
        assert leader is not None
        assert (leader.epoch, leader.pid) == (1, protecting.pid)


@pytest.mark.long
async def test_async_commits_do_not_wait_until_the_stores_are_too_far_behind() -> None:
    async with site(settings={"synchronous_commit": "remote_write"}) as here:
        proxies = {name: FaultProxy(here.stores[name].port) for name in NAMES}
        for name, proxy in proxies.items():
            proxy.__enter__()
            here.ports[name] = proxy.port
        try:
            here.configure(system='durability = "async"\nmax_lag = "3s"')
            await here.protect()
            async with team(here, level="remote_write") as people:
                await people.progress(50)
                for proxy in proxies.values():
                    proxy.do(Fault.DELAY, seconds=1.0)
                await asyncio.sleep(0.5)
                before = len(people.times)
                await people.progress(200)
                assert max(took for _, took in people.times[before:]) < 0.9  # nobody waited for a store
                for proxy in proxies.values():
                    proxy.do(Fault.BLACK_HOLE)
                await asyncio.sleep(4.5)
                acked = len(people.acked)
                await asyncio.sleep(2)
                assert len(people.acked) <= acked + 4  # one for each connection may slip through
                for proxy in proxies.values():
                    proxy.heal()
                    proxy.do(Fault.CUT)
                    proxy.heal()
                await people.progress(50)
                people.pause()
                await asyncio.sleep(1)
                await here.same_as_primary()
        finally:
            for proxy in proxies.values():
                proxy.__exit__(None, None, None)
