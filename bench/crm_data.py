"""A CRM of any size for the benchmark, in minutes: COPY through the schema as it is, data log and all.

Every entry of the data log is written by the triggers, as for any other row. Only the indexes that no constraint needs
are set aside while the tables are filled, and made again from their own definitions. Keys follow from a row's number,
so whoever asks for records later need not remember a million of them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Final

import psycopg
from mimesis import Locale
from mimesis.providers import Person

from threefold.connectivity.app import edge_set
from threefold.crm.sql.migrate import crm_set, migrate

TABLES: Final = ("accounts", "contacts", "products", "queries", "requests", "interactions")
_CHUNK: Final = 100_000
_SINCE: Final = datetime(2022, 11, 1, tzinfo=UTC)
_SPAN: Final = timedelta(days=4 * 365)
_WORDS: Final = [
    "invoice",
    "printer",
    "contract",
    "delivery",
    "update",
    "router",
    "login",
    "refund",
    "address",
    "light",
    "office",
    "licence",
]
_STATES: Final = ("closed", "answered", "closed", "answered", "closed", "answered", "open", "new", "waiting", "closed")
_ENDS: Final = ("done", "done", "cancelled", "done", "done", "in progress", "assigned", "new", "waiting", "done")


@dataclass(frozen=True, slots=True)
class Size:
    contacts: int

    def of(self, table: str) -> int:
        several = {"accounts": 1 / 20, "contacts": 1, "queries": 1 / 4, "requests": 1 / 10, "interactions": 2}
        return 200 if table == "products" else max(1, int(self.contacts * several[table]))

    def key(self, table: str, number: int) -> str:
        """A UUIDv7 that grows with the number, as keys grow with time."""
        at = int((_SINCE + _SPAN * (number / self.of(table))).timestamp() * 1000)
        return f"{at >> 16:08x}-{at & 0xFFFF:04x}-7{TABLES.index(table):03x}-8000-{number:012x}"

    def time(self, table: str, number: int) -> str:
        return f"{_SINCE + _SPAN * (number / self.of(table)):%Y-%m-%d %H:%M:%S}+00"


def names() -> tuple[list[str], list[str]]:
    """First names and family names."""
    person = Person(Locale.EN, seed=1)
    first = sorted({person.first_name() for _ in range(3_000)})
    last = sorted({person.last_name() for _ in range(10_000)})
    return [name for name in first if name.isascii()], [name for name in last if name.isascii()]


def name_of(number: int, first: list[str], last: list[str]) -> str:
    """Of the contact of that number."""
    mixed = number * 2_654_435_761 % 2**32
    return f"{first[mixed % len(first)]} {last[mixed // 4096 % len(last)]}"


def fill(conninfo: str, size: Size) -> None:
    """Make the tables and fill them."""
    with psycopg.connect(conninfo) as connection:
        migrate(connection, crm_set(), edge_set())
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off; SET maintenance_work_mem = '512MB'; SET work_mem = '64MB'")
        aside = connection.execute(
            "SELECT pg_get_indexdef(indexrelid), indexrelid::regclass::text FROM pg_index"
            " WHERE indrelid = ANY(%s::regclass[]) AND NOT indisunique",
            [[f"crm.{table}" for table in (*TABLES, "log")]],
        ).fetchall()
        for _, name in aside:
            connection.execute(f"DROP INDEX {name}".encode())
        for table, (columns, row) in _rows(size).items():
            _copy(connection, table, columns, size.of(table), row)
        for definition, _ in aside:
            connection.execute(definition)
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")


def _copy(connection: psycopg.Connection[Any], table: str, columns: str, many: int, row: Callable[[int], str]) -> None:
    """In parts, because the log's trigger holds what one statement brought."""
    numbers: Iterator[int] = iter(range(many))
    with connection.cursor() as cursor:
        while part := list(islice(numbers, _CHUNK)):
            with cursor.copy(f"COPY crm.{table} ({columns}) FROM STDIN".encode()) as copy:
                for start in range(0, len(part), 2_000):
                    copy.write("".join(map(row, part[start : start + 2_000])))


def _rows(size: Size) -> dict[str, tuple[str, Callable[[int], str]]]:
    """By table: its columns, and a line of COPY for a number."""
    chance = random.Random(7)
    first, last = names()
    key, time = size.key, size.time

    def skewed(table: str) -> str:
        """A few have much, most have little."""
        return key(table, int(size.of(table) * chance.random() ** 2))

    def account(n: int) -> str:
        return f"{key('accounts', n)}\t{last[n % len(last)]} {n} Ltd\tTrade\tPK\tKarachi\t{n % 400 + 1}\t" + _twice(
            time("accounts", n)
        )

    def contact(n: int) -> str:
        name = name_of(n, first, last)
        mail = f"{name.replace(' ', '.').lower()}.{n}@c{n % 5000}.example"
        return f"{key('contacts', n)}\t{skewed('accounts')}\t{name}\t{mail}\t+92 300 {n:07d}\tBuyer\t" + _twice(
            time("contacts", n)
        )

    def product(n: int) -> str:
        return f"{key('products', n)}\tS-{n}\tRouter {n}\tRouter\t{n * 100}\t" + _twice(time("products", n))

    def case(table: str, n: int) -> str:
        subject = " ".join(chance.choices(_WORDS, k=4))
        status = (_STATES if table == "queries" else _ENDS)[n % 10]
        due = time(table, n)  # long past, for what is open too: that was escalated, or the server would do it now
        return (
            f"{key(table, n)}\t{skewed('accounts')}\t{skewed('contacts')}\t{key('products', n % 200)}\t{subject} {n}\t"
            f"It began yesterday, and nobody here knows why.\t{status}\t{n % 4 + 1}\t{due}\t{due}\t{due}\t"
            + _twice(due)
        )

    def interaction(n: int) -> str:
        about = (skewed("queries"), r"\N", r"\N", skewed("requests"))[n % 2 * 2 :][:2] if n % 4 else (r"\N", r"\N")
        return (
            f"{key('interactions', n)}\t{skewed('accounts')}\t{skewed('contacts')}\t{about[0]}\t{about[1]}\tmail\t"
            f"{'in' if n % 2 else 'out'}\tThank you, we are looking into it and will call you before noon.\t"
            + _twice(time("interactions", n))
        )

    times, who = "created_at, updated_at", "id, account_id, contact_id"
    about = (
        f"{who}, product_id, subject, body, status, priority, first_response_due_at, resolution_due_at, escalated_at"
    )
    return {
        "accounts": (f"id, name, industry, country, city, employees, {times}", account),
        "contacts": (f"id, account_id, full_name, email, phone, role, {times}", contact),
        "products": (f"id, sku, name, category, price_cents, {times}", product),
        "queries": (f"{about}, {times}", lambda n: case("queries", n)),
        "requests": (f"{about}, {times}, kind", lambda n: case("requests", n)[:-1] + "\trepair\n"),
        "interactions": (f"{who}, query_id, request_id, channel, direction, body, {times}", interaction),
    }


def _twice(at: str) -> str:
    return f"{at}\t{at}\n"
