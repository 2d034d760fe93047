"""The preflight of a primary: is it set up so that "saved" means "on two of three storage servers"?

Pure: facts in, findings out; each with the very line to run, because Threefold itself never alters a primary
(invariant 9). What makes the promise empty fails; what bites only on the day of the disaster warns.

The setting that everything hangs on is synchronous_standby_names: our acknowledgement must be in *every* set that
lets a commit return. ``ANY 1 (threefold)`` says so; ``ANY 1 (threefold, other)`` does not, nor does ``FIRST 1``
with more names than one (PostgreSQL documentation, "Synchronous Replication"). What the acknowledgement means,
synchronous_commit says: with durability ``sync`` it is ``on``; with ``async`` it is ``remote_write``, because there
the write position runs ahead of the settled one, by max_lag at most (stream.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from threefold.postgres.binaries import MAJORS
from threefold.protect.primary_facts import Facts, RecoverySide

_RELOAD = "SELECT pg_reload_conf();"
_RESTART = "-- and restart PostgreSQL"

_SLOT_KEEP_MB_MIN = 4 * 1024
_WAL_SENDER_TIMEOUT_MS_MIN = 10_000
_CODE_POINT_ORDER = {"C", "POSIX", "C.UTF-8", "C.utf8"}
_CONTRIB_PRELOADS = {"pg_stat_statements", "auto_explain", "pg_prewarm", "passwordcheck", "auth_delay"}


class Level(Enum):
    FINE = "fine"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. ``remedy`` is SQL to run on the primary, word for word, or says what it is."""

    name: str
    level: Level
    detail: str
    remedy: str = ""


def judge(facts: Facts, *, sync: bool, application_name: str, side: RecoverySide | None = None) -> list[Finding]:
    """All findings, in the order in which they are best mended."""
    return [
        *_primary(facts),
        *_rights(facts),
        *_capacity(facts, application_name),
        *_commits_wait(facts, application_name, sync=sync),
        *_what_commits_wait_for(facts, sync=sync),
        *_safety_of_pages(facts),
        *_slot_and_link(facts),
        *_cut_commits(facts),
        *_contents(facts),
        *(_recovery(facts, side) if side else ()),
        *_pending(facts),
    ]


# --- the server and our role ---


def _primary(facts: Facts) -> Iterator[Finding]:
    version = facts.settings["server_version"].split()[0]
    remedy = f"-- PostgreSQL {MAJORS[0]} to {MAJORS[-1]} can be protected: pg_upgrade"
    yield _either(facts.major in MAJORS, "version", f"PostgreSQL {version}", f"PostgreSQL {version}", remedy)
    remedy = "-- in threefold.toml: name the primary in [system] dsn, not a standby"
    yield _either(not facts.in_recovery, "primary", "it takes writes", "it is in recovery: a standby", remedy)


def _rights(facts: Facts) -> Iterator[Finding]:
    role, who = _identifier(facts.role), facts.role
    yield _either(
        facts.replication, "role", f"{who} may replicate", f"{who} may not replicate", f"ALTER ROLE {role} REPLICATION;"
    )
    yield _either(
        facts.monitor,
        "monitoring",
        f"{who} sees the server's settings and statistics",
        f"{who} lacks pg_monitor: parts of this check and of `threefold status` are blind",
        f"GRANT pg_monitor TO {role};",
        otherwise=Level.WARNING,
    )


def _capacity(facts: Facts, us: str) -> Iterator[Finding]:
    level = facts.settings["wal_level"]
    if level in {"replica", "logical"}:
        yield Finding("wal_level", Level.FINE, f"wal_level is {level}")
    else:
        yield _set("wal_level", Level.FAILED, f"{level} leaves out what recovery needs", "replica", restart=True)
    streams = _streams(facts, us)
    for name, used, needed in (
        ("max_wal_senders", facts.wal_senders, 1 if streams else 2),  # the stream, and a base backup beside it
        ("max_replication_slots", len(facts.slots), 0 if facts.slot in facts.slots else 1),
    ):
        limit = int(facts.settings[name])
        if limit - used >= needed:
            yield Finding(name, Level.FINE, f"{used} of {limit} in use")
        else:
            detail = f"{used} of {limit} in use, and {needed} more needed"
            yield _set(name, Level.FAILED, detail, str(used + needed + 2), restart=True)


