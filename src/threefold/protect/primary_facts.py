"""What the preflight judges by: the primary, and what recovery has where Threefold runs.

What could not be seen is None, or says why: unknown is an answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SETTINGS = (
    "archive_mode",
    "data_checksums",
    "fsync",
    "full_page_writes",
    "idle_replication_slot_timeout",
    "max_replication_slots",
    "max_slot_wal_keep_size",
    "max_wal_senders",
    "server_version",
    "server_version_num",
    "shared_preload_libraries",
    "statement_timeout",
    "summarize_wal",
    "synchronous_commit",
    "synchronous_standby_names",
    "transaction_timeout",
    "wal_level",
    "wal_sender_timeout",
)


@dataclass(frozen=True, slots=True)
class Override:
    """ALTER DATABASE or ALTER ROLE ... SET; None stands for every database, or every role."""

    database: str | None
    role: str | None
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Database:
    name: str
    provider: str  # c: the C library, i: ICU, b: built in
    collation: str
    collation_version: str | None
    unlogged: tuple[str, ...] = ()
    extensions: tuple[str, ...] = ()
    unseen: str = ""  # why it could not be looked into


@dataclass(frozen=True, slots=True)
class Standby:
    application_name: str
    state: str
    sync_state: str


@dataclass(frozen=True, slots=True)
class Facts:
    role: str
    replication: bool
    monitor: bool
    in_recovery: bool
    settings: Mapping[str, str]
    overrides: tuple[Override, ...] = ()
    standbys: tuple[Standby, ...] = ()
    wal_senders: int = 0
    slots: tuple[str, ...] = ()
    slot: str = "threefold"  # ours, which may or may not be among them
    databases: tuple[Database, ...] = ()
    tablespaces: tuple[str, ...] = ()
    size_bytes: int | None = None
    pending_restart: tuple[str, ...] = ()

    @property
    def major(self) -> int:
        return int(self.settings["server_version_num"]) // 10_000


@dataclass(frozen=True, slots=True)
class RecoverySide:
    """What recovery will run with, where `threefold` itself runs."""

    postgres: str | None  # the version found for the primary's major
    problem: str = ""
    hint: str = ""
    extensions: frozenset[str] | None = None  # what can be created there; None: unknown
    icu: bool | None = None
    libc_version: str = ""
