"""The journal's steps: what three stores' answers mean, and that two who compete never both win.

The races run the procedures themselves, one request at a time in an order that a seed chooses, against three stores
that are away, lose replies, or forget; proposers die at any point, and others go on.
"""

from __future__ import annotations

import random
from collections.abc import Generator
from typing import Any

import pytest

from threefold.failover.deciding import (
    Decided,
    Desk,
    Unclear,
    Undecided,
    Void,
    decide,
    judge,
    look,
    read_switches,
    settle,
)
from threefold.failover.steps import (
    Kind,
    Step,
    Switch,
    Switches,
    check_order,
    decode,
    encode,
    key_of,
    may_follow,
)
from threefold.kernel.errors import Damaged
from threefold.kernel.keys import Keyring
from threefold.quorum.keys import FORMAT, epoch_key
from threefold.quorum.members import Format
from threefold.quorum.requests import Ask, Create, Pause, Read, Request
from threefold.stores.store import ABSENT, Made, Unknown

KEYRING = Keyring(bytes(range(32)))
NAMES = ("S1", "S2", "S3")
DESK = Desk(NAMES, KEYRING)
A, B, C = b"a", b"b", b"c"
N = None


@pytest.mark.parametrize(
    ("votes", "verdict"),
    [
        ((A, A, A), Decided(A)),
        ((A, A, B), Decided(A)),
        ((A, A, N), Decided(A)),
        ((A, A, "?"), Decided(A)),
        ((A, B, C), Void()),
        ((A, B, N), Undecided((A, B))),
        ((A, N, N), Undecided((A,))),
        ((N, N, N), Undecided()),
        ((N, N, "?"), Undecided()),
        ((A, B, "?"), Unclear((A, B))),
        ((A, N, "?"), Unclear((A,))),
        ((A, "?", "?"), Unclear((A,))),
        ((N, "?", "?"), Unclear()),
        (("?", "?", "?"), Unclear()),
    ],
)
def test_what_three_answers_mean(votes: tuple[Any, ...], verdict: object) -> None:
    assert judge({name: vote for name, vote in zip(NAMES, votes, strict=True) if vote != "?"}) == verdict


def test_every_step_but_the_last_has_a_successor_and_promoting_cannot_be_abandoned() -> None:
    ends = {kind for kind in Kind if not may_follow(kind)}
    assert ends == {Kind.PROTECTED, Kind.ABANDONED}
    assert {kind for kind in Kind if Kind.ABANDONED in may_follow(kind)} == {Kind.ORDERED, Kind.STOPPED, Kind.FENCED}


def test_steps_that_do_not_follow_each_other_are_damage() -> None:
    with pytest.raises(Damaged, match="promoting behind ordered"):
        check_order([_step(Kind.ORDERED), _step(Kind.PROMOTING)])


def test_a_step_opens_only_under_its_own_key() -> None:
    body = _body(_step(Kind.ORDERED, to="b"), 1, 0)
    assert decode(body, key_of(1, 0), KEYRING).facts == {"to": "b"}
    with pytest.raises(Damaged):
        decode(body, key_of(2, 0), KEYRING)


def test_who_is_active_follows_promoting_and_nothing_else() -> None:
    first = [_step(Kind.ORDERED, to="b", source="a")]
    assert _active(first) == ("a", True)
    first.append(_step(Kind.FENCED))
    assert _active(first) == ("a", True)
    assert _active([*first, _step(Kind.ABANDONED)]) == ("a", False)
    first.append(_step(Kind.PROMOTING, dsn="port=1"))
    assert _active(first) == ("b", False)
    second = [_step(Kind.ORDERED, to="c", source="b")]
    assert _active(first, second) == ("b", True)
    assert _active(first, [*second, _step(Kind.ABANDONED)]) == ("b", False)


def _active(*switches: list[Step]) -> tuple[str, bool]:
    found = Switches(tuple(Switch(n + 1, tuple(steps), len(steps)) for n, steps in enumerate(switches))).active("a")
    return found.site, found.under_way


# --- races ---


