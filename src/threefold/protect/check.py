"""The preflight's questions, to the primary and to this machine; preflight.py judges the answers.

Read-only, and a role with REPLICATION and pg_monitor is enough. A question that it may not ask, or a database that it
may not enter, leaves that fact unknown instead of failing the whole.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping

from threefold.kernel.errors import ThreefoldError
from threefold.postgres.binaries import Binaries, features
from threefold.postgres.replication import ReplicationLink
from threefold.postgres.sql import SqlLink, reading
from threefold.protect.preflight import Finding, Level, judge
from threefold.protect.primary_facts import SETTINGS, Database, Facts, Override, RecoverySide, Standby

__all__ = ["Facts", "Finding", "Level", "RecoverySide", "judge", "look", "recovery_side", "try_replication"]


async def look(dsn: str, slot: str) -> Facts:
    """Ask the primary. Raises BadInput or Unavailable where not even an ordinary connection comes about."""
    async with reading(dsn) as sql:
        (who,) = await sql.rows(
            "SELECT rolname, rolreplication OR rolsuper AS replication, pg_is_in_recovery() AS in_recovery,"
            " pg_has_role(oid, 'pg_monitor', 'USAGE') AS monitor FROM pg_roles WHERE rolname = current_user"
        )
        # The server's own values: what ALTER ROLE or ALTER DATABASE gives to our session hides them, and is told apart.
        settings = await sql.rows(
            "SELECT name, setting, pending_restart FROM pg_settings WHERE name = ANY(%s)"
            " AND source NOT IN ('user', 'database', 'database user')",
            list(SETTINGS),
        )
        return Facts(
            role=who["rolname"],
            replication=who["replication"],
            monitor=who["monitor"],
            in_recovery=who["in_recovery"],
            settings={row["name"]: row["setting"] or "" for row in settings},
            pending_restart=tuple(row["name"] for row in settings if row["pending_restart"]),
            overrides=await _overrides(sql),
            standbys=await _standbys(sql),
            wal_senders=await _count(sql, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender'"),
            slots=tuple(row["slot_name"] for row in await sql.rows("SELECT slot_name FROM pg_replication_slots")),
            slot=slot,
            databases=await _databases(dsn, sql),
            tablespaces=await _tablespaces(sql),
            size_bytes=await _size(sql),
        )


async def try_replication(dsn: str) -> Finding:
    """Whether the role and pg_hba.conf, which has lines of its own for this, let a replication connection in."""
    try:
        # Not under our own name: the primary could take this link for the standby that commits wait for.
        async with await ReplicationLink.connect(dsn, application_name="threefold check") as link:
            identity = await link.identify()
    except ThreefoldError as error:
        return Finding("replication connection", Level.FAILED, error.message, error.hint)
    detail = f"system {identity.system_id}, timeline {identity.timeline}"
    return Finding("replication connection", Level.FINE, detail)


def recovery_side(find_binaries: Callable[[int], Binaries], major: int) -> RecoverySide:
    """What this machine would recover with."""
    try:
        found = find_binaries(major)
        has = features(found)
    except ThreefoldError as error:
        return RecoverySide(None, error.message, error.hint)
    return RecoverySide(found.version, extensions=has.extensions, icu=has.icu, libc_version=platform.libc_ver()[1])


async def _count(sql: SqlLink, query: str) -> int:
    (row,) = await sql.rows(query)
    return int(row["count"])


async def _overrides(sql: SqlLink) -> tuple[Override, ...]:
    found = await sql.rows(
        "SELECT d.datname, r.rolname, unnest(s.setconfig) AS setting FROM pg_db_role_setting s"
        " LEFT JOIN pg_database d ON d.oid = s.setdatabase LEFT JOIN pg_roles r ON r.oid = s.setrole"
    )
    split = ((row, row["setting"].partition("=")) for row in found)
    return tuple(Override(row["datname"], row["rolname"], name, value) for row, (name, _, value) in split)


async def _standbys(sql: SqlLink) -> tuple[Standby, ...]:
    found = await sql.rows(
        "SELECT application_name, state, sync_state FROM pg_stat_replication WHERE state IS NOT NULL"
    )
    return tuple(Standby(row["application_name"], row["state"], row["sync_state"]) for row in found)


async def _tablespaces(sql: SqlLink) -> tuple[str, ...]:
    found = await sql.rows(
        "SELECT spcname, pg_tablespace_location(oid) AS location FROM pg_tablespace WHERE spcname NOT LIKE 'pg\\_%%'"
    )
    return tuple(f"{row['spcname']} at {row['location']}" for row in found)


async def _size(sql: SqlLink) -> int | None:
    try:
        (row,) = await sql.rows("SELECT sum(pg_database_size(oid))::bigint AS size FROM pg_database")
    except ThreefoldError:
        return None
    return int(row["size"])


async def _databases(dsn: str, sql: SqlLink) -> tuple[Database, ...]:
    """All that may be connected to, each entered for a moment: unlogged tables and extensions are seen from inside."""
    found = await sql.rows(
        "SELECT datname, datlocprovider, datcollate, datcollversion FROM pg_database WHERE datallowconn"
        " AND NOT datistemplate ORDER BY datname"
    )
    return tuple([await _database(dsn, row["datname"], row) for row in found])


async def _database(dsn: str, name: str, row: Mapping[str, str]) -> Database:
    unlogged: tuple[str, ...] = ()
    extensions: tuple[str, ...] = ()
    unseen = ""
    try:
        async with reading(dsn, dbname=name, timeout_s=10) as inside:
            tables = await inside.rows(
                "SELECT oid::regclass::text AS name FROM pg_class"
                " WHERE relpersistence = 'u' AND relkind IN ('r', 'm', 'p') ORDER BY 1"
            )
            unlogged = tuple(table["name"] for table in tables)
            extensions = tuple(r["extname"] for r in await inside.rows("SELECT extname FROM pg_extension ORDER BY 1"))
    except ThreefoldError as error:
        unseen = error.message
    provider, collation = row["datlocprovider"], row["datcollate"]
    return Database(name, provider, collation, row["datcollversion"], unlogged, extensions, unseen)
