"""The journal of switches over stores that are away, lose replies and hang: one answer, and never a guess."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from tests.recovering import CLOCK, KEYRING

from threefold.failover.journal import Journal
from threefold.failover.steps import Kind, Switch, Switches
from threefold.kernel.errors import Refused, Unavailable
from threefold.quorum.keys import FORMAT, epoch_key
from threefold.quorum.members import Format
from threefold.stores.memory import MemoryStore
from threefold.stores.store import Gone, Made, Unknown

NAMES = ("S1", "S2", "S3")
STEPS = (Kind.FENCED, Kind.PROMOTING, Kind.SERVING, Kind.PROTECTED)


class Line(MemoryStore):
    """A store behind a bad line; several journals may stand at its disk, each behind a line of its own."""

    def __init__(self, name: str, disk: dict[str, bytes], chance: random.Random) -> None:
        super().__init__(name)
        self.objects = disk
        self.chance = chance
        self.away = False
        self.hangs = False
        self.deaf = False  # to creates
        self.lossy = 0.0

    async def _bad(self) -> bool:
        await asyncio.sleep(0)
        if self.hangs:
            await asyncio.sleep(3600)
        return self.away or self.chance.random() < self.lossy

    async def create(self, key: str, body: bytes) -> Made | Unknown:
        if self.deaf or (await self._bad() and (self.away or self.chance.random() < 0.5)):
            return Unknown("lost on the way")
        answer = await super().create(key, body)
        return Unknown("the reply was lost") if await self._bad() else answer

    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
        return Unknown("lost") if await self._bad() else await super().read(key, start=start, length=length)


class World:
    def __init__(self, seed: int = 0) -> None:
        self.chance = random.Random(seed)
        self.disks: dict[str, dict[str, bytes]] = {
            name: {FORMAT: Format(1, KEYRING.key_id, name).encode(), epoch_key(1): b""} for name in NAMES
        }
        self.lines: list[Line] = []

    def journal(self, by: str = "somebody", patience: float = 5.0) -> Journal:
        lines = {name: Line(name, self.disks[name], self.chance) for name in NAMES}
        self.lines += lines.values()
        return Journal(lines, KEYRING, CLOCK, primary_site="karachi", by=by, patience=patience)

    def of(self, journal_number: int) -> list[Line]:
        return self.lines[3 * journal_number : 3 * journal_number + 3]


async def _order(journal: Journal, to: str = "eu", **more: Any) -> Switch:
    return await journal.order(to=to, reason="a test", **more)


async def test_a_switch_from_its_order_to_its_end_is_read_by_everybody() -> None:
    world = World()
    ours, theirs = world.journal("the agent of eu"), world.journal()
    assert (await theirs.active()).site == "karachi"
    switch = await _order(ours, evidence=("a", "b"), planned=True)
    seen = await theirs.active()
    assert (seen.site, seen.under_way, seen.step, seen.switch_number) == ("karachi", True, "ordered", 1)
    assert seen.switch == switch
    assert (switch.source, switch.planned, switch.order.by) == ("karachi", True, "the agent of eu")
    for kind in STEPS:
        switch = await ours.propose(switch, kind, dsn="host=eu")
        assert switch.last.kind is kind
        assert (await theirs.active()).under_way is (kind is Kind.FENCED)
    seen = await world.journal().active()
    assert (seen.site, seen.made_active, seen.dsn) == ("eu", 1, "host=eu")


async def test_of_two_orders_one_stands_and_the_other_is_refused() -> None:
    for seed in range(20):
        world = World(seed)
        answers = await asyncio.gather(
            _order(world.journal(), "eu"), _order(world.journal(), "third"), return_exceptions=True
        )
        won = [answer for answer in answers if isinstance(answer, Switch)]
        lost = [answer for answer in answers if isinstance(answer, Refused)]
        assert (len(won), len(lost)) == (1, 1), (seed, answers)
        assert (await world.journal().read()).all == tuple(won)


async def test_promotion_and_abandonment_compete_and_one_wins() -> None:
    wins = set()
    for seed in range(40):
        world = World(seed)
        ours, theirs = world.journal(), world.journal()
        switch = await ours.propose(await _order(ours), Kind.FENCED, epoch=7)
        await theirs.read()
        for line in world.lines:
            line.lossy = 0.2
        both = await asyncio.gather(
            ours.propose(switch, Kind.PROMOTING), theirs.propose(switch, Kind.ABANDONED), return_exceptions=True
        )
        for line in world.lines:
            line.lossy = 0.0
        (seen,) = (await world.journal().read()).all
        assert seen.last.kind in {Kind.PROMOTING, Kind.ABANDONED}
        for answer in both:
            if isinstance(answer, Switch):
                assert answer.last.kind is seen.last.kind, seed
            else:
                assert isinstance(answer, Unavailable)
        wins.add(seen.last.kind)
    assert len(wins) == 2, "the race was none"


async def test_with_one_store_away_or_hanging_everything_goes_on() -> None:
    for n in range(3):
        world = World()
        journal = world.journal()
        world.of(0)[n].away = True
        switch = await _order(journal)
        world.of(0)[n].away, world.of(0)[n].hangs = False, True
        began = CLOCK.monotonic()
        for kind in STEPS:
            switch = await journal.propose(switch, kind)
        # A first store that hangs is asked first each time, and not waited for.
        assert CLOCK.monotonic() - began < 4
        assert (await world.journal().active()).step == "protected"


async def test_with_two_stores_away_nothing_is_known() -> None:
    world = World()
    journal = world.journal(patience=0.5)
    for line in world.of(0)[:2]:
        line.away = True
    with pytest.raises(Unavailable):
        await journal.active()
    with pytest.raises(Unavailable):
        await _order(journal)


async def test_what_is_on_one_store_only_is_brought_to_an_end_when_another_is_away() -> None:
    """Its author died after the first create; a store is away. Whoever reads decides it, and only then acts on it."""
    world = World()
    author = world.journal(patience=0.5)
    for line in world.of(0)[1:]:
        line.deaf = True
    with pytest.raises(Unavailable):
        await _order(author)
    reader, other = world.journal(), world.journal()
    world.of(1)[2].away = True
    seen = await reader.active()
    assert (seen.under_way, seen.step) == (True, "ordered")
    assert (await other.active()).under_way


async def test_an_order_on_one_store_stands_only_when_somebody_brings_it_to_a_second() -> None:
    world = World()
    author = world.journal(patience=0.5)
    for line in world.of(0)[1:]:
        line.deaf = True
    with pytest.raises(Unavailable):
        await _order(author)
    seen = await world.journal().active()  # the other two stores say that it is not there: not decided
    assert (seen.under_way, seen.switch_number) == (False, 0)
    with pytest.raises(Refused, match="switch 1 to eu"):
        await _order(world.journal(), "third")  # meets it in the first store, and cannot pass it by
    assert (await world.journal().active()).under_way


async def test_a_switch_is_carried_on_by_others_after_a_death_at_every_request() -> None:
    """Whoever carries it out is killed after n requests; the next one goes on; the steps are each there once."""
    for deaths in range(1, 60, 3):
        world = World(deaths)
        carrying = asyncio.create_task(_carry(world.journal()))
        for _ in range(deaths):
            await asyncio.sleep(0)
        carrying.cancel()
        await asyncio.gather(carrying, return_exceptions=True)
        switch = await _carry(world.journal())
        assert [step.kind for step in switch.steps] == [Kind.ORDERED, *STEPS]
        assert (await world.journal().read()).all == (switch,)


async def _carry(journal: Journal) -> Switch:
    newest = (await journal.read()).newest
    switch = newest if newest is not None else await _order(journal)
    for kind in STEPS:
        switch = await journal.propose(switch, kind)
    return switch


async def test_after_promoting_it_cannot_be_abandoned_and_the_next_may_be_ordered() -> None:
    world = World()
    journal = world.journal()
    switch = await journal.propose(await _order(journal), Kind.FENCED)
    with pytest.raises(Refused, match="under way"):
        await _order(world.journal(), "third")
    switch = await journal.propose(switch, Kind.PROMOTING)
    with pytest.raises(Refused, match="cannot be abandoned"):
        await world.journal().abandon(1, "too late")
    second = await _order(world.journal(), "third")
    assert (second.number, second.source) == (2, "eu")
    assert (await journal.active()).site == "eu"
    for kind in (Kind.FENCED, Kind.PROMOTING):
        second = await world.journal().propose(second, kind)
    with pytest.raises(Refused, match="came after"):
        await journal.propose(switch, Kind.SERVING)


async def test_the_switch_before_goes_on_when_the_next_is_abandoned() -> None:
    world = World()
    journal, other = world.journal(), world.journal()
    switch = await _order(journal)
    for kind in STEPS[:-1]:
        switch = await journal.propose(switch, kind)
    await other.abandon((await _order(other, "karachi", planned=True)).number, "changed my mind")
    switch = await journal.propose(switch, Kind.PROTECTED)
    assert switch.last.kind is Kind.PROTECTED
    seen = await world.journal().read()
    assert [each.last.kind for each in seen.all] == [Kind.PROTECTED, Kind.ABANDONED]
    assert (await other.read()) == seen


async def test_where_nothing_was_founded_the_primarys_site_is_active() -> None:
    world = World()
    for disk in world.disks.values():
        disk.clear()
    assert await world.journal().read() == Switches()
    assert (await world.journal().active()).site == "karachi"
