"""What the preflight says to a primary: a good one passes, and each thing that is wrong is told with its remedy."""

from dataclasses import replace

import pytest

from threefold.protect.preflight import Finding, Level, judge, our_ack_is_required, parse_standby_names
from threefold.protect.primary_facts import Database, Facts, Override, RecoverySide, Standby

SETTINGS = {
    "archive_mode": "off",
    "data_checksums": "on",
    "fsync": "on",
    "full_page_writes": "on",
    "idle_replication_slot_timeout": "0",
    "max_replication_slots": "10",
    "max_slot_wal_keep_size": "51200",
    "max_wal_senders": "10",
    "server_version": "18.6 (Debian 18.6-1)",
    "server_version_num": "180006",
    "shared_preload_libraries": "pg_stat_statements",
    "statement_timeout": "0",
    "summarize_wal": "off",
    "synchronous_commit": "on",
    "synchronous_standby_names": "ANY 1 (threefold)",
    "transaction_timeout": "0",
    "wal_level": "replica",
    "wal_sender_timeout": "60000",
}
US = Standby("threefold", "streaming", "quorum")
GOOD = Facts(
    role="threefold",
    replication=True,
    monitor=True,
    in_recovery=False,
    settings=SETTINGS,
    standbys=(US,),
    wal_senders=1,
    slots=("threefold",),
    databases=(Database("crm", "c", "en_US.UTF-8", "2.36", extensions=("plpgsql",)),),
    size_bytes=10**9,
)
SIDE = RecoverySide("18.6", extensions=frozenset({"plpgsql"}), icu=True, libc_version="2.36")


def bad(facts: Facts, *, sync: bool = True, side: RecoverySide = SIDE) -> list[Finding]:
    findings = judge(facts, sync=sync, application_name="threefold", side=side)
    return [finding for finding in findings if finding.level is not Level.FINE]


def with_settings(**settings: str) -> Facts:
    return replace(GOOD, settings=SETTINGS | settings)


def test_a_good_primary_has_nothing_against_it() -> None:
    assert bad(GOOD) == []
    assert bad(with_settings(synchronous_commit="remote_write"), sync=False) == []


@pytest.mark.parametrize(
    ("setting", "value", "level"),
    [
        ("wal_level", "minimal", Level.FAILED),
        ("fsync", "off", Level.FAILED),
        ("full_page_writes", "off", Level.FAILED),
        ("data_checksums", "off", Level.WARNING),
        ("max_wal_senders", "1", Level.FAILED),
        ("wal_sender_timeout", "0", Level.WARNING),
        ("wal_sender_timeout", "2000", Level.WARNING),
        ("max_slot_wal_keep_size", "-1", Level.WARNING),
        ("max_slot_wal_keep_size", "512", Level.WARNING),
        ("idle_replication_slot_timeout", "86400", Level.WARNING),
        ("synchronous_commit", "remote_apply", Level.FAILED),
        ("synchronous_commit", "local", Level.FAILED),
        ("synchronous_commit", "off", Level.FAILED),
        ("synchronous_commit", "remote_write", Level.WARNING),
        ("synchronous_standby_names", "", Level.FAILED),
        ("synchronous_standby_names", "ANY 1 (threefold, other)", Level.FAILED),
        ("synchronous_standby_names", "*", Level.FAILED),
        ("statement_timeout", "30000", Level.WARNING),
        ("transaction_timeout", "30000", Level.WARNING),
    ],
)
def test_a_setting_that_breaks_the_promise(setting: str, value: str, level: Level) -> None:
    (finding,) = bad(with_settings(**{setting: value}))
    assert (finding.name, finding.level) == (setting, level)
    assert setting in finding.remedy or "pg_checksums" in finding.remedy


def test_what_the_remedy_says_is_right_by_the_same_judgement() -> None:
    (finding,) = bad(with_settings(synchronous_standby_names=""))
    assert (
        finding.remedy == "ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (threefold)'; SELECT pg_reload_conf();"
    )


def test_before_protection_streams_it_only_warns_and_warns_of_the_order() -> None:
    fresh = replace(with_settings(synchronous_standby_names=""), standbys=(), wal_senders=0, slots=())
    (finding,) = bad(fresh)
    assert finding.level is Level.WARNING
    assert "once `threefold protect` streams" in finding.detail
    (finding,) = bad(replace(GOOD, standbys=()))
    assert "hang" in finding.detail


