"""The rows of a CSV file within one transaction: torn into cells, copied, checked against each other and what is there.

Statements are put together from our own names and conditions (import_rules.py); what the file holds comes to
PostgreSQL by COPY alone. Set-wise throughout: a hundred thousand rows are a handful of statements.
"""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, Final

from psycopg import sql

from threefold.crm.desk import Tx
from threefold.crm.exchange import csv_reading, import_rules
from threefold.crm.exchange.csv_reading import Fault, Limits, Sheet
from threefold.crm.model.kinds import Kind

FAULTS_KEPT: Final = 1_000
_CHUNK: Final = 5_000
Progress = Callable[[int], None]  # rows so far

_NEW: Final = "s._id IS NULL AND coalesce(s._nth, 1) = 1"
_THERE: Final = "there is such a record already"
_TWICE: Final = "another row of the file has the same"
_NO_ACCOUNT: Final = "there is no account of this name"
_HINTS: Final = {
    _THERE: "choose to skip or update records that are there",
    _TWICE: "leave one of the rows out",
    _NO_ACCOUNT: "import accounts first, or do not map this column",
    "several accounts have this name": "merge them, or do not map this column",
    "it has to be yes or no": "write yes or no, true or false, 1 or 0",
}


class Load:
    """One file's rows in the transaction's own tables: ``staged`` (the cells), ``matched`` (what is there already)."""

    def __init__(self, tx: Tx, kind: Kind, mapping: Mapping[str, str], duplicates: str) -> None:
        self._tx = tx
        self._kind = kind
        self._columns = {target: column for column, target in mapping.items()}
        self._given = frozenset(self._columns)
        self._duplicates = duplicates

    async def copy(self, sheet: Sheet, faults: list[Fault], progress: Progress | None) -> int:
        """How many rows."""
        names = sql.SQL(", ").join(map(sql.Identifier, self._columns))
        typed = sql.SQL(", ").join(sql.SQL("{} text").format(sql.Identifier(name)) for name in self._columns)
        await self._tx.connection.execute("DROP TABLE IF EXISTS pg_temp.staged, pg_temp.matched, pg_temp.named")
        await self._tx.connection.execute(
            sql.SQL("CREATE TEMP TABLE staged (row integer, {}) ON COMMIT DROP").format(typed)
        )
        picks = [sheet.header.index(column) for column in self._columns.values()]
        chunks = _chunks(sheet, picks, faults)
        rows = 0
        statement = sql.SQL("COPY staged (row, {}) FROM STDIN (FORMAT csv)").format(names)
        async with self._tx.connection.cursor() as cursor, cursor.copy(statement) as copy:
            while True:
                many, data = await asyncio.to_thread(next, chunks, (0, b""))  # the loop goes on serving others
                if not many:
                    break
                await copy.write(data)
                rows += many
                if progress is not None:
                    progress(rows)
        await self._tx.connection.execute("ANALYZE staged")
        return rows

    async def match(self) -> None:
        """Which rows are of records that are there, and which of accounts that are named.

        Row by row through an index (which is why it is LATERAL): a file is small beside a million records, and
        sorting or hashing these takes longer than all the rest of a look at the file.
        """
        found, same = import_rules.keyed(self._kind, "s")
        there, alike = import_rules.keyed(self._kind, "t")
        await self._run(
            f"""
            CREATE TEMP TABLE matched ON COMMIT DROP AS
            SELECT s.row, t.id, 1 AS nth FROM staged s CROSS JOIN LATERAL (
                SELECT min(t.id::text)::uuid AS id FROM crm.{self._kind.name} t
                WHERE {there} = {found} AND {alike} = {same} AND t.deleted_at IS NULL
            ) t WHERE {self._duplicates != "create"} AND t.id IS NOT NULL
            UNION ALL
            SELECT row, NULL, nth FROM (
                SELECT s.row, row_number() OVER (PARTITION BY {found}, {same} ORDER BY s.row) AS nth FROM staged s
                WHERE {self._duplicates != "create"} AND {same} <> ''
            ) d WHERE nth > 1
            """
        )
        await self._run("ANALYZE matched")
        if "account" in self._given:
            await self._run(
                """
                CREATE TEMP TABLE named ON COMMIT DROP AS
                SELECT n.account, min(a.id::text)::uuid AS id, count(a.id) AS many
                FROM (SELECT DISTINCT account FROM staged WHERE account <> '') n
                LEFT JOIN crm.accounts a ON crm.name_key(a.name) = crm.name_key(n.account) AND a.deleted_at IS NULL
                GROUP BY n.account
                """
            )

    async def faults(self) -> tuple[list[Fault], int]:
        """The first of them, and how many rows have one."""
        bad = [*import_rules.problems(self._kind, self._given), *self._against()]
        any_of = " OR ".join(f"({condition})" for _, condition, _ in bad)
        each = ", ".join(
            f"({number}, CASE WHEN {condition} THEN true END)" for number, (_, condition, _) in enumerate(bad)
        )
        cursor = await self._run(
            f"""
            SELECT s.row, f.number FROM (SELECT * FROM {self._joined()} WHERE {any_of}) s,
                LATERAL (VALUES {each}) f(number, it) WHERE f.it ORDER BY s.row, f.number LIMIT {FAULTS_KEPT}
            """
        )
        rows = await cursor.fetchall()
        if not rows:
            return [], 0
        counted = await self._run(f"SELECT count(*) AS many FROM {self._joined()} WHERE {any_of}")
        told = []
        for row in rows:
            target, _, what = bad[row["number"]]
            column = self._columns.get(target, target)
            told.append(Fault(row["row"], column, what, _HINTS.get(what, "")))
        return told, (await counted.fetchall())[0]["many"]

    def _against(self) -> Iterator[tuple[str, str, str]]:
        """What is wrong with a row only beside others."""
        key = import_rules.KEYS[self._kind.name]
        if self._duplicates == "refuse":
            yield key, "s._id IS NOT NULL", _THERE
        if self._duplicates in ("refuse", "update"):
            yield key, "s._nth > 1", _TWICE
        if "account" in self._given:
            yield "account", "s._accounts = 0", _NO_ACCOUNT
            yield "account", "s._accounts > 1", "several accounts have this name"

    def _joined(self) -> str:
        """The staged rows with what `match` found of them."""
        account, join = "", ""
        if "account" in self._given:
            account = ", n.id AS _account, n.many AS _accounts"
            join = "LEFT JOIN named n ON n.account = g.account"
        return f"""(
            SELECT g.*, m.id AS _id, m.nth AS _nth{account} FROM staged g
            LEFT JOIN (SELECT row, min(id::text)::uuid AS id, max(nth) AS nth FROM matched GROUP BY row) m USING (row)
            {join}) s"""

    async def counts(self) -> dict[str, int]:
        cursor = await self._run(
            f"""
            SELECT count(*) FILTER (WHERE {_NEW}) AS created,
                   count(*) FILTER (WHERE _id IS NOT NULL AND coalesce(_nth, 1) = 1) AS there,
                   count(*) FILTER (WHERE _nth > 1) AS twice FROM {self._joined()}
            """
        )
        row = (await cursor.fetchall())[0]
        updated = row["there"] if self._duplicates == "update" else 0
        return {"created": row["created"], "updated": updated, "skipped": row["there"] + row["twice"] - updated}

    async def write(self) -> None:
        values = import_rules.values(self._kind, self._given)
        if "account" in self._given:
            values["account_id"] = "s._account"
        names = ", ".join(f'"{name}"' for name in values)
        # The search's index takes in new words in one sorted pass at the end, and not in many small ones.
        await self._run("SET LOCAL gin_pending_list_limit = '256MB'; SET LOCAL maintenance_work_mem = '128MB'")
        if "account" in self._given:  # in the order of locks.py
            await self._hold("accounts", "named", "KEY SHARE")
        if self._duplicates == "update":
            await self._hold(self._kind.name, "matched", "NO KEY UPDATE")
        milliseconds, chance = int(self._tx.now.timestamp() * 1000), self._tx.new_id().hex[-12:]
        await self._run(
            f"""
            INSERT INTO crm.{self._kind.name} (id, {names})
            SELECT crm.row_id({milliseconds}, s.row, '{chance}'), {", ".join(values.values())}
            FROM {self._joined()} WHERE {_NEW} ORDER BY s.row
            """
        )
        await self._run(
            f"""
            SELECT gin_clean_pending_list(indexrelid) FROM pg_index JOIN pg_class c ON c.oid = indexrelid
            JOIN pg_am a ON a.oid = c.relam WHERE indrelid = 'crm.{self._kind.name}'::regclass AND amname = 'gin'
            """
        )
        if self._duplicates == "update":
            key = import_rules.KEYS[self._kind.name]
            # An empty cell says nothing, so it takes nothing away.
            kept = {
                name: f"CASE WHEN {self._filled(name)} THEN {value} ELSE t.{name} END"
                for name, value in values.items()
                if name != key
            }
            if kept:
                changes = ", ".join(f'"{name}" = {value}' for name, value in kept.items())
                await self._run(
                    f"UPDATE crm.{self._kind.name} t SET {changes} FROM {self._joined()}"
                    f" WHERE t.id = s._id AND coalesce(s._nth, 1) = 1"
                )

    async def _hold(self, kind: str, found: str, how: str) -> None:
        await self._run(
            f"SELECT count(*) FROM (SELECT FROM crm.{kind} WHERE id IN (SELECT id FROM {found})"
            f" ORDER BY id FOR {how}) held"
        )

    def _filled(self, name: str) -> str:
        cells = {"account_id": ("account",), "full_name": ("full_name", "first_name", "last_name")}
        cells["price_cents"] = ("price_cents", "price")
        return " OR ".join(f"s.\"{cell}\" <> ''" for cell in cells.get(name, (name,)) if cell in self._given)

    async def _run(self, statement: str) -> Any:
        """Made of our own tables of names and conditions (import_rules.py); nothing of the file's is in it."""
        return await self._tx.connection.execute(statement.encode())


def _chunks(sheet: Sheet, picks: list[int], faults: list[Fault]) -> Iterator[tuple[int, bytes]]:
    """Rows as PostgreSQL reads them, with their numbers."""
    quoted = "'" in sheet.text
    found = csv_reading.rows(sheet, faults, Limits())
    while part := list(islice(found, _CHUNK)):
        out = io.StringIO(newline="")
        write = csv.writer(out).writerow
        for number, cells in part:
            chosen = [cells[pick].strip() for pick in picks]
            if quoted:
                chosen = [csv_reading.plain(cell) if cell.startswith("'") else cell for cell in chosen]
            write((number, *chosen))
        yield len(part), out.getvalue().encode("utf-8", "replace")
