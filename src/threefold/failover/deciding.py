"""Deciding one step after the other on three stores, and reading what was decided. Pure (quorum/requests.py).

One key holds at most one body a store, created once and never deleted. So, over three stores:

    the same body on two             decided, for good: every two stores show it
    three different bodies           void, for good: the next key is used
    absent on two                    not decided: no two stores can hold the same body yet
    everything else                  unknown: it may be decided already, and is never acted on

*Helping.* A proposer that died may leave a key undecided with a store away. Whoever reads it creates the body that
stands there on the stores that lack it: that only ever decides what was proposed, and create-once sees to it that
one body wins. So a reader is stuck no longer than two stores are away. A proposer asks the first store before the
others: two that compete part there, and do not split the other two while the third is away.

*Who votes.* A store that answers without the log's ``format`` lost its memory: neither its absence nor its bytes count
(quorum/members.py). It is asked for ``format`` *after* it answered, so that the answer is one of its memory. Where
no epoch was ever claimed either, there is no log yet, and no switch.

*Members.* A store may be replaced (quorum/membership.py). The stores of the desk were chosen by a generation; whoever
has the notice of a newer one says so when it is asked for ``format``, and nothing is concluded (quorum/notices.py).
Only a store that says it has none votes: one whose answer does not come, or is damaged, may have it (invariant 7).

*Order of proposals.* Behind a key only what follows the decided steps before it is proposed (steps.may_follow), and a
switch's number only when the one before can no longer go back. A proposer that is behind therefore loses its create
to what it did not know of, and looks again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from threefold.failover.steps import Step, Switch, Switches, check_order, decode, key_of
from threefold.kernel.errors import Damaged, OtherKey
from threefold.kernel.keys import Keyring, goes_on_under_another
from threefold.quorum.keys import FORMAT, epoch_key, notice_key
from threefold.quorum.majority import QUORUM, STORES
from threefold.quorum.members import roll
from threefold.quorum.membership import ReplacedError
from threefold.quorum.notices import notice_in
from threefold.quorum.requests import Answer, Answers, Ask, Create, Pause, Procedure, Read
from threefold.stores.store import ABSENT, Made

_ASK_AGAIN_S: Final = 0.1
# How much longer a store may take than the other two, where they do not decide.
_GRACE_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Desk:
    """Where steps are decided: the three stores' names, and the key that opens what lies there."""

    stores: tuple[str, ...]
    keyring: Keyring
    generation: int = 0  # of the membership by which the stores were chosen


@dataclass(frozen=True, slots=True)
class Decided:
    body: bytes


@dataclass(frozen=True, slots=True)
class Void:
    """Three stores hold three bodies."""


@dataclass(frozen=True, slots=True)
class Undecided:
    """Definitely not decided when it was read. ``begun``: what single stores hold."""

    begun: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Unclear:
    """It may be decided or not. ``begun``: what single stores hold."""

    begun: tuple[bytes, ...] = ()


Verdict = Decided | Void | Undecided | Unclear
Votes = Mapping[str, bytes | None]  # by store; None: definitely absent; a store that is missing did not say


def judge(votes: Votes) -> Verdict:
    """What three stores' answers mean. Enumerated, because this is where two sites would part."""
    bodies = Counter(body for body in votes.values() if body is not None)
    absent = sum(body is None for body in votes.values())
    begun = tuple(sorted(bodies))
    if bodies and bodies.most_common(1)[0][1] >= QUORUM:
        return Decided(bodies.most_common(1)[0][0])
    if len(bodies) == STORES:
        return Void()
    if absent >= QUORUM or (absent + len(bodies) == STORES and absent):
        return Undecided(begun)
    return Unclear(begun)


def look(desk: Desk, key: str) -> Procedure[Verdict]:
    """Read one key. A store that hangs is waited for a moment only, where the other two do not decide."""

    def two(answers: Answers) -> bool:
        return len(_votes(desk, key, answers)) >= QUORUM

    answers: Answers = yield Ask(tuple(Read(store, key) for store in desk.stores), two)
    votes = _votes(desk, key, answers)
    verdict = yield from _of_members(desk, votes)
    missing = [store for store in desk.stores if store not in votes]
    if isinstance(verdict, Unclear) and missing:
        late: Answers = yield Ask(tuple(Read(store, key) for store in missing), lambda _: True, _GRACE_S)
        more = _votes(replace(desk, stores=tuple(missing)), key, late)
        verdict = yield from _of_members(desk, {**votes, **more})
    return verdict


def _of_members(desk: Desk, votes: Votes) -> Procedure[Verdict]:
    """Count the votes of those who remember. Raises ReplacedError where one of them knows of a newer membership."""
    voters, newer = tuple(votes), notice_key(desk.generation + 1)
    asked = tuple(Read(store, key) for key in (FORMAT, newer) for store in voters)
    answers: Answers = yield Ask(asked)
    notice = notice_in((answers.get(len(voters) + place) for place in range(len(voters))), newer, desk.keyring)
    if notice is not None:
        raise ReplacedError(notice)
    seen = roll({store: answers.get(place) for place, store in enumerate(voters)})
    if len(seen.members) < QUORUM <= len(seen.strangers) and (yield from _unborn(desk)):
        return Undecided()
    unmoved = {store for place, store in enumerate(voters) if answers.get(len(voters) + place) is ABSENT}
    return judge({store: votes[store] for store in seen.members if store in unmoved})


