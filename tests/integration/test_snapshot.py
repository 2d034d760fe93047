"""A snapshot is taken: what changed is sent, a bad store holds nothing up, and what is not whole is none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import pytest
from tests.pg import cluster
from tests.recovering import CLOCK, COUNT, KEYRING, WholeLog, fill, log_of, recovered, snapshot, three, whole_log

from threefold.kernel.errors import Damaged, NotThere, Unavailable
from threefold.kernel.lsn import Lsn
from threefold.kernel.progress import Silent
from threefold.postgres.messages import ArchiveData
from threefold.postgres.replication import BackupEvent, ReplicationLink
from threefold.protect.snapshot import take_snapshot
from threefold.recover.targets import Latest
from threefold.vault.chunk_store import Vault
from threefold.vault.presence import Presence


async def test_a_second_snapshot_sends_what_changed_and_an_interrupted_one_is_not_sent_again() -> None:
    stores = three()
    async with cluster(18) as primary:
        await fill(primary, 20000)
        first = await snapshot(primary, stores)
        await primary.sql("UPDATE customer SET name = 'changed' WHERE id = 1")
        second = await snapshot(primary, stores)
        assert second.sent < first.sent / 3
        assert second.chunks_reused > first.chunks / 2
        # An attempt whose manifest never came: its packs are found by their indexes.
        await fill(primary, 20000)
        third = await snapshot(primary, stores)
        for store in stores.values():
            del store.objects[f"snapshots/{third.summary.id}"]
        fourth = await snapshot(primary, stores)
        assert fourth.sent < third.sent / 2
        # Packs that one store alone holds are not built upon.
        for name in ("S1", "S2"):
            for key in [key for key in stores[name].objects if key.startswith("packs/")]:
                del stores[name].objects[key]
        fifth = await snapshot(primary, stores)
        assert fifth.chunks_reused == 0
        log = await log_of(primary)
        async with recovered({"S1": stores["S1"]}, log, Latest()) as (_, sql):
            assert await sql(COUNT) == await primary.sql(COUNT)


@pytest.mark.parametrize("fault", ["down", "slow"])
async def test_a_store_that_is_down_or_slow_holds_no_snapshot_back(fault: str) -> None:
    stores = three()
    if fault == "down":
        stores["S2"].down = True
    else:
        stores["S2"].delay = 30
    async with cluster(18) as primary:
        await fill(primary)
        began = CLOCK.monotonic()
        info = await snapshot(primary, stores)
        assert CLOCK.monotonic() - began < 15
        assert set(info.missing) == {"S2"}
        assert f"snapshots/{info.summary.id}" in info.missing["S2"]
        assert not stores["S2"].objects
        again = await snapshot(primary, stores)
        assert CLOCK.monotonic() - began < 25
        assert again.chunks_reused > 0
        log = await log_of(primary)
        stores["S2"].down, stores["S2"].delay = False, 0
        async with recovered(stores, log, Latest()) as (_, sql):
            assert await sql(COUNT) == await primary.sql(COUNT)
        with pytest.raises(NotThere, match="no snapshot"):
            async with recovered(stores, log, Latest(), only="S2"):
                pass


async def test_without_its_packs_on_two_stores_or_its_wal_there_is_no_snapshot() -> None:
    stores = three()
    async with cluster(18) as primary:

        async def take(settled: Callable[[Lsn], Awaitable[None]]) -> None:
            vault = Vault(stores, KEYRING, CLOCK)
            async with await ReplicationLink.connect(primary.dsn(), application_name="snapshot") as link:
                await take_snapshot(link, vault, settled=settled, needed_log=whole_log, clock=CLOCK, progress=Silent())

        async def too_early(lsn: Lsn) -> None:
            raise AssertionError("the WAL is waited for after the packs")

        async def never(lsn: Lsn) -> None:
            raise Unavailable(f"the log stops before {lsn}")

        stores["S2"].down = stores["S3"].down = True
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(take(too_early), 4)
        stores["S2"].down = False
        with pytest.raises(Unavailable, match="the log stops"):
            await take(never)
        assert any(key.startswith("packs/") for key in stores["S2"].objects)
        assert not any(key.startswith("snapshots/") for store in stores.values() for key in store.objects)


class GoneLog(WholeLog):
    async def presence(self, *, enough: int) -> Mapping[str, Presence]:
        return {"wal/1/7": Presence(frozenset(), frozenset({"S1", "S2", "S3"}), frozenset())}


async def test_without_the_log_that_it_begins_with_there_is_no_snapshot_either() -> None:
    stores = three()
    asked: list[tuple[Lsn, Lsn]] = []

    async def settled(lsn: Lsn) -> None:
        return

    async def gone(start: Lsn, stop: Lsn) -> WholeLog:
        asked.append((start, stop))
        return GoneLog()

    async def unreadable(start: Lsn, stop: Lsn) -> WholeLog:
        raise Damaged("the log does not read")

    async with cluster(18) as primary:
        vault = Vault(stores, KEYRING, CLOCK)
        async with await ReplicationLink.connect(primary.dsn(), application_name="snapshot") as link:
            with pytest.raises(Unavailable, match="segments of the log went away"):
                await take_snapshot(link, vault, settled=settled, needed_log=gone, clock=CLOCK, progress=Silent())
            ((start, stop),) = asked
            assert start < stop
            assert not any(key.startswith("snapshots/") for store in stores.values() for key in store.objects)
            with pytest.raises(Unavailable, match="the log does not read"):
                await take_snapshot(link, vault, settled=settled, needed_log=unreadable, clock=CLOCK, progress=Silent())
            assert all(any(key.startswith("snapshots/") for key in store.objects) for store in stores.values())


class Flipping(ReplicationLink):
    """One bit differs from what the primary sent."""

    async def base_backup(self, *, label: str, fast: bool = True) -> AsyncIterator[BackupEvent]:
        flipped = False
        async for event in super().base_backup(label=label, fast=fast):
            data = bytes(event.data) if isinstance(event, ArchiveData) else b""
            if not flipped and b"customer" in data:
                flipped = True
                yield ArchiveData(data.replace(b"customer", b"Customer", 1))
            else:
                yield event


async def test_what_did_not_arrive_as_it_was_sent_is_no_snapshot() -> None:
    stores = three()
    async with cluster(18) as primary:
        await fill(primary, 10)
        vault = Vault(stores, KEYRING, CLOCK)

        async def settled(lsn: Lsn) -> None:
            return

        async with await Flipping.connect(primary.dsn(), application_name="snapshot") as link:
            with pytest.raises(Damaged, match="did not arrive as the primary sent it"):
                await take_snapshot(link, vault, settled=settled, needed_log=whole_log, clock=CLOCK, progress=Silent())
        assert not any(key.startswith("snapshots/") for store in stores.values() for key in store.objects)
