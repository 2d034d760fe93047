"""Real servers that stall, die, fill up and start; real sentinels; real storage servers that hang."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import psutil
import psycopg
import pytest
from tests.pg import Cluster, cluster, free_port
from tests.protect_process import site, until

from threefold.failover.attention import Attention
from threefold.failover.judgement import Patience
from threefold.failover.probes import Probe
from threefold.failover.reports import Condition, PrimarySeen, Report, Seen, Waits
from threefold.failover.store_watch import read_reports
from threefold.failover.verdicts import Kind, Verdict
from threefold.failover.watch import Judge, Target, Vantage, Watch
from threefold.kernel.clock import SystemClock
from threefold.kernel.keys import Keyring
from threefold.stores.memory import MemoryStore

PATIENT = Patience(site_gone_s=4)


@asynccontextmanager
async def judging(dsn: str, patience: Patience = PATIENT) -> AsyncIterator[Judge]:
    """An agent without sentinels, with three stores that answer, once it has seen the primary."""
    stores = {name: MemoryStore(name) for name in ("S1", "S2", "S3")}
    watch = Watch(Vantage("us", "cloud", "r"), [Target("office", dsn)], stores, Keyring(bytes(32)), SystemClock())
    async with watch, Judge(watch, watched="office", patience=patience) as judge:
        yield judge


@asynccontextmanager
async def probing(dsn: str, **more: object) -> AsyncIterator[Probe]:
    clock, attention = SystemClock(), Attention()
    probe = Probe(dsn, clock, lambda: attention.at(clock.monotonic()), **more)  # type: ignore[arg-type]
    work = asyncio.create_task(probe.run())
    try:
        yield probe
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


async def comes(judge: Judge, right: Callable[[Verdict], bool], within: float) -> Verdict:
    def told() -> str:
        verdict = judge.verdict()
        return "\n".join((f"{verdict.kind.value}, give up: {verdict.give_up}: {verdict.sentence}", *verdict.evidence))

    await until(lambda: right(judge.verdict()), "such a verdict", within, told)
    return judge.verdict()


async def sees(probe: Probe, right: Callable[[PrimarySeen], bool], within: float = 10) -> PrimarySeen:
    await until(lambda: right(probe.seen()), "such a sight", within, lambda: str(probe.seen()))
    return probe.seen()


def postmaster(primary: Cluster) -> psutil.Process:
    return psutil.Process(int((primary.server.data_dir / "postmaster.pid").read_text().splitlines()[0]))


@contextmanager
def standing_still(primary: Cluster) -> Iterator[None]:
    """All of its processes stopped, as a machine does whose disk hangs."""
    head = postmaster(primary)
    every = [head, *head.children(recursive=True)]
    for process in every:
        process.suspend()
    try:
        yield
    finally:
        for process in every:
            with suppress(psutil.NoSuchProcess):
                process.resume()


@contextmanager
def nowhere() -> Iterator[str]:
    """How to reach a host that never answers: a full queue of connections, of which the kernel drops each new one."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        door.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        try:
            for each in waiting:
                each.setblocking(False)
                each.connect_ex(door.getsockname())
            yield f"host=127.0.0.1 port={door.getsockname()[1]} user=nobody dbname=postgres"
        finally:
            for each in waiting:
                each.close()


async def test_a_stall_is_told_from_a_dead_host_even_when_its_queue_of_connections_is_full() -> None:
    """While it stands still the CRM's connections fill its queue, and its kernel drops ours without a word."""
    async with cluster(18, settings={"max_connections": "5"}) as primary, judging(primary.dsn()) as judge:
        await comes(judge, lambda verdict: verdict.kind is Kind.HEALTHY, 10)
        waiting = []
        try:
            with standing_still(primary):
                for _ in range(400):
                    waiting.append(each := socket.socket())
                    each.setblocking(False)
                    each.connect_ex(("127.0.0.1", primary.server.port))
                stalled = await comes(judge, lambda verdict: "stands still" in verdict.sentence, 4)
                assert stalled.kind is Kind.SERVICE_DISRUPTION
                end = asyncio.get_running_loop().time() + PATIENT.site_gone_s + 2
                while asyncio.get_running_loop().time() < end:
                    verdict = judge.verdict()
                    assert (verdict.kind, verdict.give_up) == (Kind.SERVICE_DISRUPTION, False), verdict
                    await asyncio.sleep(0.1)
        finally:
            for each in waiting:
                each.close()
        await comes(judge, lambda verdict: verdict.kind is Kind.HEALTHY, 5)