def test_async_waits_for_the_write_position_only() -> None:
    levels = {
        value: bad(with_settings(synchronous_commit=value), sync=False) for value in ("on", "local", "remote_apply")
    }
    assert [findings[0].level for findings in levels.values()] == [Level.WARNING, Level.FAILED, Level.FAILED]


@pytest.mark.parametrize(
    ("names", "required"),
    [
        ("threefold", True),
        ("ANY 1 (threefold)", True),
        ("first 1 (Threefold)", True),
        ('ANY 1 ("threefold")', True),
        ("1 (threefold)", True),
        ("ANY 2 (threefold, other)", True),
        ("2 (other, threefold)", True),
        ("", False),
        ("  ", False),
        ("*", False),
        ("ANY 1 (*)", False),
        ("threefold, other", False),
        ("ANY 1 (threefold, other)", False),
        ("FIRST 1 (threefold, other)", False),
        ("ANY 2 (threefold, *)", False),
        ("ANY 1 (threefold2)", False),
        ("ANY 1 ((threefold)", False),
    ],
)
def test_whose_word_a_commit_waits_for(names: str, required: bool) -> None:
    assert our_ack_is_required(names, "threefold") is required


def test_parse_standby_names() -> None:
    assert parse_standby_names('FIRST 2 (a, "B c")') == (2, ("a", "b c"))
    assert parse_standby_names("a,b") == (1, ("a", "b"))
    assert parse_standby_names("ANY (a)") is None


def test_what_is_set_for_a_role_or_a_database_is_told_with_its_own_reset() -> None:
    overrides = (
        Override(None, "batch", "synchronous_commit", "off"),
        Override("crm", None, "synchronous_commit", "remote_apply"),
        Override("crm", 'o"dd', "statement_timeout", "5s"),
        Override("crm", None, "transaction_timeout", "0"),
        Override(None, "batch", "work_mem", "1GB"),
        Override(None, "careful", "synchronous_commit", "on"),
    )
    found = {finding.name: (finding.level, finding.remedy) for finding in bad(replace(GOOD, overrides=overrides))}
    assert found == {
        "synchronous_commit of role batch": (Level.WARNING, 'ALTER ROLE "batch" RESET synchronous_commit;'),
        "synchronous_commit of database crm": (Level.FAILED, 'ALTER DATABASE "crm" RESET synchronous_commit;'),
        'statement_timeout of role o"dd in database crm': (
            Level.WARNING,
            'ALTER ROLE "o""dd" IN DATABASE "crm" RESET statement_timeout;',
        ),
    }


@pytest.mark.parametrize(
    ("facts", "name", "level"),
    [
        (replace(GOOD, replication=False), "role", Level.FAILED),
        (replace(GOOD, monitor=False), "monitoring", Level.WARNING),
        (replace(GOOD, in_recovery=True), "primary", Level.FAILED),
        (replace(GOOD, settings=SETTINGS | {"server_version_num": "140010"}), "version", Level.FAILED),
        (replace(GOOD, slots=tuple("abcdefghij")), "max_replication_slots", Level.FAILED),
        (replace(GOOD, standbys=(US, US)), "application_name", Level.FAILED),
        (replace(GOOD, pending_restart=("wal_level",)), "restart", Level.WARNING),
        (replace(GOOD, databases=(Database("d", "b", "C", "1", unlogged=("t",)),)), "unlogged tables", Level.WARNING),
        (replace(GOOD, databases=(Database("d", "b", "C", "1", unseen="no"),)), "databases", Level.WARNING),
        (replace(GOOD, databases=(Database("d", "c", "de_DE", "2.31"),)), "collation", Level.WARNING),
        (
            replace(GOOD, databases=(Database("d", "b", "C", "1", extensions=("postgis",)),)),
            "extensions",
            Level.WARNING,
        ),
        (with_settings(shared_preload_libraries="timescaledb"), "shared_preload_libraries", Level.WARNING),
    ],
)
def test_what_else_is_seen(facts: Facts, name: str, level: Level) -> None:
    (finding,) = bad(facts)
    assert (finding.name, finding.level) == (name, level)
    assert finding.remedy


def test_the_recovery_side_must_have_the_same_major_and_icu() -> None:
    (finding,) = bad(GOOD, side=RecoverySide(None, "no PostgreSQL 18", "install it"))
    assert (finding.level, finding.remedy) == (Level.FAILED, "-- here: install it")
    icu = replace(GOOD, databases=(Database("d", "i", "en_US.UTF-8", "153.1"),))
    assert bad(icu) == []
    (finding,) = bad(icu, side=replace(SIDE, icu=False))
    assert (finding.name, finding.level) == ("collation", Level.FAILED)
