"""Replies get lost, requests come twice, together, late, and around a server that dies: each change is made once.

Every worker does its work as a device's outbox does: a key for each change, asked again until there is an answer that
is one. The workers' own notes (the ledger) are the judge: what was acknowledged is there, once, and nothing else is;
then the data log's chains are proved.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any

import pytest
from tests.api_world import Api, api
from tests.edge_client import Answer, Client
from tests.promise import keep

from threefold.crm.datalog import log
from threefold.crm.sql.database import Database
from threefold.kernel.clock import SystemClock

WORKERS = 6
CHANGES = 22  # of each worker
COUNTERS = 2


@dataclass
class Ledger:
    """What was acknowledged."""

    made: list[tuple[str, str]] = field(default_factory=list)  # (name, id)
    counted: Counter[str] = field(default_factory=Counter)
    refused: int = 0  # lost updates, each answered with 412
    replayed: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass
class Request:
    method: str
    target: str
    body: dict[str, Any]
    headers: dict[str, str | None]
    key: str
    answer: Answer | None = None


class Worker:
    def __init__(self, client: Client, chance: random.Random, ledger: Ledger) -> None:
        self.client, self.chance, self.ledger = client, chance, ledger
        self.past: list[Request] = []

    def work(self, counters: list[str]) -> None:
        for _ in range(CHANGES):
            if self.chance.random() < 0.4:
                self.make()
            else:
                self.count(self.chance.choice(counters))
            if self.past and self.chance.random() < 0.3:
                self.again(self.chance.choice(self.past))

    def make(self) -> None:
        name = f"deal {uuid.UUID(int=self.chance.getrandbits(128))}"
        answer = self.sure("POST", "/api/v1/tags", {"name": name[:60]})
        assert answer.status == 201, answer.body
        with self.ledger.lock:
            self.ledger.made.append((name[:60], answer.json()["id"]))

    def count(self, counter: str) -> None:
        """One more, based on what was read; somebody else's one more is never overwritten."""
        read = self.patient("GET", f"/api/v1/deals/{counter}")
        more = {"value_cents": read.json()["value_cents"] + 1}
        answer = self.sure("PATCH", f"/api/v1/deals/{counter}", more, **{"If-Match": read.headers["etag"]})
        assert answer.status in {200, 412}, answer.body
        with self.ledger.lock:
            if answer.status == 200:
                assert answer.json()["value_cents"] == more["value_cents"]
                self.ledger.counted[counter] += 1
            else:
                self.ledger.refused += 1

    def sure(self, method: str, target: str, body: dict[str, Any], **headers: str | None) -> Answer:
        """Asked, with whatever goes wrong on the way, until there is an answer."""
        asked = Request(method, target, body, headers, str(uuid.UUID(int=self.chance.getrandbits(128))))
        while self.chance.random() < 0.45:
            self.lose(asked)
        if self.chance.random() < 0.25:
            twin = self.client.twin()
            with ThreadPoolExecutor(2) as both:
                answers = list(both.map(lambda client: self.patient_of(client, asked), (self.client, twin)))
            twin.close()
            assert len({(answer.status, answer.body) for answer in answers if answer.status < 400}) <= 1
            asked.answer = min(answers, key=lambda answer: answer.status)
        else:
            asked.answer = self.patient_of(self.client, asked)
        self.past.append(asked)
        return asked.answer

    def lose(self, asked: Request) -> None:
        """Sent, and gone before the answer came."""
        client = self.client.twin()
        connection = client._opened()
        said = {**client.headers(asked.method, asked.target), **asked.headers, "Idempotency-Key": asked.key}
        try:
            connection.request(
                asked.method, asked.target, _encoded(asked.body),
                {"Host": f"localhost:{connection.port}", "Content-Type": "application/json", **said},
            )  # fmt: skip
            time.sleep(self.chance.random() * 0.02)
        except OSError:
            pass
        finally:
            connection.close()

    def again(self, past: Request) -> None:
        """A copy that was under way for long comes late: the first answer, and nothing is done."""
        answer = self.patient_of(self.client, past)
        assert past.answer is not None
        if past.answer.status < 400:
            assert (answer.status, answer.body) == (past.answer.status, past.answer.body)
            assert answer.headers["idempotency-replayed"] == "true"
            with self.ledger.lock:
                self.ledger.replayed += 1
        else:
            assert answer.status == past.answer.status

    def patient_of(self, client: Client, asked: Request) -> Answer:
        return self.patient(asked.method, asked.target, asked.body, asked.headers, asked.key, client=client)

    def patient(
        self,
        method: str,
        target: str,
        body: Any = None,
        headers: Any = None,
        key: str = "",
        client: Client | None = None,
    ) -> Answer:
        """409 of a key under way, 503, or a connection that broke: ask again, with the same key."""
        deadline = time.monotonic() + 30
        while True:
            try:
                sent = None if body is None else _encoded(body)
                answer = (client or self.client).request(method, target, sent, key=key, headers=headers)
                if answer.status not in {409, 503}:
                    return answer
            except (OSError, HTTPException):
                (client or self.client).close()
            assert time.monotonic() < deadline, (method, target)
            time.sleep(0.02)


def _encoded(body: dict[str, Any]) -> bytes:
    return json.dumps(body).encode()


@pytest.mark.parametrize("seed", [1])
async def test_each_change_is_made_once(seed: int) -> None:
    async with api() as world:
        account = await world.make("accounts", {"name": "Acme"})
        deal = {"name": "counter", "account_id": account["id"]}
        counters = [(await world.make("deals", deal))["id"] for _ in range(COUNTERS)]
        ledger = Ledger()
        workers = [
            Worker(world.people["employee"].twin(), random.Random(f"{seed} {number}"), ledger)
            for number in range(WORKERS)
        ]
        running = [asyncio.to_thread(worker.work, counters) for worker in workers]
        await asyncio.gather(*running, _dies(world))
        await _judge(world, ledger, counters)


async def _dies(world: Api) -> None:
    """The server is killed in the middle of it all, and comes back."""
    await asyncio.sleep(2)
    assert world.process is not None
    world.process.kill()
    world.process.wait()
    await world.start()


async def _judge(world: Api, ledger: Ledger, counters: list[str]) -> None:
    there = {(name, str(id_)) for name, id_ in await world.pg.sql("SELECT name, id FROM crm.tags")}
    assert len(ledger.made) == len(set(ledger.made)) == len({name for name, _ in ledger.made})
    keep(there == set(ledger.made), "what was saved is not what is there")
    for counter in counters:
        [(value, version)] = await world.pg.sql("SELECT value_cents, version FROM crm.deals WHERE id = %s", [counter])
        keep(value == ledger.counted[counter], f"{value}, told {ledger.counted[counter]}: lost, or made twice")
        assert version == 1 + value
        [(entries,)] = await world.pg.sql("SELECT count(*) FROM crm.log WHERE record_id = %s", [counter])
        assert entries == version
    assert sum(ledger.counted.values()) > 20
    assert ledger.refused > 0
    assert ledger.replayed > 0
    async with Database(world.pg.dsn(), SystemClock()) as database, database.read() as connection:
        report = await log.verify(connection)
    assert report.sound, report.broken
    assert report.entries > sum(ledger.counted.values()) + len(ledger.made)
