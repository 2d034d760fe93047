"""The preflight: whether this primary can be protected, and exactly what to run on it where not.

Nothing is changed by it (invariant 9): a protected CRM is altered by its operator alone. The facts are fetched over an
ordinary connection of the role that protects, and judged by `judge`, which is pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

import psycopg
from psycopg.rows import dict_row

from threefold.kernel.errors import ThreefoldError
from threefold.postgres.binaries import MAJORS
from threefold.postgres.conninfo import checked_conninfo
from threefold.postgres.refusals import of_connection
from threefold.postgres.replication import ReplicationLink

_SETTINGS: Final = (
    "server_version_num",
    "wal_level",
    "fsync",
    "full_page_writes",
    "data_checksums",
    "max_wal_senders",
    "max_replication_slots",
    "max_slot_wal_keep_size",
    "synchronous_commit",
    "synchronous_standby_names",
    "statement_timeout",
)


class Level(Enum):
    FINE = "fine"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. ``remedy``: what to run, word for word, or what to do."""

    name: str
    level: Level
    detail: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the primary says of itself."""

    settings: Mapping[str, str]
    role: str
    replication: bool
    monitor: bool
    in_recovery: bool
    senders_used: int
    slots_used: int
    slot_exists: bool
    # synchronous_commit set for a role or a database: (whose, value)
    overrides: Sequence[tuple[str, str]] = field(default_factory=tuple)


async def look(dsn: str, slot: str) -> Facts:
    """Ask the primary. Raises BadInput, Unavailable."""
    try:
        async with await psycopg.AsyncConnection.connect(
            checked_conninfo(dsn, application_name="threefold check", connect_timeout="10"), row_factory=dict_row
        ) as connection:
            rows = await (
                await connection.execute(
                    "SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", [list(_SETTINGS)]
                )
            ).fetchall()
            role = await _one(
                connection,
                "SELECT rolname, rolreplication OR rolsuper AS replication,"
                " pg_has_role(oid, 'pg_monitor', 'usage') AS monitor FROM pg_roles WHERE rolname = current_user",
            )
            counts = await _one(
                connection,
                "SELECT pg_is_in_recovery() AS in_recovery,"
                " (SELECT count(*) FROM pg_stat_replication) AS senders,"
                " (SELECT count(*) FROM pg_replication_slots) AS slots,"
                " EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = %s) AS slot_exists",
                slot,
            )
            overrides = await (
                await connection.execute(
                    "SELECT concat_ws(' in ', r.rolname, d.datname) AS whose, split_part(c, '=', 2) AS value"
                    " FROM pg_db_role_setting s CROSS JOIN unnest(s.setconfig) c"
                    " LEFT JOIN pg_roles r ON r.oid = s.setrole LEFT JOIN pg_database d ON d.oid = s.setdatabase"
                    " WHERE c LIKE 'synchronous_commit=%%'"
                )
            ).fetchall()
    except psycopg.Error as error:
        raise of_connection(str(error)) from None
    return Facts(
        settings={row["name"]: row["setting"] for row in rows},
        role=role["rolname"],
        replication=role["replication"],
        monitor=role["monitor"],
        in_recovery=counts["in_recovery"],
        senders_used=counts["senders"],
        slots_used=counts["slots"],
        slot_exists=counts["slot_exists"],
        overrides=tuple((row["whose"], row["value"]) for row in overrides),
    )


async def try_replication(dsn: str) -> Finding:
    """Whether pg_hba.conf and the role let a replication connection in: tried, not read."""
    try:
        async with await ReplicationLink.connect(dsn, application_name="threefold check") as link:
            identity = await link.identify()
    except ThreefoldError as error:
        return Finding("replication connection", Level.FAILED, error.message, error.hint)
    detail = f"system {identity.system_id}, timeline {identity.timeline}"
    return Finding("replication connection", Level.FINE, detail)


def judge(facts: Facts, *, sync: bool, application_name: str) -> list[Finding]:
    """Each requirement, with what to run where it is not met. Pure."""
    get = facts.settings.get
    major = int(get("server_version_num", "0")) // 10000
    return [
        _found(
            "version",
            major in MAJORS,
            f"PostgreSQL {major}",
            f"PostgreSQL {MAJORS[0]} to {MAJORS[-1]} can be protected",
        ),
        _found(
            "primary",
            not facts.in_recovery,
            "it is in recovery" if facts.in_recovery else "it takes writes",
            "name the primary in [system] dsn, not a standby",
        ),
        _found(
            "role",
            facts.replication,
            f"{facts.role} may {'' if facts.replication else 'not '}replicate",
            f'ALTER ROLE "{facts.role}" REPLICATION;',
        ),
        _found(
            "monitoring",
            facts.monitor,
            f"{facts.role} may {'' if facts.monitor else 'not '}see the server's statistics",
            f'GRANT pg_monitor TO "{facts.role}";',
            otherwise=Level.WARNING,
        ),
        _setting(facts, "wal_level", ("replica", "logical"), "ALTER SYSTEM SET wal_level = 'replica';  -- and restart"),
        _setting(facts, "fsync", ("on",), "ALTER SYSTEM SET fsync = on; SELECT pg_reload_conf();"),
        _setting(
            facts, "full_page_writes", ("on",), "ALTER SYSTEM SET full_page_writes = on; SELECT pg_reload_conf();"
        ),
        _setting(
            facts,
            "data_checksums",
            ("on",),
            "pg_checksums --enable, with the server stopped: damage on the primary's disk would be backed up unseen",
            otherwise=Level.WARNING,
        ),
        _room(facts, "max_wal_senders", facts.senders_used, 2),
        _room(facts, "max_replication_slots", facts.slots_used, 0 if facts.slot_exists else 1),
        _keep(get("max_slot_wal_keep_size", "-1")),
        *_commits(facts, sync=sync, application_name=application_name),
        _found(
            "statement_timeout",
            get("statement_timeout", "0") == "0",
            f"statement_timeout is {get('statement_timeout', '0')} ms",
            "ALTER SYSTEM RESET statement_timeout; SELECT pg_reload_conf();  -- a COMMIT that is cut off while it "
            "waits becomes visible although nobody was told that it is saved",
            otherwise=Level.WARNING,
        ),
    ]


def _commits(facts: Facts, *, sync: bool, application_name: str) -> list[Finding]:
    """Whether a commit waits for us, and for what."""
    wanted = "on" if sync else "remote_write"
    level = facts.settings.get("synchronous_commit", "")
    names = facts.settings.get("synchronous_standby_names", "")
    set_level = f"ALTER SYSTEM SET synchronous_commit = '{wanted}'; SELECT pg_reload_conf();"
    hangs = "remote_apply waits for a standby that replays, which the stores are not: every commit would hang"
    findings = []
    if level == "remote_apply":
        findings.append(Finding("synchronous_commit", Level.FAILED, hangs, set_level))
    elif level != wanted:
        detail = f"synchronous_commit is {level}; with durability {'sync' if sync else 'async'} it has to be {wanted}"
        findings.append(Finding("synchronous_commit", Level.FAILED, detail, set_level))
    else:
        findings.append(Finding("synchronous_commit", Level.FINE, f"synchronous_commit is {level}"))
    for whose, value in facts.overrides:
        if value != wanted:
            detail = hangs if value == "remote_apply" else f"commits of {whose} do not wait as the others do ({value})"
            failed = Level.FAILED if value == "remote_apply" else Level.WARNING
            remedy = "ALTER ROLE ... RESET synchronous_commit; or ALTER DATABASE ... RESET synchronous_commit;"
            findings.append(Finding(f"synchronous_commit of {whose}", failed, detail, remedy))
    findings.append(
        _found(
            "synchronous_standby_names",
            application_name in names or names.strip() in {"*", "ANY 1 (*)"},
            f"synchronous_standby_names is {names!r}",
            f"once `threefold protect` streams: ALTER SYSTEM SET synchronous_standby_names = "
            f"'ANY 1 ({application_name})'; SELECT pg_reload_conf();  -- until then commits wait for nobody",
            otherwise=Level.WARNING,
        )
    )
    return findings


def _keep(value: str) -> Finding:
    if value == "-1":
        detail = "the slot keeps WAL without limit: with no DRaaS server running, the primary's disk fills"
        remedy = "watch the primary's disk, or set max_slot_wal_keep_size (then a new snapshot is needed after it)"
        return Finding("max_slot_wal_keep_size", Level.WARNING, detail, remedy)
    detail = f"the slot keeps up to {value} MB; an outage longer than that needs a new snapshot"
    return Finding("max_slot_wal_keep_size", Level.FINE, detail)


def _room(facts: Facts, setting: str, used: int, needed: int) -> Finding:
    most = int(facts.settings.get(setting, "0"))
    free = most - used
    remedy = f"ALTER SYSTEM SET {setting} = {used + needed + 2};  -- and restart"
    # Our own protect may be among those that are used, and a snapshot comes and goes.
    return _found(setting, free >= needed or needed == 0, f"{used} of {most} in use", remedy)


def _setting(
    facts: Facts, name: str, allowed: Sequence[str], remedy: str, *, otherwise: Level = Level.FAILED
) -> Finding:
    value = facts.settings.get(name, "unknown")
    return _found(name, value in allowed, f"{name} is {value}", remedy, otherwise=otherwise)


def _found(name: str, good: bool, detail: str, remedy: str, *, otherwise: Level = Level.FAILED) -> Finding:
    return Finding(name, Level.FINE, detail) if good else Finding(name, otherwise, detail, remedy)


async def _one(connection: psycopg.AsyncConnection[dict[str, Any]], query: str, *values: object) -> dict[str, Any]:
    row = await (await connection.execute(query.encode(), values)).fetchone()
    return row or {}
