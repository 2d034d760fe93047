"""What a leader decides beside the stream: which stores may vote, and whether it may end another one's stream."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, cast

import pytest

from threefold.failover.steps import Kind as StepKind
from threefold.failover.steps import Step, encode, key_of
from threefold.kernel.clock import SystemClock
from threefold.kernel.errors import Unavailable
from threefold.kernel.keys import Keyring
from threefold.kernel.lsn import Lsn
from threefold.postgres.refusals import SlotInUse
from threefold.postgres.replication import ReplicationLink
from threefold.protect import beacon, leadership, leading
from threefold.protect.founding import Log
from threefold.protect.leader import Deployment, LeadAgainError, Leader, StepError
from threefold.protect.leadership import Candidate, Leadership
from threefold.protect.leading import Leading
from threefold.protect.stream import Durability
from threefold.protect.turn import Patience
from threefold.protect.where import ElsewhereError, Primary, Where, always
from threefold.quorum import keys
from threefold.quorum.history import encode_start
from threefold.quorum.lead import Resumed
from threefold.quorum.members import Format
from threefold.quorum.membership import Membership, MovedError, Named, ReplacedError
from threefold.quorum.objects import Codec, Header, Kind
from threefold.quorum.view import Scope
from threefold.stores.health import HealthBook
from threefold.stores.memory import MemoryStore
from threefold.stores.store import Gone, Made, Page, Unknown

_KEYRING = Keyring(bytes(32))
_FORMAT = Format(7, _KEYRING.key_id, "first")
_PRIMARY = Primary("dsn", "threefold")
_WHERE = Where("office", _PRIMARY)
_JOINT = Membership(1, ("S1", "S2"), "S3", "S4")


class _Store(MemoryStore):
    """May fall silent, or create over what is there."""

    silent = False
    overwrites = False

    async def create(self, key: str, body: bytes) -> Made | Unknown:
        if self.overwrites:
            self.objects.pop(key, None)
        return Unknown("silent") if self.silent else await super().create(key, body)

    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
        return Unknown("silent") if self.silent else await super().read(key, start=start, length=length)

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> Page | Unknown:
        return Unknown("silent") if self.silent else await super().list(prefix, after=after, limit=limit)


class _Here:
    """A leader over S1 and S2; S3 did not vote when its epoch began."""

    def __init__(self) -> None:
        self.stores = {name: _Store(name) for name in ("S1", "S2", "S3")}
        for name in ("S1", "S2"):
            self.stores[name].objects[keys.FORMAT] = _FORMAT.encode()
        self.said: list[str] = []
        clock, codec = SystemClock(), Codec(_KEYRING, 7)
        scope = Scope(("S1", "S2"), codec, "0a" * 16)
        first = codec.encode(Header(Kind.START, 1, 0, scope.writer, 1, Lsn(0), Lsn(0)), encode_start((), b""))
        self.deployment = Deployment(
            self.stores, HealthBook(self.stores), _KEYRING, clock, self._hear, "here", "here", Durability(None), dict
        )
        self.log = Log(_FORMAT, scope.stores, {"S3": "silent"}, dict.fromkeys(scope.stores, _FORMAT.incarnation))
        self.leader = Leader(
            self.deployment,
            self.log,
            Leadership(scope, 1, first, (), Resumed(Lsn(0), ())),
            _WHERE,
        )

    def _hear(self, event: str, **_: Any) -> None:
        self.said.append(event)

    @property
    def third(self) -> _Store:
        return self.stores["S3"]


async def test_a_store_that_comes_back_is_filled_and_counted_in() -> None:
    here = _Here()
    here.stores["S1"].objects[keys.epoch_key(1)] = b'{"writer": "somebody"}'
    here.third.objects[keys.FORMAT] = _FORMAT.encode()
    order, damaged = key_of(1, 0), key_of(1, 1)
    step = Step(StepKind.ORDERED, "somebody", "2026-11-24T20:00:00+00:00", 0.0, {"to": "cloud"})
    here.stores["S1"].objects[order] = encode(step, order, _KEYRING, bytes(12))
    here.stores["S1"].objects[damaged] = here.stores["S1"].objects[order]
    with pytest.raises(LeadAgainError):
        await here.leader._admit("S3")
    assert keys.epoch_key(1) in here.third.objects
    assert order in here.third.objects  # or it could say that nobody ordered anything
    assert damaged not in here.third.objects


async def test_the_end_of_a_segment_is_told_at_once_and_other_changes_when_the_beacon_is_due() -> None:
    """A snapshot waits for it: its last WAL is a segment's end."""
    here = _Here()
    told = asyncio.create_task(here.leader._beacons())

    async def settled() -> Lsn:
        leader = await beacon.read_leader(here.stores, _KEYRING)
        return leader.settled if leader is not None else Lsn(0)

    async def offer(count: int, seconds: float) -> Lsn:
        here.leader.writer.offer(bytes(count))
        async with asyncio.timeout(seconds):
            while await settled() != here.leader.appender.received:
                await asyncio.sleep(0.01)
        return await settled()

    try:
        await offer(100, 2 * beacon.PERIOD_S)
        with pytest.raises(TimeoutError):
            await offer(100, 0.6 * beacon.PERIOD_S)
        await offer(0, beacon.PERIOD_S)
        await offer(here.leader.wal_segment_bytes - 200, 0.95 * beacon.PERIOD_S)
        assert await settled() == here.leader.wal_segment_bytes
    finally:
        told.cancel()
        await asyncio.gather(told, return_exceptions=True)