# --- commits wait, and for what ---


def _commits_wait(facts: Facts, us: str, *, sync: bool) -> Iterator[Finding]:
    name, names = "synchronous_standby_names", facts.settings["synchronous_standby_names"]
    wanted = f"ANY 1 ({us if re.fullmatch('[a-z_][a-z0-9_]*', us) else _identifier(us)})"
    listed = us.lower() in (parse_standby_names(names) or (0, ()))[1]
    streams = _streams(facts, us)
    if our_ack_is_required(names, us):
        yield Finding(name, Level.FINE, f"every commit waits for {us}")
        if not streams:
            detail = f"every commit waits for {us}, which is not connected: they hang until `threefold protect` runs"
            yield Finding("standby", Level.WARNING, detail, "-- shell: threefold protect")
    elif listed or "*" in names:
        detail = f"{names!r} lets a commit return on another standby's word, before it is on two storage servers"
        yield _set(name, Level.FAILED if sync else Level.WARNING, detail, wanted)
    elif streams:
        yield _set(name, Level.FAILED if sync else Level.WARNING, "commits do not wait for us", wanted)
    else:
        detail = "commits do not wait for us yet; change it once `threefold protect` streams, or they would hang"
        yield _set(name, Level.WARNING, detail, wanted)
    doubles = sum(standby.application_name == us for standby in facts.standbys)
    if doubles > 1:
        detail = f"{doubles} standbys call themselves {us}: the word of any of them counts as ours"
        yield Finding("application_name", Level.FAILED, detail, "-- give the others another application_name")


def _streams(facts: Facts, us: str) -> bool:
    return any(standby.application_name == us for standby in facts.standbys)


_HANGS = "waits for a standby that replays, which storage servers are not: every commit would hang"
_LOCAL = "waits for the primary's own disk at most: what was saved last is lost with the site"
_SYNC = {
    "on": (Level.FINE, "commits wait until they are on two storage servers"),
    "remote_write": (Level.WARNING, "waits as well while durability is sync, and would no longer with async"),
}
_ASYNC = {
    "remote_write": (Level.FINE, "commits wait only where the storage servers lie more than max_lag behind"),
    "on": (Level.WARNING, "waits until each commit is on two storage servers, as durability = sync does"),
}


def _what_commits_wait_for(facts: Facts, *, sync: bool) -> Iterator[Finding]:
    name, wanted = "synchronous_commit", "on" if sync else "remote_write"
    known = (_SYNC if sync else _ASYNC) | {
        "remote_apply": (Level.FAILED, _HANGS),
        "local": (Level.FAILED, _LOCAL),
        "off": (Level.FAILED, _LOCAL),
    }
    for database, role, value in _values(facts, name):
        level, meaning = known.get(value, (Level.WARNING, "is unknown to this version of Threefold"))
        if database is None and role is None:
            detail = f"{value}: {meaning}"
            yield Finding(name, level, detail) if level is Level.FINE else _set(name, level, detail, wanted)
        elif level is not Level.FINE:
            # The operator may mean it (an import that need not be safe): only what hangs is refused.
            level = Level.FAILED if value == "remote_apply" else Level.WARNING
            yield _override(name, level, f"{value} {meaning}", database, role)


def _cut_commits(facts: Facts) -> Iterator[Finding]:
    for name in ("statement_timeout", "transaction_timeout"):
        for database, role, value in _values(facts, name):
            if re.fullmatch(r"0\s*[a-z]*", value):
                continue
            detail = f"{value} can cut off a COMMIT that waits: it becomes visible although nobody was told it is saved"
            if database is None and role is None:
                yield _set(name, Level.WARNING, detail, "0")
            else:
                yield _override(name, Level.WARNING, detail, database, role)


def our_ack_is_required(names: str, us: str) -> bool:
    """Whether no commit can return without us."""
    parsed = parse_standby_names(names)
    if parsed is None:
        return False
    count, listed = parsed
    return us.lower() in listed and "*" not in listed and count >= len(listed)