async def test_a_dead_process_is_named_within_three_seconds_and_given_up() -> None:
    async with cluster(18) as primary, judging(primary.dsn()) as judge:
        await comes(judge, lambda verdict: verdict.kind is Kind.HEALTHY, 10)
        primary.server.kill()
        named = await comes(judge, lambda verdict: verdict.kind is Kind.SERVICE_DISRUPTION, 3)
        assert not named.give_up
        given_up = await comes(judge, lambda verdict: verdict.give_up, 5)
        assert "is gone" in given_up.sentence


async def test_a_stopped_postmaster_takes_no_new_connection_and_serves_those_that_exist() -> None:
    async with cluster(18) as primary, judging(primary.dsn(), Patience(stall_s=1)) as judge:
        await comes(judge, lambda verdict: verdict.kind is Kind.HEALTHY, 10)
        os.kill(postmaster(primary).pid, signal.SIGSTOP)
        try:
            verdict = await comes(judge, lambda verdict: "no new connection" in verdict.sentence, 12)
            await asyncio.sleep(4)
            assert not verdict.give_up
            assert not judge.verdict().give_up
        finally:
            os.kill(postmaster(primary).pid, signal.SIGCONT)


async def test_a_primary_without_a_free_connection_is_alive() -> None:
    async with cluster(18, settings={"max_connections": "4", "superuser_reserved_connections": "0"}) as primary:
        held = [await psycopg.AsyncConnection.connect(primary.dsn()) for _ in range(4)]
        try:
            async with judging(primary.dsn(), Patience(1, 1, 1)) as judge:
                await comes(judge, lambda verdict: "no connection left" in verdict.sentence, 5)
                await asyncio.sleep(4)
                assert (judge.verdict().kind, judge.verdict().give_up) == (Kind.SLOW, False)
        finally:
            for each in held:
                await each.close()


async def test_a_primary_that_does_not_let_us_in_is_alive() -> None:
    async with cluster(18) as primary, judging(primary.dsn(password="hunter-2"), Patience(1, 1, 1)) as judge:
        verdict = await comes(judge, lambda verdict: "does not let us in" in verdict.sentence, 5)
        assert (verdict.kind, verdict.give_up) == (Kind.HEALTHY, False)
        assert not any("hunter-2" in line or "may be wrong" in line for line in verdict.evidence)


async def test_a_server_that_recovers_says_so_in_every_language() -> None:
    """A standby that takes no queries answers as one that recovers does: 57P03."""
    settings = {"hot_standby": "off", "lc_messages": "C"}
    async with cluster(18, settings=settings, start=False) as primary:
        (primary.server.data_dir / "standby.signal").touch()
        with suppress(Exception):
            await primary.server.start(timeout=1)
        async with probing(primary.dsn()) as probe:
            seen = await sees(probe, lambda seen: seen.condition is Condition.STARTING)
            assert (seen.host, seen.process, seen.sql) == (Seen.OK, Seen.OK, Seen.REFUSED)


async def test_a_commit_goes_through_waits_for_the_stores_or_is_not_tried_and_leaves_no_trace() -> None:
    async with cluster(18) as primary:
        tables = await primary.sql("SELECT count(*) FROM pg_class")
        async with probing(primary.dsn(), may_write=lambda _: True, write_period_s=0.3) as probe:
            seen = await sees(probe, lambda seen: seen.write is Seen.OK)
            assert seen.write_age_s is not None
            await primary.set(synchronous_standby_names="ANY 1 (threefold)")
            seen = await sees(probe, lambda seen: seen.write is Seen.SILENT and seen.waits is Waits.STORES)
            assert seen.sql is Seen.OK
            await primary.set(synchronous_standby_names="")
            await sees(probe, lambda seen: seen.write is Seen.OK)
        assert await primary.sql("SELECT count(*) FROM pg_class") == tables
        async with probing(primary.dsn(), may_write=lambda _: False, write_period_s=0.1) as probe:
            await sees(probe, lambda seen: seen.answers >= 3)
            assert probe.seen().write is Seen.UNKNOWN


