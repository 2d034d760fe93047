"""The notice of a change of membership, and who is stopped by it: journal and intake."""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import replace
from typing import Any

import pytest
from tests.simulation.world import World, at_once

from threefold.failover.deciding import Desk, Unclear, Undecided, decide, look
from threefold.failover.steps import Kind, Step, encode, key_of
from threefold.kernel.clock import SystemClock
from threefold.kernel.errors import BadInput
from threefold.kernel.keys import Keyring
from threefold.quorum import keys
from threefold.quorum.intake import StoreIntake
from threefold.quorum.members import Format
from threefold.quorum.membership import FOUNDED, Membership, ReplacedError, encode_membership
from threefold.quorum.notices import encode_notice, newest_notice, put_notice
from threefold.quorum.requests import Pause, Read
from threefold.stores.memory import MemoryStore
from threefold.stores.store import Unknown

JOINT = Membership(1, ("S1", "S2"), "S3", "S4")
NEW = JOINT.completed()
OLD_THREE = ("S1", "S2", "S3")
KEYRING = Keyring(bytes(32))


def _world() -> World:
    world = World(1)
    for store in world.stores.values():
        store.keep(keys.FORMAT, Format(1, "key", store.name).encode(), 0.0)
    return world


def test_the_newest_notice_is_found_by_whoever_asks_a_store_that_stays() -> None:
    world = _world()
    assert at_once(world, newest_notice(OLD_THREE, KEYRING), OLD_THREE) == FOUNDED
    for membership in (JOINT, NEW):
        at_once(world, put_notice(membership, KEYRING), OLD_THREE)
    assert keys.notice_key(1) not in world.stores["S3"].objects
    for pair in (("S1", "S3"), ("S2", "S3"), ("S1", "S2")):
        assert at_once(world, newest_notice(pair, KEYRING), pair) == NEW


@pytest.mark.parametrize("pair", [("S1", "S3"), ("S2", "S3"), ("S1", "S2")])
def test_nothing_is_concluded_in_the_journal_by_two_of_the_old_three(pair: tuple[str, ...]) -> None:
    world, key = _world(), key_of(1, 0)
    body = encode(Step(Kind.ORDERED, "us", "", 0.0, {"to": "x", "source": ""}), key, KEYRING, bytes(12))
    for store in pair:
        world.stores[store].keep(key, body, 0.0)
    desk = Desk(OLD_THREE, KEYRING)
    at_once(world, look(desk, key), pair)
    at_once(world, put_notice(JOINT, KEYRING), OLD_THREE)
    for procedure in (look(desk, key), decide(desk, key, body)):
        with pytest.raises(ReplacedError):
            at_once(world, procedure, pair)
    at_once(world, look(Desk(OLD_THREE, KEYRING, generation=1), key), pair)


def _at_once_with(world: World, procedure: Generator[Any, Any, Any], answer: bytes | Unknown) -> Any:
    """As `at_once`, but what S1 and S2 answer when they are asked for a notice is this; S3 says the truth."""
    notices, value, pauses = keys.MEMBERS, None, 20
    while True:
        try:
            step = procedure.send(value)
        except StopIteration as end:
            return end.value
        if isinstance(step, Pause):
            pauses -= 1
            if not pauses:
                raise TimeoutError
            value = None
            continue
        value = {}
        for place, request in enumerate(step.requests):
            doubtful = isinstance(request, Read) and request.key.startswith(notices) and request.store != "S3"
            found = world.stores[request.store].perform(request, world.now, stale=False)
            value[place] = answer if doubtful else found


@pytest.mark.parametrize("answer", [Unknown("503"), b"damaged"])
def test_a_store_that_does_not_say_whether_it_has_a_notice_has_no_vote(answer: bytes | Unknown) -> None:
    """The middle has begun, S1 is silent or damaged, and so is S2's answer: nothing was decided on S2 and S3."""
    world, key = _world(), key_of(1, 0)
    body = encode(Step(Kind.ORDERED, "us", "", 0.0, {"to": "x", "source": ""}), key, KEYRING, bytes(12))
    desk = Desk(OLD_THREE, KEYRING)
    at_once(world, put_notice(JOINT, KEYRING), OLD_THREE)
    with pytest.raises(TimeoutError):
        _at_once_with(world, decide(desk, key, body), answer)
    assert _at_once_with(world, look(desk, key), answer) == Unclear((body,))


@pytest.mark.parametrize("answer", [Unknown("503"), b"damaged"])
def test_that_nobody_has_a_notice_is_concluded_from_two_that_say_so(answer: bytes | Unknown) -> None:
    world = _world()
    at_once(world, put_notice(JOINT, KEYRING), OLD_THREE)
    with pytest.raises(TimeoutError):
        _at_once_with(world, newest_notice(OLD_THREE, KEYRING), answer)
    with pytest.raises(TimeoutError):
        at_once(world, newest_notice(OLD_THREE, KEYRING), ("S3",))
    assert at_once(world, newest_notice(OLD_THREE, KEYRING), ("S2", "S3")) == JOINT


def test_a_notice_that_one_store_made_up_stops_nobody() -> None:
    world, key = _world(), key_of(1, 0)
    forged = [encode_notice(JOINT, Keyring(b"x" * 32)), json.dumps(encode_membership(JOINT)).encode()]
    elsewhere = encode_notice(replace(JOINT, generation=2), KEYRING)  # ours, but of another place
    for notice in (*forged, elsewhere):
        world.stores["S3"].objects.pop(keys.notice_key(1), None)
        world.stores["S3"].keep(keys.notice_key(1), notice, 0.0)
        assert at_once(world, newest_notice(OLD_THREE, KEYRING), OLD_THREE) == FOUNDED
        assert at_once(world, look(Desk(OLD_THREE, KEYRING), key), OLD_THREE) == Undecided()
        with pytest.raises(TimeoutError):  # but it is no word for it that there is none, either
            at_once(world, newest_notice(OLD_THREE, KEYRING), ("S1", "S3"))


def test_two_notices_under_another_key_say_that_the_key_file_is_an_old_one() -> None:
    world, rotated = _world(), Keyring(bytes(32), b"x" * 32)
    at_once(world, put_notice(JOINT, rotated), OLD_THREE)
    with pytest.raises(BadInput, match="goes on under"):
        at_once(world, newest_notice(OLD_THREE, KEYRING), OLD_THREE)
    with pytest.raises(BadInput):
        at_once(world, look(Desk(OLD_THREE, KEYRING), key_of(1, 0)), OLD_THREE)
    assert at_once(world, newest_notice(OLD_THREE, rotated), OLD_THREE) == JOINT


def test_whoever_puts_a_notice_puts_the_same() -> None:
    assert encode_notice(JOINT, KEYRING) == encode_notice(JOINT, Keyring(bytes(32)))
    assert b"S4" not in encode_notice(JOINT, KEYRING)


async def test_an_intake_on_two_of_the_old_three_is_not_believed() -> None:
    stores = {name: MemoryStore(name) for name in OLD_THREE}
    intake = StoreIntake(stores, KEYRING, SystemClock())
    await intake.put("one", b"body", lambda other: other == b"body")
    for name in JOINT.stores:
        await stores[name].create(keys.notice_key(1), encode_notice(JOINT, KEYRING))
    with pytest.raises(ReplacedError):
        await intake.put("two", b"body", lambda other: other == b"body")
    with pytest.raises(ReplacedError):
        await intake.names()
