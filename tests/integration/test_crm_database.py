"""Saved means saved: what the database does not confirm is never told as saved, and the pool comes back by itself."""

from __future__ import annotations

import asyncio
import contextlib

import psycopg
import pytest
from tests.crm import Crm, crm

from threefold.crm.model.actor import SYSTEM
from threefold.crm.model.errors import Conflict, NotSaved
from threefold.crm.model.kinds import KINDS
from threefold.crm.records import records
from threefold.crm.sql import database
from threefold.crm.sql.database import Database, conninfo_of
from threefold.kernel.clock import SystemClock
from threefold.kernel.errors import Unavailable

TAGS = KINDS["tags"]
NOBODY = {"synchronous_standby_names": "nobody_is_there"}


async def waiting(there: Crm, query: str = "COMMIT") -> int:
    """The process id of whoever waits for the synchronous standby."""
    for _ in range(200):
        found = await there.pg.sql(
            "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE %s", (f"%{query}%",)
        )
        if found:
            return int(found[0][0])
        await asyncio.sleep(0.02)
    raise AssertionError("nobody waits")


async def named(there: Crm, name: str) -> int:
    return int((await there.pg.sql("SELECT count(*) FROM crm.tags WHERE name = %s", (name,)))[0][0])


async def test_a_commit_whose_wait_was_cancelled_is_not_saved() -> None:
    async with crm() as there:
        await there.pg.set(**NOBODY)
        task = asyncio.create_task(there.create("tags", name="perhaps"))
        pid = await waiting(there)
        await there.pg.sql("SELECT pg_cancel_backend(%s)", (pid,))
        with pytest.raises(NotSaved, match="canceling wait"):
            await task
        assert await named(there, "perhaps") == 1  # it is there, and may be gone tomorrow: nobody was told of it
        # One that is terminated while it waits is as little saved.
        task = asyncio.create_task(there.create("tags", name="perhaps not"))
        await there.pg.sql("SELECT pg_terminate_backend(%s)", (await waiting(there),))
        with pytest.raises(NotSaved, match="connection was lost"):
            await task
        await there.pg.sql("ALTER SYSTEM RESET synchronous_standby_names")
        await there.pg.sql("SELECT pg_reload_conf()")
        assert (await there.create("tags", name="after"))["version"] == 1


async def test_a_commit_outlives_whoever_waits_for_it() -> None:
    async with crm() as there:
        told: list[int] = []
        there.database.after_commit.append(lambda changed: told.append(len(changed)))
        await there.pg.set(**NOBODY)
        task = asyncio.create_task(there.create("tags", name="cancelled"))
        await waiting(there)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        impatient = Database(there.pg.dsn(), SystemClock(), size=2, patience=0.3)
        async with impatient:
            with pytest.raises(NotSaved, match="not confirmed within"):
                async with impatient.write(SYSTEM) as tx:
                    await records.create(tx, TAGS, {"name": "impatient"})
            assert await named(there, "cancelled") == 0  # still on its way
            await there.pg.sql("ALTER SYSTEM RESET synchronous_standby_names")
            await there.pg.sql("SELECT pg_reload_conf()")
            for _ in range(100):
                if await named(there, "cancelled") and await named(there, "impatient") and told:
                    break
                await asyncio.sleep(0.05)
        assert (await named(there, "cancelled"), await named(there, "impatient"), told) == (1, 1, [1])