async def test_another_database_system_at_the_address_is_not_the_primary() -> None:
    async with cluster(18) as primary, probing(primary.dsn()) as probe:
        await sees(probe, lambda seen: seen.sql is Seen.OK and seen.timeline == 1)
        probe.expected = 1 + (probe.seen().system_identifier or 0)
        seen = await sees(probe, lambda seen: seen.condition is Condition.FOREIGN)
        assert seen.sql is Seen.REFUSED


async def test_nobody_listens_and_nobody_is_there() -> None:
    async with probing(f"host=127.0.0.1 port={free_port()} user=x") as probe:
        seen = await sees(probe, lambda seen: seen.process is Seen.REFUSED)
        assert (seen.host, seen.sql) == (Seen.OK, Seen.FAILED)
    with nowhere() as dsn:
        async with probing(dsn) as probe:
            seen = await sees(probe, lambda seen: seen.host is Seen.SILENT)
            assert (seen.process, seen.sql) == (Seen.UNKNOWN, Seen.SILENT)
    async with probing("host=nowhere.invalid user=x") as probe:
        await asyncio.sleep(1)
        assert probe.seen().host is Seen.UNKNOWN


@pytest.mark.long
async def test_a_sentinel_tells_a_cut_line_from_a_dead_site_through_the_stores_even_if_one_hangs() -> None:
    async with site(18) as here:
        sentinel = here.run("sentinel", "--name", "third", "--site", "", "--writes", "0s", log="sentinel")
        await sentinel.says("answers")
        here.stores["S2"].stop()
        async with here.parts() as parts:
            await until(lambda: _reported(parts.stores, parts.keyring), "report", 10)
            with nowhere() as dsn:
                watch = Watch(
                    Vantage("us", "cloud", "r"),
                    [Target("primary", dsn)],
                    parts.stores,
                    parts.keyring,
                    parts.clock,
                )
                async with watch, Judge(watch, watched="primary", patience=PATIENT) as judge:
                    cut = await comes(judge, lambda verdict: verdict.kind is Kind.NETWORK_FAILURE, 20)
                    assert "third" in cut.sentence
                    await asyncio.sleep(PATIENT.site_gone_s + 1)
                    verdict = judge.verdict()
                    assert (verdict.kind, verdict.give_up) == (Kind.NETWORK_FAILURE, False)
                    assert any("S2 silent" in line for line in verdict.evidence), verdict
                    here.primary.server.kill()
                    gone = await comes(judge, lambda verdict: "is gone" in verdict.sentence, 5)
                    assert "third sees it" in gone.sentence
                    sentinel.kill()
                    failed = await comes(judge, lambda verdict: verdict.kind is Kind.SITE_FAILURE, 12)
                    assert any("third has not been heard" in line for line in failed.evidence)


async def _reported(stores: object, keyring: Keyring) -> bool:
    found: dict[str, Report] = await read_reports(stores, keyring)  # type: ignore[arg-type]
    return "third" in found and found["third"].of("primary").sql is Seen.OK


async def test_a_sentinel_ends_when_it_is_told_to_while_everything_hangs() -> None:
    async with site(18) as here:
        sentinel = here.run("sentinel", "--name", "beside", log="sentinel")
        await sentinel.says("answers")
        for store in here.stores.values():
            store.stop()
        with standing_still(here.primary):
            await sentinel.says("stands still", 10)
            sentinel.signal(signal.SIGTERM)
            assert await sentinel.ended(10) == 0


@pytest.mark.parametrize("name", ["Third", "a b", "-x"])
async def test_a_sentinel_needs_a_name_that_is_a_key(name: str) -> None:
    async with site(18, start=False) as here:
        error = await here.refused("sentinel", f"--name={name}")
        assert error["exit_code"] == 2
