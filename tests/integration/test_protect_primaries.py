"""A primary that changed while nobody protected it."""

from __future__ import annotations

from tests.protect_process import site


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