class Stores:
    """Three disks and the lines to them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.disks: dict[str, dict[str, bytes]] = {name: {} for name in NAMES}
        for name in NAMES:
            self.disks[name] |= {FORMAT: Format(1, KEYRING.key_id, name).encode(), epoch_key(1): b"claimed"}
        self.away: set[str] = set()
        self.lossy = 0.0

    def perform(self, request: Request) -> Any:
        lost = request.store in self.away or self.random.random() < self.lossy
        if lost and self.random.random() < 0.5:
            return Unknown("lost on the way")
        disk = self.disks[request.store]
        answer: Any
        match request:
            case Create(_, key, body):
                answer = Made.EXISTS if key in disk else Made.CREATED
                if request.store in self.away:
                    return Unknown("away")
                disk.setdefault(key, body)
            case Read(_, key):
                answer = disk.get(key, ABSENT)
            case _:
                raise AssertionError(request)
        return Unknown("the reply was lost") if lost else answer


class Actor:
    """One procedure under way: each turn performs one request."""

    def __init__(self, stores: Stores, procedure: Generator[Any, Any, Any]) -> None:
        self.stores = stores
        self.procedure = procedure
        self.result: Any = None
        self.done = False
        self._send: Any = None
        self._todo: list[int] = []
        self._ask: Ask | None = None
        self._answers: dict[int, Any] = {}

    def turn(self) -> None:
        if self._ask is None:
            try:
                step = self.procedure.send(self._send)
            except StopIteration as end:
                self.done, self.result = True, end.value
                return
            self._send = None
            if isinstance(step, Pause):
                return
            self._ask, self._answers = step, {}
            self._todo = list(range(len(step.requests)))
            self.stores.random.shuffle(self._todo)
            if not self._todo:
                self._ask, self._send = None, {}
            return
        place = self._todo.pop()
        self._answers[place] = self.stores.perform(self._ask.requests[place])
        if not self._todo or self._ask.enough(self._answers):
            for late in self._todo:  # left alone: may land all the same
                if self.stores.random.random() < 0.5:
                    self.stores.perform(self._ask.requests[late])
            self._ask, self._send = None, self._answers


@pytest.mark.parametrize("block", range(8))
def test_one_of_several_proposers_wins_and_everybody_sees_the_same(block: int) -> None:
    for seed in range(block * 150, block * 150 + 150):
        _race(seed)


def _race(seed: int) -> None:
    stores = Stores(seed)
    chance = stores.random
    stores.lossy = chance.choice([0.0, 0.1, 0.4])
    key = key_of(1, 0)
    bodies = [_body(_step(Kind.ORDERED, to=str(n)), 1, 0) for n in range(chance.choice([1, 2, 3, 4]))]
    actors = [Actor(stores, decide(DESK, key, body)) for body in bodies]
    actors += [Actor(stores, settle(DESK, key)) for _ in range(2)]
    dead: list[Actor] = []
    concluded: set[Any] = set()
    for turn in range(6000):
        if turn % 40 == 0:
            stores.away = {chance.choice(NAMES)} if chance.random() < 0.5 else set()
        living = [actor for actor in actors if not actor.done]
        if not living:
            break
        actor = chance.choice(living)
        if chance.random() < 0.002:
            actors.remove(actor)  # kill -9
            dead.append(actor)
            actors.append(Actor(stores, settle(DESK, key)))
            continue
        actor.turn()
        if turn > 3000:
            stores.away, stores.lossy = set(), 0.0
    assert all(actor.done for actor in actors), f"seed {seed}: somebody never learned"
    for actor in actors:
        if isinstance(actor.result, Decided):
            concluded.add(actor.result.body)
        if isinstance(actor.result, Void):
            concluded.add("void")
    assert len(concluded) <= 1, f"seed {seed}: {concluded}"
    stores.away, stores.lossy = set(), 0.0
    last = Actor(stores, look(DESK, key))
    while not last.done:
        last.turn()
    if concluded:
        seen = last.result.body if isinstance(last.result, Decided) else "void"
        assert {seen} == concluded, f"seed {seed}: what was decided changed"


def test_a_store_that_forgot_does_not_count() -> None:
    """Decided on S1 and S2; S2's disk is replaced: a rival on S2 and S3 must not be decided as well."""
    stores = Stores(0)
    ours, theirs = _body(_step(Kind.ORDERED, to="b"), 1, 0), _body(_step(Kind.ORDERED, to="c"), 1, 0)
    stores.away = {"S3"}
    assert _run(stores, decide(DESK, key_of(1, 0), ours)) == Decided(ours)
    stores.away = set()
    stores.disks["S2"].clear()
    assert _run(stores, decide(DESK, key_of(1, 0), theirs)) == Decided(ours)


def test_two_that_forgot_leave_it_unknown() -> None:
    stores = Stores(0)
    body = _body(_step(Kind.ORDERED, to="b"), 1, 0)
    _run(stores, decide(DESK, key_of(1, 0), body))
    stores.disks["S1"].clear()
    stores.disks["S2"].clear()
    assert isinstance(_run(stores, look(DESK, key_of(1, 0))), Unclear)


def test_where_no_log_was_founded_there_is_no_switch() -> None:
    stores = Stores(0)
    for disk in stores.disks.values():
        disk.clear()
    assert _run(stores, read_switches(DESK, Switches())) == Switches()


def test_a_damaged_copy_says_nothing() -> None:
    stores = Stores(0)
    body = _body(_step(Kind.ORDERED, to="b"), 1, 0)
    _run(stores, decide(DESK, key_of(1, 0), body))
    stores.disks["S1"][key_of(1, 0)] = body[:-1] + bytes([body[-1] ^ 1])
    stores.away = {"S2"}
    actor = Actor(stores, look(DESK, key_of(1, 0)))
    while not actor.done:
        actor.turn()
    assert isinstance(actor.result, Unclear | Decided)


def test_a_void_key_is_passed_over() -> None:
    stores = Stores(0)
    for n, name in enumerate(NAMES):
        stores.disks[name][key_of(1, 0)] = _body(_step(Kind.ORDERED, to=str(n)), 1, 0)
    assert _run(stores, read_switches(DESK, Switches())) == Switches()
    body = _body(_step(Kind.ORDERED, to="b", source="a"), 1, 1)
    assert _run(stores, decide(DESK, key_of(1, 1), body)) == Decided(body)
    (switch,) = _run(stores, read_switches(DESK, Switches())).all
    assert (switch.target, switch.next_k) == ("b", 2)


def _run(stores: Stores, procedure: Generator[Any, Any, Any]) -> Any:
    actor = Actor(stores, procedure)
    for _ in range(10_000):
        if actor.done:
            return actor.result
        actor.turn()
    raise AssertionError("never ended")


def _step(kind: Kind, **facts: Any) -> Step:
    return Step(kind, "a test", "2026-11-24T00:00:00.000+00:00", 0.0, facts)


def _body(step: Step, number: int, k: int) -> bytes:
    return encode(step, key_of(number, k), KEYRING, random.randbytes(12))