async def test_every_attempt_to_lead_has_a_writer_of_its_own() -> None:
    """A payload's key comes from its header: two leaderships that make one segment of other parts must not share it."""
    here = _Here()
    nobody = cast("ReplicationLink", None)
    one, other = (
        Candidate(here.stores, here.log, _KEYRING, SystemClock(), here._hear, nobody, "dsn", _WHERE, always(_WHERE))
        for _ in range(2)
    )
    assert one.writer != other.writer


async def test_while_commits_wait_a_store_that_kept_its_memory_is_counted_in_unfilled() -> None:
    here = _Here()
    here.third.objects[keys.FORMAT] = _FORMAT.encode()
    here.stores["S2"].silent = True
    await here.leader._admit("S3")  # it may lack what only S2 has: no hurry
    here.leader.stream._arrivals.append((Lsn(8), SystemClock().monotonic() - 10))
    with pytest.raises(LeadAgainError):
        await here.leader._admit("S3")


@pytest.mark.parametrize("body", [b"damaged", replace(_FORMAT, log=8).encode()])
async def test_a_store_whose_format_is_not_ours_is_left_alone_and_costs_no_epoch(body: bytes) -> None:
    here = _Here()
    here.stores["S1"].objects[keys.epoch_key(1)] = b'{"writer": "somebody"}'
    here.third.objects[keys.FORMAT] = body
    for _ in range(2):
        await here.leader._admit("S3")
    assert here.third.objects == {keys.FORMAT: body}
    assert here.said == (["store may not vote"] if body != b"damaged" else [])  # who does not open is silent


async def test_a_new_store_that_creates_over_what_is_there_may_not_vote() -> None:
    here = _Here()
    here.third.overwrites = True
    await here.leader._admit("S3")
    assert keys.FORMAT not in here.third.objects
    assert here.said == ["store may not vote"]


async def test_a_new_store_that_keeps_its_promises_votes_from_the_next_epoch_on() -> None:
    here = _Here()
    with pytest.raises(LeadAgainError):
        await here.leader._admit("S3")
    assert Format.decode(here.third.objects[keys.FORMAT]).incarnation != _FORMAT.incarnation


async def test_who_is_cut_off_from_the_stores_ends_nobodys_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    here, ended = _Here(), []

    async def end_stream(_dsn: str, slot: str) -> bool:
        ended.append(slot)
        return True

    monkeypatch.setattr(leading, "end_stream", end_stream)
    monkeypatch.setattr(leading, "RECONNECT_S", 0.0)
    server = Leading(here.deployment, _WHERE, _PRIMARY, always(_WHERE), None)
    await beacon.write_leader(here.stores, here.leader.status(), _KEYRING, SystemClock())
    for name in ("S2", "S3"):
        here.stores[name].silent = True
    await server._end_other_stream(here.leader, SlotInUse("taken"))
    assert ended == []  # a newer leader may stand on the two that it does not see
    here.third.silent = False
    await server._end_other_stream(here.leader, SlotInUse("taken"))
    assert ended == ["threefold"]


