"""Many hands on few records at once: no change is lost, none is made twice, and the log says the same as the records.

Workers create, change, delete and restore concurrently, each from what it last read, and write down what they were
told. Afterwards a record's version is the number of changes that were acknowledged for it, its fields are those of
the last, and the chain proves it.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from tests.crm import Crm, crm, customer

from threefold.crm.datalog import log, timeline
from threefold.crm.model import asking
from threefold.crm.model.actor import SYSTEM
from threefold.crm.model.asking import Asked
from threefold.crm.model.errors import Stale
from threefold.crm.model.kinds import COMMON, KINDS
from threefold.crm.records import records
from threefold.crm.sql import repository
from threefold.kernel.errors import BadInput, NotThere

pytestmark = pytest.mark.asyncio(loop_scope="module")
ACCOUNTS = KINDS["accounts"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def there() -> AsyncIterator[Crm]:
    async with crm(size=8) as made:
        yield made


class Worker:
    """Does things to shared records, and keeps what it was told."""

    def __init__(self, there: Crm, seed: str, ids: list[UUID]) -> None:
        self.there, self.chance, self.ids = there, random.Random(seed), ids
        self.told: list[tuple[UUID, int, dict[str, Any]]] = []  # id, version, what it became
        self.stale = 0

    async def work(self, steps: int) -> None:
        for _ in range(steps):
            id_ = self.chance.choice(self.ids)
            try:
                await self.step(id_)
            except Stale:
                self.stale += 1
            except NotThere:
                pass  # somebody deleted it, or restored it before us

    async def step(self, id_: UUID) -> None:
        row = await self.there.get("accounts", id_, deleted=True)
        await asyncio.sleep(self.chance.random() * 0.003)
        what = self.chance.choices(("change", "blind", "delete", "restore"), (6, 2, 1, 2))[0]
        city = f"c{self.chance.getrandbits(40)}"
        async with self.there.database.write(SYSTEM) as tx:
            if what in ("change", "blind"):
                version = row["version"] if what == "change" else None
                after = await records.update(tx, ACCOUNTS, id_, {"city": city}, version)
                if what == "change":
                    assert after["version"] == row["version"] + 1
            elif what == "delete":
                await records.delete(tx, ACCOUNTS, id_, row["version"])
                after = await repository.one(tx.connection, SYSTEM, ACCOUNTS, id_, deleted=True)
            else:
                after = await records.restore(tx, ACCOUNTS, id_)
        self.told.append((id_, after["version"], after))


@pytest.mark.parametrize("seed", range(4))
async def test_no_change_is_lost_and_none_is_made_twice(there: Crm, seed: int) -> None:
    ids = [(await there.create("accounts", name=f"s{seed}"))["id"] for _ in range(3)]
    workers = [Worker(there, f"{seed} {number}", ids) for number in range(8)]
    await asyncio.gather(*(worker.work(20) for worker in workers))
    told: dict[UUID, dict[int, dict[str, Any]]] = defaultdict(dict)
    for worker in workers:
        for id_, version, after in worker.told:
            assert version not in told[id_], "two changes were told the same version"
            told[id_][version] = after
    assert sum(worker.stale for worker in workers) > 0  # they did meet
    for id_ in ids:
        row = await there.get("accounts", id_, deleted=True)
        assert row["version"] == len(told[id_]) + 1
        assert sorted(told[id_]) == list(range(2, row["version"] + 1))
        assert told[id_][row["version"]] == row
        async with there.database.read() as connection:
            for version in (2, row["version"] // 2 + 1, row["version"]):
                state = await timeline.state(connection, ACCOUNTS, id_, version)
                assert state["city"] == told[id_][version]["city"]
    async with there.database.read() as connection:
        report = await log.verify(connection)
    assert report.sound, report.broken


async def test_of_those_who_change_the_same_version_one_wins_and_all_others_are_told(there: Crm) -> None:
    row = await there.create("accounts", name="contested")
    outcomes = await asyncio.gather(
        *(there.update("accounts", row, city=f"c{number}") for number in range(12)), return_exceptions=True
    )
    kinds = Counter(type(outcome).__name__ for outcome in outcomes)
    assert kinds == {"dict": 1, "Stale": 11}
    winner = next(outcome for outcome in outcomes if isinstance(outcome, dict))
    assert await there.get("accounts", row["id"]) == winner


async def test_a_customer_finds_its_own_and_nothing_else_whatever_it_asks_for(there: Crm) -> None:
    account = await there.create("accounts", name="Shared")
    mine, other = [await there.contact(account_id=account["id"]) for _ in range(2)]
    ids: dict[str, set[UUID]] = defaultdict(set)  # whose are not mine
    own: dict[str, set[UUID]] = defaultdict(set)
    own["contacts"].add(mine["id"])
    ids["contacts"].add(other["id"])
    for contact, into in ((mine, own), (other, ids)):
        query = await there.create("queries", contact_id=contact["id"], subject="findable")
        request = await there.create("requests", contact_id=contact["id"], subject="findable", kind="repair")
        said = await there.create("interactions", contact_id=contact["id"], query_id=query["id"], body="x")
        hidden = await there.create(
            "interactions", contact_id=contact["id"], query_id=query["id"], body="x", internal=True
        )
        into["queries"].add(query["id"])
        into["requests"].add(request["id"])
        into["interactions"].add(said["id"])
        ids["interactions"].add(hidden["id"])
    ids["accounts"].add(account["id"])
    ids["deals"].add((await there.create("deals", name="findable", account_id=account["id"]))["id"])
    ids["tasks"].add((await there.create("tasks", subject="findable"))["id"])
    actor = customer(mine["id"])
    everything = {each for some in (*ids.values(), *own.values()) for each in some}
    async with there.database.read() as connection:
        for kind in KINDS.values():
            found = set()
            for id_ in everything:
                for deleted in (False, True):
                    try:
                        row = await records.get(connection, actor, kind, id_, deleted=deleted)
                    except NotThere:
                        continue
                    found.add(row["id"])
            assert found == own[kind.name], kind.name
            for asked in (Asked(limit=200), Asked(limit=200, deleted=True)):
                try:
                    rows = (await records.page(connection, actor, kind, asked)).rows
                except NotThere:
                    assert asked.deleted or not own[kind.name]
                    continue
                assert {row["id"] for row in rows} <= own[kind.name] or kind.name in ("products", "prices")
            with pytest.raises(NotThere):
                await records.timeline(connection, actor, kind, mine["id"])
            for id_ in everything:
                with pytest.raises(NotThere):
                    await records.as_of(connection, actor, kind, id_, mine["updated_at"])
        hits = await records.search(connection, actor, "findable", 100)
        assert {hit.id for hit in hits} == own["queries"] | own["requests"]
    for kind in KINDS.values():
        for id_ in everything:
            for attempt in (_update, _delete, _restore):
                with pytest.raises(NotThere):
                    await attempt(there, actor, kind.name, id_)
    made = await there.create("queries", actor, subject="mine", contact_id=str(mine["id"]))
    assert made["contact_id"] == mine["id"]
    with pytest.raises(NotThere):
        await there.create("queries", actor, subject="theirs", contact_id=other["id"])
    with pytest.raises(NotThere):
        await there.create("interactions", actor, query_id=next(iter(ids["queries"])), body="in yours")


async def _update(there: Crm, actor: Any, kind: str, id_: UUID) -> None:
    async with there.database.write(actor) as tx:
        await records.update(tx, KINDS[kind], id_, {}, None)


async def _delete(there: Crm, actor: Any, kind: str, id_: UUID) -> None:
    async with there.database.write(actor) as tx:
        await records.delete(tx, KINDS[kind], id_, None)


async def _restore(there: Crm, actor: Any, kind: str, id_: UUID) -> None:
    async with there.database.write(actor) as tx:
        await records.restore(tx, KINDS[kind], id_)


async def test_pages_show_each_record_once_while_others_come_and_change(there: Crm) -> None:
    made = {
        (await there.create("teams", name=f"t{number:02}", description=str(number % 3)))["id"] for number in range(40)
    }
    for sort in ("name", "-description", "created_at", "-id"):
        seen: list[UUID] = []
        after = None
        while True:
            async with there.database.read() as connection:
                found = await records.page(connection, SYSTEM, KINDS["teams"], Asked((), sort, after, 7))
            seen += [row["id"] for row in found.rows]
            new = await there.create("teams", name=f"t{len(seen):02}a", description="1")
            assert new["id"] not in made
            after = found.next
            if after is None:
                break
        assert len(seen) == len(set(seen))
        assert made <= set(seen), sort


async def test_whatever_is_asked_is_refused_or_postgresql_understands_it(there: Crm) -> None:
    chance = random.Random(5)
    values = [
        "true",
        "-name",
        "%",
        "\\",
        "'",
        "1",
        "-1",
        "2026-01-01",
        "2026-01-01T00:00:00Z",
        "a,b",
        "",
        str(UUID(int=7)),
    ]
    names = [field.name for field in COMMON]
    understood = 0
    async with there.database.read() as connection:
        for _ in range(500):
            kind = chance.choice(list(KINDS.values()))
            fields = chance.choices([*names, *(field.name for field in kind.fields), "sort", "q"], k=1)
            ops = chance.choices(["", "", ".ne", ".lt", ".ge", ".in", ".contains", ".starts", ".empty"], k=1)
            params = [(field + op, chance.choice(values)) for field, op in zip(fields, ops, strict=True)]
            try:
                asked = asking.parse(kind, [*params, ("limit", "3")])
            except BadInput:
                continue
            await records.page_json(connection, SYSTEM, kind, asked)
            understood += 1
    assert understood > 50
