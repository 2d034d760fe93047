"""What a storage server may answer, and what must stand in it after a crash: decided here, purely, for each key.

An operation takes effect at one moment between its request and its answer. An answer that never came says nothing: the
operation took effect at one moment before the crash, or never. So an object's *allowed states* after a crash are those
that some order of its operations leads to, with every answer true at its moment; what is read after the restart is one
of them, and the only one from then on: what had not happened by the crash never will.

The search is Lowe's ("Testing for Linearizability", 2017, just-in-time linearization; cf. Wing and Gong 1993): answers
are gone through in their order, with all pairs of a state and the set of operations that took effect unanswered.
Objects are independent, so each key is judged alone; a listing counts as a read of each key that it covers.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Violation(AssertionError):
    """The server said, or holds, what no order of the operations explains."""


@dataclass(frozen=True, slots=True)
class Version:
    """An object: its ETag says its bytes; ``locked_until`` in ms, 0: no lock."""

    etag: str
    locked_until: int = 0


State = Version | None


@dataclass(frozen=True, slots=True)
class Seen:
    """What an answer shows of an object. ``etag`` None: absent. ``locked_until`` None: nothing is said of it."""

    etag: str | None
    locked_until: int | None = None

    def fits(self, state: State) -> bool:
        """The server rounds the end of a lock up by a millisecond."""
        if state is None or self.etag is None:
            return state is None and self.etag is None
        rounded = 0 if self.locked_until is None else self.locked_until - state.locked_until
        return self.etag == state.etag and rounded in {0, 1}


class Verb(Enum):
    PUT = "put"
    DELETE = "delete"
    READ = "read"
    LOCK = "lock"


class Said(Enum):
    """The answer."""

    DONE = "done"
    OTHER = "precondition failed"
    ABSENT = "not there"
    LOCKED = "locked"
    NOTHING = "no answer"


@dataclass(slots=True, eq=False)
class Operation:
    """One request as one key sees it. ``began``, ``ended``: places in the order of all events; ended 0: never.

    ``match``: the ETag that has to stand there, "*": any; None: no such condition. ``lock``: until when, ms.
    ``from_ms``, ``to_ms``: between which moments the server's clock was asked whether a lock holds.
    """

    verb: Verb
    began: int
    etag: str = ""
    create: bool = False
    match: str | None = None
    lock: int = 0
    seen: Seen | None = None
    said: Said = Said.NOTHING
    ended: int = 0
    from_ms: float = 0
    to_ms: float = float("inf")

    def __str__(self) -> str:
        asked = [self.verb.value, self.etag[:8], "create" if self.create else ""]
        asked += [
            f"match {self.match[:8]}" if self.match is not None else "",
            f"until {self.lock}" if self.lock else "",
        ]
        answer = f"{self.seen.etag and self.seen.etag[:8]} {self.seen.locked_until}" if self.seen else self.said.value
        return f"[{self.began}..{self.ended or ''}] {' '.join(filter(None, asked))}: {answer}"

    def may_leave(self, state: State) -> set[State]:
        """The states it may lead to from ``state``; none: its answer is not true there."""
        match self.verb:
            case Verb.READ:
                return {state} if self.seen is None or self.seen.fits(state) else set()
            case Verb.PUT:
                return self._put(state)
            case Verb.DELETE:
                return self._unless_locked(state, None)
            case Verb.LOCK:
                return self._lock(state)

    def _put(self, state: State) -> set[State]:
        holds = state is None if self.create else self.match is None or (
            state is not None and self.match in {"*", state.etag}
        )  # fmt: skip
        if not holds:
            return {state} if self._says(Said.ABSENT if state is None else Said.OTHER) else set()
        return self._unless_locked(state, Version(self.etag, self.lock))

    def _unless_locked(self, state: State, then: State) -> set[State]:
        left: set[State] = set()
        if state is not None and self._may_hold(state) and self._says(Said.LOCKED):
            left.add(state)
        if (state is None or self._may_have_ended(state)) and self._says(Said.DONE):
            left.add(then)
        return left

    def _lock(self, state: State) -> set[State]:
        if state is None:
            return {None} if self._says(Said.ABSENT) else set()
        left: set[State] = set()
        longer = self.lock >= state.locked_until
        if not longer and self._may_hold(state) and self._says(Said.LOCKED):
            left.add(state)
        if (longer or self._may_have_ended(state)) and self._says(Said.DONE):
            left.add(Version(state.etag, max(state.locked_until, self.lock)))
        return left

    def _says(self, said: Said) -> bool:
        return self.said in {said, Said.NOTHING}

    def _may_hold(self, state: Version) -> bool:
        return state.locked_until + 1 > self.from_ms and state.locked_until > 0

    def _may_have_ended(self, state: Version) -> bool:
        return state.locked_until <= self.to_ms


def allowed_after(before: frozenset[State], operations: list[Operation]) -> frozenset[State]:
    """The states allowed after a crash that follows ``operations``. Raises Violation where an answer was not true."""
    moments = [(operation.began, False, operation) for operation in operations]
    moments += [(operation.ended, True, operation) for operation in operations if operation.ended]
    moments.sort(key=lambda moment: moment[:2])
    ways = {(state, frozenset[Operation]()) for state in before}
    under_way: list[Operation] = []
    for _, ends, operation in moments:
        if not ends:
            under_way.append(operation)
            continue
        reached = {
            (state, done - {operation}) for state, done in _reach(ways, under_way, operation) if operation in done
        }
        if not reached:
            raise Violation(_account(operation, {state for state, _ in ways}, operations))
        ways = reached
        under_way.remove(operation)
    return frozenset(state for state, _ in _reach(ways, under_way, None))


_Way = tuple[State, frozenset[Operation]]


def _reach(ways: set[_Way], under_way: list[Operation], until: Operation | None) -> set[_Way]:
    """Every way on, with any of those under way taking effect in any order, up to ``until``."""
    reached, to_do = set(ways), list(ways)
    while to_do:
        state, done = to_do.pop()
        if until in done:
            continue
        for operation in under_way:
            if operation in done:
                continue
            for left in operation.may_leave(state):
                if left == state and not operation.ended:
                    continue  # as if it had never been
                way = (left, done | {operation})
                if way not in reached:
                    reached.add(way)
                    to_do.append(way)
    return reached


def _account(operation: Operation, states: set[State], operations: list[Operation]) -> str:
    told = "\n".join(f"  {each}" for each in sorted(operations, key=lambda each: each.began))
    return f"no order explains {operation}\nstates before it: {states}\nall of the key:\n{told}"


def page(
    keys: list[str], *, prefix: str, after: str, delimiter: str, limit: int
) -> tuple[list[str], list[str], bool]:  # fmt: skip
    """What a listing of sorted ``keys`` shows: keys, common prefixes, and whether more follows.

    A common prefix that ``after`` lies in was shown by the page before and does not come again.
    """
    shown: list[str] = []
    groups: list[str] = []
    for key in keys:
        if not key.startswith(prefix) or key <= after:
            continue
        group = group_of(key, prefix, delimiter)
        if group and (after.startswith(group) or group in groups):
            continue
        if len(shown) + len(groups) == limit:
            return shown, groups, True
        (groups if group else shown).append(group or key)
    return shown, groups, False


def group_of(key: str, prefix: str, delimiter: str) -> str:
    """The common prefix that it is shown by, "": by itself."""
    cut = key.find(delimiter, len(prefix)) if delimiter else -1
    return key[: cut + len(delimiter)] if cut >= 0 else ""
