"""The CRM under load: `threefold crm serve` on a million contacts, against the same statements with no CRM around.

Two databases, one with ten thousand contacts and one with a million, twice as many interactions, and accounts, queries
and requests to go with them; a server process for each. Variants take turns within every round, and medians count:

- over HTTP at 50 requests in flight on the large one and on the small one;
- psycopg in a loop: the very statements that the server sends for such requests, on one connection, no HTTP, no edge;
- a CSV file of 100,000 contacts sent to the large one; a bare COPY of the rows that came of it into a table without an
  index; and, to see what of it is PostgreSQL's own, a COPY of them into the table of contacts itself.

What shares the machine's cores: over HTTP the server process, its PostgreSQL, and two client processes, which only
write bytes that were made before (crm_load.py); in the loop psycopg and its PostgreSQL. So on two cores the server has
about one. Sessions are many because each has a rate limit; nothing of the edge is switched off.
"""

from __future__ import annotations

import random
import re
import sys
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any, Final

import psycopg
from psycopg.conninfo import make_conninfo
from tests.edge_client import Client

from bench import crm_asks, crm_data, crm_load
from bench.crm_data import Size
from bench.rig import Rig
from threefold.local.create import free_ports

LARGE: Final = 1_000_000
SMALL: Final = 10_000
FLIGHT: Final = 50
IMPORTED: Final = 100_000
_WARM_S: Final = 2.0


