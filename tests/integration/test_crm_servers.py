"""The database moves, and the CRM's connections with it: real primary, real standby, kill -9."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.pair import Pair, pair

from threefold.crm.model.actor import SYSTEM
from threefold.crm.model.kinds import KINDS
from threefold.crm.records import records
from threefold.crm.sql.database import Database
from threefold.crm.sql.migrate import migrate
from threefold.crm.sql.servers import Server, chosen, places
from threefold.kernel.clock import SystemClock
from threefold.kernel.errors import Unavailable


@asynccontextmanager
async def watched(two: Pair) -> AsyncIterator[Database]:
    async with Database(two.dsn(), SystemClock(), size=4) as database:
        watching = asyncio.create_task(database.watch.run())
        await database.watch.look()
        yield database
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def tag(database: Database, name: str) -> None:
    async with database.write(SYSTEM) as tx:
        await records.create(tx, KINDS["tags"], {"name": name})


async def names(database: Database) -> list[str]:
    async with database.read() as connection:
        rows = await (await connection.execute("SELECT name FROM crm.tags ORDER BY name")).fetchall()
    return [row["name"] for row in rows]


async def test_reads_go_on_at_the_standby_and_writes_where_it_is_promoted() -> None:
    async with pair() as two:
        with psycopg.connect(two.primary.dsn()) as connection:
            migrate(connection)
        async with watched(two) as database:
            await tag(database, "before")
            assert database.watch.age() == 0
            await two.caught_up()
            await database.watch.look()

            two.primary.server.kill()
            assert await names(database) == ["before"], "even before anybody has noticed"
            with pytest.raises(Unavailable):
                await tag(database, "nowhere")
            began = time.monotonic()
            with pytest.raises(Unavailable):
                await tag(database, "nowhere")
            assert time.monotonic() - began < 0.5, "known to be away: nobody waits for that"
            assert not database.watch.writable
            await asyncio.sleep(1.2)
            assert await names(database) == ["before"]
            age = database.watch.age()
            assert age is not None
            assert 0.9 < age < 5

            await two.promote()
            began = time.monotonic()
            while True:
                with contextlib.suppress(Unavailable):
                    await tag(database, "after")
                    break
                assert time.monotonic() - began < 5
                await asyncio.sleep(0.02)
            assert time.monotonic() - began < 1.5
            assert await names(database) == ["after", "before"]
            assert database.watch.age() == 0

            # The old primary comes back and does not know: nobody writes to it, nobody reads from it.
            await two.primary.server.start()
            for n in range(10):
                await database.watch.look()
                await tag(database, f"later {n}")
                assert f"later {n}" in await names(database)
            assert (await two.primary.sql("SELECT count(*) FROM crm.tags"))[0][0] == 1


async def test_writes_again_soon_after_a_long_time_away() -> None:
    async with pair() as two:
        with psycopg.connect(two.primary.dsn()) as connection:
            migrate(connection)
        async with watched(two) as database:
            await tag(database, "before")
            two.primary.server.kill()
            for _ in range(50):  # a pool's own patience would grow meanwhile
                with contextlib.suppress(Unavailable):
                    await tag(database, "nowhere")
                await asyncio.sleep(0.1)
            await two.primary.server.start()
            began = time.monotonic()
            while True:
                with contextlib.suppress(Unavailable):
                    await tag(database, "after")
                    break
                await asyncio.sleep(0.02)
            assert time.monotonic() - began < 1.5


def test_every_place_of_a_connection_string_is_asked() -> None:
    found = places("host=a,b port=1,2 user=u target_session_attrs=read-write")
    assert [address for address, _ in found] == ["a:1", "b:2"]
    assert all("target_session_attrs" not in conninfo for _, conninfo in found)
    assert [address for address, _ in places("host=a,b port=7")] == ["a:7", "b:7"]
    assert [address for address, _ in places("dbname=x")] == ["local:5432"]


SERVERS = st.lists(
    st.builds(
        Server, st.text(), st.just(""), st.booleans(), st.just(1), st.integers(1, 4), st.integers(0, 9), st.none()
    )
)


@given(SERVERS, st.integers(0, 4))
def test_nobody_writes_to_a_timeline_that_was_left(seen: list[Server], highest: int) -> None:
    found = chosen(seen, highest)
    if found.writer is not None:
        assert found.writer.timeline >= max([highest, *(each.timeline for each in seen if each.writable)])
        assert found.reader is found.writer
    else:
        assert not any(each.writable and each.timeline >= highest for each in seen)
        assert (found.reader is None) == (not seen)
