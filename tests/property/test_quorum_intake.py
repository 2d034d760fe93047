"""Whatever fails while it is put: an intake that somebody was told of is found with any two stores, unaltered.

Two edges put requests under few names, at the same time, over stores that fail before or after they did what was asked,
hang, and lose a reply. Then any one store is lost for good, and the other two are asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from threefold.connectivity.deferrable import Envelope, chosen, deferrable, name_of, taken_after, title_of
from threefold.kernel.clock import SystemClock
from threefold.kernel.errors import Damaged, Unavailable
from threefold.kernel.keys import Keyring
from threefold.quorum.intake import StoreIntake
from threefold.stores.memory import MemoryStore
from threefold.stores.store import Unknown

NOW = datetime(2026, 11, 24, 20, tzinfo=UTC)
NAMES = ("S1", "S2", "S3")


class Faulty(MemoryStore):
    """Answers Unknown as often as ``fails`` says, having done it or not; a third of the time after a while."""

    def __init__(self, name: str, chance: random.Random, fails: float) -> None:
        super().__init__(name)
        self.chance, self.fails = chance, fails

    async def create(self, key: str, body: bytes) -> Any:
        for _ in range(self.chance.randrange(3)):
            await asyncio.sleep(0)
        if self.chance.random() < self.fails:
            if self.chance.random() < 0.5:
                await super().create(key, body)
            return Unknown("no reply")
        return await super().create(key, body)

    async def read(self, key: str, **more: Any) -> Any:
        return Unknown("no reply") if self.chance.random() < self.fails else await super().read(key, **more)


def envelope(user: int, key: str, body: bytes, taken: datetime = NOW) -> Envelope:
    author = UUID(int=user)
    return Envelope(
        name_of(author, key, UUID(int=9)),
        author,
        UUID(int=user + 100),
        True,
        "POST",
        "/report",
        "application/x-www-form-urlencoded",
        body,
        key,
        UUID(int=9),
        NOW,
        taken,
        "",
        len(body),
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.floats(0, 0.6))
def test_what_was_told_stands_and_is_the_right_one(seed: int, fails: float) -> None:
    asyncio.run(world(random.Random(seed), fails))


async def world(chance: random.Random, fails: float) -> None:
    keyring, clock = Keyring(bytes(32)), SystemClock()
    stores = {name: Faulty(name, chance, fails) for name in NAMES}
    edges = [StoreIntake(stores, keyring, clock) for _ in range(2)]
    told: dict[UUID, bytes] = {}

    async def send(key: str, body: bytes, edge: StoreIntake, n: int) -> None:
        mine = envelope(1, key, body, NOW + timedelta(seconds=n))
        try:
            stands = Envelope.decode(await edge.put(str(mine.id), mine.encode(), mine.same))
        except Unavailable:
            return
        if stands.asked == mine.asked:  # else it is refused: the key was used for another request
            assert told.setdefault(mine.id, mine.asked) == mine.asked, "two requests were taken under one key"

    asked = [(chance.choice("ab"), chance.choice([b"x", b"y"])) for _ in range(6)]
    for first, second in zip(asked[::2], asked[1::2], strict=True):
        await asyncio.gather(send(*first, edges[0], chance.randrange(9)), send(*second, edges[1], chance.randrange(9)))
    for store in stores.values():
        store.fails = 0.0
    whole = StoreIntake(stores, keyring, clock)
    names = await whole.names()
    for name, request in told.items():
        assert str(name) in names
        assert chosen(await whole.read(str(name)))[0].asked == request
    for lost in NAMES:
        left = StoreIntake({**stores, lost: Faulty(lost, chance, 1.0)}, keyring, clock)
        left._stores[lost].list = _silent  # type: ignore[attr-defined]
        names = await left.names()
        for name, request in told.items():
            assert str(name) in names
            first, others = chosen(await left.read(str(name)))
            assert request in {each.asked for each in (first, *others)}
            assert len({each.id for each in (first, *others)}) == 1 + len(others)


async def _silent(*_: Any, **__: Any) -> Unknown:
    return Unknown("lost")


def test_a_copy_under_another_name_does_not_open() -> None:
    async def moved() -> None:
        stores = {name: MemoryStore(name) for name in NAMES}
        intake = StoreIntake(stores, Keyring(bytes(32)), SystemClock())
        mine = envelope(1, "k", b"x")
        await intake.put(str(mine.id), mine.encode(), mine.same)
        for store in stores.values():
            body = await store.read(f"intake/{mine.id}")
            assert isinstance(body, bytes)
            assert b"report" not in body
            await store.create("intake/other", body)
        assert await intake.read("other") == []

    asyncio.run(moved())


@given(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20), st.integers(0, 3), st.integers(0, 3))
def test_nobody_names_anothers_intake(key: str, other: str, user: int, else_: int) -> None:
    one, two = (name_of(UUID(int=who), said, UUID(int=5)) for who, said in ((user, key), (else_, other)))
    assert (one == two) == ((user, key) == (else_, other))


@given(st.lists(st.datetimes(timezones=st.just(UTC)), max_size=5), st.datetimes(timezones=st.just(UTC)))
def test_it_comes_after_all_that_its_author_sent(before: list[datetime], now: datetime) -> None:
    try:
        found = taken_after(now, before)
    except OverflowError:
        return
    assert all(found > each for each in before)
    assert found >= now


@given(st.binary(max_size=300))
def test_nothing_that_is_sent_or_stored_breaks_it(body: bytes) -> None:
    for kind in ("application/json", "application/x-www-form-urlencoded"):
        assert len(title_of(kind, body)) <= 80
    with contextlib.suppress(Damaged):
        Envelope.decode(body)


def test_only_what_adds_is_deferred() -> None:
    id_ = "0199a3c2-7d10-7f3a-9c55-2f6f0d8a4b11"
    for target in ("/api/v1/queries", f"/api/v1/requests/{id_}/answers", "/report", f"/cases/queries/{id_}/answer"):
        assert deferrable("POST", target, "application/json")
        assert not deferrable("PUT", target, "application/json")
        assert not deferrable("POST", target + "?x=1", "application/json")
        assert not deferrable("POST", target + "/", "application/json")
    for target in ("/api/v1/contacts", f"/api/v1/queries/{id_}/status", "/connect/password", "/api/v1/read-only"):
        assert not deferrable("POST", target, "application/json")
