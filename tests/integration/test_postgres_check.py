"""The preflight's questions to real primaries, asked by the role that the documentation asks for."""

import psycopg
import pytest
from tests.pg import BOTH, cluster

from threefold.kernel.errors import BadInput
from threefold.postgres.binaries import features, find_binaries
from threefold.postgres.replication import ReplicationLink
from threefold.protect.check import Level, judge, look, recovery_side, try_replication
from threefold.protect.primary_facts import Override


@pytest.mark.parametrize("major", BOTH)
async def test_a_role_with_replication_and_monitor_sees_all_and_changes_nothing(major: int) -> None:
    async with cluster(major, settings={"fsync": "on", "max_slot_wal_keep_size": "8GB"}) as primary:
        await primary.sql("CREATE ROLE threefold LOGIN REPLICATION PASSWORD 'x'")
        await primary.sql("GRANT pg_monitor TO threefold")
        await primary.sql("CREATE ROLE batch")
        await primary.sql("ALTER ROLE batch SET synchronous_commit = off")
        await primary.sql("ALTER ROLE threefold SET statement_timeout = '10s'")
        await primary.sql("CREATE DATABASE crm")
        await primary.sql("CREATE UNLOGGED TABLE cache (x int)", dbname="crm")
        await primary.sql("CREATE DATABASE closed")
        await primary.sql("REVOKE CONNECT ON DATABASE closed FROM PUBLIC")
        before = await primary.sql("SELECT pg_current_wal_insert_lsn()")
        dsn = primary.dsn(user="threefold", password="x")
        facts = await look(dsn, "threefold")

        assert (facts.major, facts.replication, facts.monitor, facts.in_recovery) == (major, True, True, False)
        assert facts.settings["max_slot_wal_keep_size"] == "8192"
        assert "shared_preload_libraries" in facts.settings
        assert "statement_timeout" not in facts.settings  # the role's own hides the server's: unknown, not 0
        assert Override(None, "batch", "synchronous_commit", "off") in facts.overrides
        databases = {database.name: database for database in facts.databases}
        assert databases["crm"].unlogged == ("public.cache",)
        assert databases["crm"].extensions == ("plpgsql",)
        assert "closed" in databases["closed"].unseen
        assert facts.size_bytes is not None
        assert (await try_replication(dsn)).level is Level.FINE

        side = recovery_side(find_binaries, facts.major)
        findings = judge(facts, sync=True, application_name="threefold", side=side)
        assert [finding.name for finding in findings if finding.level is Level.FAILED] == []
        warned = {finding.name for finding in findings if finding.level is Level.WARNING}
        assert warned == {
            "synchronous_standby_names",
            "synchronous_commit of role batch",
            "statement_timeout of role threefold",
            "databases",
            "unlogged tables",
        }
        assert await primary.sql("SELECT pg_current_wal_insert_lsn()") == before


async def test_a_streaming_receiver_is_seen_and_its_remedy_makes_commits_wait() -> None:
    settings = {"fsync": "on", "max_slot_wal_keep_size": "8GB"}
    async with (
        cluster(18, settings=settings) as primary,
        await ReplicationLink.connect(primary.dsn(), application_name="threefold") as link,
    ):
        slot = await link.ensure_slot("threefold")
        assert slot.restart is not None
        await link.start_streaming(slot="threefold", start=slot.restart, timeline=1)
        facts = await look(primary.dsn(), "threefold")
        (finding,) = [f for f in judge(facts, sync=True, application_name="threefold") if f.level is Level.FAILED]
        for statement in finding.remedy.split(";")[:-1]:
            await primary.sql(statement)
        while facts.settings["synchronous_standby_names"] == "":
            facts = await look(primary.dsn(), "threefold")
        assert all(f.level is Level.FINE for f in judge(facts, sync=True, application_name="threefold"))


async def test_who_may_not_replicate_is_told_so() -> None:
    async with cluster(18) as primary:
        await primary.sql("CREATE ROLE reader LOGIN PASSWORD 'x'")
        finding = await try_replication(primary.dsn(user="reader", password="x"))
        assert finding.level is Level.FAILED
        assert "REPLICATION" in finding.remedy
        with pytest.raises(BadInput):
            await look(primary.dsn(password="wrong"), "threefold")


@pytest.mark.parametrize("major", BOTH)
async def test_what_an_installation_has_is_what_its_server_says(major: int) -> None:
    async with cluster(major) as primary:
        has = features(primary.server.binaries)
        names = {name for (name,) in await primary.sql("SELECT name FROM pg_available_extensions")}
        assert names == has.extensions
        try:
            await primary.sql("CREATE COLLATION by_icu (provider = icu, locale = 'en')")
        except psycopg.errors.FeatureNotSupported:
            assert not has.icu
        else:
            assert has.icu