_STANDBYS = re.compile(r"\s*(?:(?:(?:ANY|FIRST)\s+)?(\d+)\s*\(([^()]*)\)|([^()]*))\s*", re.IGNORECASE)


def parse_standby_names(names: str) -> tuple[int, tuple[str, ...]] | None:
    """(how many must answer, the names, in lower case as PostgreSQL compares them); None for none, or no such list."""
    match = _STANDBYS.fullmatch(names)
    if match is None or not names.strip():
        return None
    count, several, plain = match.groups()
    listed = (name.strip().strip('"').lower() for name in (several if count else plain).split(","))
    return int(count or 1), tuple(name for name in listed if name)


# --- what is written, and how long it is kept for us ---


def _safety_of_pages(facts: Facts) -> Iterator[Finding]:
    for name, danger in (
        ("fsync", "a crash of the primary's machine damages its files"),
        ("full_page_writes", "a crash leaves half-written pages, and the log cannot mend them"),
    ):
        if facts.settings[name] == "on":
            yield Finding(name, Level.FINE, f"{name} is on")
        else:
            yield _set(name, Level.FAILED, f"off: {danger}", "on")
    yield _either(
        facts.settings["data_checksums"] == "on",
        "data_checksums",
        "data_checksums is on",
        "off: damage on the primary's disk goes unnoticed into snapshots",
        '-- shell, with the server stopped: pg_checksums --enable -D "$PGDATA"',
        otherwise=Level.WARNING,
    )


def _slot_and_link(facts: Facts) -> Iterator[Finding]:
    name, timeout_ms = "wal_sender_timeout", int(facts.settings["wal_sender_timeout"])
    if timeout_ms == 0:
        yield _set(name, Level.WARNING, "0: a link that died without a word keeps the slot for hours", "60s")
    elif timeout_ms < _WAL_SENDER_TIMEOUT_MS_MIN:
        yield _set(name, Level.WARNING, f"{timeout_ms} ms: a slow moment cuts the stream", "60s")
    else:
        yield Finding(name, Level.FINE, f"{timeout_ms // 1000} s")
    name, keep_mb = "max_slot_wal_keep_size", int(facts.settings["max_slot_wal_keep_size"])
    if keep_mb < 0:
        detail = "no limit: while Threefold is down, the log fills the primary's disk; choose what it can spare"
        yield _set(name, Level.WARNING, detail, "50GB")
    elif keep_mb < _SLOT_KEEP_MB_MIN:
        detail = f"{keep_mb} MB: after a short outage of Threefold the slot is lost, and a new snapshot needed"
        yield _set(name, Level.WARNING, detail, "50GB")
    else:
        yield Finding(name, Level.FINE, f"{keep_mb // 1024} GB of the log are kept for us at most")
    name = "idle_replication_slot_timeout"
    if facts.settings.get(name, "0") != "0":
        detail = "after an outage of Threefold that long the slot is dropped, and a new snapshot needed"
        yield _set(name, Level.WARNING, detail, "0")


def _pending(facts: Facts) -> Iterator[Finding]:
    if facts.pending_restart:
        names = ", ".join(facts.pending_restart)
        yield Finding("restart", Level.WARNING, f"changed, and not in force before a restart: {names}", _RESTART)


# --- what comes back, and with what ---


def _contents(facts: Facts) -> Iterator[Finding]:
    for database in facts.databases:
        if database.unseen:
            detail = f"database {database.name} could not be looked into: {database.unseen}"
            remedy = f"GRANT CONNECT ON DATABASE {_identifier(database.name)} TO {_identifier(facts.role)};"
            yield Finding("databases", Level.WARNING, detail, remedy)
        if database.unlogged:
            detail = f"unlogged tables of {database.name} come back empty: {_some(database.unlogged)}"
            remedy = "\n".join(f"ALTER TABLE {table} SET LOGGED;" for table in database.unlogged)
            yield Finding("unlogged tables", Level.WARNING, detail, remedy)
    if facts.tablespaces:
        yield Finding("tablespaces", Level.FINE, f"they come along: {_some(facts.tablespaces)}")
    if facts.settings["archive_mode"] != "off":
        detail = "the log is archived elsewhere as well; a recovered copy does not archive there"
        yield Finding("archive_mode", Level.FINE, detail)
    if facts.settings.get("summarize_wal") == "off":
        yield Finding("summarize_wal", Level.FINE, "off; PostgreSQL's incremental backups would need it, ours do not")
    if facts.size_bytes is not None:
        yield Finding("size", Level.FINE, f"{facts.size_bytes / 1e9:.2f} GB")


