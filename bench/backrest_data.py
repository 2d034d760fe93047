"""A database for snapshots: a fifth of it pgbench's tables, the rest what people write to each other in a CRM.

The text is made of some thousand invented words, frequent and rare ones as in a language (Zipf), put together to
sentences, and those to messages: it compresses about as English does, neither like random bytes nor like constants.
Rows come in the order of time, and so do the contacts that they are about, more or less: an index on them is touched
where the table is. And rows are of one length: where they are not, each page has some room left, and that is where
PostgreSQL puts new versions of rows, all over the table, however close together the old ones lie.
"""

from __future__ import annotations

import random
import subprocess
from itertools import accumulate
from typing import Final

from bench.rig import Rig

DATABASE: Final = "customers"
_SENTENCES: Final = 1 << 17
_IN_A_BODY: Final = 8
_BODY_CHARACTERS: Final = 420
_SUBJECT_CHARACTERS: Final = 60
_WORDS: Final = 8_000
_PGBENCH_MB: Final = 15.0  # of scale 1, with its index
_ROW_BYTES: Final = 600  # of one interaction, with its share of two indexes
_PGBENCH_SHARE: Final = 0.2
_CHURN: Final = 0.01
_CONSONANTS: Final = ("b", "c", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "ch", "st", "tr")
_VOWELS: Final = ("a", "e", "i", "o", "u", "ai", "ou", "er", "in")


def fill(rig: Rig, megabytes: int) -> None:
    """About so many MB, vacuumed, on disk."""
    scale = max(1, round(megabytes * _PGBENCH_SHARE / _PGBENCH_MB))
    rows = max(1000, int(megabytes * (1 - _PGBENCH_SHARE) * 1e6 / _ROW_BYTES))
    rig.sql(f"CREATE DATABASE {DATABASE}")
    host, port, user = rig.conninfo["host"], rig.conninfo["port"], rig.conninfo["user"]
    command = [rig.program("pgbench"), "-i", "-I", "dtGp", "-q", "-s", str(scale)]
    subprocess.run([*command, "-h", host, "-p", port, "-U", user, DATABASE], check=True, capture_output=True)
    with rig.connect(DATABASE) as connection:
        connection.execute("SET synchronous_commit = off")
        connection.execute("SET work_mem = '128MB'")
        connection.execute("SET maintenance_work_mem = '512MB'")
        connection.execute("SET max_parallel_workers_per_gather = 0")  # the rows in their order
        connection.execute("CREATE UNLOGGED TABLE sentences (id bigint PRIMARY KEY, text text)")
        with connection.cursor() as cursor, cursor.copy("COPY sentences FROM STDIN") as copy:
            for number, sentence in enumerate(_sentences()):
                copy.write_row((number, sentence))
        connection.execute("ANALYZE sentences")
        connection.execute(_interactions(rows).encode())
        connection.execute("DROP TABLE sentences")
        connection.execute("ALTER TABLE interactions ADD PRIMARY KEY (id)")
        connection.execute("CREATE INDEX ON interactions (contact_id, at)")
        connection.execute("VACUUM (FREEZE, ANALYZE)")
        connection.execute("CHECKPOINT")


def churn_together(rig: Rig, number: int) -> None:
    """The ``number``-th hundredth of the rows of both large tables, by their keys."""
    for table, key, change in _TABLES:
        low = f"(SELECT (max({key}) * {number * _CHURN})::bigint FROM {table})"
        high = f"(SELECT (max({key}) * {(number + 1) * _CHURN})::bigint FROM {table})"
        rig.sql(f"UPDATE {table} SET {change} WHERE {key} > {low} AND {key} <= {high}", DATABASE)
    rig.sql("CHECKPOINT")


def churn_scattered(rig: Rig) -> None:
    """A hundredth of the rows of both large tables, all over them."""
    for table, key, change in _TABLES:
        rig.sql(f"UPDATE {table} SET {change} WHERE hashint8({key}) % {round(1 / _CHURN)} = 0", DATABASE)
    rig.sql("CHECKPOINT")


_TABLES: Final = (
    ("pgbench_accounts", "aid", "abalance = abalance + 1"),
    ("interactions", "id", "subject = 'Re: ' || subject"),
)


def _sentences() -> list[str]:
    chance = random.Random(15)
    syllables = [a + b for a in _CONSONANTS for b in _VOWELS]
    words = ["".join(chance.choices(syllables, k=chance.choice((1, 1, 2, 2, 2, 3, 3, 4)))) for _ in range(_WORDS)]
    weights = list(accumulate(1 / (rank + 3) for rank in range(_WORDS)))
    made = []
    for _ in range(_SENTENCES):
        text = " ".join(chance.choices(words, cum_weights=weights, k=chance.randint(7, 17)))
        made.append(f"{text[0].upper()}{text[1:]}.")
    return made


def _interactions(rows: int) -> str:
    def pick(salt: int) -> str:
        return f"s{salt}.id = hashint8extended(n, {salt}) & {_SENTENCES - 1}"

    joins = " ".join(f"JOIN sentences s{salt} ON {pick(salt)}" for salt in range(_IN_A_BODY + 1))
    body = " || ' ' || ".join(f"s{salt}.text" for salt in range(1, _IN_A_BODY + 1))
    return (
        "CREATE TABLE interactions AS SELECT n AS id, (n + (hashint8extended(n, 99) & 16383)) / 7 AS contact_id,"
        " timestamptz '2022-11-01 00:00:00+00' + n * interval '17.3 s' AS at,"
        " (ARRAY['mail', 'call', 'chat', 'visit'])[1 + (hashint8extended(n, 98) & 3)] AS channel,"
        f" left(s0.text || ' ' || s1.text, {_SUBJECT_CHARACTERS}) AS subject,"
        f" left({body}, {_BODY_CHARACTERS}) AS body FROM generate_series(1::bigint, {rows}) n {joins}"
    )