async def test_a_take_over_that_waits_for_a_store_ends_so_that_the_members_are_looked_at_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """S3 was silent when the members were counted and is back; now S2 is silent, and two would be there."""
    here = _Here()
    here.stores["S2"].silent = True
    monkeypatch.setattr(leadership, "PATIENCE_S", 0.5, raising=False)
    nobody = cast("ReplicationLink", None)
    where = always(_WHERE)
    candidate = Candidate(here.stores, here.log, _KEYRING, SystemClock(), here._hear, nobody, "dsn", _WHERE, where)
    async with asyncio.timeout(5):
        with pytest.raises(Unavailable, match="S2: silent"):
            await candidate.lead(Lsn(0))


@pytest.mark.parametrize(
    "then",
    [
        replace(_WHERE, under_way=True, newest=1),
        replace(_WHERE, site="cloud", switch=1, newest=1),
        replace(_WHERE, switch=2, newest=2),  # away and back: another PostgreSQL serves there now
    ],
)
async def test_an_epoch_that_was_claimed_before_a_switch_was_seen_is_given_up_before_its_slot_0(then: Where) -> None:
    here = _Here()
    nobody = cast("ReplicationLink", None)
    asked: list[int] = []

    async def where() -> Where:
        asked.append(sum(key.startswith(keys.EPOCHS) for key in here.stores["S1"].objects))
        return then

    candidate = Candidate(here.stores, here.log, _KEYRING, SystemClock(), here._hear, nobody, "dsn", _WHERE, where)
    with pytest.raises(ElsewhereError):
        await candidate.lead(Lsn(0))
    assert asked == [1]  # after the claim, or it would prove nothing
    assert not any(key.startswith(keys.LOG) for key in here.stores["S1"].objects)
    assert here.said == ["epoch given up: a switch was ordered"]


class _Link:
    async def close(self) -> None: ...


class _Candidate:
    """Finds another membership in the log, as often as it looks."""

    def __init__(self, *_: Any) -> None: ...

    async def look(self) -> None:
        raise MovedError(_JOINT)


async def test_a_store_that_hiccups_while_a_notice_is_put_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    here = _Here()
    asked = _at_work(here, monkeypatch)
    monkeypatch.setattr(leading, "Candidate", _Candidate)
    with pytest.raises(ReplacedError):
        await asked.run(our_turn=True, patience=cast("Patience", None))
    assert here.said == ["trying again"]
    assert all(keys.notice_key(1) in here.stores[name].objects for name in _JOINT.stores)


async def test_a_store_that_hiccups_at_the_step_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The epoch before it is over: whether the next one began, the stores say when they are looked at again."""
    here, led = _Here(), 0
    asked = _at_work(here, monkeypatch)

    class Leads(_Candidate):
        async def look(self) -> None: ...

        async def lead(self, _: Lsn) -> None: ...

    async def lead(_: Leader) -> None:
        nonlocal led
        led += 1
        raise StepError(_JOINT)

    async def change(*_: Any) -> int:
        if led < 2:
            raise Unavailable("S2: silent")
        return 2

    monkeypatch.setattr(leading, "Candidate", Leads)
    monkeypatch.setattr(leading, "Leader", lambda *_: None)
    monkeypatch.setattr(asked, "_slot", lambda *_: asyncio.sleep(0, Lsn(0)))
    monkeypatch.setattr(asked, "_lead", lead)
    monkeypatch.setattr(leading, "change_membership", change)
    with pytest.raises(ReplacedError):
        await asked.run(our_turn=True, patience=cast("Patience", None))
    assert here.said == ["trying again", "another membership is in force"]


def _at_work(here: _Here, monkeypatch: pytest.MonkeyPatch) -> Leading:
    """S2 is silent at first, and is back after the first wait."""
    here.stores["S4"] = _Store("S4")
    here.stores["S2"].silent = True
    with_ = replace(here.deployment, named=Named(("S1", "S2", "S3", "S4"), "S3", "S4"), all_stores=here.stores)
    server = Leading(with_, _WHERE, _PRIMARY, always(_WHERE), None)
    later = server._later

    async def back(error: Unavailable) -> None:
        await later(error)
        here.stores["S2"].silent = False

    for name, value in (("PATIENCE_S", 0.3), ("RECONNECT_S", 0.0)):
        monkeypatch.setattr(leading, name, value)
    monkeypatch.setattr(server, "_later", back)
    monkeypatch.setattr(server, "_connect", lambda: asyncio.sleep(0, _Link()))
    monkeypatch.setattr(server, "_log", lambda _: asyncio.sleep(0, here.log))
    return server
