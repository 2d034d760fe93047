"""What is asked of the CRM, and the statements that it sends for it, which one connection then repeats in a loop.

The statements are those that the CRM's own handlers sent for the same requests (tests/crm_statements.py), with the same
parameters, made before the clock runs. Of a change also its transaction and what is kept under its Idempotency-Key.
What the edge asks to let somebody in is the CRM's price and not the loop's.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import psycopg
from psycopg.conninfo import make_conninfo
from tests.crm_statements import Sent, recorded, world
from tests.edge_client import Client, Key, b64

from bench.crm_data import Size, name_of, names
from bench.crm_load import Ask, Asks
from threefold.connectivity.admission import hashed
from threefold.crm.model.actor import Actor, Role
from threefold.crm.model.paging import Place
from threefold.crm.sql.database import SESSION, Database
from threefold.kernel.clock import SystemClock

# As they are called in the tables, with the most a second that proofs are made for.
OPERATIONS: Final[Mapping[str, float]] = {
    "list": 1500,
    "search": 2000,
    "page": 800,
    "list page": 500,
    "read": 4000,
    "create": 1500,
}
WORDS: Final = {
    "list": "list of contacts, 50 (API)",
    "search": "search (API)",
    "page": "page of a contact (HTML)",
    "list page": "list of contacts, 50 (HTML)",
    "read": "one contact (API)",
    "create": "create a query (API)",
}
_CAPTURED: Final = 200  # requests of each kind, that the loop goes through again and again
_EMPLOYEE: Final = UUID(int=0xE << 120 | 7 << 76 | 1 << 63)
_SESSIONS: Final = 50  # each may ask a hundred times a second

Step = list[Sent]


def asks(operation: str, size: Size) -> Asks:
    """The request of a number: any record, any place in the list."""
    first, last = names()

    def ask(number: int) -> Ask:
        chance = random.Random(f"{operation} {number}")
        contact = chance.randrange(size.contacts)
        key, name = size.key("contacts", contact), name_of(contact, first, last)
        after = Place("full_name", name, UUID(key)).encoded()
        if operation == "list":
            return Ask("GET", f"/api/v1/contacts?sort=full_name&limit=50&after={after}")
        if operation == "list page":
            return Ask("GET", f"/records/contacts?sort=full_name&after={after}")
        if operation == "search":
            given, family = name.split(" ", 1)
            return Ask("GET", f"/api/v1/search?q={given}+{family[:4].strip()}")
        if operation == "page":
            return Ask("GET", f"/records/contacts/{key}")
        if operation == "read":
            return Ask("GET", f"/api/v1/contacts/{key}")
        body = f'{{"contact_id":"{key}","subject":"Where is my parcel {number}?","body":"It was sent a week ago."}}'
        return Ask("POST", "/api/v1/queries", body.encode(), secrets.token_hex(16))

    return ask


def people(conninfo: str, origin: str) -> list[Client]:
    """One employee on several devices, among colleagues, teams and tags. As enrolling leaves them behind."""
    clients = [Client(origin, token=secrets.token_urlsafe(32), key=Key()) for _ in range(_SESSIONS)]
    with psycopg.connect(conninfo) as connection, connection.cursor() as cursor:
        row = (_EMPLOYEE, "Emma Employee", "emma@example.com", "employee")
        cursor.execute("INSERT INTO crm.users (id, full_name, email, role) VALUES (%s, %s, %s, %s)", row)
        for number in range(20):
            row = (uuid4(), f"Colleague {number}", f"c{number}@example.com", "employee")
            cursor.execute("INSERT INTO crm.users (id, full_name, email, role) VALUES (%s, %s, %s, %s)", row)
            cursor.execute("INSERT INTO crm.tags (id, name) VALUES (%s, %s)", (uuid4(), f"tag {number}"))
        for number in range(5):
            cursor.execute("INSERT INTO crm.teams (id, name) VALUES (%s, %s)", (uuid4(), f"team {number}"))
        for client in clients:
            device = uuid4()
            canonical = '{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}'.format(**client.key.jwk)
            thumbprint = b64(hashlib.sha256(canonical.encode()).digest())
            cursor.execute(
                "INSERT INTO edge.devices (id, user_id, name, thumbprint, jwk) VALUES (%s, %s, 'bench', %s, %s::jsonb)",
                (device, _EMPLOYEE, thumbprint, canonical),
            )
            cursor.execute(
                "INSERT INTO edge.sessions (id, token_hash, user_id, device_id, how, bearer, idle_until, expires_at)"
                " VALUES (%s, %s, %s, %s, 'password', true, now() + interval '1 day', now() + interval '1 day')",
                (uuid4(), hashed(client.token or ""), _EMPLOYEE, device),
            )
    return clients


def capture(conninfo: str, size: Size, operation: str) -> list[Step]:
    """What the handlers send for some requests, each as one step of the loop."""
    return asyncio.run(_capture(conninfo, size, operation))


async def _capture(conninfo: str, size: Size, operation: str) -> list[Step]:
    ask = asks(operation, size)
    steps: list[Step] = []
    actor = Actor(Role.EMPLOYEE, user=_EMPLOYEE, device=UUID(int=2), name="Emma Employee")
    async with Database(conninfo, SystemClock()) as database, world(database, actor, Path("/nowhere")) as crm:
        for number in range(_CAPTURED):
            one = ask(10**9 + number)
            with recorded() as sent:
                answer = await crm.ask(one.method, one.target, one.body or None, key=one.key)
            if answer.status not in (200, 201):
                raise RuntimeError(f"{one.method} {one.target}: {answer.status}")
            made = answer.headers.get("location", "").rpartition("/")[2]
            steps.append([_open(each, made, one.key) for each in sent])
    return steps


class _New:
    """In place of a parameter that has to be another one each time: an id, a key, a lock's number."""

    def __init__(self, of: Any) -> None:
        self.of = of

    def make(self, now: int) -> Any:
        if isinstance(self.of, UUID):
            return uuid4()
        return f"loop-{now}" if isinstance(self.of, str) else now


def _open(sent: Sent, made: str, key: str) -> Sent:
    if not made or not isinstance(sent.params, (list, tuple)):
        return sent
    new = [_New(p) if str(p) == made or p == key or (isinstance(p, int) and abs(p) > 2**33) else p for p in sent.params]
    return Sent(sent.text, new, sent.binary, sent.plain)


def loop(conninfo: str, steps: Sequence[Step], seconds: float) -> float:
    """Steps a second, on one connection, each statement's rows fetched."""
    with psycopg.connect(make_conninfo(conninfo, options=SESSION), autocommit=True) as connection:
        cursor = connection.cursor()
        began, done = time.perf_counter(), 0
        while True:
            for step in steps:
                for sent in step:
                    params = sent.params
                    if isinstance(params, list):
                        now = time.time_ns()
                        params = [p.make(now) if isinstance(p, _New) else p for p in params]
                    plain = False if sent.plain else None
                    if sent.binary:
                        cursor = connection.cursor(binary=True)
                    cursor.execute(sent.text.encode(), params, prepare=plain)
                    if cursor.description:
                        cursor.fetchall()
                    if sent.binary:
                        cursor = connection.cursor()
                done += 1
                if time.perf_counter() - began > seconds:
                    return done / (time.perf_counter() - began)