def _unborn(desk: Desk) -> Procedure[bool]:
    """Whether all three stores say that no epoch was ever claimed: there is no log, so there never was a switch."""
    answers: Answers = yield Ask(tuple(Read(store, epoch_key(1)) for store in desk.stores))
    return sum(answer is ABSENT for answer in answers.values()) == STORES


def settle(desk: Desk, key: str) -> Procedure[Decided | Void | Undecided]:
    """What stands under a key. Begun and not clear: brought to an end.

    The caller limits how long that may take: until then nothing is known, and nothing may be done.
    """
    while True:
        verdict = yield from look(desk, key)
        if not isinstance(verdict, Unclear):
            return verdict
        if verdict.begun:
            yield from _create(desk, key, verdict.begun[0])
            again = yield from look(desk, key)
            if not isinstance(again, Unclear):
                return again
        yield Pause(_ASK_AGAIN_S)


def decide(desk: Desk, key: str, body: bytes) -> Procedure[Decided | Void]:
    """Propose ``body`` until something is decided, this or another; or the key is void."""
    first = desk.stores[0]
    answers: Answers = yield Ask((Create(first, key, body),), lambda _: True, _GRACE_S)
    wanted = body
    if answers.get(0) is not Made.CREATED:
        verdict = yield from look(desk, key)
        if isinstance(verdict, Decided | Void):
            return verdict
        wanted = _preferred(verdict.begun, body)
    while True:
        yield from _create(desk, key, wanted)
        verdict = yield from look(desk, key)
        if isinstance(verdict, Decided | Void):
            return verdict
        wanted = _preferred(verdict.begun, body)
        yield Pause(_ASK_AGAIN_S)


def _preferred(begun: tuple[bytes, ...], ours: bytes) -> bytes:
    """What to bring to the stores that lack it: ours where it stands somewhere, or nothing does."""
    return ours if ours in begun or not begun else begun[0]


def read_switches(desk: Desk, known: Switches) -> Procedure[Switches]:
    """All switches. ``known``: what was read before; decided steps never change, so only what may follow is asked.

    Numbers have no gaps, so the keys themselves say how far they go.
    """
    found = list(known.all)
    for place in reversed(range(len(found))):
        if not found[place].concluded:
            found[place] = yield from _read_on(desk, found[place])
        if found[place].took_over:
            break  # what lies before is over: somebody else is active
    # The next one is not ordered before the one before cannot go back.
    while not found or not found[-1].under_way:
        following = yield from _read_first(desk, len(found) + 1)
        if following is None:
            break
        found.append(following)
    return Switches(tuple(found))


def _read_first(desk: Desk, number: int) -> Procedure[Switch | None]:
    k = 0
    while True:
        verdict = yield from settle(desk, key_of(number, k))
        match verdict:
            case Void():
                k += 1
            case Decided(body):
                step = decode(body, key_of(number, k), desk.keyring)
                check_order([step])
                return (yield from _read_on(desk, Switch(number, (step,), k + 1)))
            case _:
                return None


def _read_on(desk: Desk, switch: Switch) -> Procedure[Switch]:
    steps: list[Step] = list(switch.steps)
    k = switch.next_k
    while not Switch(switch.number, tuple(steps), k).concluded:
        verdict = yield from settle(desk, key_of(switch.number, k))
        match verdict:
            case Void():
                k += 1
            case Decided(body):
                steps.append(decode(body, key_of(switch.number, k), desk.keyring))
                check_order(steps)
                k += 1
            case _:
                break
    return Switch(switch.number, tuple(steps), k)


def _create(desk: Desk, key: str, body: bytes) -> Procedure[None]:
    def two(answers: Answers) -> bool:
        return sum(isinstance(answer, Made) for answer in answers.values()) >= QUORUM

    yield Ask(tuple(Create(store, key, body) for store in desk.stores), two)


def _votes(desk: Desk, key: str, answers: Answers) -> dict[str, bytes | None]:
    votes: dict[str, bytes | None] = {}
    others: list[str] = []
    for place, store in enumerate(desk.stores):
        answer: Answer = answers.get(place)
        if answer is ABSENT:
            votes[store] = None
        elif isinstance(answer, bytes):
            try:
                decode(answer, key, desk.keyring)
            except OtherKey as other:
                others.append(other.key_id)
                continue
            except Damaged:
                continue  # a damaged copy says nothing
            votes[store] = answer
    if len(others) >= QUORUM:  # one may lie; two mean that our key file is an old one
        raise goes_on_under_another(others[0], desk.keyring)
    return votes
