"""Brings a database to the schema that this version of the code works with.

A set is a folder of numbered SQL files (``001-core.sql``), applied in order, each once; the CRM and the edge have one
each. What was applied is written down with its checksum in ``crm.migrations``, and a file that was changed afterwards
is refused: what a database went through must be what the files say. All of it happens in one transaction under a lock
of the database, so that any number of processes may start at once, and a failed one leaves nothing half-made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

import psycopg

from threefold.kernel.errors import Refused

_LOCK = 0x7EF01D  # any number that nobody else locks with

_BEGIN = """
    CREATE SCHEMA IF NOT EXISTS crm;
    CREATE TABLE IF NOT EXISTS crm.migrations (
        set text NOT NULL, number integer NOT NULL, name text NOT NULL, checksum text NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (set, number))
"""


@dataclass(frozen=True, slots=True)
class Migration:
    set: str
    number: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def read_set(name: str, folder: Traversable) -> list[Migration]:
    """The files of one folder, lowest number first."""
    found = [
        Migration(name, int(entry.name.partition("-")[0]), entry.name, entry.read_text(encoding="utf-8"))
        for entry in folder.iterdir()
        if entry.name.endswith(".sql")
    ]
    return sorted(found, key=lambda migration: migration.number)


def crm_set() -> list[Migration]:
    return read_set("crm", files("threefold.crm.sql.schema"))


def migrate(connection: psycopg.Connection[Any], *sets: Sequence[Migration]) -> list[Migration]:
    """Apply what is missing; what was applied now. Without ``sets``: the CRM's own.

    It runs as the owner of the tables. Inside of a transaction of the caller's, it is part of that.
    """
    applied = []
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        cursor.execute(_BEGIN)
        for migrations in sets or (crm_set(),):
            for migration in _missing(cursor, migrations):
                cursor.execute(migration.text.encode())
                cursor.execute(
                    "INSERT INTO crm.migrations (set, number, name, checksum) VALUES (%s, %s, %s, %s)",
                    (migration.set, migration.number, migration.name, migration.checksum),
                )
                applied.append(migration)
    return applied


def _missing(cursor: psycopg.Cursor[Any], migrations: Sequence[Migration]) -> Iterator[Migration]:
    """Refuses where the database and the files do not tell the same story."""
    if not migrations:
        return
    name = migrations[0].set
    cursor.execute("SELECT number, name, checksum FROM crm.migrations WHERE set = %s", (name,))
    there = {number: (file, checksum) for number, file, checksum in cursor.fetchall()}
    known = {migration.number for migration in migrations}
    if len(known) != len(migrations):
        raise Refused(f"two files of the set {name} have the same number")
    newer = sorted(file for number, (file, _) in there.items() if number not in known)
    if newer:
        raise Refused(
            f"the database was made by a newer version: it has {newer[-1]} of the set {name}",
            hint="install that version; a database never goes back to an older one",
        )
    for migration in migrations:
        if migration.number not in there:
            yield migration
        elif there[migration.number][1] != migration.checksum:
            raise Refused(
                f"{migration.name} was changed after this database went through it",
                hint="put the file back as it was, and add a new one with the change",
            )
