"""The CRM as `threefold up` runs it: people come in by the links it prints, and nobody erased comes back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from tests.acceptance.test_commands import last_line, place, threefold
from tests.edge_client import Client
from tests.pg import free_port
from threefold.local.home import Home

__all__ = ["place"]  # the fixture
PASSWORD = "a sentence to sign in with"


@contextmanager
def serving(*arguments: str, **environment: str) -> Iterator[dict[str, Any]]:
    """The process, once it has answered; stopped afterwards."""
    process = subprocess.Popen(
        [sys.executable, "-m", "threefold", *arguments, "--json"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    assert process.stdout is not None
    try:
        answer = next(found for line in process.stdout if (found := json.loads(line))["type"] in {"result", "error"})
        assert answer["type"] == "result", answer
        yield answer
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def entered(url: str, link: str) -> Client:
    client = Client(url)
    answer = client.enrol(link.partition("#")[2], password=PASSWORD)
    assert answer.status == 201, answer.json()
    return client


def test_people_work_on_it_and_nobody_who_was_erased_comes_back_with_a_recovery(place: Path) -> None:
    threefold("init", "crm", cwd=place)
    home = Home.at(place / "crm")
    config = str(home.config)
    with serving("up", str(home.folder)) as up:
        url = up["crm"]["url"]
        employee = entered(url, up["crm"]["links"]["administrator"])
        customer = entered(url, up["crm"]["links"]["customer"])
        contact = customer.who["user"]["contact_id"]

        # A link lets one device in, once.
        assert Client(url).enrol(up["crm"]["links"]["customer"].partition("#")[2], password=PASSWORD).status == 410

        said = {"subject": "The printer sings", "body": "At night."}
        reported = customer.post("/api/v1/queries", said, key="one").json()
        assert customer.post("/api/v1/queries", said, key="one").json() == reported
        found = employee.get("/api/v1/queries?subject=The%20printer%20sings").json()["items"]
        assert [row["id"] for row in found] == [reported["id"]]
        assert customer.get("/api/v1/accounts").status == 404

        before = _lsn(home)
        erased = employee.post(f"/api/v1/contacts/{contact}/erasure", {"reason": "asked by letter"})
        assert erased.status == 200, erased.json()
        name = employee.get(f"/api/v1/contacts/{contact}").json()["full_name"]
        assert name == "Erased person"
        assert customer.get("/api/v1/me").status in {401, 403}
        proved = threefold("crm", "verify-log", "--json", "--config", config)
        assert proved.returncode == 0, proved.stdout
        assert last_line(proved)["sound"]

        # To the moment before: the database does not know of the erasure. The ledger does.
        port = free_port()
        into = str(place / "recovered")
        done = threefold("recover", "--to", before, "--into", into, "--start", "--port", str(port), "--config", config)
        assert done.returncode == 0, done.stderr
        assert home.settings.crm is not None
        dsn = f"host=127.0.0.1 port={port} user=crm dbname=crm"
        try:
            with psycopg.connect(f"{dsn} password={home.secret('crm.password')}") as recovered:
                assert _name(recovered, contact) != "Erased person"
                elsewhere = f"127.0.0.1:{free_port()}"
                with serving("crm", "serve", "--config", config, "--listen", elsewhere, THREEFOLD_CRM__DSN=dsn) as crm:
                    assert crm["listening"] == elsewhere
                assert _name(recovered, contact) == "Erased person"

                # Whoever changes a record behind the CRM's back is found.
                with psycopg.connect(
                    f"host=127.0.0.1 port={port} user=postgres dbname=crm",
                    password=home.secret("postgres.password"),
                    autocommit=True,
                ) as owner:
                    owner.execute("ALTER TABLE crm.products DISABLE TRIGGER USER")
                    cheap = "UPDATE crm.products SET price_cents = 1 WHERE sku = (SELECT min(sku) FROM crm.products)"
                    owner.execute(cheap)
                    owner.execute("ALTER TABLE crm.products ENABLE TRIGGER USER")
            tampered = threefold("crm", "verify-log", "--config", config, THREEFOLD_CRM__DSN=dsn)
            assert tampered.returncode == 1
            assert "do not agree with the data log: 1" in tampered.stderr
        finally:
            pid = int((place / "recovered" / "postmaster.pid").read_text().splitlines()[0])
            os.kill(pid, signal.SIGQUIT)


def _lsn(home: Home) -> str:
    with psycopg.connect(home.crm_conninfo()) as connection:
        row = connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
    assert row is not None
    return str(row[0])


def _name(connection: psycopg.Connection[Any], contact: str) -> str:
    row = connection.execute("SELECT full_name FROM crm.contacts WHERE id = %s", (contact,)).fetchone()
    connection.rollback()
    assert row is not None
    return str(row[0])
