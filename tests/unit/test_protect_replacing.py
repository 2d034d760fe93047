"""The store that joins: what has to be true before it is filled for the last time."""

from __future__ import annotations

from typing import Any

import pytest
from tests.stored import KEYRING as STORED
from tests.stored import stored

from threefold.failover.journal import Journal
from threefold.failover.steps import Kind, Step, encode, key_of
from threefold.kernel.clock import SystemClock
from threefold.kernel.errors import Unavailable
from threefold.kernel.keys import Keyring
from threefold.protect import replacing
from threefold.protect.replacing import Joining, change_membership
from threefold.quorum import keys
from threefold.quorum.driver import Driver
from threefold.quorum.members import Format
from threefold.quorum.membership import FOUNDED, Membership
from threefold.quorum.notices import encode_notice, newest_notice
from threefold.quorum.objects import Codec
from threefold.stores.memory import MemoryStore
from threefold.stores.store import Gone, Made, Unknown

JOINT = Membership(1, ("S1", "S2"), "S3", "S4")
KEYRING = Keyring(bytes(32))
FORMAT = Format(7, KEYRING.key_id, "first")


class _Store(MemoryStore):
    silent = False

    async def create(self, key: str, body: bytes) -> Made | Unknown:
        return Unknown("silent") if self.silent else await super().create(key, body)

    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
        return Unknown("silent") if self.silent else await super().read(key, start=start, length=length)


class _Middle:
    """S1 and S2 stay, S3 leaves, S4 joins."""

    def __init__(self) -> None:
        self.stores = {name: _Store(name) for name in ("S1", "S2", "S3", "S4")}
        for name in ("S1", "S2", "S3"):
            self.stores[name].objects[keys.FORMAT] = FORMAT.encode()
        self.joining = Joining(
            name="S4",
            target=self.stores["S4"],
            staying=[self.stores["S1"], self.stores["S2"]],
            leaving=self.stores["S3"],
            membership=JOINT,
            log=FORMAT,
            keyring=KEYRING,
            codec=Codec(KEYRING, 7),
            clock=SystemClock(),
            report=self._hear,
        )

    def _hear(self, _: str, **facts: Any) -> None: ...

    async def last(self) -> bool:
        return await self.joining.last(lambda _epoch, _slot: True)


async def test_a_notice_whose_author_died_is_on_both_that_stay_before_the_last_filling() -> None:
    here = _Middle()
    here.stores["S1"].objects[keys.notice_key(1)] = encode_notice(JOINT, KEYRING)
    assert await here.last()
    for name in ("S1", "S2", "S4"):
        assert keys.notice_key(1) in here.stores[name].objects


@pytest.mark.parametrize("body", [None, b"damaged"])
async def test_nothing_is_filled_for_the_last_time_before_both_have_the_notice(
    body: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replacing, "PATIENCE_S", 2.0)
    here = _Middle()
    here.stores["S1"].objects[keys.notice_key(1)] = encode_notice(JOINT, KEYRING)
    if body is None:
        here.stores["S2"].silent = True
    else:
        here.stores["S2"].objects[keys.notice_key(1)] = body
    assert not await here.last()
    assert here.stores["S4"].objects == {}
    assert "S2" in here.joining.reason


def _step(by: str) -> tuple[str, bytes]:
    key = key_of(1, 0)
    step = Step(Kind.ORDERED, by, "2026-11-24T20:00:00+00:00", 0.0, {"to": "cloud", "source": "office"})
    return key, encode(step, key, KEYRING, bytes(12))


@pytest.mark.parametrize("third", ["C", "A", None])
async def test_no_change_begins_where_the_two_that_stay_could_not_tell_a_step(third: str | None) -> None:
    """Three bodies are void, two of three decided; of the two that stay alone it would be unclear for ever."""
    here = _Middle()
    for name, by in (("S1", "A"), ("S2", "B"), ("S3", third)):
        if by:
            key, body = _step(by)
            here.stores[name].objects[key] = body
    assert not await here.joining.ahead(lambda _epoch, _slot: True)
    assert key_of(1, 0) in here.joining.reason
    del here.stores["S2"].objects[key_of(1, 0)]
    assert await here.joining.ahead(lambda _epoch, _slot: True)  # one of the two lacks it: it is helped there
    assert key_of(1, 0) not in here.stores["S4"].objects


async def test_who_cannot_tell_a_step_in_the_middle_hears_of_the_way_back() -> None:
    here = _Middle()
    both = {name: here.stores[name] for name in JOINT.stores}
    for name, store in both.items():
        key, body = _step(name)
        store.objects[key] = body
    journal = Journal(both, KEYRING, SystemClock(), primary_site="office", patience=0.3, membership=JOINT)
    with pytest.raises(Unavailable) as refused:
        await journal.read()
    assert "`threefold store replace S3 --abandon`" in refused.value.hint


async def test_a_store_that_stayed_in_one_replacement_is_replaced_in_the_next() -> None:
    """Of the second one, others stay than of the first: both know of the first before the second is told of."""
    here = await stored(epochs=1, snapshots=0)
    stores: dict[str, MemoryStore] = {**here.stores, "S4": MemoryStore("S4")}
    clock = SystemClock()
    first = Membership(1, ("S1", "S2"), "S3", "S4")
    await change_membership(stores, STORED, clock, FOUNDED, first)
    stores["S4"].objects |= stores["S1"].objects  # it is filled, short of the notice that comes last
    await change_membership(stores, STORED, clock, first, first.completed())
    second = Membership(3, ("S2", "S4"), "S1", "S5")
    await change_membership(stores, STORED, clock, first.completed(), second)
    for pair in (("S2", "S4"), ("S2", "S5"), ("S4", "S5")):
        asked = {name: stores.get(name, MemoryStore(name)) for name in pair}
        assert await Driver(asked, clock).run(newest_notice(pair, STORED), patience=2) == second, pair
