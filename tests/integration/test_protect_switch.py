"""A switch to the other site: the DRaaS server lives through it, leads there next, and nobody else is confirmed."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from tests.pg import SUPERUSER, Cluster, folder, free_port
from tests.protect_process import SYNC, Process, Site, site, team, until

from threefold.bootstrap import journal_of
from threefold.failover.steps import Kind
from threefold.postgres.server import Server
from threefold.quorum.driver import Driver
from threefold.quorum.lead import fence
from threefold.quorum.majority import QUORUM
from threefold.quorum.members import read_roll
from threefold.quorum.objects import Codec
from threefold.quorum.reader import agreed_format
from threefold.quorum.view import Scope

pytestmark = pytest.mark.long


async def order_and_fence(here: Site) -> int:
    """What an agent does first; the epoch of its fence."""
    async with here.parts() as parts:
        journal = journal_of(parts, by="a test")
        switch = await journal.order(to="cloud", reason="the office burns")
        driver = Driver(parts.stores, parts.clock)
        roll = await driver.run(read_roll(tuple(parts.stores)))
        log = agreed_format(roll, parts.keyring, QUORUM)
        members = tuple(roll.members)
        scope = Scope(members, Codec(parts.keyring, log.log), parts.clock.new_id(), QUORUM, log.segment_bytes)
        epoch, found = await driver.run(fence(scope))
        assert found is not None
        await journal.propose(switch, Kind.FENCED, epoch=epoch, end=str(found.end), timeline=found.timeline)
        return epoch


async def serve_at_the_cloud(here: Site, port: int) -> Cluster:
    """And what it does then."""
    async with here.parts() as parts:
        journal = journal_of(parts, by="a test")
        newest = (await journal.read()).newest
        assert newest is not None
        newest = await journal.propose(newest, Kind.PROMOTING)
        assert newest.took_over
        into = folder("tf-recovered-") / "data"
        await here.done("recover", "--into", into, "--start", "--port", str(port))
        server = Server(here.primary.server.binaries, into, port, settings={"fsync": "off"})
        here.servers.append(server)
        await journal.propose(newest, Kind.SERVING, timeline=2)
        return Cluster(server, into.parent)


def two_sites(here: Site) -> int:
    port = free_port()
    recovery = f"""
[recovery]
site = "cloud"
listen = "127.0.0.1:{port}"
dsn = "host=127.0.0.1 port={port} user={SUPERUSER} dbname=postgres"
"""
    here.configure(system='site = "office"', more=recovery)
    return port


async def _says_again(process: Process, text: str, times: int) -> None:
    await until(lambda: process.said.count(text) >= times, f"{text!r} {times} times", said=lambda: process.said)


async def _write_at(office: Cluster) -> None:
    async with await psycopg.AsyncConnection.connect(office.dsn()) as connection:
        await connection.execute("INSERT INTO saved VALUES (99, 99, 'at the office')")
        await connection.commit()


@pytest.mark.parametrize("old", ["lives", "is dead"])
async def test_it_waits_while_a_switch_is_under_way_and_leads_for_the_new_site(old: str) -> None:
    async with site() as here:
        port = two_sites(here)
        protecting = await here.protect()
        office = here.primary
        async with team(here) as people:
            await people.progress(30)
            await here.done("snapshot")
            await people.progress(30)
            if old == "is dead":
                office.server.kill()
            fence_epoch = await order_and_fence(here)
            if old == "lives":  # its next change meets the fence
                await protecting.says("ended by a switch")
                await protecting.says("waiting: a switch is under way")
            acked = len(people.acked)
            await asyncio.sleep(1)
            assert len(people.acked) == acked
            here.primary = await serve_at_the_cloud(here, port)
            await _says_again(protecting, '"streaming"', 2)
            await here.primary.set(synchronous_standby_names=SYNC)
            leader = await here.leader()
            assert leader is not None
            assert (leader.site, leader.switch, leader.pid) == ("cloud", 1, protecting.pid)
            assert leader.timeline == 2
            assert leader.epoch > fence_epoch
            for process in here.processes:
                assert process.code in {None, 0}, process.said
            if old == "lives":
                # Whoever still writes at the old site is confirmed nothing.
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(_write_at(office), 2)
                office.server.kill()
            await people.progress(30)
            people.pause()
            await people.judge()
            await here.done("verify")
        assert protecting.code is None


async def test_a_switch_that_is_abandoned_leaves_the_site_protected() -> None:
    async with site() as here:
        two_sites(here)
        protecting = await here.protect()
        async with team(here) as people:
            await people.progress(30)
            await order_and_fence(here)
            await protecting.says("waiting: a switch is under way")
            async with here.parts() as parts:
                await journal_of(parts, by="a test").abandon(1, "a false alarm")
            await _says_again(protecting, '"streaming"', 2)
            await people.progress(30)
            people.pause()
            await here.same_as_primary()
        leader = await here.leader()
        assert leader is not None
        assert (leader.site, leader.switch, leader.epoch) == ("office", 0, 3)