def _recovery(facts: Facts, side: RecoverySide) -> Iterator[Finding]:
    if side.postgres is None:
        yield Finding("programs for recovery", Level.FAILED, side.problem, f"-- here: {side.hint}")
        return
    yield Finding("programs for recovery", Level.FINE, f"PostgreSQL {side.postgres} is here")
    used = {extension for database in facts.databases for extension in database.extensions}
    preloads = {name.strip().strip('"') for name in facts.settings.get("shared_preload_libraries", "").split(",")}
    install = f"-- here: install them for PostgreSQL {facts.major}"
    if side.extensions is not None and (missing := used - side.extensions):
        detail = f"in use on the primary, and not here: {_some(sorted(missing))}"
        yield Finding("extensions", Level.WARNING, detail, install)
    if foreign := preloads - _CONTRIB_PRELOADS - {""}:
        detail = f"the primary preloads them, and a recovered copy starts only with them: {_some(sorted(foreign))}"
        yield Finding("shared_preload_libraries", Level.WARNING, detail, install)
    for database in facts.databases:
        if database.provider == "i" and side.icu is False:
            detail = (
                f"database {database.name} sorts by ICU, which PostgreSQL here was built without: it would not open"
            )
            remedy = f"-- here: another PostgreSQL {facts.major}, with ICU (apt install postgresql-{facts.major})"
            yield Finding("collation", Level.FAILED, detail, remedy)
        by_libc = database.provider == "c" and database.collation not in _CODE_POINT_ORDER
        if by_libc and database.collation_version != side.libc_version:
            detail = (
                f"database {database.name} sorts by {database.collation} of C library {database.collation_version}, "
                f"and {side.libc_version or 'another'} is here: a recovered copy's text indexes may be out of order"
            )
            remedy = f"-- after a recovery: REINDEX DATABASE {_identifier(database.name)};"
            yield Finding("collation", Level.WARNING, detail, remedy)


# --- words ---


def _values(facts: Facts, name: str) -> Iterator[tuple[str | None, str | None, str]]:
    """(database, role, value): the server's own first, then what ALTER DATABASE and ALTER ROLE put over it."""
    if name in facts.settings:
        yield None, None, facts.settings[name]
    for override in facts.overrides:
        if override.name == name:
            yield override.database, override.role, override.value


def _either(
    good: bool, name: str, fine: str, otherwise_detail: str, remedy: str, *, otherwise: Level = Level.FAILED
) -> Finding:
    return Finding(name, Level.FINE, fine) if good else Finding(name, otherwise, otherwise_detail, remedy)


def _set(name: str, level: Level, detail: str, value: str, *, restart: bool = False) -> Finding:
    after = _RESTART if restart else _RELOAD
    return Finding(name, level, detail, f"ALTER SYSTEM SET {name} = '{value}'; {after}")


def _override(name: str, level: Level, detail: str, database: str | None, role: str | None) -> Finding:
    if role is None:
        whose, reset = f"database {database}", f"ALTER DATABASE {_identifier(database or '')} RESET {name};"
    else:
        inside = f" IN DATABASE {_identifier(database)}" if database else ""
        whose = f"role {role}" + (f" in database {database}" if database else "")
        reset = f"ALTER ROLE {_identifier(role)}{inside} RESET {name};"
    return Finding(f"{name} of {whose}", level, detail, reset)


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _some(names: Iterable[str], at_most: int = 5) -> str:
    listed = list(names)
    more = f" and {len(listed) - at_most} more" if len(listed) > at_most else ""
    return ", ".join(listed[:at_most]) + more