async def test_a_lost_connection_is_told_and_the_pool_comes_back() -> None:
    async with crm(size=3, wait=1.0) as there:

        async def interrupted() -> None:
            async with there.database.write(SYSTEM) as tx:
                await records.create(tx, TAGS, {"name": "half"})
                await there.pg.sql("SELECT pg_terminate_backend(%s, 5000)", (tx.connection.info.backend_pid,))
                await records.create(tx, TAGS, {"name": "other half"})

        with pytest.raises(Unavailable) as lost:
            await interrupted()
        assert not isinstance(lost.value, NotSaved)  # nothing can have been written
        assert await named(there, "half") == 0
        # All that lie in the pool die unseen; the next requests do not notice.
        await asyncio.gather(*(there.create("tags", name=f"n{number}") for number in range(3)))
        await there.pg.sql(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        made = await asyncio.gather(*(there.create("tags", name=f"m{number}") for number in range(6)))
        await asyncio.gather(*(there.get("tags", tag["id"]) for tag in made))
        await there.pg.server.stop("immediate")
        with pytest.raises(Unavailable):
            await asyncio.wait_for(there.create("tags", name="down"), 10)
        await there.pg.server.start()
        for _ in range(40):
            try:
                await there.create("tags", name="up")
                break
            except Unavailable:
                await asyncio.sleep(0.25)
        assert await named(there, "up") == 1


async def test_whoever_is_cancelled_while_a_connection_is_looked_at_takes_none_along(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with crm(size=1, wait=1) as there:
        looking = asyncio.Event()

        async def slow(_: object) -> bool:
            looking.set()
            await asyncio.Event().wait()
            return True

        with monkeypatch.context() as patched:
            patched.setattr(database, "_alive", slow)
            task = asyncio.create_task(there.create("tags", name="given up"))
            await looking.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert (await there.create("tags", name="next"))["version"] == 1


async def test_what_failed_is_not_saved() -> None:
    async with crm() as there:
        await there.create("tags", name="one")

        async def taken() -> None:
            async with there.database.write(SYSTEM) as tx:
                await records.create(tx, TAGS, {"name": "two"})
                await records.create(tx, TAGS, {"name": "one"})

        async def swallowed() -> None:
            async with there.database.write(SYSTEM) as tx:
                await records.create(tx, TAGS, {"name": "two"})
                with contextlib.suppress(psycopg.Error):
                    await records.create(tx, TAGS, {"name": "one"})

        async def committed_by_hand() -> None:
            async with there.database.write(SYSTEM) as tx:
                await tx.connection.execute("ROLLBACK")

        async def left() -> None:
            async with there.database.write(SYSTEM) as tx:
                await records.create(tx, TAGS, {"name": "two"})
                raise RuntimeError("changed my mind")

        async def not_here() -> None:
            async with there.database.read() as connection:
                await connection.execute("DELETE FROM crm.tags")

        for work, error in (
            (taken, Conflict),
            (swallowed, NotSaved),
            (committed_by_hand, NotSaved),
            (left, RuntimeError),
            (not_here, Unavailable),
        ):
            with pytest.raises(error):
                await work()
        assert await named(there, "two") == 0


async def test_no_time_limit_stands_over_commit() -> None:
    async with crm() as there:
        await there.pg.set(**NOBODY)
        async with asyncio.TaskGroup() as group:
            database = Database(there.pg.dsn(options="-c statement_timeout=300"), SystemClock(), size=1)
            async with database:

                async def make() -> None:
                    async with database.write(SYSTEM) as tx:
                        await tx.connection.execute("SET LOCAL statement_timeout = 300")
                        await records.create(tx, TAGS, {"name": "slow"})

                task = group.create_task(make())
                await waiting(there)
                await asyncio.sleep(0.6)
                assert not task.done()
                await there.pg.sql("ALTER SYSTEM RESET synchronous_standby_names")
                await there.pg.sql("SELECT pg_reload_conf()")
                await task
        assert await named(there, "slow") == 1


def test_of_several_hosts_the_one_that_takes_writes() -> None:
    assert "target_session_attrs=read-write" in conninfo_of("host=a,b port=1,2", writable=True)
    assert "target_session_attrs" not in conninfo_of("host=a,b port=1,2", writable=False)
    assert "target_session_attrs" not in conninfo_of("host=a", writable=True)
    assert "target_session_attrs=any" in conninfo_of("host=a,b target_session_attrs=any", writable=True)
