"""Proving a recovered database by looking into it: each table read to its end, and PostgreSQL's own checker.

Counting every row reads every page of every table, so a page whose checksum is wrong is met. ``pg_amcheck`` goes over
indexes and rows by their structure; it needs the extension ``amcheck`` in a database and is left out where that is
absent: installing it alters the database (invariant 9), which a drill's throw-away copy may have done to it.

The reader has to bypass row-level security (a superuser does), or counts come out silently small.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from threefold.kernel.errors import BadInput, Damaged, NotThere, Unavailable
from threefold.postgres.binaries import Binaries

_CHECK_LINES_KEPT: Final = 20
_DATABASES: Final = "SELECT datname FROM pg_database WHERE datallowconn ORDER BY 1"
_TABLES: Final = """\
SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm') AND c.relpersistence = 'p' AND n.nspname !~ '^pg_temp'
  AND (n.nspname <> 'information_schema') ORDER BY 1, 2"""


@dataclass(frozen=True, slots=True)
class Proof:
    """``rows``: database → schema.table → number of rows, the catalogs' included."""

    rows: Mapping[str, Mapping[str, int]]
    amcheck: str  # ``passed``, or why it was not run


async def verify_recovered(dsn: str, binaries: Binaries | None = None, *, install_amcheck: bool = False) -> Proof:
    """Read all of it. Raises Damaged, naming the table, where something does not read or does not check."""
    rows: dict[str, dict[str, int]] = {}
    for database in await _databases(dsn):
        rows[database] = await _count(make_conninfo(dsn, dbname=database), database)
    amcheck = "pg_amcheck is not at hand"
    if binaries is not None:
        with contextlib.suppress(NotThere):
            program = binaries.program("pg_amcheck")
            amcheck = await asyncio.to_thread(_amcheck, program, dsn, install=install_amcheck)
    return Proof(rows, amcheck)


async def _databases(dsn: str) -> list[str]:
    try:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            cursor = await connection.execute(
                "SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user"
            )
            if await cursor.fetchone() != (True,):
                raise BadInput(
                    "this role does not see every row where row-level security is on",
                    hint="verify as a superuser, or as a role with BYPASSRLS",
                )
            return [str(name) for (name,) in await (await connection.execute(_DATABASES)).fetchall()]
    except psycopg.Error as error:
        raise Unavailable(f"the recovered server cannot be asked: {_first_line(error)}") from None


async def _count(dsn: str, database: str) -> dict[str, int]:
    rows: dict[str, int] = {}
    table = "its tables"
    try:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            await connection.execute("SET statement_timeout = 0")
            for schema, name in await (await connection.execute(_TABLES)).fetchall():
                table = f"{schema}.{name}"
                query = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(schema, name))
                found = await (await connection.execute(query)).fetchone()
                rows[table] = int(found[0]) if found else 0
    except psycopg.Error as error:
        raise Damaged(
            f"{table} in database {database} does not read: {_first_line(error)}",
            hint="recover from an earlier snapshot, and compare",
        ) from None
    return rows


def _amcheck(program: Path, dsn: str, *, install: bool) -> str:
    """The password travels in a file that only we can read, not in the arguments."""
    parts = {name: str(value) for name, value in conninfo_to_dict(dsn).items()}
    password = parts.pop("password", "")
    with tempfile.NamedTemporaryFile("w") as passwords:
        escaped = password.replace("\\", "\\\\").replace(":", "\\:")
        passwords.write(f"*:*:*:*:{escaped}\n")
        passwords.flush()
        environment = {"LC_ALL": "C", "PGPASSFILE": passwords.name}
        options = ["--all", "--no-password", *(["--install-missing"] if install else [])]
        where = [f"--maintenance-db={parts.get('dbname', 'postgres')}"]
        for flag, name in (("--host", "host"), ("--port", "port"), ("--username", "user")):
            if name in parts:
                where.append(f"{flag}={parts[name]}")
        ran = subprocess.run(
            [program, *options, *where], env=environment, capture_output=True, text=True, check=False, cwd="/"
        )
    said = (ran.stdout + ran.stderr).strip().splitlines()
    if any("skipping database" in line or "no relations to check" in line for line in said):
        return "not every database has the extension amcheck"
    if ran.returncode == 0:
        return "passed"
    raise Damaged(
        f"pg_amcheck found damage: {'; '.join(said[:_CHECK_LINES_KEPT])}",
        hint="recover from an earlier snapshot, and compare",
    )


def _first_line(error: psycopg.Error) -> str:
    return str(error).strip().split("\n", 1)[0]
