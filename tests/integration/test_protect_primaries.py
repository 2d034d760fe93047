"""A primary that changed while nobody protected it."""

from __future__ import annotations

import shutil
import signal

from tests.pg import Cluster
from tests.protect_process import Site, site, until

from threefold.kernel.lsn import Lsn
from threefold.postgres.server import Server


async def _settled_to_the_end(here: Site) -> None:
    """The log ends at a WAL segment's start, and so does the primary's WAL."""

    async def there() -> bool:
        leader = await here.leader()
        ((at,),) = await here.primary.sql("SELECT pg_current_wal_flush_lsn()::text")
        return leader is not None and leader.settled == Lsn.parse(at)

    await until(there, "log that ends where the primary's WAL does")


async def test_a_promoted_primary_that_has_more_of_the_old_timeline_than_the_log() -> None:
    async with site() as here:
        protecting = await here.protect()
        await here.primary.sql("CREATE TABLE seen AS SELECT 1 AS number")
        protecting.kill()
        await here.primary.sql("SET synchronous_commit = local; INSERT INTO seen VALUES (2)")
        server = here.primary.server
        await server.stop("fast")
        (server.data_dir / "standby.signal").touch()
        await server.start()
        await server.promote()
        again = await here.protect("--take-over")
        await here.primary.sql("INSERT INTO seen VALUES (3)")
        leader = await here.leader()
        assert leader is not None
        assert leader.timeline == 2
        assert leader.epoch <= 4, again.said  # the rest of the old timeline, then the new one
        await here.same_as_primary()


async def test_a_log_that_ends_at_a_wal_segments_start_needs_nothing_before_it_of_the_primary() -> None:
    async with site(settings={"wal_keep_size": "0"}) as here:
        protecting = await here.protect()
        await here.primary.sql("CREATE TABLE seen AS SELECT 1 AS number")
        await here.primary.sql("CHECKPOINT")
        await here.primary.sql("SELECT pg_switch_wal()")
        await _settled_to_the_end(here)
        protecting.kill()
        await here.primary.sql("SET synchronous_commit = local; INSERT INTO seen VALUES (2)")
        await here.primary.sql("CHECKPOINT")
        ((oldest, restart),) = await here.primary.sql(
            "SELECT (SELECT min(name) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'), pg_walfile_name(restart_lsn)"
            " FROM pg_replication_slots"
        )
        assert oldest == restart  # the primary has dropped the segment before
        await here.protect("--take-over")
        await here.primary.sql("INSERT INTO seen VALUES (3)")


async def test_a_copy_that_went_on_by_itself_is_not_taken_for_the_primary_that_comes_back() -> None:
    async with site() as here:
        protecting = await here.protect()
        primary = here.primary
        await primary.sql("CREATE TABLE seen AS SELECT 1 AS number")
        await primary.server.stop("fast")
        copy = primary.folder / "copy"
        shutil.copytree(primary.server.data_dir, copy, symlinks=True)
        await primary.server.start()
        await here.sync()
        await primary.sql("INSERT INTO seen VALUES (2)")
        protecting.signal(signal.SIGSTOP)
        primary.server.kill()
        other = Server(primary.server.binaries, copy, primary.server.port, settings=primary.server.settings)
        await other.start()
        try:
            await Cluster(other, copy.parent).sql(
                "SET synchronous_commit = off; CREATE TABLE other AS SELECT generate_series(1, 100000)"
            )
            await Cluster(other, copy.parent).sql("CHECKPOINT")
            protecting.signal(signal.SIGCONT)
            assert await protecting.ended() == 3
            assert "holds other changes" in protecting.said
        finally:
            other.kill()
