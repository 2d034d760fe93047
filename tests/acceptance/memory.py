"""The DRaaS server's memory while one store is a black hole and the primary writes as fast as it can.

    python -m tests.acceptance.memory --minutes 10

What a store misses is dropped from memory beyond a bound and copied to it later (quorum/appender.py). So the curve has
to be flat however long the store is away; its slope over the second half is printed. The primary writes random bytes
for which nobody waits, and in between commits for which somebody does: both go through the DRaaS server.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import psycopg

from tests.fault_proxy import Fault, FaultProxy
from tests.protect_process import Process, Site, site, team
from threefold.kernel.lsn import Lsn

AWAY = "S3"


@dataclass(frozen=True)
class Sample:
    seconds: float
    rss: int  # bytes
    settled: int  # bytes of WAL that two stores have


@dataclass(frozen=True)
class Curve:
    samples: list[Sample]
    acked: int  # commits that somebody waited for

    @property
    def peak(self) -> int:
        return max(each.rss for each in self.samples)

    @property
    def written(self) -> int:
        return self.samples[-1].settled - self.samples[0].settled

    def slope(self) -> float:
        """Bytes of memory for each byte of WAL over the second half, by least squares."""
        later = self.samples[len(self.samples) // 2 :]
        return statistics.linear_regression([each.settled for each in later], [each.rss for each in later]).slope

    def told(self) -> str:
        later = self.samples[len(self.samples) // 2 :]
        spread = f"{min(each.rss for each in later) / 1e6:.0f} to {max(each.rss for each in later) / 1e6:.0f} MB"
        return (
            f"{self.samples[-1].seconds:.0f} s, {self.written / 1e6:.0f} MB of WAL, {self.acked} commits waited for: "
            f"peak {self.peak / 1e6:.0f} MB, second half {spread}, slope {self.slope() * 1e6:+.0f} bytes a MB of WAL"
        )


async def measure(
    *, seconds: float, megabytes: float, every: float = 0.25, say: Callable[[str], None] = lambda _: None
) -> Curve:
    """Until so many seconds are over or so much WAL is on two stores."""
    async with site(settings={"max_wal_size": "1GB"}) as here:
        with FaultProxy(here.stores[AWAY].port) as proxy:
            here.ports[AWAY] = proxy.port
            here.configure()
            protecting = await here.protect()
            async with team(here, 2) as people:
                await people.progress(20)
                proxy.do(Fault.BLACK_HOLE)
                load = [asyncio.create_task(_load(here)) for _ in range(2)]
                try:
                    samples = await _watched(here, protecting, seconds, megabytes, every, say)
                finally:
                    for each in load:
                        each.cancel()
                    await asyncio.gather(*load, return_exceptions=True)
                await people.progress(5)
                leader = await here.leader()
                assert leader is not None
                assert next(line for line in leader.stores if line.name == AWAY).state == "silent"
                return Curve(samples, len(people.acked))


async def _load(here: Site) -> None:
    """Random bytes that nothing compresses much, 10 MB in a piece, with local commits."""
    async with await psycopg.AsyncConnection.connect(here.primary.dsn(), autocommit=True) as connection:
        await connection.execute("SET synchronous_commit = local")
        while True:
            await connection.execute(
                "SELECT pg_logical_emit_message(false, 'load', string_agg(gen_random_uuid()::text, ''))"
                " FROM generate_series(1, 290000)"
            )
            # Full load is what the DRaaS server can take; more would only fill the primary's disk.
            while await _behind(connection) > 64 * 2**20:
                await asyncio.sleep(0.05)


async def _behind(connection: psycopg.AsyncConnection[tuple[object, ...]]) -> int:
    cursor = await connection.execute(
        "SELECT pg_current_wal_lsn() - coalesce(max(flush_lsn), pg_current_wal_lsn()) FROM pg_stat_replication"
    )
    row = await cursor.fetchone()
    assert row is not None
    return int(str(row[0]))


async def _watched(
    here: Site, protecting: Process, seconds: float, megabytes: float, every: float, say: Callable[[str], None]
) -> list[Sample]:
    samples: list[Sample] = []
    began = said = time.monotonic()

    def over() -> bool:
        return bool(samples) and (
            samples[-1].seconds >= seconds or samples[-1].settled - samples[0].settled >= megabytes * 10**6
        )

    while not over():
        await asyncio.sleep(every)
        ((flushed,),) = await here.primary.sql("SELECT max(flush_lsn)::text FROM pg_stat_replication")
        now = time.monotonic()
        if flushed is not None:
            samples.append(Sample(now - began, protecting.rss(), int(Lsn.parse(flushed))))
        if now - said > 15:
            said = now
            last = samples[-1]
            written = (last.settled - samples[0].settled) / 1e6
            say(f"{last.seconds:5.0f} s {last.rss / 1e6:5.0f} MB {written:7.0f} MB of WAL")
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    given = parser.parse_args()
    curve = asyncio.run(
        measure(seconds=given.minutes * 60, megabytes=10**9, every=1, say=lambda text: print(text, flush=True))
    )
    print(curve.told())


if __name__ == "__main__":
    main()