class Side:
    """One database and the server on it."""

    def __init__(self, rig: Rig, name: str, size: Size) -> None:
        self.name = name
        self.size = size
        self.rig = rig
        self.conninfo = make_conninfo(dbname=name, **rig.conninfo)
        (self.port,) = free_ports(1)
        self.clients: list[Client] = []

    @property
    def origin(self) -> str:
        return f"http://localhost:{self.port}"

    def fill(self) -> None:
        self.rig.sql(f"CREATE DATABASE {self.name}")
        crm_data.fill(self.conninfo, self.size)

    def serve(self) -> None:
        self.clients = crm_asks.people(self.conninfo, self.origin)
        config = self.rig.base / f"{self.name}.toml"
        config.write_text(
            f'[crm]\nlisten = "127.0.0.1:{self.port}"\npublic_url = "{self.origin}"\n'
            f'dsn = "{self.conninfo}"\nerasures = "{self.name}.jsonl"\n'
        )
        self.rig.start(self.name, *self.rig.threefold("crm", "serve", "--config", str(config)))
        self.rig.until(self._ready, self.name)

    def _ready(self) -> bool:
        try:
            return self.clients[0].send("GET", "/readyz", None, {}).status == 200
        except OSError:
            return False

    def http(self, operation: str, seconds: float) -> crm_load.Run:
        ask = crm_asks.asks(operation, self.size)
        most = crm_asks.OPERATIONS[operation]
        return crm_load.measure(self.port, self.clients, ask, FLIGHT, seconds, most)

    def peak_mb(self) -> float:
        status = Path(f"/proc/{self.rig.processes[self.name].pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        return int(found[1]) / 1000 if found else 0.0


def compare(rig: Rig, contacts: int, rounds: int, seconds: float, only: tuple[str, ...] = ()) -> dict[str, Any]:
    """Everything, in turn."""
    large, small = Side(rig, "crm_large", Size(contacts)), Side(rig, "crm_small", Size(min(SMALL, contacts)))
    filled = time.perf_counter()
    for side in (small, large):
        _say(f"making {side.size.contacts:,} contacts and {side.size.of('interactions'):,} interactions")
        side.fill()
    filled = time.perf_counter() - filled
    for side in (small, large):
        side.serve()
    found: dict[str, Any] = {"contacts": contacts, "filled_s": round(filled, 1), "operations": {}}
    found |= measure(large, small, rounds, seconds, only)
    for side in (small, large):
        rig.stop(side.name)
    return found


def measure(large: Side, small: Side, rounds: int, seconds: float, only: tuple[str, ...] = ()) -> dict[str, Any]:
    """Against servers that are up."""
    operations = {}
    for operation in only or tuple(crm_asks.OPERATIONS):
        _say(crm_asks.WORDS[operation])
        steps = crm_asks.capture(large.conninfo, large.size, operation)
        for side in (large, small):
            side.http(operation, _WARM_S)
        turns: dict[str, list[Any]] = {"http": [], "small": [], "loop": []}
        for _ in range(rounds):
            turns["http"].append(large.http(operation, seconds))
            turns["loop"].append(crm_asks.loop(large.conninfo, steps, seconds))
            turns["small"].append(small.http(operation, seconds))
        rps = {name: median(run.rps for run in turns[name]) for name in ("http", "small")}
        middle = sorted(turns["http"], key=lambda run: run.rps)[rounds // 2]
        operations[operation] = {
            **asdict(middle),
            "rps": rps["http"],
            "small_rps": rps["small"],
            "loop_rps": median(turns["loop"]),
            "statements": len(steps[-1]),
        }
    found: dict[str, Any] = {"operations": operations}
    peak = large.peak_mb()
    if not only or "import" in only:
        _say(f"importing {IMPORTED:,} contacts")
        found["import"] = _imports(large, min(rounds, 3))
    return found | {"memory": {"serving_mb": peak, "with_imports_mb": large.peak_mb()}}


def _imports(side: Side, rounds: int) -> dict[str, float]:
    took: dict[str, list[float]] = {"ours": [], "copy": [], "into": []}
    client = side.clients[-1]
    client.timeout = 300
    for number in range(rounds):
        content = _csv(number)
        began = time.perf_counter()
        answer = client.request("POST", "/api/v1/imports/contacts", content, headers={"Content-Type": "text/csv"})
        took["ours"].append(time.perf_counter() - began)
        if answer.status != 201 or answer.json()["created"] != IMPORTED:
            raise RuntimeError(f"the import was answered {answer.status}: {answer.body[:400]!r}")
        with psycopg.connect(side.conninfo, autocommit=True) as connection:
            # The very rows that the import made, all columns of them, under keys that are as new as theirs were.
            connection.execute(
                "CREATE TABLE bare AS SELECT * FROM crm.contacts"
                f" WHERE email LIKE '%.{number}.%@imported.example' ORDER BY id".encode()
            )
            connection.execute("UPDATE bare SET id = uuidv7()")
            with connection.cursor() as cursor, cursor.copy("COPY bare TO STDOUT") as copy:
                rows = b"".join(copy)
            connection.execute("DROP TABLE bare; CREATE TABLE bare (LIKE crm.contacts)")
            took["copy"].append(_copied(connection, "bare", rows))
            took["into"].append(_copied(connection, "crm.contacts", rows))
            connection.execute("DROP TABLE bare")
    return {name: median(several) for name, several in took.items()} | {"rows": IMPORTED, "mb": len(content) / 1e6}


def _copied(connection: psycopg.Connection[Any], table: str, rows: bytes) -> float:
    began = time.perf_counter()
    with connection.cursor() as cursor, cursor.copy(f"COPY {table} FROM STDIN".encode()) as copy:
        copy.write(rows)
    return time.perf_counter() - began


def _csv(number: int) -> bytes:
    first, last = crm_data.names()
    chance = random.Random(number)
    lines = ["Name,Email,Phone,Role,Language"]
    for row in range(IMPORTED):
        given, family = chance.choice(first), chance.choice(last)
        mail = f"{given}.{family}.{number}.{row}@imported.example".replace(" ", ".").lower()
        lines.append(f"{given} {family},{mail},+92 300 {row:07d},Buyer,en")
    return "\n".join(lines).encode()


def _say(what: str) -> None:
    print(f"... {what}", file=sys.stderr, flush=True)
